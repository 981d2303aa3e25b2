// Weights times several columns, with integers on tensor cores (7.5 and later).
//
// A warp takes 16 rows and walks along them in spans of 256 weights. It copies the blocks of a span
// to shared memory, unpacks them there to signed bytes, half a span at a time, and multiplies them
// by the columns, 32 weights (or, where a format changes its scale so often, 16) in one sum of
// integers, which then meets the scales of both sides. How the warps of a block share the work
// depends on the tile: with few columns they divide k among them and add their results, and nothing
// but the warp waits for the warp; with many they divide the rows and share the columns. AMD's
// matrix cores have a kernel of their own in matrix_cores.h.
#pragma once
#include "tensor.h"
#if !defined(__CUDACC__) || defined(__HIPCC__)
#include "matrix_cores.h"
#endif

namespace llamabuild {

template <class Tile, Type type>
struct IntegerShape : Tile {
    using F = Format<type>;
    static constexpr int N = Tile::columns;
    static constexpr int rows = 16;  // of a warp
    static constexpr int most_warps = 8;
    static constexpr int span_bytes = span_weights / F::weights * F::bytes;
    static constexpr int pieces = (span_bytes + 15 + 15) / 16 | 1;  // odd: rows fall on other banks
    static constexpr int blocks_bytes = rows * pieces * 16;
    static constexpr int stages = span_bytes > 180 ? 1 : 2;
    static constexpr int half = span_weights / 2;
    static constexpr int row_bytes = half + 16;  // unpacked; an odd number of pieces again
    static constexpr bool has_offset = F::has_offset && F::bias == 0;
    static constexpr int scales = half / F::group * rows;  // and as many offsets
    static constexpr int warp_bytes = stages * blocks_bytes + rows * row_bytes +
                                      scales * 4 * (has_offset ? 2 : 1);
    static constexpr int column_bytes = span_weights / 32 * int(sizeof(ActivationBlock)) + 16;
    static constexpr int columns_bytes = N * column_bytes;
    static constexpr int table_bytes = F::table_words * 4;

    static constexpr int shared_bytes(int warps) {
        return table_bytes + warps * warp_bytes + (Tile::divides_k ? warps : 1) * columns_bytes;
    }
};

#if LLAMABUILD_SM >= 750
// Where thread i names the i-th row of 16 bytes, thread 4g + t gets bytes 4t to 4t + 3 of row g of
// each set of eight.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const uint8_t* row) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t (&words)[2], const uint8_t* row) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(address)
                 : "memory");
}

#if LLAMABUILD_SM < 800
// 8 rows, 8 columns, 16 weights.
__device__ __forceinline__ void multiply_eight(int& c0, int& c1, uint32_t a, uint32_t b) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c0), "+r"(c1)
        : "r"(a), "r"(b));
}
#endif

// 16 rows, 8 columns, 16 weights.
__device__ __forceinline__ void multiply16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
#if LLAMABUILD_SM >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%7, %7, %7, %7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(0));
#else
    c[0] = c[1] = c[2] = c[3] = 0;
    multiply_eight(c[0], c[1], a0, b);
    multiply_eight(c[2], c[3], a1, b);
#endif
}

// 16 rows, 8 columns, 32 weights.
__device__ __forceinline__ void multiply32(int (&c)[4], const uint32_t (&a)[4],
                                           const uint32_t (&b)[2]) {
#if LLAMABUILD_SM >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(0));
#else
    multiply16(c, a[0], a[1], b[0]);
    multiply_eight(c[0], c[1], a[2], b[1]);
    multiply_eight(c[2], c[3], a[3], b[1]);
#endif
}
#endif

