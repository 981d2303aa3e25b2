// Weights times many columns, on tensor cores (8.0 and later), with 16-bit floats.
//
// Weights become 16-bit floats on their way from shared memory to the tensor cores' registers and
// are never written anywhere in that form. A multiplication on tensor cores takes k in any order
// as long as both sides use the same; so each thread takes whole chunks of 32 weights, as
// everywhere else, and the activations are laid out beforehand in the order in which the threads
// meet them: that of F::Layout.
#pragma once
#include "tensor.h"

namespace llamabuild {

constexpr float weight_gain = 256;  // keeps small scales out of the subnormal 16-bit floats

// A block of threads computes a tile; each of its warps, some rows and all columns of it.
template <class Tile, Type type>
struct MatrixShape : Tile {
    using F = Format<type>;
    static constexpr int N = Tile::columns;
    static constexpr int threads = 2 * Tile::row_warps * 32;  // two sets, one for each half of k
    static constexpr int warp_rows = Tile::rows / Tile::row_warps;
    static constexpr int sixteens = warp_rows / 16;
    static constexpr int span_bytes = span_weights / F::weights * F::bytes;
    static constexpr int pieces = (span_bytes + 15 + 15) / 16 | 1;  // odd: rows fall on other banks
    static constexpr int weight_bytes = Tile::rows * pieces * 16;
    static constexpr int column_bytes = N * span_weights * 2;
    static constexpr int stage_bytes = weight_bytes + column_bytes;
    static constexpr int stages = 2;
    static constexpr int table_bytes = F::table_words * 4;
    static constexpr int shared_bytes = table_bytes + stages * stage_bytes + 32;
    static_assert(stages * stage_bytes >= Tile::rows * N * 4, "the sets' sums are exchanged there");
};

#if LLAMABUILD_SM >= 800
// 1024 + byte is a 16-bit float with the byte as its last digits.
__device__ __forceinline__ void to_halves(uint32_t q, uint32_t scale, uint32_t offset,
                                          bool has_offset, uint32_t& low, uint32_t& high) {
    // Where there are offsets, q is never negative; else 128 is added and taken away again.
    const uint32_t biased = has_offset ? q : q ^ 0x80808080;
    const uint32_t bias = has_offset ? 0x64006400 : 0x64806480;
    low = __byte_perm(biased, 0x64646464, 0x4140);
    high = __byte_perm(biased, 0x64646464, 0x4342);
    asm("sub.f16x2 %0, %0, %1;" : "+r"(low) : "r"(bias));
    asm("sub.f16x2 %0, %0, %1;" : "+r"(high) : "r"(bias));
    if (has_offset) {
        asm("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(low) : "r"(scale), "r"(offset));
        asm("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(high) : "r"(scale), "r"(offset));
    } else {
        asm("mul.f16x2 %0, %0, %1;" : "+r"(low) : "r"(scale));
        asm("mul.f16x2 %0, %0, %1;" : "+r"(high) : "r"(scale));
    }
}

__device__ __forceinline__ uint32_t twice_half(float x) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %1;" : "=r"(pair) : "f"(x));
    return pair;
}

__device__ __forceinline__ void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// Grid: tiles of rows, tiles of columns, parts of k for each product of the batch.
template <class Tile, Type type>
__global__ void __launch_bounds__((MatrixShape<Tile, type>::threads), Tile::blocks_at_once)
multiply_matrices_kernel(const Product p, float* parts, int splits) {
#if LLAMABUILD_SM >= 800
    using F = Format<type>;
    using S = MatrixShape<Tile, type>;
    constexpr int N = S::N;
    extern __shared__ __align__(16) uint8_t shared[];
    auto* const grid = reinterpret_cast<uint32_t*>(shared);
    uint8_t* const ring = shared + S::table_bytes;

    const int thread = threadIdx.x, lane = thread % 32;
    const int set = thread / 32 / S::row_warps, row_warp = thread / 32 % S::row_warps;
    const int g = lane / 4, t = lane % 4;  // as the instruction's layouts name them
    const int first_row = blockIdx.x * S::rows, first_column = blockIdx.y * N;
    const int item = p.first_item + blockIdx.z / splits, part = blockIdx.z % splits;

    const uint8_t* const weights = p.weights + item * p.weight_batch;
    const uint8_t* const end_of_weights = weights + p.m * p.row_bytes;
    const uint8_t* const columns =
        p.activations + item * p.activation_batch + first_column * p.column_bytes;
    const int spans = (p.k + span_weights - 1) / span_weights;
    const int first_span = static_cast<int>(int64_t{spans} * part / splits);
    const int end_span = static_cast<int>(int64_t{spans} * (part + 1) / splits);

    if constexpr (F::table_words != 0)
        for (int i = thread; i < F::table_words; i += S::threads) grid[i] = F::table()[i];

    const auto fetch_weights = [&](int span, uint8_t* to) {
        const int begin = span * S::span_bytes;
        const int left = min(static_cast<int>(p.row_bytes) - begin, S::span_bytes);
        KEEP_LOOP
        for (int i = thread; i < S::rows * S::pieces; i += S::threads) {
            const int row = i / S::pieces, piece = i % S::pieces * 16;
            const uint8_t* from = weights + min(first_row + row, p.m - 1) * p.row_bytes + begin;
            const int before = skew(from);
            from += piece - before;
            if (piece >= before + left) continue;
            const int64_t readable = end_of_weights - from;
            if (readable >= 16) {
                copy16(to + i * 16, from);
            } else {
                for (int byte = 0; byte < readable; ++byte) to[i * 16 + byte] = from[byte];
            }
        }
    };
    // A column of a span is 32 pieces. Odd columns swap neighbouring sets of four, so that the
    // eight threads that read together meet all banks.
    const auto fetch_columns = [&](int span, uint8_t* to) {
        constexpr int step = S::threads / 32;
        const int column = thread / 32, piece = thread % 32;
        const uint8_t* from =
            columns + column * p.column_bytes + (int64_t{span} * 32 + piece) * 16;
        to += column * 512 + (piece ^ (column % 2 * 4)) * 16;
        static_assert(step % 2 == 0, "the parity of a thread's columns is one");
        UNROLL
        for (int i = 0; i < N; i += step) copy16(to + i * 512, from + i * p.column_bytes);
    };
    const auto fetch = [&](int span, int stage) {
        if (span < end_span) {
            uint8_t* const to = ring + stage * S::stage_bytes;
            fetch_weights(span, to + S::column_bytes);
            fetch_columns(span, to);
        }
        end_of_copies();
    };

    wait_for_predecessor();
    fetch(first_span, 0);
    float sums[S::sixteens][N / 8][4] = {};
    for (int span = first_span; span < end_span; ++span) {
        const int stage = (span - first_span) % S::stages;
        wait_for_copies<0>();
        __syncthreads();  // the span is here, and all have read the one before it
        fetch(span + 1, 1 - stage);

        const uint8_t* const x = ring + stage * S::stage_bytes;
        const uint8_t* const w = x + S::column_bytes;
        const int chunk = 4 * set + t;  // of the span's eight
        constexpr int chunks = F::weights / 32;
        const bool inside = span * 8 + chunk < p.k / 32;
        uint32_t q[2 * S::sixteens][8], scale[2 * S::sixteens][2], offset[2 * S::sixteens][2];
        UNROLL
        for (int r = 0; r < 2 * S::sixteens; ++r) {
            const int row = row_warp * S::warp_rows + 8 * r + g;
            const uint8_t* const from = weights +
                                        min(first_row + row, p.m - 1) * p.row_bytes +
                                        span * S::span_bytes;
            const uint8_t* const slot = w + row * S::pieces * 16 + skew(from);
            const Chunk c =
                F::chunk(slot + chunk / chunks * F::bytes, chunk % chunks, grid);
            UNROLL
            for (int i = 0; i < 8; ++i) q[r][i] = c.q[i];
            UNROLL
            for (int group = 0; group < 2; ++group) {
                scale[r][group] = inside ? twice_half(c.scale[group] * weight_gain) : 0;
                offset[r][group] = inside ? twice_half(c.offset[group] * weight_gain) : 0;
            }
        }
        UNROLL
        for (int h = 0; h < 4; ++h) {  // words 2h and 2h + 1 of the chunks
            uint32_t a[2][S::sixteens][4];  // [word][sixteen rows]
            UNROLL
            for (int word = 0; word < 2; ++word) {
                UNROLL
                for (int r = 0; r < 2 * S::sixteens; ++r)
                    to_halves(q[r][2 * h + word], scale[r][h / 2], offset[r][h / 2], F::has_offset,
                              a[word][r / 2][r % 2], a[word][r / 2][r % 2 + 2]);
            }
            const int piece = (set * 16 + h * 4 + t) ^ (g % 2 * 4);
            UNROLL
            for (int column = 0; column < N / 8; ++column) {
                const uint4 b = *reinterpret_cast<const uint4*>(x + (column * 8 + g) * 512 +
                                                                piece * 16);
                UNROLL
                for (int rows = 0; rows < S::sixteens; ++rows) {
                    multiply_tile(sums[rows][column], a[0][rows], b.x, b.y);
                    multiply_tile(sums[rows][column], a[1][rows], b.z, b.w);
                }
            }
        }
    }

    // The second set hands its sums to the first.
    __syncthreads();
    auto* const exchange_area = reinterpret_cast<float4*>(ring);
    constexpr int tiles = N / 8;
    const int mine = row_warp * S::sixteens * tiles * 32 + lane;
    if (set == 1) {
        UNROLL
        for (int i = 0; i < S::sixteens * tiles; ++i) {
            const float(&c)[4] = sums[i / tiles][i % tiles];
            exchange_area[mine + i * 32] = make_float4(c[0], c[1], c[2], c[3]);
        }
    }
    __syncthreads();
    if (set == 1) return;

    const int factor_at = static_cast<int>(p.column_bytes) - 16;
    float* const output = splits == 1
                              ? p.output + item * p.output_batch
                              : parts + (int64_t{item} * splits + part) * p.m * p.n;
    const int64_t output_column = splits == 1 ? p.output_column : p.m;
    UNROLL
    for (int i = 0; i < S::sixteens * tiles; ++i) {
        const float4 other = exchange_area[mine + i * 32];
        const float(&c)[4] = sums[i / tiles][i % tiles];
        const float both[4] = {c[0] + other.x, c[1] + other.y, c[2] + other.z, c[3] + other.w};
        UNROLL
        for (int e = 0; e < 4; ++e) {
            const int row =
                first_row + row_warp * S::warp_rows + i / tiles * 16 + e / 2 * 8 + g;
            const int column = i % tiles * 8 + 2 * t + e % 2;
            if (row >= p.m || first_column + column >= p.n) continue;
            const float factor = *reinterpret_cast<const float*>(
                columns + column * p.column_bytes + factor_at);
            output[(first_column + column) * output_column + row] =
                both[e] * factor * (1 / weight_gain);
        }
    }
#else
    (void)p, (void)parts, (void)splits;  // never started there
#endif
}

template <class Tile, Type type>
GPU(Error_t) start_matrices(const Product& product, const Launch& launch, float* parts,
                            int splits) {
    using S = MatrixShape<Tile, type>;
    const auto kernel = multiply_matrices_kernel<Tile, type>;
    const auto error = GPU(FuncSetAttribute)(reinterpret_cast<const void*>(kernel),
                                             GPU(FuncAttributeMaxDynamicSharedMemorySize),
                                             S::shared_bytes);
    if (error != GPU(Success)) return error;
    const dim3 blocks((product.m + S::rows - 1) / S::rows, (product.n + S::N - 1) / S::N,
                      product.batch * splits);
    return start(kernel, launch, blocks, S::threads, S::shared_bytes, product, parts, splits);
}

template <Type type>
GPU(Error_t) multiply_matrices(const Product& p, const Launch& launch) {
    const int splits = tensor_splits(p.m, p.n, p.k, p.batch, launch);
    const int64_t columns = TensorColumns::count(p.n) * p.column_bytes * p.batch;
    auto* const parts = reinterpret_cast<float*>(const_cast<uint8_t*>(p.activations) + columns);
    const auto start_tiles = use_large_tile(p.n, launch) ? start_matrices<LargeTile, type>
                                                         : start_matrices<SmallTile, type>;
    auto error = start_tiles(p, launch, parts, splits);
    if (error == GPU(Success) && splits > 1) error = add_parts(p, parts, splits, launch);
    return error;
}

}  // namespace llamabuild
