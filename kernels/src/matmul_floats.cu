// Weights of 16-bit floats times several columns, on tensor cores (8.0 and later): they need no
// unpacking, so tiles of them and of the activations, which become the weights' kind of float, go
// through shared memory as they are.
#include "tensor.h"

namespace llamabuild {

constexpr int step_weights = 64;  // of one stage: 128 bytes of each row and column, 8 pieces
constexpr int step_bytes = 2 * step_weights;

template <class Tile, Type type>
struct FloatShape : Tile {
    static constexpr int M = Tile::rows, N = Tile::columns;
    static constexpr int row_warps = 2, column_warps = N > 64 ? 4 : 2;
    static constexpr int warp_rows = M / row_warps, warp_columns = N / column_warps;
    static constexpr int threads = row_warps * column_warps * 32;
    static constexpr int stages = N > 64 ? 3 : 4;
    static constexpr int stage_bytes = (M + N) * step_bytes;
    static constexpr int shared_bytes = stages * stage_bytes;
    static_assert(warp_rows % 16 == 0 && warp_columns % 16 == 0, "whole multiplications");
};

#if LLAMABUILD_MATMUL
// Where a piece of 16 bytes lies in a stage: eight rows' pieces of one number are in all banks.
__device__ __forceinline__ int place_of(int row, int piece) {
    return row * step_bytes + (piece ^ row % 8) * 16;
}

#if LLAMABUILD_SM
// Four matrices of 8 x 8; each lane names one of their 32 rows.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(from)
                 : "memory");
}

template <Type type>
__device__ __forceinline__ void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
#define MULTIPLY(kind)                                                                   \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." kind "." kind ".f32 {%0, %1, %2, %3}, " \
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                  \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if constexpr (type == Type::bf16) MULTIPLY("bf16");
    else MULTIPLY("f16");
#undef MULTIPLY
}
#endif
#endif

// Grid: tiles of rows, tiles of columns, parts of k for each product of the batch. Rows are whole
// pieces of 16 bytes.
template <class Tile, Type type>
__global__ void __launch_bounds__((FloatShape<Tile, type>::threads))
multiply_floats_kernel(const Product p, float* parts, int splits) {
#if LLAMABUILD_MATMUL
    using S = FloatShape<Tile, type>;
    extern __shared__ __align__(16) uint8_t shared[];
    release_successor();
    const auto ring = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int first_row = blockIdx.x * S::M, first_column = blockIdx.y * S::N;
    const int item = p.first_item + blockIdx.z / splits, part = blockIdx.z % splits;
    const uint8_t* const weights = p.weights + item * p.weight_batch;
    const uint8_t* const columns =
        p.activations + item * p.activation_batch + first_column * p.column_bytes;

    const int spans = (p.k + span_weights - 1) / span_weights;
    constexpr int steps = span_weights / step_weights;
    const int begin = static_cast<int>(int64_t{spans} * part / splits) * steps;
    const int end = static_cast<int>(int64_t{spans} * (part + 1) / splits) * steps;

    const auto fetch_weights = [&](int step) {
        if (step >= end) return;
        const uint32_t to = ring + step % S::stages * S::stage_bytes;
        const int piece = thread % 8, k = step * step_weights + piece * 8;
        const bool inside = k < p.k;
        UNROLL
        for (int i = 0; i < S::M; i += S::threads / 8) {
            const int row = i + thread / 8;
            copy_piece(to + place_of(row, piece),
                       weights + min(first_row + row, p.m - 1) * p.row_bytes +
                           (inside ? int64_t{2} * k : 0),
                       inside);
        }
    };
    const auto fetch_columns = [&](int step) {
        if (step >= end) return;
        const uint32_t to = ring + step % S::stages * S::stage_bytes + S::M * step_bytes;
        const int piece = thread % 8;
        UNROLL
        for (int i = 0; i < S::N; i += S::threads / 8) {
            const int row = i + thread / 8;
            copy_piece(to + place_of(row, piece),
                       columns + row * p.column_bytes + int64_t{step} * step_bytes + piece * 16,
                       true);
        }
    };

    constexpr int sixteens = S::warp_rows / 16, pairs = S::warp_columns / 16;
    float sums[sixteens][2 * pairs][4] = {};
    const int warp_row = warp / S::column_warps * S::warp_rows;
    const int warp_column = warp % S::column_warps * S::warp_columns;
    const auto multiply = [&](int step) {
        const uint32_t w = ring + step % S::stages * S::stage_bytes;
        const uint32_t x = w + S::M * step_bytes;
        UNROLL
        for (int j = 0; j < step_weights / 16; ++j) {
            uint32_t a[sixteens][4];
            UNROLL
            for (int r = 0; r < sixteens; ++r)
                load_matrices(a[r], w + place_of(warp_row + 16 * r + lane % 16, 2 * j + lane / 16));
            UNROLL
            for (int c = 0; c < pairs; ++c) {
                uint32_t b[4];
                const int column = warp_column + 16 * c + lane / 16 * 8 + lane % 8;
                load_matrices(b, x + place_of(column, 2 * j + lane / 8 % 2));
                UNROLL
                for (int r = 0; r < sixteens; ++r) {
                    multiply_tile<type>(sums[r][2 * c], a[r], b[0], b[1]);
                    multiply_tile<type>(sums[r][2 * c + 1], a[r], b[2], b[3]);
                }
            }
        }
    };

    UNROLL
    for (int i = 0; i < S::stages - 1; ++i) fetch_weights(begin + i);
    wait_for_predecessor();
    UNROLL
    for (int i = 0; i < S::stages - 1; ++i) {
        fetch_columns(begin + i);
        end_of_copies();
    }
    KEEP_LOOP
    for (int step = begin; step < end; ++step) {
        wait_for_copies<S::stages - 2>();
        __syncthreads();  // the step's data is here, and nobody reads that of the one before
        fetch_weights(step + S::stages - 1);
        fetch_columns(step + S::stages - 1);
        end_of_copies();
        multiply(step);
    }

    float* const output = splits == 1
                              ? p.output + item * p.output_batch
                              : parts + (int64_t{item} * splits + part) * p.m * p.n;
    const int64_t output_column = splits == 1 ? p.output_column : p.m;
    UNROLL
    for (int i = 0; i < sixteens * 2 * pairs * 4; ++i) {
        const int r = i / (8 * pairs), c = i / 4 % (2 * pairs), e = i % 4;
        const int row = first_row + warp_row + 16 * r + e / 2 * 8 + lane / 4;
        const int column = warp_column + 8 * c + 2 * (lane % 4) + e % 2;
        if (row >= p.m || first_column + column >= p.n) continue;
        const float factor = *reinterpret_cast<const float*>(
            columns + (column + 1) * p.column_bytes - 16);
        output[(first_column + column) * output_column + row] = sums[r][c][e] * factor;
    }
#else
    (void)p, (void)parts, (void)splits;  // never started there
#endif
}

