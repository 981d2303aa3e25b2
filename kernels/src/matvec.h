// Weights times a few columns (up to 8 at a time), which is bound by reading the weights once.
//
// A group of 32 threads takes a few rows and walks along them in spans, a chunk of 32 weights for
// each thread at a time. Blocks are as little as 17 bytes long and rarely aligned, so no thread
// could read its block from global memory in wide, neighbouring pieces; the group together copies
// the bytes of a span, 16 by 16, to shared memory, one span ahead of the arithmetic. Nothing but
// the group waits for the group.
#pragma once
#include "launch.h"

namespace llamabuild {

template <Type type, int N>
struct VectorShape {
    using F = Format<type>;
    static constexpr int groups = F::table_words ? 8 : 4;  // in a block; they share the codebook
    static constexpr int rows = N == 1 ? 1 : 2;  // of a group, to share activations
    static constexpr int tile_weights = 32 * group_size;      // a chunk for each thread
    static constexpr int tile_bytes = tile_weights / F::weights * F::bytes;
    static constexpr int tiles = N >= 4 ? 1 : N == 2 || tile_bytes > 800 ? 2 : 4;  // a span
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

template <Type type, int N>
__global__ void __launch_bounds__(VectorShape<type, N>::groups * group_size)
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
    const uint8_t* const end_of_weights = place.weights + p.m * p.row_bytes;
    const auto row_bytes = static_cast<int>(p.row_bytes);
    const int first_column = blockIdx.y * N;
    const uint8_t* const activations = place.activations + first_column * p.column_bytes;
    uint32_t columns[N];  // past the last column, the last again
    UNROLL
    for (int c = 0; c < N; ++c)
        columns[c] = static_cast<uint32_t>(min(c, p.n - 1 - first_column) * p.column_bytes);

    constexpr int chunks = F::weights / 32;
    const int block = lane / chunks, j = lane % chunks;
    const int first_weight = block * F::weights + F::first(j);

    for (int first_row = (blockIdx.x * S::groups + group) * S::rows; first_row < p.m;
         first_row += gridDim.x * S::groups * S::rows) {
        const uint8_t* rows[S::rows];  // past the last row, the last again
        UNROLL
        for (int r = 0; r < S::rows; ++r)
            rows[r] = place.weights + min(first_row + r, p.m - 1) * p.row_bytes;

        const auto fetch = [&](int begin, int stage) {  // begin: a byte of the rows
            UNROLL
            for (int r = 0; r < S::rows; ++r) {
                const uint8_t* from = rows[r] + begin;
                const int before = skew(from);
                from += lane * 16 - before;
                uint8_t* const to = ring + (stage * S::rows + r) * S::slot_bytes + lane * 16;
                const int wanted = before + min(row_bytes - begin, S::span_bytes) - lane * 16;
                const int64_t readable = end_of_weights - from;
                KEEP_LOOP
                for (int i = 0; i < wanted; i += group_size * 16)
                    copy16(to + i, from + i, readable - i >= 16 ? 16 : int(readable) - i);
            }
            end_of_copies();
        };

        KEEP_LOOP
        for (int stage = 0; stage < S::stages; ++stage) fetch(stage * S::span_bytes, stage);
        wait_for_predecessor();

        float sums[S::rows][N] = {};
        int stage = 0;
        for (int begin = 0; begin < row_bytes; begin += S::span_bytes) {
            wait_for_copies<S::stages - 1>();
            group_barrier();
            const int span_begin = begin / S::span_bytes * S::span_weights;
            const uint8_t* slots[S::rows];
            UNROLL
            for (int r = 0; r < S::rows; ++r)
                slots[r] = ring + (stage * S::rows + r) * S::slot_bytes + skew(rows[r] + begin) +
                           block * F::bytes;
            UNROLL
            for (int t = 0; t < S::tiles; ++t) {
                const int k = span_begin + t * S::tile_weights;
                if (k + block * F::weights >= p.k) break;
                Chunk w[S::rows];
                UNROLL
                for (int r = 0; r < S::rows; ++r)
                    w[r] = F::chunk(slots[r] + t * S::tile_bytes, j, grid);
                UNROLL
                for (int c = 0; c < N; ++c) {
                    const Column column(activations + columns[c], p.k);
                    const auto x = ActivationChunk::at<F>(column, k + first_weight);
                    UNROLL
                    for (int r = 0; r < S::rows; ++r) sums[r][c] += dot<F>(w[r], x);
                }
            }
            group_barrier();  // all have read the stage before it is filled again
            fetch(begin + S::stages * S::span_bytes, stage);
            stage = (stage + 1) % S::stages;
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
