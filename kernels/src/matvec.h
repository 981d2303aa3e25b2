// Weights times a few columns (up to 8 at a time), with four-byte dot products or less. From 7.5 on
// this is for at most 4 columns; see integers.h.
//
// The activations wait in shared memory, all of them or a panel at a time. A group of 32 threads
// takes a row or two and walks along them in spans, chunks of 32 weights for each thread. Blocks
// are as little as 17 bytes long and rarely aligned, so no thread could read its block from global
// memory in wide, neighbouring pieces; the group together copies the bytes of a span, 16 by 16, to
// shared memory, a few spans ahead of the arithmetic and on into its next rows. Nothing but the
// group waits for the group.
#pragma once
#include "launch.h"

namespace llamabuild {

template <Type type, int N>
struct VectorShape {
    using F = Format<type>;
    // Two rows share a thread's activations, where there are registers for them.
    static constexpr int rows = N == 8 || (N == 1 && F::table_words) ? 1 : 2;  // of a group
    static constexpr int most_groups = N == 1 && rows == 1 ? 16 : N == 8 ? 4 : 8;  // in a block
    static constexpr int blocks_at_once = 2;              // on a multiprocessor
    static constexpr int tile_weights = 32 * group_size;  // a chunk for each thread
    static constexpr int tile_bytes = tile_weights / F::weights * F::bytes;
    static constexpr int tiles = tile_bytes > 1000 ? 1 : 2;  // of a span
    static constexpr int span_weights = tiles * tile_weights;
    static constexpr int span_bytes = tiles * tile_bytes;
    static_assert(span_bytes % 16 == 0, "all spans of a row begin alike in a piece of 16 bytes");
    static constexpr int slot_bytes = span_bytes + 16;
    static constexpr int stages = N > 1 || span_bytes > 1200 ? 2 : 3;
    static constexpr int ring_bytes = stages * rows * slot_bytes;  // of a group
    static constexpr int table_bytes = F::table_words * 4;
    static constexpr int column_bytes = span_weights / 32 * int(sizeof(ActivationBlock));
    // A chunk may read 32 bytes past its block: behind the last ring come the activations.
    DEVICE static constexpr int fixed_bytes(int groups) {
        return table_bytes + groups * ring_bytes;
    }
    static_assert(fixed_bytes(4) + N * column_bytes <= 48 * 1024, "what any GPU has");
};

template <Type type, int N>
__global__ void __launch_bounds__((VectorShape<type, N>::most_groups * group_size))
multiply_vectors_kernel(const Product p, int panel) {  // panel: bytes of a column
    if constexpr (N <= 4 || LLAMABUILD_SM < 750) {
        using F = Format<type>;
        using S = VectorShape<type, N>;
        constexpr int block_bytes = sizeof(ActivationBlock);
        extern __shared__ __align__(16) uint8_t shared[];
        release_successor();

        const int lane = threadIdx.x % group_size, group = threadIdx.x / group_size;
        const int groups = static_cast<int>(blockDim.x) / group_size;
        auto* const grid = reinterpret_cast<uint32_t*>(shared);
        uint8_t* const ring = shared + S::table_bytes + S::ring_bytes * group;
        uint8_t* const x = shared + S::fixed_bytes(groups);

        const Place place(p, p.first_item + blockIdx.z);
        const auto row_bytes = static_cast<int>(p.row_bytes);
        const int first_column = blockIdx.y * N, columns = min(N, p.n - first_column);
        constexpr int chunks = F::weights / 32;
        const int block = lane / chunks, j = lane % chunks;

        // The rows are dealt in rounds; past the last row comes the last again.
        const int dealt = static_cast<int>(gridDim.x) * groups * S::rows;
        const int block_row = static_cast<int>(blockIdx.x) * groups * S::rows;
        int row = block_row + group * S::rows;
        const int rounds = (p.m - block_row + dealt - 1) / dealt;
        const auto row_at = [&](int i) { return place.weights + min(i, p.m - 1) * p.row_bytes; };

        // What is to be fetched next: it runs ahead of the arithmetic.
        const CopyTarget target(ring + lane * 16);
        const uint8_t* from[S::rows];  // this thread's first piece of 16 bytes
        int end[S::rows];              // from there to the row's end
        int fetch_row = row, left = 0;
        const auto fetch = [&](int slot) {
            if (left <= 0) {
                UNROLL
                for (int r = 0; r < S::rows; ++r) {
                    from[r] = row_at(fetch_row + r);
                    end[r] = fetch_row < p.m ? row_bytes + skew(from[r]) - lane * 16 : 0;
                    from[r] += lane * 16 - skew(from[r]);
                }
                fetch_row += dealt;
                left = row_bytes;
            }
            UNROLL
            for (int r = 0; r < S::rows; ++r) {
                UNROLL
                for (int i = 0; i < S::slot_bytes; i += group_size * 16) {
                    const int here = S::slot_bytes - i;  // to the slot's end
                    if (i < end[r] && (here >= group_size * 16 || lane * 16 < here))
                        target.copy16(slot + r * S::slot_bytes + i, from[r] + i);
                }
                from[r] += S::span_bytes;
                end[r] -= S::span_bytes;
            }
            left -= S::span_bytes;
            end_of_copies();
        };

        KEEP_LOOP
        for (int stage = 0; stage < S::stages; ++stage) fetch(stage * S::rows * S::slot_bytes);
        if constexpr (F::table_words != 0)
            for (int i = threadIdx.x; i < F::table_words; i += blockDim.x)
                grid[i] = F::table()[i];
        wait_for_predecessor();

        const int column_bytes = p.k / 32 * block_bytes;
        int slot = 0, loaded = -1;  // loaded: the panel that is there
        KEEP_LOOP
        for (int round = 0; round < rounds; ++round, row += dealt) {
            const uint8_t* blocks[S::rows];  // this thread's, in the first slot
            UNROLL
            for (int r = 0; r < S::rows; ++r)
                blocks[r] = ring + r * S::slot_bytes + skew(row_at(row + r)) + block * F::bytes;
            float sums[S::rows][N] = {};
            KEEP_LOOP
            for (int at = 0; at < column_bytes; at += panel) {
                const int size = min(panel, column_bytes - at);
                if (loaded != at) {
                    __syncthreads();  // all have left the panel before
                    KEEP_LOOP
                    for (int c = 0; c < columns; ++c) {
                        const uint8_t* const column =
                            place.activations + (first_column + c) * p.column_bytes + at;
                        const CopyTarget to(x + c * panel);
                        KEEP_LOOP
                        for (int i = threadIdx.x * 16; i < size; i += blockDim.x * 16)
                            to.copy16(i, column + i);
                    }
                    end_of_copies();
                    wait_for_copies<0>();
                    __syncthreads();
                    loaded = at;
                }
                const uint8_t* xs = x + lane / 8 * 8 * block_bytes;
                constexpr int before_block = F::weights / 32 * block_bytes;
                KEEP_LOOP
                for (int rest = size; rest > 0; rest -= S::column_bytes) {
                    wait_for_copies<S::stages - 1>();
                    group_barrier();
                    UNROLL
                    for (int t = 0; t < S::tiles; ++t) {
                        Chunk w[S::rows];
                        UNROLL
                        for (int r = 0; r < S::rows; ++r)
                            w[r] = F::chunk(blocks[r] + slot + t * S::tile_bytes, j, grid);
                        UNROLL
                        for (int c = 0; c < N; ++c) {
                            constexpr int tile = S::tile_weights / 32 * block_bytes;
                            const auto chunk =
                                ActivationChunk::at<F>(xs + c * panel + t * tile, lane % 8);
                            UNROLL
                            for (int r = 0; r < S::rows; ++r) {
                                const float sum = dot<F>(w[r], chunk);
                                sums[r][c] += rest > t * tile + block * before_block ? sum : 0;
                            }
                        }
                    }
                    xs += S::column_bytes;
                    group_barrier();  // all have read the slot before it is filled again
                    fetch(slot);
                    slot += S::rows * S::slot_bytes;
                    if (slot == S::ring_bytes) slot = 0;
                }
            }
            UNROLL
            for (int r = 0; r < S::rows; ++r) {
                UNROLL
                for (int c = 0; c < N; ++c) {
                    float sum = sums[r][c];
                    UNROLL
                    for (int distance = 1; distance < group_size; distance *= 2)
                        sum += exchange(sum, distance);
                    if (lane == 0 && row + r < p.m && c < columns)
                        place.output[(first_column + c) * p.output_column + row + r] =
                            place.valid ? sum : 0;
                }
            }
        }
    } else {
        (void)p, (void)panel;  // never started there
    }
}

template <Type type, int N>
GPU(Error_t) start_vectors(const Product& product, const Launch& launch) {
    using S = VectorShape<type, N>;
    const auto kernel = multiply_vectors_kernel<type, N>;
    const bool roomy = launch.shared_bytes >= 96 * 1024;
    const int room = roomy ? launch.shared_bytes / S::blocks_at_once - 1024 : 48 * 1024;
    int groups = S::most_groups;
    while (groups > 4 && S::fixed_bytes(groups) + N * S::column_bytes > room) groups /= 2;
    int blocks = (product.m + groups * S::rows - 1) / (groups * S::rows);
    const int most = S::blocks_at_once * launch.multiprocessors * (S::most_groups / groups);
    if (blocks > most) blocks = most;
    // All activations if they fit, else a panel of whole spans.
    const int column = product.k / 32 * static_cast<int>(sizeof(ActivationBlock));
    const int all = (column + S::column_bytes - 1) / S::column_bytes * S::column_bytes;
    int panel = (room - S::fixed_bytes(groups)) / N / S::column_bytes * S::column_bytes;
    if (panel > all) panel = all;
    int shared = S::fixed_bytes(groups) + N * panel;
    // No more blocks than that: the next product's would come early to multiprocessors that are
    // done, and the work would be spread unevenly.
    const int least = launch.shared_bytes / (S::blocks_at_once + 1) + 1024;
    if (roomy && shared < least) shared = least;
    if (shared > 48 * 1024) {
        const auto error = GPU(FuncSetAttribute)(reinterpret_cast<const void*>(kernel),
                                                 GPU(FuncAttributeMaxDynamicSharedMemorySize),
                                                 shared);
        if (error != GPU(Success)) return error;
    }
    const int column_sets = (product.n + N - 1) / N;
    return for_batch(product, [&](const Product& p, int items) {
        return start(kernel, launch, dim3(blocks, column_sets, items), groups * group_size, shared,
                     p, panel);
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