namespace {

template <class Tile, Type type>
GPU(Error_t) start_tiles(const Product& p, const Launch& launch, float* parts, int splits) {
    using S = FloatShape<Tile, type>;
    const auto kernel = multiply_floats_kernel<Tile, type>;
    const auto error = GPU(FuncSetAttribute)(reinterpret_cast<const void*>(kernel),
                                             GPU(FuncAttributeMaxDynamicSharedMemorySize),
                                             S::shared_bytes);
    if (error != GPU(Success)) return error;
    const dim3 blocks((p.m + S::M - 1) / S::M, (p.n + S::N - 1) / S::N, p.batch * splits);
    return start(kernel, launch, blocks, S::threads, S::shared_bytes, p, parts, splits);
}

template <Type type>
GPU(Error_t) multiply_floats(const Product& p, const Launch& launch) {
    if (launch.warpgroups) return multiply_warpgroups<type>(p, launch);
    const int splits = tensor_splits(p, type == Type::bf16 ? Order::brain : Order::plain, launch);
    const int64_t columns = TensorColumns::count(p.n) * p.column_bytes * p.batch;
    auto* const parts = reinterpret_cast<float*>(const_cast<uint8_t*>(p.activations) + columns);
    const auto start_some = use_large_tile(p.n, launch) ? start_tiles<LargeTile, type>
                                                        : start_tiles<SmallTile, type>;
    auto error = start_some(p, launch, parts, splits);
    if (error == GPU(Success) && splits > 1) error = add_parts(p, parts, splits, launch);
    return error;
}

}  // namespace

template <>
GPU(Error_t) multiply_matrices<Type::f16>(const Product& p, const Launch& launch) {
    return multiply_floats<Type::f16>(p, launch);
}

template <>
GPU(Error_t) multiply_matrices<Type::bf16>(const Product& p, const Launch& launch) {
    return multiply_floats<Type::bf16>(p, launch);
}

}  // namespace llamabuild
