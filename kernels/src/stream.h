// Weights times one column, on 9.0 and later: as fast as the weights come.
//
// Each block of threads takes neighbouring rows, which lie in memory one after the other: one
// thread orders them from the bulk copy engine into a ring of slots, far ahead of the arithmetic.
// The other warps form groups that take two rows at a time. A thread keeps to its weights of the rows
// (pairs.h): their activations stay in its registers, so that shared memory is read for the weights
// alone. The warps of a row write what they found, and the warp that orders the copies adds it up.
//
// Activations come as floats, and every block quantizes them: a kernel before this one to do it
// would have to end first. Where memory is the limit, a multiprocessor has one block, with all of
// its shared memory; where arithmetic is, two, so that the next product's begins early.
#pragma once
#include <algorithm>

#include "barriers.h"
#include "pairs.h"

namespace llamabuild {

// So much of the weights is ordered at a time, so many nanoseconds apart, until the activations have
// been asked for: the end of the product before this one, and then the activations, would have to
// queue behind more.
template <Type type>
constexpr int stream_early_bytes = Pair<type>::blocks_at_once == 1 ? 80 * 1024 : 8 * 1024;
template <Type type>
constexpr uint32_t stream_patience = Pair<type>::blocks_at_once == 1 ? 5000 : 2000;
constexpr int stream_warps = 15;    // that multiply, at most; one more copies
constexpr int stream_rows = 2;      // of a group at a time
constexpr int stream_set = 4;       // of a group, whose sums are added over the lanes together
constexpr int stream_set_turns = stream_set / stream_rows;

// How the blocks divide the work: chosen on the host.
struct StreamPlan {
    int row_warps;   // that share a row
    int sum_width;   // row_warps or more, a power of two
    int groups;      // of so many warps: each takes neighbouring rows of a slot
    int slots;       // of the ring
    int slot_bytes;
    int rows, more;  // rows of a block, and so many blocks have one more
};

// Shared memory: codebook, ring, then what follows.
struct StreamMemory {
    int ring, column, partial, partial_sets, barriers, bytes;
    DEVICE StreamMemory(const StreamPlan& plan, int column_bytes, int table_words) {
        ring = table_words * 4;
        column = ring + plan.slots * plan.slot_bytes;  // a chunk may read beyond the last slot
        partial = column + column_bytes;
        // More sets of results than can wait to be added up: the ring is that far ahead.
        partial_sets = plan.slots / stream_set_turns + 2;
        const int set_floats = stream_set * plan.groups * plan.row_warps;
        barriers = (partial + partial_sets * set_floats * 4 + 7) / 8 * 8;
        bytes = barriers + (2 * plan.slots + 1) * 8;
    }
};
template <Type type>
DEVICE StreamMemory stream_memory(const StreamPlan& plan, int k) {
    constexpr int block_bytes = Pair<type>::floats ? 0 : static_cast<int>(sizeof(ActivationBlock));
    return {plan, k / 32 * block_bytes, Pair<type>::table_words};
}

#if LLAMABUILD_BULK_COPIES
// Adds each of `Count` values over the 32 lanes; the sum of value i ends up in lane i * 32 / Count.
// Lanes at a distance take over half of the values from each other.
template <int Distance = 16, int Count>
__device__ __forceinline__ float add_lanes(const float (&values)[Count], int lane) {
    constexpr int half = (Count + 1) / 2;
    const bool upper = lane & Distance;
    float rest[half];
    UNROLL
    for (int i = 0; i < half; ++i) {
        if constexpr (Count == 1) {
            rest[i] = values[i] + exchange(values[i], Distance);
        } else {
            const float other = exchange(upper ? values[i] : values[half + i], Distance);
            rest[i] = (upper ? values[half + i] : values[i]) + other;
        }
    }
    if constexpr (Distance > 1) return add_lanes<Distance / 2>(rest, lane);
    else return rest[0];
}

__device__ __forceinline__ uint32_t from_lane(uint32_t value, int lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}

// Four of a thread's pieces of a column, whole groups of 32 threads together. As in quantize_block,
// eight neighbouring lanes take a block; each has a piece of four blocks, and in between, the
// numbers of one. Piece i is of the block `first + i * step`; those from `end` on do not exist.
__device__ __forceinline__ void quantize_four(const float (&values)[4][4], int lane, int first,
                                              int step, int end, ActivationBlock* blocks) {
    const int quad = lane % 8, eight = lane - quad;
    uint32_t largest[4] = {};
    UNROLL
    for (int i = 0; i < 16; ++i)
        largest[i / 4] = larger_magnitude(largest[i / 4], values[i / 4][i % 4]);
    // Lane 4a + 2b + c of the eight ends with the largest of block 2a + b.
    const bool a = quad & 4, b = quad & 2, c = quad & 1;
    uint32_t two[2];
    UNROLL
    for (int i = 0; i < 2; ++i)
        two[i] = max(a ? largest[2 + i] : largest[i], exchange(a ? largest[i] : largest[2 + i], 4));
    uint32_t one = max(b ? two[1] : two[0], exchange(b ? two[0] : two[1], 2));
    one = max(one, exchange(one, 1));
    float d, inverse;
    scale_of(one, d, inverse);

    uint32_t sums[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
        const float factor = bits_to_float(from_lane(float_to_bits(inverse), eight + 2 * i));
        uint32_t q[4];
        UNROLL
        for (int j = 0; j < 4; ++j) q[j] = static_cast<uint32_t>(quantize(values[i][j], factor));
        const uint32_t packed = __byte_perm(__byte_perm(q[0], q[1], 0x0040),
                                            __byte_perm(q[2], q[3], 0x0040), 0x5410);
        sums[i] = static_cast<uint32_t>(dot4(packed, 0x01010101, 0));
        const int block = first + i * step;
        if (block < end) reinterpret_cast<uint32_t*>(blocks[block].q)[quad] = packed;
    }
    // Lane 4a + 2b + c ends with the sum over half a of block 2b + c.
    uint32_t pair[2];
    UNROLL
    for (int i = 0; i < 2; ++i)
        pair[i] = (b ? sums[2 + i] : sums[i]) + exchange(b ? sums[i] : sums[2 + i], 2);
    const uint32_t sum = (c ? pair[1] : pair[0]) + exchange(c ? pair[0] : pair[1], 1);
    const int block = first + quad % 4 * step;
    d = bits_to_float(from_lane(float_to_bits(d), eight + 2 * (quad % 4)));
    if (block < end) blocks[block].half[a] = {d, d * static_cast<float>(static_cast<int>(sum))};
}

// Quantizes a column; `thread` is one of `threads`. Calls `asked` when the first floats, mostly all,
// are on their way.
template <class Asked>
__device__ __forceinline__ void quantize_column(const float* column, int k, int thread, int threads,
                                                ActivationBlock* blocks, Asked asked) {
    const bool aligned = reinterpret_cast<uintptr_t>(column) % 16 == 0;
    const int lane = thread % group_size;
    int begin = 4 * (thread - lane);
    KEEP_LOOP
    do {
        float values[2][4][4];  // all on their way before the first is used
        UNROLL
        for (int i = 0; i < 8; ++i) {
            const int at = begin + 4 * lane + 4 * i * threads;
            const float* const from = column + (at < k ? at : 0);
            float(&piece)[4] = values[i / 4][i % 4];
            if (aligned) {
                const float4 four = *reinterpret_cast<const float4*>(from);
                piece[0] = four.x, piece[1] = four.y, piece[2] = four.z, piece[3] = four.w;
            } else {
                UNROLL
                for (int j = 0; j < 4; ++j) piece[j] = from[j];
            }
        }
        if (begin < 4 * threads) asked();
        const int first = (begin + 4 * lane) / 32, step = threads / 8;
        quantize_four(values[0], lane, first, step, k / 32, blocks);
        if (begin + 16 * threads < k)
            quantize_four(values[1], lane, first + 4 * step, step, k / 32, blocks);
        begin += 32 * threads;
    } while (begin < k);
}
#endif

// Grid: parts of the rows, 1, products of the batch. The column is of floats.
template <Type type>
__global__ void __launch_bounds__((stream_warps + 1) * 32, Pair<type>::blocks_at_once)
multiply_stream_kernel(const Product p, const StreamPlan plan) {
#if LLAMABUILD_BULK_COPIES
    using Weights = Pair<type>;
    extern __shared__ __align__(128) uint8_t shared[];
    release_successor();
    const int lane = threadIdx.x % group_size;
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / group_size, 0);  // known to be one
    const int warps = plan.row_warps * plan.groups;
    const StreamMemory memory = stream_memory<type>(plan, p.k);
    const auto address = [&](int at) {
        return static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + at;
    };
    const Barriers full{address(memory.barriers)}, empty{full.at + 8 * plan.slots};
    const Barriers asked{empty.at + 8 * plan.slots};  // have all warps asked for activations?

