// Weights times several columns, with integers on AMD's matrix cores: MFMA (gfx908 and gfx90a), for
// waves of 64 threads, or WMMA (gfx11), for waves of 32.
//
// As in integers.h, but nothing is copied in the background. A wave takes 16 rows and walks along
// them in spans of 256 weights: it copies the blocks of a span to shared memory, unpacks them there
// to signed bytes, half a span at a time, and multiplies them by the columns, 32 weights (or, where
// a format changes its scale so often, 16) in one sum of integers, which then meets the scales of
// both sides. The waves of a block divide the rows and share the columns.
#pragma once
#include "tensor.h"

namespace llamabuild {

// An instruction multiplies 16 rows by 16 columns, 16 weights each. Thread l of a wave, in part
// l / 16, gives row l % 16 and column l % 16, or its part of them, and gets some rows' sums of that
// column. All threads of the wave come there together.
struct Mfma {
    static constexpr bool here = LLAMABUILD_MFMA;  // in this code
    static constexpr int wave = 64;     // threads
    static constexpr int columns = 64;  // of a block, at most
    static constexpr int given = 4;     // bytes of a row or column, by a thread
    static constexpr int sums = 4;      // that a thread gets: of rows
    DEVICE static constexpr int row_of(int part, int i) { return part * sums + i; }
    DEVICE static constexpr int place_of(int row) { return row; }  // part * sums + i
    using Ints = int __attribute__((vector_size(4 * sums)));
    using Floats = float __attribute__((vector_size(4 * sums)));
    // AMD's "Matrix Instruction Calculator" on v_mfma_i32_16x16x16i8, for CDNA 1 and 2, and "CDNA
    // MFMA intrinsics" in HIP's documentation on the sums.
    static __device__ __forceinline__ Ints multiply(const uint8_t* row, const uint8_t* column,
                                                    Ints sums) {
#if LLAMABUILD_MFMA
        sums = __builtin_amdgcn_mfma_i32_16x16x16i8(*reinterpret_cast<const int*>(row),
                                                    *reinterpret_cast<const int*>(column), sums, 0,
                                                    0, 0);
#else
        (void)row, (void)column;
#endif
        return sums;
    }
};

struct Wmma {
    static constexpr bool here = LLAMABUILD_WMMA;
    static constexpr int wave = 32;
    static constexpr int columns = 32;  // with 64 clang 15, at 128 registers, spills
    static constexpr int given = 16;
    static constexpr int sums = 8;
    DEVICE static constexpr int row_of(int part, int i) { return 2 * i + part; }
    DEVICE static constexpr int place_of(int row) { return row % 2 * sums + row / 2; }
    using Ints = int __attribute__((vector_size(4 * sums), aligned(16)));
    using Floats = float __attribute__((vector_size(4 * sums), aligned(16)));
    using Words = int __attribute__((vector_size(given)));
    // "How to accelerate AI applications on RDNA 3 using WMMA" (GPUOpen).
    static __device__ __forceinline__ Ints multiply(const uint8_t* row, const uint8_t* column,
                                                    Ints sums) {
#if LLAMABUILD_WMMA
        sums = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(
            true, *reinterpret_cast<const Words*>(row), true,
            *reinterpret_cast<const Words*>(column), sums, false);
#else
        (void)row, (void)column;
#endif
        return sums;
    }
};

template <class Cores, Type type>
struct CoresShape {
    using F = Format<type>;
    static constexpr int wave = Cores::wave;
    static constexpr int parts = wave / 16;
    static constexpr int rows = 16;                 // of a wave
    static constexpr int columns = Cores::columns;  // in sets of 16
    static constexpr int most_waves = 4;
    static constexpr int span_bytes = span_weights / F::weights * F::bytes;
    static constexpr int pieces = (span_bytes + 15 + 15) / 16 | 1;  // odd: rows fall on other banks
    static constexpr int blocks_bytes = rows * pieces * 16;
    static constexpr int half = span_weights / 2;
    static constexpr int row_bytes = half + 16;  // unpacked; an odd number of pieces again
    static constexpr bool has_offset = F::has_offset && F::bias == 0;
    static constexpr int scales = half / F::group * rows;  // and as many offsets
    static constexpr int wave_bytes = blocks_bytes + rows * row_bytes +
                                      scales * 4 * (has_offset ? 2 : 1);
    static constexpr int column_bytes = span_weights / 32 * int(sizeof(ActivationBlock)) + 16;
    static constexpr int table_bytes = F::table_words * 4;

