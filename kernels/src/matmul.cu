// What the tensor-core path does besides multiplying: prepare activations and add parts.
#include "halves.h"
#include "tensor.h"

namespace llamabuild {
namespace {

constexpr int threads = 512;

#if LLAMABUILD_MATMUL || LLAMABUILD_WARPGROUPS
__device__ __forceinline__ uint32_t two_activations(Order order, float low, float high) {
    return order == Order::brain ? two_bfloats(low, high) : two_halves(low, high);
}

template <class Layout>
__device__ __forceinline__ int group_begin(int chunk, int group) {
    return chunk / 8 * 256 + Layout::first(chunk % 8) + group * Layout::step;
}

// Where the 16 activations lie that one group of a chunk meets.
__device__ __forceinline__ int group_begin(Order order, int chunk, int group) {
    switch (order) {
        case Order::interleaved: return group_begin<Interleaved>(chunk, group);
        case Order::distant: return group_begin<Distant>(chunk, group);
        default: return group_begin<Linear>(chunk, group);
    }
}

// Eight neighbouring floats, by wide loads if the column is aligned.
__device__ __forceinline__ void load_eight(float (&x)[8], const float* from, bool aligned) {
    if (aligned) {
        reinterpret_cast<float4*>(x)[0] = reinterpret_cast<const float4*>(from)[0];
        reinterpret_cast<float4*>(x)[1] = reinterpret_cast<const float4*>(from)[1];
    } else {
        UNROLL
        for (int i = 0; i < 8; ++i) x[i] = from[i];
    }
}

// The exponent of a column's largest magnitude, found by one block. The column is divided by a power
// of two that brings that magnitude to between 1/2 and 1, so that no activation is out of a 16-bit
// float's range.
__device__ __forceinline__ uint32_t find_exponent(const float* x, int k, bool aligned) {
    uint32_t largest = 0;  // k is a multiple of 8
    for (int i = threadIdx.x * 8; i < k; i += threads * 8) {
        alignas(16) float eight[8];
        load_eight(eight, x + i, aligned);
        for (const float value : eight) largest = larger_magnitude(largest, value);
    }
    __shared__ uint32_t warps[threads / group_size];
    for (int distance = 1; distance < group_size; distance *= 2)
        largest = max(largest, exchange(largest, distance));
    if (threadIdx.x % group_size == 0) warps[threadIdx.x / group_size] = largest;
    __syncthreads();
    for (const uint32_t other : warps) largest = max(largest, other);
    return min(max(largest >> 23, 1u), 252u);
}
__device__ __forceinline__ float inverse_factor(uint32_t exponent) {
    return bits_to_float((253 - exponent) << 23);
}
__device__ __forceinline__ float factor_of(uint32_t exponent) {
    return bits_to_float((exponent + 1) << 23);
}
#endif

// One block for each column.
__global__ void __launch_bounds__(threads)
prepare_kernel(const float* x, int64_t column_stride, int64_t x_batch, int k, int64_t padded_n,
               Order order, uint8_t* columns) {
#if LLAMABUILD_MATMUL
    release_successor();
    wait_for_predecessor();
    x += blockIdx.y * x_batch + blockIdx.x * column_stride;
    columns += (blockIdx.y * padded_n + blockIdx.x) * TensorColumns::bytes(k);
    const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
    const uint32_t exponent = find_exponent(x, k, aligned);
    const float inverse = inverse_factor(exponent);

    for (int i = threadIdx.x; i < TensorColumns::padded(k) / 8; i += threads) {
        const int chunk = i / 16 * 4 + i % 4, h = i / 4 % 4;  // as multiply_matrices_kernel reads
        const int at =
            is_of_floats(order) ? 8 * i : group_begin(order, chunk, h / 2) + h % 2 * 8;
        uint4 piece = make_uint4(0, 0, 0, 0);
        if (at < k) {
            alignas(16) float eight[8];
            load_eight(eight, x + at, aligned);
            const auto two = [&](int j) {
                return two_activations(order, eight[j] * inverse, eight[j + 1] * inverse);
            };
            piece = make_uint4(two(0), two(2), two(4), two(6));
        }
        reinterpret_cast<uint4*>(columns)[i] = piece;
    }
    if (threadIdx.x == 0)
        *reinterpret_cast<float*>(columns + TensorColumns::bytes(k) - 16) =
            factor_of(exponent);
#else
    (void)x, (void)column_stride, (void)x_batch, (void)k;  // never started there
    (void)padded_n, (void)order, (void)columns;
#endif
}

// The same for the warpgroups' kernels, in tiles of `tile` columns. Where weights are quantized, a
// step has one group of four chunks, and four words of each of these: multiplication i of a step
// meets word i of all four chunks, first all lower halves.
__global__ void __launch_bounds__(threads)
prepare_steps_kernel(const float* x, int64_t column_stride, int64_t x_batch, int k,
                     int64_t padded_n, int tile, Order order, uint8_t* columns) {
#if LLAMABUILD_WARPGROUPS
    release_successor();
    wait_for_predecessor();
    using T = TensorColumns;
    x += blockIdx.y * x_batch + blockIdx.x * column_stride;
    const int column = blockIdx.x % tile, step_bytes = tile * T::step * 2;
    columns += (blockIdx.y * padded_n + blockIdx.x - column) * T::bytes(k);
    const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
    const uint32_t exponent = find_exponent(x, k, aligned);
    const float inverse = inverse_factor(exponent);

    for (int i = threadIdx.x; i < T::padded(k) / 16; i += threads) {
        const int step = i / 4, word = i % 4;
        const bool plain = is_of_floats(order);
        uint32_t lower[4] = {}, upper[4] = {};  // of each four
        UNROLL
        for (int t = 0; t < 4; ++t) {
            const int at = plain ? 16 * i + 4 * t
                                 : group_begin(order, step / 2 * 4 + t, step % 2) + 4 * word;
            if (at >= k) continue;
            alignas(16) float four[4];
            if (aligned) {
                *reinterpret_cast<float4*>(four) = *reinterpret_cast<const float4*>(x + at);
            } else {
                UNROLL
                for (int j = 0; j < 4; ++j) four[j] = x[at + j];
            }
            lower[t] = two_activations(order, four[0] * inverse, four[1] * inverse);
            upper[t] = two_activations(order, four[2] * inverse, four[3] * inverse);
        }
        uint8_t* const to = columns + int64_t{step} * step_bytes;
        *reinterpret_cast<uint4*>(to + T::place_in_step(column, 2 * word)) =
            plain ? make_uint4(lower[0], upper[0], lower[1], upper[1])
                  : make_uint4(lower[0], lower[1], lower[2], lower[3]);
        *reinterpret_cast<uint4*>(to + T::place_in_step(column, 2 * word + 1)) =
            plain ? make_uint4(lower[2], upper[2], lower[3], upper[3])
                  : make_uint4(upper[0], upper[1], upper[2], upper[3]);
    }
    if (threadIdx.x == 0)
        reinterpret_cast<float*>(columns + T::padded(k) / T::step * step_bytes)[column] =
            factor_of(exponent);
#else
    (void)x, (void)column_stride, (void)x_batch, (void)k;  // never started there
    (void)padded_n, (void)tile, (void)order, (void)columns;
#endif
}

__global__ void __launch_bounds__(threads)
add_kernel(const Product p, const float* parts, int splits) {
    wait_for_predecessor();
    const int64_t size = int64_t{p.m} * p.n;
    const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i >= size) return;
    parts += blockIdx.y * size * splits + i;
    float sum = 0;
    for (int part = 0; part < splits; ++part) sum += parts[part * size];
    p.output[blockIdx.y * p.output_batch + i / p.m * p.output_column + i % p.m] = sum;
}

// How many parts of at least `least` spans fill the GPU with `blocks` blocks each.
int split(int64_t blocks, int at_once, int spans, int least, const Launch& launch) {
    const int most = spans / least;
    int splits = static_cast<int>(launch.multiprocessors * at_once / blocks);
    splits = splits < most ? splits : most;
    return splits < 1 ? 1 : splits;
}

}  // namespace