    const Place place(p, p.first_item + blockIdx.z);
    const auto row_bytes = static_cast<int>(p.row_bytes);
    const int block = blockIdx.x, begin = block * plan.rows + min(block, plan.more);
    const int rows = plan.rows + (block < plan.more);
    const int turn_rows = plan.groups * stream_rows;
    const int turns = (rows + turn_rows - 1) / turn_rows;  // each takes a slot
    const uint8_t* const weights = place.weights + begin * p.row_bytes;
    const int turn_bytes = turn_rows * row_bytes;
    bool hurry = false;  // activations have been asked for
    int allowed = stream_early_bytes<type>;
    const auto order = [&](int turn, int slot) {
        const uint8_t* const begin_row = weights + int64_t{turn} * turn_bytes;
        const uint8_t* const end_row = weights + min((turn + 1) * turn_rows, rows) * p.row_bytes;
        // By whole pieces of 16 bytes.
        const uint8_t* const from = begin_row - skew(begin_row);
        const int size = (static_cast<int>(end_row - from) + 15) / 16 * 16;
        const int to = memory.ring + slot * plan.slot_bytes;
        if (lane == 0) full.expect(slot, size);
        KEEP_LOOP
        for (int at = 0; at < size;) {
            if (!hurry && allowed == 0) {
                hurry = asked.wait_together_at_most(0, 0, stream_patience<type>);
                allowed = stream_early_bytes<type>;
            }
            const int piece = hurry ? size - at : min(size - at, allowed);
            if (lane == 0) full.copy(slot, address(to + at), from + at, piece);
            at += piece;
            allowed -= piece;
        }
    };
    if (warp == warps && lane == 0) {
        KEEP_LOOP
        for (int slot = 0; slot < plan.slots; ++slot) {
            full.initialize(slot, 1);
            empty.initialize(slot, warps * stream_set);
        }
        asked.initialize(0, warps);
        Barriers::publish();
    }
    auto* const grid = reinterpret_cast<uint32_t*>(shared);
    if constexpr (Weights::table_words != 0)
        if (warp < warps)
            for (int i = threadIdx.x; i < Weights::table_words; i += warps * group_size)
                grid[i] = Format<type>::table()[i];
    if (warp == warps) {
        group_barrier();
        come_without_waiting<1>(blockDim.x);
    } else {
        wait_for_threads<1>(blockDim.x);
    }