// Grid: tiles of rows, tiles of columns, parts of k for each product of the batch.
template <class Tile, Type type>
__global__ void __launch_bounds__((IntegerShape<Tile, type>::most_warps * 32), 2)
multiply_integers_kernel(const Product p, float* parts, int splits) {
#if LLAMABUILD_INTEGERS
    using F = Format<type>;
    using S = IntegerShape<Tile, type>;
    constexpr int N = S::N;
    extern __shared__ __align__(16) uint8_t shared[];
    release_successor();

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
    const int g = lane / 4, t = lane % 4;  // as the instructions' layouts name them
    auto* const grid = reinterpret_cast<uint32_t*>(shared);
    uint8_t* const columns_at = shared + S::table_bytes;
    uint8_t* const x = columns_at + (Tile::divides_k ? warp : 0) * S::columns_bytes;
    uint8_t* const ring =
        columns_at + (Tile::divides_k ? warps : 1) * S::columns_bytes + warp * S::warp_bytes;
    uint8_t* const unpacked = ring + S::stages * S::blocks_bytes;
    auto* const scales = reinterpret_cast<float*>(unpacked + S::rows * S::row_bytes);
    float* const offsets = scales + S::scales;
    if constexpr (F::table_words != 0) {
        for (int i = threadIdx.x; i < F::table_words; i += blockDim.x) grid[i] = F::table()[i];
        __syncthreads();
    }

    const int first_row = (Tile::divides_k ? blockIdx.x : blockIdx.x * warps + warp) * S::rows;
    const int first_column = blockIdx.y * N;
    const int item = p.first_item + blockIdx.z / splits, part = blockIdx.z % splits;
    const int spans = (p.k + span_weights - 1) / span_weights;
    const int first_span = static_cast<int>(int64_t{spans} * part / splits);
    const int end_span = static_cast<int>(int64_t{spans} * (part + 1) / splits);
    const int step = Tile::divides_k ? warps : 1;
    const int begin_span = first_span + (Tile::divides_k ? warp : 0);

    // This thread copies and unpacks parts of rows g and g + 8, and copies parts of columns.
    const uint8_t* rows[2];  // past the last row, the last again
    UNROLL
    for (int r = 0; r < 2; ++r)
        rows[r] = p.weights + item * p.weight_batch +
                  min(first_row + g + 8 * r, p.m - 1) * p.row_bytes;
    const uint8_t* const columns =
        p.activations + item * p.activation_batch + first_column * p.column_bytes;
    const int sharers = Tile::divides_k ? 32 : static_cast<int>(blockDim.x);
    const int in_thread = Tile::divides_k ? lane : static_cast<int>(threadIdx.x);

    const CopyTarget blocks_target(ring + (g * S::pieces + t) * 16);
    const CopyTarget columns_target(x + in_thread / 4 * S::column_bytes + t * 16);
    const auto fetch_blocks = [&](int span, int stage) {
        if (span < end_span) {
            const int left = min(static_cast<int>(p.row_bytes) - span * S::span_bytes,
                                 S::span_bytes);
            UNROLL
            for (int r = 0; r < 2; ++r) {
                const uint8_t* from = rows[r] + span * S::span_bytes;
                const int end = skew(from) + left;
                from += t * 16 - skew(from);
                const int to = stage * S::blocks_bytes + r * 8 * S::pieces * 16;
                UNROLL
                for (int i = 0; i < S::pieces * 16; i += 64)
                    if (i + t * 16 < end) blocks_target.copy16(to + i, from + i);
            }
        }
        end_of_copies();
    };
    const auto fetch_columns = [&](int span) {
        if (span < end_span) {
            const int end = min(p.k / 32 - span * 8, 8) * int(sizeof(ActivationBlock));
            KEEP_LOOP
            for (int c = in_thread / 4; c < min(N, p.n - first_column); c += sharers / 4) {
                const uint8_t* const from =
                    columns + c * p.column_bytes + span * (S::column_bytes - 16) + t * 16;
                const int to = (c - in_thread / 4) * S::column_bytes;
                UNROLL
                for (int i = 0; i < S::column_bytes - 16; i += 64)
                    if (i + t * 16 < end) columns_target.copy16(to + i, from + i);
            }
        }
        end_of_copies();
    };
    const auto wait_for_sharers = [] {
        if constexpr (Tile::divides_k) group_barrier();
        else __syncthreads();
    };

    const auto unpack = [&](int span, int stage, int half) {
        constexpr int chunks = F::weights / 32;
        const int chunk = 4 * half + t;
        UNROLL
        for (int r = 0; r < 2; ++r) {
            const int row = g + 8 * r;
            const uint8_t* const blocks = ring + stage * S::blocks_bytes + row * S::pieces * 16 +
                                          skew(rows[r] + span * S::span_bytes);
            put_chunk<S>(F::chunk(blocks + chunk / chunks * F::bytes, chunk % chunks, grid),
                         chunk, half, unpacked + row * S::row_bytes, scales + row, offsets + row);
        }
    };

    float sums[N / 8][4] = {};
    const auto multiply = [&](int span, int half) {
        const int blocks = p.k / 32 - span * 8 - half * 4;
        UNROLL
        for (int block = 0; block < 4; ++block) {
            if (block >= blocks) break;
            uint32_t a[4];
            load_matrices(a, unpacked + lane % 16 * S::row_bytes + block * 32 + lane / 16 * 16);
            constexpr int groups = 32 / F::group;
            float scale[groups][2], offset[groups][2];
            UNROLL
            for (int i = 0; i < groups * 2; ++i) {
                const int at = (block * groups + i / 2) * S::rows + g + i % 2 * 8;
                scale[i / 2][i % 2] = scales[at];
                if constexpr (S::has_offset) offset[i / 2][i % 2] = offsets[at];
            }
            const uint8_t* const blocks_of_columns =
                x + (half * 4 + block) * int(sizeof(ActivationBlock));
            UNROLL
            for (int i = 0; i < N / 8; ++i) {
                uint32_t b[2];
                load_matrices(b, blocks_of_columns + (8 * i + lane % 8) * S::column_bytes +
                                     lane / 8 % 2 * 16);
                int c[groups][4];
                if constexpr (groups == 1) {
                    multiply32(c[0], a, b);
                } else {
                    multiply16(c[0], a[0], a[1], b[0]);
                    multiply16(c[1], a[2], a[3], b[1]);
                }
                float4 numbers[2];  // { d, sum, d, sum } of columns 2t and 2t + 1
                UNROLL
                for (int e = 0; e < 2; ++e) {
                    const uint8_t* const from =
                        blocks_of_columns + (8 * i + 2 * t + e) * S::column_bytes + 32;
                    if constexpr (S::has_offset)
                        numbers[e] = *reinterpret_cast<const float4*>(from);
                    else
                        numbers[e].x = *reinterpret_cast<const float*>(from);
                }
                UNROLL
                for (int e = 0; e < 4; ++e) {
                    const float4& column = numbers[e % 2];
                    float sum = scale[0][e / 2] * static_cast<float>(c[0][e]);
                    if constexpr (groups == 2)
                        sum += scale[1][e / 2] * static_cast<float>(c[1][e]);
                    sums[i][e] += column.x * sum;
                    if constexpr (S::has_offset) {
                        if constexpr (groups == 2)
                            sums[i][e] += offset[0][e / 2] * column.y +
                                          offset[1][e / 2] * column.w;
                        else
                            sums[i][e] += offset[0][e / 2] * (column.y + column.w);
                    }
                }
            }
        }
    };

    // Copies are waited for in the order in which they were begun: blocks, columns, the blocks of
    // the next span (where there is a second stage for them).
    fetch_blocks(begin_span, 0);
    wait_for_predecessor();
    fetch_columns(begin_span);
    if constexpr (S::stages == 2) fetch_blocks(begin_span + step, 1);
    int stage = 0;
    KEEP_LOOP
    for (int span = begin_span; span < end_span; span += step) {
        wait_for_copies<S::stages == 2 ? 2 : 0>();
        group_barrier();
        unpack(span, stage, 0);
        wait_for_copies<S::stages - 1>();
        wait_for_sharers();
        multiply(span, 0);
        group_barrier();
        unpack(span, stage, 1);
        group_barrier();
        multiply(span, 1);
        wait_for_sharers();
        fetch_columns(span + step);
        fetch_blocks(span + S::stages * step, stage);
        stage = (stage + 1) % S::stages;
    }

    float* const output = splits == 1
                              ? p.output + item * p.output_batch
                              : parts + (int64_t{item} * splits + part) * p.m * p.n;
    const int64_t output_column = splits == 1 ? p.output_column : p.m;
    if constexpr (Tile::divides_k) {
        wait_for_copies<0>();
        __syncthreads();
        auto* const exchange_area = reinterpret_cast<float*>(columns_at);
        UNROLL
        for (int e = 0; e < 4; ++e)
            exchange_area[(warp * 8 + 2 * t + e % 2) * S::rows + g + e / 2 * 8] = sums[0][e];
        __syncthreads();
        for (int i = threadIdx.x; i < S::rows * N; i += blockDim.x) {
            float sum = 0;
            for (int w = 0; w < warps; ++w) sum += exchange_area[w * S::rows * N + i];
            const int row = first_row + i % S::rows, column = first_column + i / S::rows;
            if (row < p.m && column < p.n) output[column * output_column + row] = sum;
        }
    } else {
        UNROLL
        for (int i = 0; i < N / 8; ++i) {
            UNROLL
            for (int e = 0; e < 4; ++e) {
                const int row = first_row + g + e / 2 * 8;
                const int column = first_column + 8 * i + 2 * t + e % 2;
                if (row < p.m && column < p.n) output[column * output_column + row] = sums[i][e];
            }
        }
    }
#else
    (void)p, (void)parts, (void)splits;  // never started there
#endif
}

