// What the kernels are told, and the few words of CUDA and HIP that differ.
#pragma once
#include "activations.h"

namespace llamabuild {

// One product, or a batch of them: output[column][row] = weights[row] . activations[column].
// Strides are bytes except for the output's, which are floats.
struct Product {
    const uint8_t* weights;
    const uint8_t* activations;  // quantized columns, or floats, as the kernel at hand reads them
    float* output;
    int m, n, k;
    int batch;
    int64_t row_bytes, column_bytes, output_column;
    int64_t weight_batch, activation_batch, output_batch;
    // Grouped: item i of the batch multiplies expert experts[i] by the one column columns[i].
    // An index out of range gives zeros.
    const int32_t* experts;
    const int32_t* columns;
    int expert_count, column_count;
    int first_item;  // of the batch, that this launch computes
};

struct Launch {
    GPU(Stream_t) stream;
    int multiprocessors;
    int shared_bytes;  // that a block may ask for
    bool early;        // the kernel may start before its predecessor in the stream has ended
    bool warpgroups;   // the running code is Hopper's own
    bool wmma;         // AMD: the matrix cores are those for waves of 32 threads
    bool pairs = false;  // two blocks, neighbours in z, see each other's shared memory
};

// Blocks in the y and z directions of a grid; longer batches are started piece by piece.
constexpr int most_blocks_yz = 65535;

// Where one product of a batch lies.
struct Place {
    const uint8_t* weights;
    const uint8_t* activations;
    float* output;
    bool valid;

    DEVICE Place(const Product& p, int item) {
        int weight_item = item, activation_item = item;
        valid = true;
        if (p.experts) {
            weight_item = p.experts[item];
            activation_item = p.columns[item];
            valid = weight_item >= 0 && weight_item < p.expert_count && activation_item >= 0 &&
                    activation_item < p.column_count;
            if (!valid) weight_item = activation_item = 0;
        }
        weights = p.weights + weight_item * p.weight_batch;
        activations = p.activations + activation_item * p.activation_batch;
        output = p.output + item * p.output_batch;
    }
};

// Bytes behind the last multiple of 16.
DEVICE int skew(const uint8_t* p) { return static_cast<int>(reinterpret_cast<uintptr_t>(p) % 16); }

#if defined(__HIPCC__)
__device__ __forceinline__ float exchange(float value, int distance) {
    return __shfl_xor(value, distance, group_size);
}
__device__ __forceinline__ uint32_t exchange(uint32_t value, int distance) {
    return static_cast<uint32_t>(__shfl_xor(static_cast<int>(value), distance, group_size));
}
// The lanes of a wave run in step; only the compiler must keep the order.
__device__ __forceinline__ void group_barrier() {
    __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
    __builtin_amdgcn_wave_barrier();
}
#else
__device__ __forceinline__ float exchange(float value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
}
__device__ __forceinline__ uint32_t exchange(uint32_t value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
}
__device__ __forceinline__ uint32_t from_lane(uint32_t value, int lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}
__device__ __forceinline__ void group_barrier() { __syncwarp(); }
#endif

// Returns when the kernel before this one has ended and its results can be read.
__device__ __forceinline__ void wait_for_predecessor() {
#if LLAMABUILD_SM >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start beside this one.
__device__ __forceinline__ void release_successor() {
#if LLAMABUILD_SM >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#if !defined(LLAMABUILD_BACKGROUND_COPIES)  // a test that imitates them has defined it
// A place in shared memory for copies of 16 bytes; both ends are aligned to 16 bytes. From 8.0 on a
// copy goes on in the background until `wait_for_copies`.
class CopyTarget {
public:
#if LLAMABUILD_SM >= 800
    __device__ __forceinline__ explicit CopyTarget(uint8_t* to) {
        // Opaque, or the compiler would find the address anew for every copy.
        asm volatile("mov.u32 %0, %1;"
                     : "=r"(to_)
                     : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))));
    }
    __device__ __forceinline__ void copy16(int at, const uint8_t* from) const {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to_ + at), "l"(from)
                     : "memory");
    }

private:
    uint32_t to_;
#else
    __device__ __forceinline__ explicit CopyTarget(uint8_t* to) : to_(to) {}
    __device__ __forceinline__ void copy16(int at, const uint8_t* from) const {
        *reinterpret_cast<uint4*>(to_ + at) = *reinterpret_cast<const uint4*>(from);
    }

private:
    uint8_t* to_;
#endif
};

#if LLAMABUILD_SM >= 800
// Copies 16 bytes in the background, or zeros.
__device__ __forceinline__ void copy_piece(uint32_t to, const uint8_t* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(inside ? 16 : 0)
                 : "memory");
}
#endif

__device__ __forceinline__ void end_of_copies() {
#if LLAMABUILD_SM >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `Pending` of the sets of copies are still on their way.
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
#if LLAMABUILD_SM >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}
#endif

// Starts a kernel and says whether that worked.
template <class... Parameters, class... Arguments>
GPU(Error_t) start(void (*kernel)(Parameters...), const Launch& launch, dim3 blocks,
                   unsigned threads, size_t shared, Arguments... arguments) {
#if defined(__CUDACC__) && !defined(__HIPCC__)
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = launch.stream;
    config.attrs = attributes;
    if (launch.early) {
        cudaLaunchAttribute& early = attributes[config.numAttrs++];
        early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early.val.programmaticStreamSerializationAllowed = 1;
    }
    if (launch.pairs) {
        cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim = {1, 1, 2};
    }
    return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
#else
    hipLaunchKernelGGL(kernel, blocks, dim3(threads), static_cast<uint32_t>(shared),
                       launch.stream, Parameters(arguments)...);
    return hipGetLastError();
#endif
}

// Starts `launch_some(product, items)` until the whole batch is done.
template <class LaunchSome>
GPU(Error_t) for_batch(Product p, LaunchSome launch_some) {
    for (; p.first_item < p.batch; p.first_item += most_blocks_yz) {
        const int left = p.batch - p.first_item;
        const auto error = launch_some(p, left < most_blocks_yz ? left : most_blocks_yz);
        if (error != GPU(Success)) return error;
    }
    return GPU(Success);
}

// One definition for each type, in the files matvec_*.cu.
template <Type type>
GPU(Error_t) multiply_vectors(const Product& product, const Launch& launch);

// Products of one column, which comes as floats, and which of them it can be; see stream.h, and one
// definition for each type in stream_*.cu. For code of 9.0 and later (times ten).
constexpr int stream_arch = 900;
template <Type type>
bool takes_stream(const Product& product, const Launch& launch);
template <Type type>
GPU(Error_t) multiply_stream(const Product& product, const Launch& launch);

// Products of several columns, in integers; see integers.h, and one definition for each type in
// integers_*.cu.
template <Type type>
GPU(Error_t) multiply_integers(const Product& product, const Launch& launch);

// Products of many columns; see matmul.h, and one definition for each type in matmul_*.cu (those of
// f16 and bf16 are no instances of it).
template <Type type>
GPU(Error_t) multiply_matrices(const Product& product, const Launch& launch);

// Products of several columns by warpgroups; see warpgroup.h, and one definition for each type in
// warpgroup_*.cu.
template <Type type>
GPU(Error_t) multiply_warpgroups(const Product& product, const Launch& launch);

// Activations to ActivationBlocks: `count` columns of `batch` batches, strides in floats.
GPU(Error_t) quantize_columns(const float* x, int64_t column, int64_t x_batch, int k, int count,
                              int batch, void* blocks_of_32, const Launch& launch);

}  // namespace llamabuild