    // Where the warps of a row leave their sums: for some sets, [row][warp].
    const int set_rows = stream_set * plan.groups, set_floats = set_rows * plan.row_warps;
    auto* const partial = reinterpret_cast<float*>(shared + memory.partial);
    const int partial_end = memory.partial_sets * set_floats;

    if (warp == warps) {  // copies, and adds up
        int slot = 0, round = 0, done_rows = 0, set_at = 0;
        KEEP_LOOP
        for (int turn = 0; turn < turns + plan.slots; ++turn) {
            const int done = turn - plan.slots;
            if (done >= 0 && done < turns) empty.wait_together(slot, (round - 1) & 1);
            if (turn < turns) order(turn, slot);
            if (++slot == plan.slots) slot = 0, ++round;
            if (done == 0) wait_for_predecessor();  // it may read what the output overwrites
            const bool last_of_set =
                done % stream_set_turns == stream_set_turns - 1 || done == turns - 1;
            if (done < 0 || done >= turns || !last_of_set) continue;
            const int count = min(set_rows, rows - done_rows), width = plan.sum_width;
            KEEP_LOOP
            for (int row = lane / width; row - lane / width < count; row += group_size / width) {
                const int w = lane % width;
                float sum = 0;
                if (row < count && w < plan.row_warps)
                    sum = partial[set_at + row * plan.row_warps + w];
                KEEP_LOOP
                for (int i = width / 2; i; i /= 2) sum += exchange(sum, i);
                if (row < count && w == 0)
                    place.output[begin + done_rows + row] = place.valid ? sum : 0;
            }
            done_rows += set_rows;
            set_at = set_at + set_floats == partial_end ? 0 : set_at + set_floats;
            group_barrier();  // all have added up before this set's place is written again
        }
        return;
    }