    static constexpr int shared_bytes(int waves, int columns) {
        return table_bytes + waves * wave_bytes + columns * column_bytes;
    }
    static_assert(shared_bytes(most_waves, columns) <= 64 * 1024, "what a block has");
};

// Grid: tiles of rows, tiles of columns, parts of k for each product of the batch.
template <class Cores, Type type>
__global__ void __launch_bounds__((CoresShape<Cores, type>::most_waves * Cores::wave))
multiply_cores_kernel(const Product p, float* parts, int splits) {
#if LLAMABUILD_MFMA || LLAMABUILD_WMMA
    using F = Format<type>;
    using S = CoresShape<Cores, type>;
    using Ints = typename Cores::Ints;
    using Floats = typename Cores::Floats;
    if constexpr (!Cores::here) return;  // never started there
    extern __shared__ __align__(16) uint8_t shared[];

    const int lane = threadIdx.x % S::wave, wave = threadIdx.x / S::wave;
    const int waves = static_cast<int>(blockDim.x) / S::wave;
    const int l = lane % 16, part_of_wave = lane / 16;
    auto* const grid = reinterpret_cast<uint32_t*>(shared);
    uint8_t* const blocks = shared + S::table_bytes + wave * S::wave_bytes;
    uint8_t* const unpacked = blocks + S::blocks_bytes;
    auto* const scales = reinterpret_cast<float*>(unpacked + S::rows * S::row_bytes);
    float* const offsets = scales + S::scales;
    uint8_t* const x = shared + S::table_bytes + waves * S::wave_bytes;
    for (int i = threadIdx.x; i < F::table_words; i += blockDim.x) grid[i] = F::table()[i];

    const int first_row = (blockIdx.x * waves + wave) * S::rows;
    const int first_column = blockIdx.y * S::columns;
    const int columns = min(S::columns, p.n - first_column);
    const int item = p.first_item + blockIdx.z / splits, part = blockIdx.z % splits;
    const int spans = (p.k + span_weights - 1) / span_weights;
    const int first_span = static_cast<int>(int64_t{spans} * part / splits);
    const int end_span = static_cast<int>(int64_t{spans} * (part + 1) / splits);

    // This thread copies and unpacks parts of row l; past the last row, of the last again.
    const uint8_t* const row = p.weights + item * p.weight_batch +
                               min(first_row + l, p.m - 1) * p.row_bytes;
    const uint8_t* const column =
        p.activations + item * p.activation_batch + first_column * p.column_bytes;

    const auto copy_blocks = [&](int span) {
        const uint8_t* from = row + span * S::span_bytes;
        const int left = min(static_cast<int>(p.row_bytes) - span * S::span_bytes, S::span_bytes);
        const int end = skew(from) + left;
        from -= skew(from);
        const CopyTarget to(blocks + l * S::pieces * 16);
        UNROLL
        for (int i = 0; i < S::pieces; i += S::parts) {
            const int at = (i + part_of_wave) * 16;
            if (at < end) to.copy16(at, from + at);
        }
    };
    const auto copy_columns = [&](int span) {
        constexpr int whole = S::column_bytes - 16;
        const int pieces = min(p.k / 32 - span * 8, 8) * int(sizeof(ActivationBlock)) / 16;
        const CopyTarget to(x);
        for (int i = threadIdx.x; i < columns * (whole / 16); i += blockDim.x) {
            const int c = i / (whole / 16), piece = i % (whole / 16);
            if (piece < pieces)
                to.copy16(c * S::column_bytes + piece * 16,
                          column + c * p.column_bytes + span * whole + piece * 16);
        }
    };

    const auto unpack = [&](int span, int half) {
        constexpr int chunks = F::weights / 32;
        const uint8_t* const span_at =
            blocks + l * S::pieces * 16 + skew(row + span * S::span_bytes);
        UNROLL
        for (int i = 0; i < 4; i += S::parts) {
            const int chunk = 4 * half + i + part_of_wave;
            put_chunk<S>(F::chunk(span_at + chunk / chunks * F::bytes, chunk % chunks, grid), chunk,
                         half, unpacked + l * S::row_bytes, scales + Cores::place_of(l),
                         offsets + Cores::place_of(l));
        }
    };

    constexpr int sets = S::columns / 16;
    Floats sums[sets] = {};  // of column 16 * set + l
    const auto multiply = [&](int span, int half) {
        constexpr int groups = 32 / F::group;
        const int left = p.k / 32 - span * 8 - half * 4;
        const int given = part_of_wave * Cores::given % 16;
        KEEP_LOOP
        for (int block = 0; block < min(left, 4); ++block) {
            const uint8_t* const weights = unpacked + l * S::row_bytes + block * 32 + given;
            Floats scale[groups], offset[groups];  // of this thread's rows
            UNROLL
            for (int i = 0; i < groups; ++i) {
                const int at = (block * groups + i) * S::rows + part_of_wave * Cores::sums;
                scale[i] = *reinterpret_cast<const Floats*>(scales + at);
                if constexpr (S::has_offset)
                    offset[i] = *reinterpret_cast<const Floats*>(offsets + at);
            }
            UNROLL
            for (int set = 0; set < sets; ++set) {
                if (set * 16 >= columns) break;
                const uint8_t* const activations =
                    x + (set * 16 + l) * S::column_bytes +
                    (half * 4 + block) * int(sizeof(ActivationBlock));
                const auto numbers = *reinterpret_cast<const float4*>(activations + 32);
                Ints c[groups];
                c[0] = Cores::multiply(weights, activations + given, Ints{});
                c[groups - 1] = Cores::multiply(weights + 16, activations + given + 16,
                                                groups == 1 ? c[0] : Ints{});
                Floats sum = scale[0] * __builtin_convertvector(c[0], Floats);
                if constexpr (groups == 2) sum += scale[1] * __builtin_convertvector(c[1], Floats);
                sums[set] += numbers.x * sum;  // { d, sum, d, sum } of a column
                if constexpr (S::has_offset) {
                    if constexpr (groups == 2)
                        sums[set] += offset[0] * numbers.y + offset[1] * numbers.w;
                    else
                        sums[set] += offset[0] * (numbers.y + numbers.w);
                }
            }
        }
    };

    KEEP_LOOP
    for (int span = first_span; span < end_span; ++span) {
        __syncthreads();  // all have left the columns before
        copy_blocks(span);
        copy_columns(span);
        __syncthreads();
        KEEP_LOOP
        for (int half = 0; half < 2; ++half) {
            unpack(span, half);
            group_barrier();  // on AMD, of the whole wave
            multiply(span, half);
            group_barrier();
        }
    }

    float* const output = splits == 1
                              ? p.output + item * p.output_batch
                              : parts + (int64_t{item} * splits + part) * p.m * p.n;
    const int64_t output_column = splits == 1 ? p.output_column : p.m;
    UNROLL
    for (int set = 0; set < sets; ++set) {
        const int c = first_column + set * 16 + l;
        UNROLL
        for (int e = 0; e < Cores::sums; ++e) {
            const int r = first_row + Cores::row_of(part_of_wave, e);
            if (r < p.m && c < p.n) output[c * output_column + r] = sums[set][e];
        }
    }
#else
    (void)p, (void)parts, (void)splits;  // never started there
#endif
}

template <class Cores, Type type>
GPU(Error_t) start_cores(const Product& product, const Launch& launch, float* parts, int splits) {
    using S = CoresShape<Cores, type>;
    const auto row_tiles = [&](int waves) {
        return (product.m + waves * S::rows - 1) / (waves * S::rows);
    };
    const int column_tiles = (product.n + S::columns - 1) / S::columns;
    // Blocks share the columns among more rows, but not so many that some of the GPU is left idle.
    int waves = S::most_waves;
    while (waves > 1 && int64_t{row_tiles(waves)} * column_tiles * splits * product.batch <
                            launch.multiprocessors)
        waves /= 2;
    const int columns = product.n < S::columns ? (product.n + 15) / 16 * 16 : S::columns;
    return for_batch(product, [&](const Product& p, int items) {
        return start(multiply_cores_kernel<Cores, type>, launch,
                     dim3(row_tiles(waves), column_tiles, items * splits), waves * S::wave,
                     S::shared_bytes(waves, columns), p, parts, splits);
    });
}

}  // namespace llamabuild
