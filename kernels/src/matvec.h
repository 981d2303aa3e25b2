// Weights times a few columns (up to 8 at a time), which is bound by reading the weights once.
//
// A group of 32 threads takes a few rows and walks along them in spans, a chunk of 32 weights for
// each thread at a time. Blocks are as little as 17 bytes long and rarely aligned, so no thread
// could read its block from global memory in wide, neighbouring pieces; the group together copies
// the bytes of a span, 16 by 16, to shared memory, one span ahead of the arithmetic. Nothing but
// the group waits for the group. What is left is to execute few instructions for each byte: at
// full bandwidth an H200's multiprocessor has about 8 for a byte of weights.
#pragma once
#include "launch.h"

namespace llamabuild {

template <Type type, int N>
struct VectorShape {
    using F = Format<type>;
    static constexpr int groups = F::table_words ? 8 : 4;  // in a block; they share the codebook
    static constexpr int rows = 2;                         // of a group; they share activations
    static constexpr int tile_weights = 32 * group_size;   // a chunk for each thread
    static constexpr int tile_bytes = tile_weights / F::weights * F::bytes;
    static constexpr int tiles = N >= 4 ? 1 : 2;  // of a span
    static constexpr int span_weights = tiles * tile_weights;
    static constexpr int span_bytes = tiles * tile_bytes;
    // A span starts at any byte of a 16-byte piece, and a chunk may read 32 bytes past its block.
    static constexpr int pieces = (span_bytes + 15 + 15) / 16;
    static constexpr int slot_bytes = pieces * 16 + 32;
    static constexpr int stages = 2;
    static constexpr size_t shared_bytes =
        F::table_words * 4 + size_t{groups} * stages * rows * slot_bytes;
    static_assert(shared_bytes <= 48 * 1024, "more needs to be asked for");
};

// The group copies `bytes` bytes, of which the last may be the last of the allocation, to `slot`,
// keeping their place in a piece of 16.
template <class S>
__device__ __forceinline__ void copy_span(uint8_t* slot, const uint8_t* from, int bytes,
                                          bool last, int lane) {
    const int before = skew(from);
    const int end = before + bytes;
    const int whole = last ? end / 16 * 16 : end;
    from += lane * 16 - before;
    slot += lane * 16;
    UNROLL
    for (int i = 0; i < S::pieces * 16; i += group_size * 16)
        if (i + lane * 16 < whole) copy16(slot + i, from + i);
    if (last && lane < end % 16) slot[whole - lane * 15] = from[whole - lane * 15];
}

template <Type type, int N>
__global__ void __launch_bounds__((VectorShape<type, N>::groups * group_size))
multiply_vectors_kernel(const Product p) {
    using F = Format<type>;
    using S = VectorShape<type, N>;
    extern __shared__ __align__(16) uint8_t shared[];

    const int lane = threadIdx.x % group_size;
    const int group = threadIdx.x / group_size;
    auto* const grid = reinterpret_cast<uint32_t*>(shared);
    uint8_t* const ring = shared + F::table_words * 4 + S::stages * S::rows * S::slot_bytes * group;
    if constexpr (F::table_words != 0) {
        for (int i = threadIdx.x; i < F::table_words; i += blockDim.x) grid[i] = F::table()[i];
        __syncthreads();
    }

    const Place place(p, p.first_item + blockIdx.z);
    const auto row_bytes = static_cast<int>(p.row_bytes);
    const int first_column = blockIdx.y * N;
    constexpr int chunks = F::weights / 32;
    const int block = lane / chunks, j = lane % chunks;
    const uint8_t* const activations =
        place.activations + first_column * p.column_bytes + lane / 8 * 8 * sizeof(ActivationBlock);
    uint32_t columns[N];  // past the last column, the last again
    UNROLL
    for (int c = 0; c < N; ++c)
        columns[c] = static_cast<uint32_t>(min(c, p.n - 1 - first_column) * p.column_bytes);

    for (int first_row = (blockIdx.x * S::groups + group) * S::rows; first_row < p.m;
         first_row += gridDim.x * S::groups * S::rows) {
        const uint8_t* rows[S::rows];  // past the last row, the last again
        UNROLL
        for (int r = 0; r < S::rows; ++r)
            rows[r] = place.weights + min(first_row + r, p.m - 1) * p.row_bytes;

        const auto fetch = [&](int begin, int stage) {  // begin: a byte of the rows
            const int bytes = min(row_bytes - begin, S::span_bytes);
            if (bytes > 0) {
                UNROLL
                for (int r = 0; r < S::rows; ++r)
                    copy_span<S>(ring + (stage * S::rows + r) * S::slot_bytes, rows[r] + begin,
                                 bytes, first_row + r >= p.m - 1 && begin + bytes == row_bytes,
                                 lane);
            }
            end_of_copies();
        };

        KEEP_LOOP
        for (int stage = 0; stage < S::stages; ++stage) fetch(stage * S::span_bytes, stage);
        wait_for_predecessor();

        float sums[S::rows][N] = {};
        const uint8_t* x = activations;
        int stage = 0, left = p.k - block * F::weights;  // weights from this thread's block on
        KEEP_LOOP
        for (int begin = 0; begin < row_bytes; begin += S::span_bytes) {
            wait_for_copies<S::stages - 1>();
            group_barrier();
            const uint8_t* slots[S::rows];
            UNROLL
            for (int r = 0; r < S::rows; ++r)
                slots[r] = ring + (stage * S::rows + r) * S::slot_bytes + skew(rows[r] + begin) +
                           block * F::bytes;
            UNROLL
            for (int t = 0; t < S::tiles; ++t) {
                if (left > t * S::tile_weights) {
                    Chunk w[S::rows];
                    UNROLL
                    for (int r = 0; r < S::rows; ++r)
                        w[r] = F::chunk(slots[r] + t * S::tile_bytes, j, grid);
                    UNROLL
                    for (int c = 0; c < N; ++c) {
                        const auto xs = ActivationChunk::at<F>(
                            x + columns[c] + t * S::tile_weights / 32 * sizeof(ActivationBlock),
                            lane % 8);
                        UNROLL
                        for (int r = 0; r < S::rows; ++r) sums[r][c] += dot<F>(w[r], xs);
                    }
                }
            }
            x += S::span_weights / 32 * sizeof(ActivationBlock);
            left -= S::span_weights;
            group_barrier();  // all have read the stage before it is filled again
            fetch(begin + S::stages * S::span_bytes, stage);
            stage ^= 1;
        }

        UNROLL
        for (int r = 0; r < S::rows; ++r) {
            UNROLL
            for (int c = 0; c < N; ++c) {
                float sum = sums[r][c];
                UNROLL
                for (int distance = 1; distance < group_size; distance *= 2)
                    sum += exchange(sum, distance);
                const int row = first_row + r, column = first_column + c;
                if (lane == 0 && row < p.m && column < p.n)
                    place.output[column * p.output_column + row] = place.valid ? sum : 0;
            }
        }
    }
}

template <Type type, int N>
GPU(Error_t) start_vectors(const Product& product, const Launch& launch) {
    using S = VectorShape<type, N>;
    int blocks = (product.m + S::groups * S::rows - 1) / (S::groups * S::rows);
    // A codebook is copied by every block: no more blocks than run at once, then.
    const int most = 8 * launch.multiprocessors;
    if (Format<type>::table_words && blocks > most) blocks = most;
    const int column_sets = (product.n + N - 1) / N;
    return for_batch(product, [&](const Product& p, int items) {
        return start(multiply_vectors_kernel<type, N>, launch, dim3(blocks, column_sets, items),
                     S::groups * group_size, S::shared_bytes, p);
    });
}

template <Type type>
GPU(Error_t) multiply_vectors(const Product& p, const Launch& launch) {
    if (p.n == 1) return start_vectors<type, 1>(p, launch);
    if (p.n == 2) return start_vectors<type, 2>(p, launch);
    if (p.n <= 4) return start_vectors<type, 4>(p, launch);
    return start_vectors<type, 8>(p, launch);
}

}  // namespace llamabuild