    const int group = warp / plan.row_warps, part = warp % plan.row_warps;
    const int thread = part * group_size + lane;  // of those that share a row
    const auto* const floats = reinterpret_cast<const float*>(place.activations);
    const auto tell = [&] {
        if (lane == 0) asked.arrive(0);
    };
    wait_for_predecessor();
    const auto prepare = [&] {
        if constexpr (Weights::floats) {
            const Weights column(floats, p.k, thread, plan.row_warps * group_size);
            tell();
            return column;
        } else {
            auto* const blocks = reinterpret_cast<ActivationBlock*>(shared + memory.column);
            // Not all blocks in the same order, which would be one of the cache's slices, too.
            const int turned = (warp + blockIdx.x) % warps * group_size + lane;
            quantize_column(floats, p.k, turned, warps * group_size, blocks, tell);
            wait_for_threads<2>(warps * group_size);  // all but those of the warp that copies
            return Weights(blocks, p.k, thread);
        }
    };
    const Weights column = prepare();

    constexpr int lanes = group_size / stream_set;
    const int result = lane / lanes;  // of a set, the one that this lane ends up with
    const int result_row =
        result / stream_rows * turn_rows + group * stream_rows + result % stream_rows;
    float* const results = partial + result_row * plan.row_warps + part;
    const int turn_skew = turn_bytes % 16;
    int slot = 0, round = 0, set_at = 0, behind = skew(weights);
    KEEP_LOOP
    for (int turn = 0; turn < turns; turn += stream_set_turns) {
        float sums[stream_set] = {};
        UNROLL
        for (int i = 0; i < stream_set_turns; ++i) {
            if (i && turn + i == turns) break;
            full.wait_together(slot, round & 1);
            // A row beyond the last is whatever the slot held before: nobody asks for its sum.
            const uint8_t* const from = shared + memory.ring + slot * plan.slot_bytes + behind +
                                        group * stream_rows * row_bytes;
            UNROLL
            for (int row = 0; row < stream_rows; ++row)
                sums[i * stream_rows + row] = column.times(from + row * row_bytes, grid);
            behind = (behind + turn_skew) % 16;
            if (i == stream_set_turns - 1 || turn + i == turns - 1) {
                const float sum = add_lanes(sums, lane);
                if (lane % lanes == 0) results[set_at] = sum;
                set_at = set_at + set_floats == partial_end ? 0 : set_at + set_floats;
            }
            group_barrier();
            // Every lane that may have left a sum, for itself: racecheck understands that.
            if (lane % lanes == 0) empty.arrive(slot);
            if (++slot == plan.slots) slot = 0, ++round;
        }
    }
#else
    (void)p, (void)plan;  // never started there
#endif
}