template <class Tile, Type type>
GPU(Error_t) start_integers(const Product& product, const Launch& launch, float* parts,
                            int splits) {
    using S = IntegerShape<Tile, type>;
    const auto kernel = multiply_integers_kernel<Tile, type>;
    int warps = S::most_warps;
    while (warps > 1 && S::shared_bytes(warps) > launch.shared_bytes) --warps;
    const int shared = S::shared_bytes(warps);
    const auto error = GPU(FuncSetAttribute)(reinterpret_cast<const void*>(kernel),
                                             GPU(FuncAttributeMaxDynamicSharedMemorySize), shared);
    if (error != GPU(Success)) return error;
    const int rows = Tile::divides_k ? S::rows : S::rows * warps;
    return for_batch(product, [&](const Product& p, int items) {
        const dim3 blocks((p.m + rows - 1) / rows, (p.n + S::N - 1) / S::N, items * splits);
        return start(kernel, launch, blocks, warps * 32, shared, p, parts, splits);
    });
}

template <Type type>
GPU(Error_t) multiply_integers(const Product& p, const Launch& launch) {
    const int splits = integer_splits(p, launch);
    auto* const parts = reinterpret_cast<float*>(const_cast<uint8_t*>(p.activations) +
                                                 p.activation_batch * p.batch);
#if defined(__CUDACC__) && !defined(__HIPCC__)
    const auto start_tiles = p.n <= NarrowTile::columns ? start_integers<NarrowTile, type>
                                                        : start_integers<WideTile, type>;
#else
    const auto start_tiles = launch.wmma ? start_cores<Wmma, type> : start_cores<Mfma, type>;
#endif
    auto error = start_tiles(p, launch, parts, splits);
    if (error == GPU(Success) && splits > 1) error = add_parts(p, parts, splits, launch);
    return error;
}

}  // namespace llamabuild
