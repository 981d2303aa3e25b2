// Weights times many columns, by Hopper's warpgroups (`wgmma`, only in code for 90a).
//
// As in matmul.h, weights become 16-bit floats in registers, and are multiplied from there; so k is
// permuted alike on both sides. Activations are multiplied from shared memory, where one thread's
// bulk copies bring them as TensorColumns has laid them out. Three of another warpgroup's warps
// bring weights; four warpgroups unpack and multiply, each its own 64 rows and all columns. While
// one unpacks, the tensor cores are busy with the others.
#pragma once
#include "halves.h"
#include "hopper.h"

namespace llamabuild {

template <Type type, int N>
struct WarpgroupShape {
    using F = Format<type>;
    static constexpr Order order = order_of<typename F::Layout>;
    static constexpr int rows = warpgroup_rows(order), columns = N;
    static constexpr int multipliers = rows / 64 * 128;  // threads
    static constexpr int threads = multipliers + 128;
    static constexpr int weight_threads = 96;  // four for a row
    static constexpr int span_bytes = span_weights / F::weights * F::bytes;
    static constexpr int pieces = (span_bytes + 15 + 15) / 16 | 1;  // odd: rows fall on other banks
    static constexpr int slot_bytes = pieces * 16;
    static constexpr int weight_bytes = rows * slot_bytes;  // of a stage, as the next
    static constexpr int column_bytes = columns * TensorColumns::step * 2;
    static constexpr int table_bytes = F::table_words * 4;
    static constexpr int room = 227 * 1024 - table_bytes - 256;
    static constexpr int weight_stages =
        columns < 128 && 3 * weight_bytes + 4 * column_bytes <= room ? 3 : 2;
    static constexpr int fitting = (room - weight_stages * weight_bytes) / column_bytes;
    static constexpr int column_stages = fitting < 8 ? fitting : 8;
    static constexpr int shared_bytes =
        column_stages * column_bytes + weight_stages * weight_bytes + table_bytes + 256;
    static_assert(column_stages >= 4, "a span's activations");
};

// Grid: tiles; nothing; parts of k for each product of the batch.
template <Type type, int N>
__global__ void __launch_bounds__((WarpgroupShape<type, N>::threads), 1)
multiply_warpgroups_kernel(const Product p, float* parts, int splits) {
#if LLAMABUILD_WARPGROUPS
    using F = Format<type>;
    using S = WarpgroupShape<type, N>;
    extern __shared__ __align__(1024) uint8_t shared[];
    release_successor();
    uint8_t* const weight_ring = shared + S::column_stages * S::column_bytes;
    auto* const grid = reinterpret_cast<uint32_t*>(weight_ring + S::weight_stages * S::weight_bytes);
    const auto column_ring = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const uint32_t barriers = column_ring + S::shared_bytes - 256;
    const Barriers weights_here{barriers}, weights_used{barriers + 64};
    const Barriers columns_here{barriers + 128}, columns_used{barriers + 192};

    const TilePlace<S> tile(p);
    const int first_row = tile.row, first_column = tile.column;
    const int item = p.first_item + blockIdx.z / splits, part = blockIdx.z % splits;
    const uint8_t* const columns =
        p.activations + item * p.activation_batch + first_column * p.column_bytes;
    const uint8_t* const rows = p.weights + item * p.weight_batch;
    const auto row_at = [&](int row) {
        return rows + int64_t{min(first_row + row, p.m - 1)} * static_cast<int>(p.row_bytes);
    };
    const int spans = (p.k + span_weights - 1) / span_weights;
    const int first_span = static_cast<int>(int64_t{spans} * part / splits);
    const int end_span = static_cast<int>(int64_t{spans} * (part + 1) / splits);
    constexpr int steps = span_weights / TensorColumns::step;  // of a span

    if (threadIdx.x == 0) {
        for (int i = 0; i < S::weight_stages; ++i) {
            weights_here.initialize(i, S::weight_threads);
            weights_used.initialize(i, S::multipliers);
        }
        for (int i = 0; i < S::column_stages; ++i) {
            columns_here.initialize(i, 1);
            columns_used.initialize(i, S::multipliers / 32);
        }
        Barriers::publish();
    }
    if constexpr (F::table_words != 0)
        for (int i = threadIdx.x; i < F::table_words; i += S::threads) grid[i] = F::table()[i];
    __syncthreads();

    if (threadIdx.x >= S::multipliers) {
        leave_registers<32>();
        const int thread = threadIdx.x - S::multipliers;
        if (thread < S::weight_threads) {
            const CopyTarget to(weight_ring);
            const int row_bytes = static_cast<int>(p.row_bytes), piece = thread % 4 * 16;
            Ring<S::weight_stages> ring;
            KEEP_LOOP
            for (int span = first_span; span < end_span; ++span) {
                weights_used.wait(ring.stage, ring.odd ^ 1);
                const int begin = span * S::span_bytes;
                const int left = min(row_bytes - begin, S::span_bytes);
                KEEP_LOOP
                for (int row = thread / 4; row < S::rows; row += S::weight_threads / 4) {
                    const uint8_t* from = row_at(row) + begin;
                    const int end = skew(from) + left - piece;
                    from += piece - skew(from);
                    stay(from);
                    const int at =
                        here(ring.stage * S::weight_bytes + row * S::slot_bytes + piece);
                    UNROLL
                    for (int j = 0; j < S::slot_bytes; j += 64)
                        if (j < end) to.copy16(at + j, from + j);
                }
                weights_here.arrive_with_copies(ring.stage);
                ring.next();
            }
        } else if (thread == S::weight_threads) {
            wait_for_predecessor();
            Ring<S::column_stages> ring;
            const uint8_t* from = columns + int64_t{first_span} * steps * S::column_bytes;
            KEEP_LOOP
            for (int step = first_span * steps; step < end_span * steps; ++step) {
                columns_used.wait(ring.stage, ring.odd ^ 1);
                columns_here.expect(ring.stage, S::column_bytes);
                columns_here.copy(ring.stage, column_ring + ring.stage * S::column_bytes, from,
                                  S::column_bytes);
                from += S::column_bytes;
                ring.next();
            }
        }
    } else {
        take_registers<112>();
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const int row = threadIdx.x / 32 * 16 + g;  // and the one 8 below
        const uint8_t* const slots = weight_ring + row * S::slot_bytes;
        const int skews[2] = {skew(row_at(row)), skew(row_at(row + 8))};
        float sums[N / 2] = {};
        Ring<S::weight_stages> weights;
        Ring<S::column_stages> activations;

        KEEP_LOOP
        for (unsigned half = 2 * first_span; half < 2u * end_span; ++half) {
            uint32_t q[2][8], scale[2], offset[2];  // scales: 16-bit floats of both groups
            weights_here.wait(weights.stage, weights.odd);
            UNROLL
            for (int r = 0; r < 2; ++r) {
                const int chunk = static_cast<int>(half % 2) * 4 + t;  // of the span's eight
                constexpr int chunks = F::weights / 32;
                const bool inside = half * 4 + t < p.k / 32u;
                const uint8_t* const slot =
                    slots + weights.stage * S::weight_bytes + 8 * r * S::slot_bytes +
                    (unsigned(skews[r]) + half / 2 * S::span_bytes) % 16;
                const Chunk c = F::chunk(slot + chunk / chunks * F::bytes, chunk % chunks, grid);
                UNROLL
                for (int i = 0; i < 8; ++i) q[r][i] = c.q[i];
                scale[r] =
                    inside ? two_halves(c.scale[0] * weight_gain, c.scale[1] * weight_gain) : 0;
                offset[r] =
                    inside ? two_halves(c.offset[0] * weight_gain, c.offset[1] * weight_gain) : 0;
            }
            if (half % 2) {
                weights_used.arrive(weights.stage);  // each for itself: racecheck understands that
                weights.next();
            }
            UNROLL
            for (int group = 0; group < 2; ++group) {
                uint32_t a[4][4];
                UNROLL
                for (int word = 0; word < 4; ++word) {
                    UNROLL
                    for (int r = 0; r < 2; ++r)
                        to_halves(q[r][4 * group + word], twice_half(scale[r], group),
                                  twice_half(offset[r], group), F::has_offset, a[word][r],
                                  a[word][r + 2]);
                }
                columns_here.wait(activations.stage, activations.odd);
                begin_multiplications();
                UNROLL
                for (int word = 0; word < 4; ++word)
                    multiply_sixteen<Type::f16, N>(
                        sums, a[word],
                        describe_step(column_ring + activations.stage * S::column_bytes +
                                      32 * word));
                end_of_multiplications();
                wait_for_multiplications<0>();
                if (lane == 0) columns_used.arrive(activations.stage);
                activations.next();
            }
        }

        keep_behind_wait(sums);
        wait_for_predecessor();
        const auto* const factors = reinterpret_cast<const float*>(
            columns + TensorColumns::padded(p.k) / TensorColumns::step * S::column_bytes);
        store_tile<S>(p, parts, splits, sums, shared, factors, 1 / weight_gain);
    }
#else
    (void)p, (void)parts, (void)splits;  // never started there
#endif
}

template <Type type, int N>
GPU(Error_t) start_warpgroups(const Product& p, const Launch& launch) {
    using S = WarpgroupShape<type, N>;
    return start_tiles<S>(multiply_warpgroups_kernel<type, N>, p, S::order, launch);
}

template <Type type>
GPU(Error_t) multiply_warpgroups(const Product& p, const Launch& launch) {
    switch (warpgroup_columns(p.n, order_of<typename Format<type>::Layout>)) {
        case 32: return start_warpgroups<type, 32>(p, launch);
        case 64: return start_warpgroups<type, 64>(p, launch);
        default: return start_warpgroups<type, 128>(p, launch);
    }
}

}  // namespace llamabuild