// Blocks for each of so many products of a batch: as many as run at once, and all with rows.
inline int stream_blocks(const Product& p, const StreamPlan& plan, int items,
                         const Launch& launch) {
    const int most = (p.m - 1) / plan.groups + 1;
    return std::clamp(launch.multiprocessors / items, 1, most);
}

// How to divide a product, where this is the kernel for it.
template <Type type>
bool plan_stream(const Product& p, const Launch& launch, StreamPlan& plan) {
    using Weights = Pair<type>;
    if (p.n != 1 || p.k % (Weights::floats ? 8 : Weights::weights)) return false;
    const bool several = p.batch > 1 || p.expert_count;
    const int unit = Weights::floats ? 16 : 4;  // in which a row is read, at least
    if ((Weights::floats && p.row_bytes % unit) || (several && p.weight_batch % unit)) return false;
    const int threads = (p.k + Weights::weights - 1) / Weights::weights;
    if (Weights::floats && threads < group_size) return false;  // floats.cu leaves no lane idle
    plan.row_warps = (threads + group_size - 1) / group_size;
    if (plan.row_warps > stream_warps) return false;
    plan.sum_width = 1;
    while (plan.sum_width < plan.row_warps) plan.sum_width *= 2;
    plan.groups = stream_warps / plan.row_warps;
    const int64_t slot_bytes =
        (plan.groups * stream_rows * p.row_bytes + 2 * 15 + 127) / 128 * 128;
    // Of a multiprocessor's memory the system takes 1 KB for each block.
    constexpr int blocks = Weights::blocks_at_once;
    const int room = (launch.shared_bytes + 1024) / blocks - 1024;
    if (slot_bytes > room / 2) return false;
    plan.slot_bytes = static_cast<int>(slot_bytes);
    // Not more than there are turns: what is left is room for the next product's block.
    const int block_rows = (p.m - 1) / stream_blocks(p, plan, p.batch, launch) + 1;
    const int turns = (block_rows - 1) / (plan.groups * stream_rows) + 1;
    plan.slots = std::clamp(turns, 2, 32);
    while (plan.slots > 1 && stream_memory<type>(plan, p.k).bytes > room) --plan.slots;
    return plan.slots > 1;
}

template <Type type>
bool takes_stream(const Product& product, const Launch& launch) {
    StreamPlan plan;
    return plan_stream<type>(product, launch, plan);
}

template <Type type>
GPU(Error_t) multiply_stream(const Product& product, const Launch& launch) {
    StreamPlan plan;
    if (!plan_stream<type>(product, launch, plan)) return GPU(ErrorInvalidValue);
    const auto kernel = multiply_stream_kernel<type>;
    const StreamMemory memory = stream_memory<type>(plan, product.k);
    const auto error = GPU(FuncSetAttribute)(reinterpret_cast<const void*>(kernel),
                                             GPU(FuncAttributeMaxDynamicSharedMemorySize),
                                             memory.bytes);
    if (error != GPU(Success)) return error;
    return for_batch(product, [&](const Product& p, int items) {
        const int blocks = stream_blocks(p, plan, items, launch);
        plan.rows = p.m / blocks;
        plan.more = p.m % blocks;
        const int threads = (plan.row_warps * plan.groups + 1) * group_size;
        return start(kernel, launch, dim3(blocks, 1, items), threads, memory.bytes, p, plan);
    });
}

// The one definition of these, for a type.
#define LLAMABUILD_STREAM(name)                                            \
    template bool takes_stream<Type::name>(const Product&, const Launch&); \
    template GPU(Error_t) multiply_stream<Type::name>(const Product&, const Launch&);

}  // namespace llamabuild
