// Weights of 16-bit floats times several columns, by Hopper's warpgroups (`wgmma`, only in code for
// 90a): both are multiplied from shared memory, as they are.
//
// Two of a warpgroup's warps bring weights, a thread of a third the activations, as TensorColumns
// has laid them out; two warpgroups multiply, each its own 64 rows and all columns.
#include "hopper.h"

namespace llamabuild {

template <int N>
struct WarpgroupFloatShape {
    static constexpr int rows = warpgroup_rows(Order::plain), columns = N;
    static constexpr int multipliers = rows / 64 * 128;  // threads
    static constexpr int threads = multipliers + 128;
    static constexpr int weight_threads = 64;  // eight for a row
    static constexpr int step_bytes = TensorColumns::step * 2;  // of a row or column
    static constexpr int weight_bytes = rows * step_bytes;
    static constexpr int stage_bytes = weight_bytes + columns * step_bytes;
    static constexpr int fitting = (227 * 1024 - 256) / stage_bytes;
    static constexpr int stages = fitting < 8 ? fitting : 8;
    static constexpr int shared_bytes = stages * stage_bytes + 256;
};

// Grid: tiles; nothing; parts of k for each product of the batch. Rows are whole
// pieces of 16 bytes.
template <Type type, int N>
__global__ void __launch_bounds__((WarpgroupFloatShape<N>::threads), 1)
multiply_floats_kernel(const Product p, float* parts, int splits) {
#if LLAMABUILD_WARPGROUPS
    using S = WarpgroupFloatShape<N>;
    using T = TensorColumns;
    extern __shared__ __align__(1024) uint8_t shared[];
    release_successor();
    const auto ring = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const uint32_t barriers = ring + S::shared_bytes - 256;
    const Barriers copied{barriers}, used{barriers + 64};

    const TilePlace<S> tile(p);
    const int first_row = tile.row, first_column = tile.column;
    const int item = p.first_item + blockIdx.z / splits, part = blockIdx.z % splits;
    const uint8_t* const columns =
        p.activations + item * p.activation_batch + first_column * p.column_bytes;
    const int steps = (p.k + T::step - 1) / T::step;
    const int begin = static_cast<int>(int64_t{steps} * part / splits);
    const int end = static_cast<int>(int64_t{steps} * (part + 1) / splits);

    if (threadIdx.x == 0) {
        for (int i = 0; i < S::stages; ++i) {
            copied.initialize(i, S::weight_threads + 1);
            used.initialize(i, S::multipliers / 32);
        }
        Barriers::publish();
    }
    __syncthreads();

    Ring<S::stages> at;
    if (threadIdx.x >= S::multipliers) {
        leave_registers<96>();
        const int thread = threadIdx.x - S::multipliers;
        if (thread < S::weight_threads) {
            const uint8_t* const weights = p.weights + item * p.weight_batch;
            const int piece = thread % 8;
            KEEP_LOOP
            for (int step = begin; step < end; ++step) {
                used.wait(at.stage, at.odd ^ 1);
                const int k = step * T::step + piece * 8;
                const bool inside = k < p.k;
                const uint8_t* const from = weights + (inside ? int64_t{2} * k : 0);
                const uint32_t to = ring + at.stage * S::stage_bytes;
                UNROLL
                for (int i = 0; i < S::rows; i += S::weight_threads / 8) {
                    const int row = i + thread / 8;
                    copy_piece(to + T::place_in_step(row, piece),
                               from + min(first_row + row, p.m - 1) * p.row_bytes, inside);
                }
                copied.arrive_with_copies(at.stage);
                at.next();
            }
        } else if (thread == S::weight_threads) {
            wait_for_predecessor();
            constexpr int bytes = S::columns * S::step_bytes;
            KEEP_LOOP
            for (int step = begin; step < end; ++step) {
                used.wait(at.stage, at.odd ^ 1);
                copied.expect(at.stage, bytes);
                copied.copy(at.stage, ring + at.stage * S::stage_bytes + S::weight_bytes,
                          columns + int64_t{step} * bytes, bytes);
                at.next();
            }
        }
    } else {
        take_registers<200>();
        const uint32_t rows = threadIdx.x / 128 * 64 * S::step_bytes;  // this warpgroup's
        const bool first_lane = threadIdx.x % 32 == 0;
        float sums[N / 2] = {};
        int before = -1;  // the stage that is still multiplied

        KEEP_LOOP
        for (int step = begin; step < end; ++step) {
            copied.wait(at.stage, at.odd);
            show_to_multiplications();
            const uint32_t stage = ring + at.stage * S::stage_bytes;
            begin_multiplications();
            UNROLL
            for (int j = 0; j < T::step / 16; ++j)
                multiply_sixteen<type, N>(sums, describe_step(stage + rows + 32 * j),
                                          describe_step(stage + S::weight_bytes + 32 * j));
            end_of_multiplications();
            wait_for_multiplications<1>();
            if (first_lane && before >= 0) used.arrive(before);
            before = at.stage;
            at.next();
        }
        wait_for_multiplications<0>();
        keep_behind_wait(sums);
        wait_for_predecessor();
        const auto* const factors = reinterpret_cast<const float*>(
            columns + T::padded(p.k) / T::step * S::columns * S::step_bytes);
        store_tile<S>(p, parts, splits, sums, shared, factors, 1);
    }
#else
    (void)p, (void)parts, (void)splits;  // never started there
#endif
}

namespace {

template <Type type, int N>
GPU(Error_t) start_floats(const Product& p, const Launch& launch) {
    return start_tiles<WarpgroupFloatShape<N>>(multiply_floats_kernel<type, N>, p,
                                               Order::plain, launch);
}

template <Type type>
GPU(Error_t) multiply_floats(const Product& p, const Launch& launch) {
    switch (warpgroup_columns(p.n, Order::plain)) {
        case 8: return start_floats<type, 8>(p, launch);
        case 32: return start_floats<type, 32>(p, launch);
        case 64: return start_floats<type, 64>(p, launch);
        case 128: return start_floats<type, 128>(p, launch);
        default: return start_floats<type, 256>(p, launch);
    }
}

}  // namespace

template <>
GPU(Error_t) multiply_warpgroups<Type::f16>(const Product& p, const Launch& launch) {
    return multiply_floats<Type::f16>(p, launch);
}

template <>
GPU(Error_t) multiply_warpgroups<Type::bf16>(const Product& p, const Launch& launch) {
    return multiply_floats<Type::bf16>(p, launch);
}

}  // namespace llamabuild