int integer_splits(const Product& p, const Launch& launch) {
    const int spans = (p.k + span_weights - 1) / span_weights;
    const int64_t row_tiles = (p.m + 15) / 16, most_warps = 8;
    if (p.n <= NarrowTile::columns)
        return split(row_tiles * p.batch, 2, spans, most_warps, launch);
    const int64_t column_tiles = (p.n + WideTile::columns - 1) / WideTile::columns;
    return split((row_tiles + most_warps - 1) / most_warps * column_tiles * p.batch, 2, spans, 4,
                 launch);
}

int tensor_splits(const Product& p, Order order, const Launch& launch) {
    const auto splits = [&](int rows, int columns, int at_once, int least) {
        const int64_t blocks =
            int64_t{(p.m + rows - 1) / rows} * ((p.n + columns - 1) / columns) * p.batch;
        return split(blocks, at_once, (p.k + span_weights - 1) / span_weights, least, launch);
    };
    const auto of_tile = [&](auto tile) {
        return splits(tile.rows, tile.columns, tile.blocks_at_once, 4);
    };
    if (launch.warpgroups)
        return splits(warpgroup_rows(order), warpgroup_columns(p.n, order), 1, 2);
    return use_large_tile(p.n, launch) ? of_tile(LargeTile()) : of_tile(SmallTile());
}

GPU(Error_t) prepare_tensor_columns(const float* x, int64_t column, int64_t x_batch, int k, int n,
                                    int batch, Order order, void* columns, const Launch& launch) {
    const dim3 blocks(n, batch);
    const int64_t padded_n = TensorColumns::count(n);
    auto* const to = static_cast<uint8_t*>(columns);
    if (launch.warpgroups)
        return start(prepare_steps_kernel, launch, blocks, threads, 0, x, column, x_batch, k,
                     padded_n, warpgroup_columns(n, order), order, to);
    return start(prepare_kernel, launch, blocks, threads, 0, x, column, x_batch, k, padded_n,
                 order, to);
}

GPU(Error_t) add_parts(const Product& p, const float* parts, int splits, const Launch& launch) {
    const int64_t size = int64_t{p.m} * p.n;
    return start(add_kernel, launch,
                 dim3(static_cast<unsigned>((size + threads - 1) / threads), p.batch), threads, 0,
                 p, parts, splits);
}

}  // namespace llamabuild
