// Weights times many columns, on tensor cores (8.0 and later), with 16-bit floats.
//
// Weights become 16-bit floats on their way from shared memory to the tensor cores' registers and
// are never written anywhere in that form. A multiplication on tensor cores takes k in any order
// as long as both sides use the same; so each thread takes whole chunks of 32 weights, as
// everywhere else, and the activations are laid out beforehand in the order in which the threads
// meet them: that of F::Layout.
#pragma once
#include "halves.h"
#include "tensor.h"

namespace llamabuild {

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

#if LLAMABUILD_MATMUL
// What a thread is: g and t as the instruction's layouts name them.
template <class S>
struct Role {
    int lane, set, row_warp, g, t;
    __device__ __forceinline__ explicit Role(int thread)
        : lane(thread % 32),
          set(thread / 32 / S::row_warps),
          row_warp(thread / 32 % S::row_warps),
          g(lane / 4),
          t(lane % 4) {}
};

#if LLAMABUILD_SM
__device__ __forceinline__ void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
#endif

// Grid: tiles of rows, tiles of columns, parts of k for each product of the batch.
template <class Tile, Type type>
__global__ void __launch_bounds__((MatrixShape<Tile, type>::threads), Tile::blocks_at_once)
multiply_matrices_kernel(const Product p, float* parts, int splits) {
#if LLAMABUILD_MATMUL
    using F = Format<type>;
    using S = MatrixShape<Tile, type>;
    constexpr int N = S::N;
    extern __shared__ __align__(16) uint8_t shared[];
    release_successor();
    auto* const grid = reinterpret_cast<uint32_t*>(shared);
    uint8_t* const ring = shared + S::table_bytes;

    const int first_row = blockIdx.x * S::rows, first_column = blockIdx.y * N;
    const int item = p.first_item + blockIdx.z / splits, part = blockIdx.z % splits;

    const auto row_at = [&](int row) {
        return p.weights + here(item) * p.weight_batch +
               min(first_row + row, p.m - 1) * p.row_bytes;
    };
    const auto column_at = [&](int column) {
        return p.activations + here(item) * p.activation_batch +
               (first_column + column) * p.column_bytes;
    };
    const int spans = (p.k + span_weights - 1) / span_weights;
    const int first_span = static_cast<int>(int64_t{spans} * part / splits);
    const int end_span = static_cast<int>(int64_t{spans} * (part + 1) / splits);

    if constexpr (F::table_words != 0)
        for (int i = threadIdx.x; i < F::table_words; i += S::threads) grid[i] = F::table()[i];

    const auto fetch_weights = [&](int span, const CopyTarget& to, int stage) {
        const int thread = here(threadIdx.x);
        const int begin = span * S::span_bytes;
        const int left = min(static_cast<int>(p.row_bytes) - begin, S::span_bytes);
        UNROLL
        for (int i = 0; i < S::rows; i += S::threads / 4) {  // four threads a row
            const int row = i + thread / 4, piece = thread % 4 * 16;
            const uint8_t* from = row_at(row) + begin;
            const int end = skew(from) + left - piece;
            from += piece - skew(from);
            const int at = stage * S::stage_bytes + S::column_bytes + row * S::pieces * 16 + piece;
            UNROLL
            for (int j = 0; j < S::pieces * 16; j += 64)
                if (j < end) to.copy16(at + j, from + j);
        }
    };
    // A column of a span is 32 pieces. Odd columns swap neighbouring sets of four, so that the
    // eight threads that read together meet all banks.
    const auto fetch_columns = [&](int span, const CopyTarget& to, int stage) {
        const int thread = here(threadIdx.x);
        constexpr int step = S::threads / 32;
        const int column = thread / 32, piece = thread % 32;
        const uint8_t* from = column_at(column) + (int64_t{span} * 32 + piece) * 16;
        const int at = stage * S::stage_bytes + column * 512 + (piece ^ (column % 2 * 4)) * 16;
        static_assert(step % 2 == 0, "the parity of a thread's columns is one");
        UNROLL
        for (int i = 0; i < N; i += step, from += step * p.column_bytes)
            to.copy16(at + i * 512, from);
    };
    // What the interval that begins with span `span` needs: see below.
    const CopyTarget target(ring);
    const auto fetch = [&](int span) {
        const int stage = span % S::stages;
        if (span < end_span) fetch_weights(span, target, stage);
        const int columns_span = span - static_cast<int>(threadIdx.x) % 32 / 16;
        if (columns_span >= first_span && columns_span < end_span)
            fetch_columns(columns_span, target, stage);
        end_of_copies();
    };

    float sums[S::sixteens][N / 8][4] = {};
    uint32_t q[2 * S::sixteens][8];
    uint32_t scale[2 * S::sixteens], offset[2 * S::sixteens];  // 16-bit floats of both groups
    const auto unpack = [&](int span) {
        const Role<S> in(here(threadIdx.x));
        const uint8_t* const w =
            ring + span % S::stages * S::stage_bytes + S::column_bytes;
        const int chunk = 4 * in.set + in.t;  // of the span's eight
        constexpr int chunks = F::weights / 32;
        const bool inside = span * 8 + chunk < p.k / 32;
        UNROLL
        for (int r = 0; r < 2 * S::sixteens; ++r) {
            const int row = in.row_warp * S::warp_rows + 8 * r + in.g;
            const uint8_t* const slot =
                w + row * S::pieces * 16 + skew(row_at(row) + span * S::span_bytes);
            const Chunk c = F::chunk(slot + chunk / chunks * F::bytes, chunk % chunks, grid);
            UNROLL
            for (int i = 0; i < 8; ++i) q[r][i] = c.q[i];
            scale[r] = inside ? two_halves(c.scale[0] * weight_gain, c.scale[1] * weight_gain) : 0;
            offset[r] =
                inside ? two_halves(c.offset[0] * weight_gain, c.offset[1] * weight_gain) : 0;
        }
    };
    const auto multiply = [&](int interval) {
        const Role<S> in(here(threadIdx.x));
        const uint8_t* const x = ring + interval % S::stages * S::stage_bytes;
        UNROLL
        for (int h = 0; h < 4; ++h) {  // words 2h and 2h + 1 of the chunks
            uint32_t a[2][S::sixteens][4];  // [word][sixteen rows]
            UNROLL
            for (int word = 0; word < 2; ++word) {
                UNROLL
                for (int r = 0; r < 2 * S::sixteens; ++r)
                    to_halves(q[r][2 * h + word], twice_half(scale[r], h / 2),
                              twice_half(offset[r], h / 2), F::has_offset,
                              a[word][r / 2][r % 2], a[word][r / 2][r % 2 + 2]);
            }
            const int piece = (in.set * 16 + h * 4 + in.t) ^ (in.g % 2 * 4);
            UNROLL
            for (int column = 0; column < N / 8; ++column) {
                const uint4 b = *reinterpret_cast<const uint4*>(
                    x + (column * 8 + in.g) * 512 + piece * 16);
                UNROLL
                for (int rows = 0; rows < S::sixteens; ++rows) {
                    multiply_tile(sums[rows][column], a[0][rows], b.x, b.y);
                    multiply_tile(sums[rows][column], a[1][rows], b.z, b.w);
                }
            }
        }
    };

    // One set unpacks while the other multiplies, so that the tensor cores do not idle: between two
    // barriers the first set unpacks a span and multiplies it; the second multiplies the span
    // before and unpacks this one. Its half of the columns is fetched an interval later, then.
    const auto begin_interval = [&](int span) {
        wait_for_copies<0>();
        __syncthreads();  // the interval's data is here, and nobody reads that of the one before
        fetch(span + 1);
    };
    const int set = threadIdx.x / 32 / S::row_warps;
    wait_for_predecessor();
    fetch(first_span);
    begin_interval(first_span);
    KEEP_LOOP
    for (int span = first_span; span < end_span; ++span) {
        unpack(span);
        if (set == 1) begin_interval(span + 1);
        multiply(span + set);
        if (set == 0) begin_interval(span + 1);
    }

    // The second set hands its sums to the first.
    __syncthreads();
    auto* const exchange_area = reinterpret_cast<float4*>(ring);
    constexpr int tiles = N / 8;
    const Role<S> in(threadIdx.x);
    const int mine = in.row_warp * S::sixteens * tiles * 32 + in.lane;
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
                first_row + in.row_warp * S::warp_rows + i / tiles * 16 + e / 2 * 8 + in.g;
            const int column = i % tiles * 8 + 2 * in.t + e % 2;
            if (row >= p.m || first_column + column >= p.n) continue;
            const float factor = *reinterpret_cast<const float*>(column_at(column) + factor_at);
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
    if (launch.warpgroups) return multiply_warpgroups<type>(p, launch);
    const int splits = tensor_splits(p, order_of<typename Format<type>::Layout>, launch);
    const int64_t columns = TensorColumns::count(p.n) * p.column_bytes * p.batch;
    auto* const parts = reinterpret_cast<float*>(const_cast<uint8_t*>(p.activations) + columns);
    const auto start_tiles = use_large_tile(p.n, launch) ? start_matrices<LargeTile, type>
                                                         : start_matrices<SmallTile, type>;
    auto error = start_tiles(p, launch, parts, splits);
    if (error == GPU(Success) && splits > 1) error = add_parts(p, parts, splits, launch);
    return error;
}

}  // namespace llamabuild
