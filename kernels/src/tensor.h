// The tensor-core path as the others see it: when it is taken and what it needs.
#pragma once
#include "launch.h"

// Hopper's own code (90a): its multiplications by warpgroups are in no other architecture, not even
// a later one.
#if !defined(LLAMABUILD_WARPGROUPS)  // a test that imitates them has defined it
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LLAMABUILD_WARPGROUPS 1
#else
#define LLAMABUILD_WARPGROUPS 0
#endif
#endif
// The kernels of matmul.h and matmul_floats.cu are started in other code of 8.0 and later, those of
// integers.h from 7.5 on. (Tests that imitate them have defined these, too.)
#if !defined(LLAMABUILD_MATMUL)
#define LLAMABUILD_MATMUL (LLAMABUILD_SM >= 800 && !LLAMABUILD_WARPGROUPS)
#endif
#if !defined(LLAMABUILD_INTEGERS)
#define LLAMABUILD_INTEGERS (LLAMABUILD_SM >= 750)
#endif

namespace llamabuild {

constexpr int integer_arch = 750;   // the code's architecture, times ten
constexpr int tensor_arch = 800;
constexpr int integer_columns = 5;  // from here on they are faster than the vectors' kernel
constexpr int float_columns = 3;    // and so are tensor cores for 16-bit weights
constexpr int warpgroup_float_columns = 2;  // and the warpgroups' kernels
constexpr int span_weights = 256;   // of one stage

struct LargeTile {
    static constexpr int rows = 128, columns = 128, row_warps = 4;
    static constexpr int blocks_at_once = 1;  // on a multiprocessor
};
struct SmallTile {
    static constexpr int rows = 64, columns = 32, row_warps = 2;
    static constexpr int blocks_at_once = 3;
};

// For integers; see integers.h.
struct NarrowTile {
    static constexpr int columns = 8;
    static constexpr bool divides_k = true;
};
struct WideTile {
    static constexpr int columns = 64;
    static constexpr bool divides_k = false;
};

// Whether 16-bit floats are faster than integers, as measured: n of 9 to 32 take few tiles of 32
// columns, n of 33 to 64 would leave half a large tile empty.
inline bool tensor_is_faster(int n, const Launch& launch) {
    return launch.warpgroups || (n > NarrowTile::columns && (n <= 32 || n > 64));
}

// 16-bit weights: tensor cores take whole pieces of 16 bytes.
inline bool tensor_takes_floats(const Product& p, const Launch& launch) {
    return p.n >= (launch.warpgroups ? warpgroup_float_columns : float_columns) &&
           (p.row_bytes | p.weight_batch) % 16 == 0;
}

// Large tiles where there are columns enough, and shared memory enough for every type.
inline bool use_large_tile(int n, const Launch& launch) {
    return n > 32 && launch.shared_bytes >= 227 * 1024;
}

// In which order the kernels meet a column's activations: as F::Layout has them; for f16 weights
// simply from the first to the last; for bf16 ("brain") too, and they become bf16 themselves.
enum class Order { linear, interleaved, distant, plain, brain };
template <class Layout> constexpr Order order_of = Order::linear;
template <> inline constexpr Order order_of<Interleaved> = Order::interleaved;
template <> inline constexpr Order order_of<Distant> = Order::distant;
DEVICE constexpr bool is_of_floats(Order order) { return order >= Order::plain; }

// Rows and columns of the tiles of the warpgroups' kernels.
constexpr int warpgroup_rows(Order order) { return is_of_floats(order) ? 128 : 256; }
inline int warpgroup_columns(int n, Order order) {
    if (is_of_floats(order) && n <= 8) return 8;
    for (const int columns : {32, 64, 128})
        if (n <= columns) return columns;
    return is_of_floats(order) ? 256 : 128;
}

// Activations for this path: columns of 16-bit floats, in pieces of eight, then a factor.
//
// For the warpgroups' kernels the columns of a tile lie together, cut into steps of 64 activations,
// each of which is in memory what it is to be in shared memory: 128 bytes a column, whose pieces
// of 16 bytes are exchanged as `wgmma` expects it. The tile's factors come behind its last step.
struct TensorColumns {
    DEVICE static constexpr int64_t padded(int64_t k) {
        return (k + span_weights - 1) / span_weights * span_weights;
    }
    DEVICE static constexpr int64_t bytes(int64_t k) { return padded(k) * 2 + 16; }
    // Padded to whole tiles of any of these kernels.
    DEVICE static constexpr int64_t count(int64_t n) {
        return n <= 128 ? 128 : (n + 255) / 256 * 256;
    }

    static constexpr int step = 64;  // activations
    DEVICE static constexpr int place_in_step(int column, int piece) {
        return column * step * 2 + (piece ^ column % 8) * 16;
    }
};

// Parts of k that are multiplied by different blocks and added afterwards, so that a product with
// few rows and columns occupies the whole GPU.
int tensor_splits(const Product& p, Order order, const Launch& launch);

// As many of these parts' sums go through memory. Where warpgroups multiply, pairs of blocks add
// theirs before, if the number is even.
inline bool splits_in_pairs(int splits, const Launch& launch) {
    return launch.warpgroups && splits % 2 == 0;
}
inline int parts_in_memory(int splits, const Launch& launch) {
    return splits_in_pairs(splits, launch) ? splits / 2 : splits;
}

int integer_splits(const Product& p, const Launch& launch);

// Unpacks a chunk of one half of a span for integer products: to signed bytes at `row`, and to
// scales and offsets, of which those of a row are `S::rows` apart.
template <class S>
__device__ __forceinline__ void put_chunk(Chunk c, int chunk, int half, uint8_t* row,
                                          float* scales, float* offsets) {
    using F = typename S::F;
    if constexpr (F::bias != 0) {  // no byte carries into the next
        UNROLL
        for (uint32_t& q : c.q) q = (q + (128 - F::bias) * 0x01010101u) ^ 0x80808080u;
    }
    UNROLL
    for (int group = 0; group < 2; ++group) {
        const int at = F::first(chunk) - half * S::half + group * F::step;
        const uint32_t* const q = c.q + 4 * group;
        *reinterpret_cast<uint4*>(row + at) = make_uint4(q[0], q[1], q[2], q[3]);
        if (at % F::group == 0) {
            scales[at / F::group * S::rows] = c.scale[group];
            if constexpr (S::has_offset) offsets[at / F::group * S::rows] = c.offset[group];
        }
    }
}

// Bytes of workspace behind the columns, for the parts' results.
inline int64_t tensor_partial_bytes(const Product& p, int parts) {
    return parts > 1 ? int64_t{4} * parts * p.m * p.n * p.batch : 0;
}

GPU(Error_t) prepare_tensor_columns(const float* x, int64_t column, int64_t x_batch, int k, int n,
                                    int batch, Order order, void* columns, const Launch& launch);

GPU(Error_t) add_parts(const Product& p, const float* parts, int splits, const Launch& launch);

}  // namespace llamabuild
