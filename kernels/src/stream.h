// Weights times one column, on 9.0 and later: as fast as the weights come.
//
// Each block of threads takes neighbouring rows, which lie in memory one after the other: one warp
// orders them from the bulk copy engine into a ring of slots, far ahead of the arithmetic.
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
#include "column.h"
#include "pairs.h"

namespace llamabuild {

// Until the activations have been asked for, the weights come in pieces of so many bytes, and so many
// pieces at once. More would not come earlier, but the end of the product before this one, and then
// the activations, would have to queue behind them.
constexpr int stream_piece = 16 * 1024;
template <Type type>
constexpr int stream_pieces = Pair<type>::blocks_at_once == 1 ? 3 : 1;
// Warps that multiply, at most; one more copies. (Of two blocks 17 warps would leave a thread few
// registers.)
template <Type type>
constexpr int stream_warps = Pair<type>::blocks_at_once == 1 ? 16 : 15;
constexpr int stream_rows = 2;  // of a group at a time
constexpr int stream_set = 4;   // of a group, whose sums are added over the lanes together
constexpr int stream_set_turns = stream_set / stream_rows;

// How the blocks divide the work, and their shared memory: chosen on the host. What a block's first
// copies need comes first: a kernel's parameters are in no cache yet.
struct StreamPlan {
    int rows, more;  // rows of a block, and so many blocks have one more
    int row_bytes;
    int groups;      // of warps: each takes neighbouring rows of a slot
    int slots;       // of the ring, which lies behind the codebook
    int slot_bytes;
    int barriers;    // where they are
    int several;     // products, not one

    int row_warps;     // that share a row: a group
    int group_part;    // times a warp's number, over 256, is its group's
    int sum_bits;      // 1 << sum_bits is row_warps or more
    int column;        // where the activations are
    int partial;       // where the warps of a row leave their sums: for some sets, [row][warp]
    int partial_count;
    int shared_bytes;
};

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
#endif

// Grid: parts of the rows, 1, products of the batch. The column is of floats.
template <Type type>
__global__ void __launch_bounds__((stream_warps<type> + 1) * 32, Pair<type>::blocks_at_once)
multiply_stream_kernel(const StreamPlan plan, const Product p) {
#if LLAMABUILD_BULK_COPIES
    using Weights = Pair<type>;
    extern __shared__ __align__(128) uint8_t shared[];
    release_successor();
    const int lane = threadIdx.x % group_size;
    const int warp = from_lane(threadIdx.x / group_size, 0);  // known to be one
    const int warps = blockDim.x / group_size - 1;
    const int block = blockIdx.x, begin = block * plan.rows + min(block, plan.more);
    const int rows = plan.rows + (block < plan.more);
    const int turn_rows = plan.groups * stream_rows;  // each turn takes a slot
    const int turn_bytes = turn_rows * plan.row_bytes;
    constexpr int ring = Weights::table_words * 4;
    const auto address = [&](int at) {
        return static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + at;
    };
    const Barriers full{address(plan.barriers)}, empty{full.at + 8 * plan.slots};
    const Barriers asked{empty.at + 8 * plan.slots};  // have all warps asked for activations?
    const Barriers pieces{asked.at + 8};
    const uint8_t* weights = p.weights;
    if (plan.several) weights = Place(p, p.first_item + blockIdx.z).weights;
    weights += int64_t{begin} * plan.row_bytes;

    auto* const partial = reinterpret_cast<float*>(shared + plan.partial);
    const int set_rows = stream_set * plan.groups, set_floats = set_rows * plan.row_warps;

    if (warp == warps) {  // copies, and adds up
        constexpr int window = stream_pieces<type>;
        // Where a turn's rows begin, and how many bytes they are, by whole pieces of 16.
        const auto locate = [&](int turn, const uint8_t*& from) {
            from = weights + int64_t{turn} * turn_bytes;
            const int bytes = min(turn_rows, rows - turn * turn_rows) * plan.row_bytes;
            const int before = skew(from);
            from -= before;
            return (bytes + before + 15) / 16 * 16;
        };
        const auto slot_address = [&](int slot) { return address(ring + slot * plan.slot_bytes); };
        const auto order_piece = [&](const uint8_t* from, int turn, int at, int size, int piece) {
            const int bytes = min(size - at, stream_piece);
            pieces.expect(piece, bytes);
            pieces.copy(piece, slot_address(turn) + at, from + at, bytes);
        };
        const uint8_t* from;
        int size = locate(0, from);
        if (lane < window) pieces.initialize(lane, 1);
        Barriers::publish();
        group_barrier();
        if (lane < window && lane * stream_piece < size)
            order_piece(from, 0, lane * stream_piece, size, lane);
        if (lane < plan.slots) {
            full.initialize(lane, 1);
            empty.initialize(lane, warps * stream_set);
        }
        if (lane == 0) asked.initialize(0, warps);
        Barriers::publish();
        group_barrier();
        come_without_waiting<1>(blockDim.x);

        // Turns ordered, and those that the others know of; bytes ordered of the next turn; pieces
        // ordered, and those that have come; which of them, each a bit, are the last of a turn.
        int next = 0, told = 0, at = 0;
        int ordered = min((size + stream_piece - 1) / stream_piece, window), landed = 0;
        uint32_t last = 0;
        const auto count_piece = [&](int piece, int bytes) {
            at += bytes;
            if (at < size) return;
            at = 0, ++next;
            last |= 1u << piece;
        };
        count_piece(ordered - 1, ordered * stream_piece);
        const auto land = [&] {
            const uint32_t piece = 1u << landed++ % window;
            if (last & piece) {
                if (lane == 0) full.arrive(told);
                ++told;
            }
            last &= ~piece;
        };
        const auto more = [&] { return next * turn_rows < rows; };
        KEEP_LOOP
        while (next < plan.slots && more()) {
            if (ordered - landed == window) {
                bool hurry;
                do hurry = asked.ended(0, 0);
                while (!hurry && !pieces.ended(landed % window, landed / window & 1));
                if (hurry) break;
                land();
            }
            if (at == 0) size = locate(next, from);
            const int piece = ordered++ % window;
            if (lane == 0) order_piece(from, next, at, size, piece);
            count_piece(piece, stream_piece);
        }

        // Now all that there is room for.
        const auto order = [&](int slot) {
            const uint8_t* from;
            const int bytes = locate(next++, from);
            if (lane != 0) return;
            full.expect(slot, bytes);
            full.copy(slot, slot_address(slot), from, bytes);
        };
        const bool part = at != 0;  // of a turn has come, or will, in pieces
        if (part) {
            if (lane == 0) {
                full.expect_more(next, size - at);
                full.copy(next, slot_address(next) + at, from + at, size - at);
            }
            ++next;
        }
        KEEP_LOOP
        while (next < plan.slots && more()) order(next);
        KEEP_LOOP
        while (landed < ordered) {
            pieces.wait_together(landed % window, landed / window & 1);
            land();
        }
        if (part && lane == 0) full.arrive(told);

        const Place place(p, p.first_item + blockIdx.z);
        const int width = 1 << plan.sum_bits, w = lane & (width - 1);
        const int lane_row = lane >> plan.sum_bits, lane_rows = group_size >> plan.sum_bits;
        wait_for_predecessor();  // it may read what the output overwrites
        int slot = 0, round = 0, done_rows = 0, set_at = 0;
        KEEP_LOOP
        for (int done = 1; done_rows < rows; ++done) {
            empty.wait_together(slot, round & 1);
            if (more()) order(slot);
            if (++slot == plan.slots) slot = 0, ++round;
            if (done % stream_set_turns != 0 && done * turn_rows < rows) continue;
            const int count = min(set_rows, rows - done_rows);
            KEEP_LOOP
            for (int row = lane_row; row - lane_row < count; row += lane_rows) {
                float sum = 0;
                if (row < count && w < plan.row_warps)
                    sum = partial[set_at + row * plan.row_warps + w];
                KEEP_LOOP
                for (int i = width / 2; i; i /= 2) sum += exchange(sum, i);
                if (row < count && w == 0)
                    place.output[begin + done_rows + row] = place.valid ? sum : 0;
            }
            done_rows += set_rows;
            set_at = set_at + set_floats == plan.partial_count ? 0 : set_at + set_floats;
            group_barrier();  // all have added up before this set's place is written again
        }
        return;
    }

    auto* const grid = reinterpret_cast<uint32_t*>(shared);
    if constexpr (Weights::table_words != 0)
        for (int i = threadIdx.x; i < Weights::table_words; i += warps * group_size)
            grid[i] = Format<type>::table()[i];
    const auto* floats = reinterpret_cast<const float*>(p.activations);
    if (plan.several)
        floats = reinterpret_cast<const float*>(Place(p, p.first_item + blockIdx.z).activations);
    wait_for_threads<1>(blockDim.x);

    // (No division here: what follows a wait is all on the way to the first multiplication.)
    const int group = warp * plan.group_part / 256, part = warp - group * plan.row_warps;
    const int thread = part * group_size + lane;  // of those that share a row
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
            auto* const blocks = reinterpret_cast<ActivationBlock*>(shared + plan.column);
            // Not all blocks in the same order, which would be one of the cache's slices, too.
            const int turned = warp + block % 8;  // there are 8 warps, and more
            quantize_column(floats, p.k, turned < warps ? turned : turned - warps, warps, lane,
                            blocks, tell);
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
    uint32_t behind = skew(weights);
    int slot = 0, round = 0, set_at = 0;
    KEEP_LOOP
    for (int left = rows; left > 0;) {
        float sums[stream_set] = {};
        UNROLL
        for (int i = 0; i < stream_set_turns; ++i) {
            if (i && left <= 0) break;
            full.wait_together(slot, round & 1);
            // A row beyond the last is whatever the slot held before: nobody asks for its sum.
            const uint8_t* const from = shared + ring + slot * plan.slot_bytes + behind +
                                        group * stream_rows * plan.row_bytes;
            UNROLL
            for (int row = 0; row < stream_rows; ++row)
                sums[i * stream_rows + row] = column.times(from + row * plan.row_bytes, grid);
            behind = (behind + turn_bytes) % 16;
            left -= turn_rows;
            if (i == stream_set_turns - 1 || left <= 0) {
                const float sum = add_lanes(sums, lane);
                if (lane % lanes == 0) results[set_at] = sum;
                set_at = set_at + set_floats == plan.partial_count ? 0 : set_at + set_floats;
            }
            group_barrier();
            // Every lane that may have left a sum, for itself: racecheck understands that.
            if (lane % lanes == 0) empty.arrive(slot);
            if (++slot == plan.slots) slot = 0, ++round;
        }
    }
#else
    (void)plan, (void)p;  // never started there
#endif
}

// Blocks for each of so many products of a batch: as many as run at once, and all with rows.
inline int stream_blocks(const Product& p, const StreamPlan& plan, int items,
                         const Launch& launch) {
    const int most = (p.m - 1) / plan.groups + 1;
    return std::clamp(launch.multiprocessors / items, 1, most);
}

// Where everything is, with that many slots.
template <Type type>
void lay_out_stream(StreamPlan& plan, int k) {
    using Weights = Pair<type>;
    // A chunk may read beyond the last slot.
    plan.column = Weights::table_words * 4 + plan.slots * plan.slot_bytes;
    const int blocks = Weights::floats ? 0 : k / 32;
    plan.partial = plan.column + blocks * static_cast<int>(sizeof(ActivationBlock));
    // More sets of sums than can wait to be added up: the ring is that far ahead.
    plan.partial_count =
        (plan.slots / stream_set_turns + 2) * stream_set * plan.groups * plan.row_warps;
    plan.barriers = (plan.partial + plan.partial_count * 4 + 7) / 8 * 8;
    plan.shared_bytes = plan.barriers + (2 * plan.slots + 1 + stream_pieces<type>) * 8;
}

// How to divide a product, where this is the kernel for it.
template <Type type>
bool plan_stream(const Product& p, const Launch& launch, StreamPlan& plan) {
    using Weights = Pair<type>;
    if (p.n != 1 || p.k % (Weights::floats ? 8 : Weights::weights)) return false;
    plan.several = p.batch > 1 || p.expert_count;
    const int unit = Weights::floats ? 16 : 4;  // in which a row is read, at least
    if (Weights::floats && p.row_bytes % unit) return false;
    if (plan.several && p.weight_batch % unit) return false;
    const int threads = (p.k + Weights::weights - 1) / Weights::weights;
    if (Weights::floats && threads < group_size) return false;  // floats.cu leaves no lane idle
    plan.row_warps = (threads + group_size - 1) / group_size;
    if (plan.row_warps > stream_warps<type>) return false;
    plan.group_part = 256 / plan.row_warps + 1;
    plan.sum_bits = 0;
    while (1 << plan.sum_bits < plan.row_warps) ++plan.sum_bits;
    plan.groups = stream_warps<type> / plan.row_warps;
    plan.row_bytes = static_cast<int>(p.row_bytes);
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
    for (plan.slots = std::clamp(turns, 2, 32); plan.slots > 1; --plan.slots) {
        lay_out_stream<type>(plan, p.k);
        if (plan.shared_bytes <= room) return true;
    }
    return false;
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
    const auto error = GPU(FuncSetAttribute)(reinterpret_cast<const void*>(kernel),
                                             GPU(FuncAttributeMaxDynamicSharedMemorySize),
                                             plan.shared_bytes);
    if (error != GPU(Success)) return error;
    return for_batch(product, [&](const Product& p, int items) {
        const int blocks = stream_blocks(p, plan, items, launch);
        plan.rows = p.m / blocks;
        plan.more = p.m % blocks;
        const int threads = (plan.row_warps * plan.groups + 1) * group_size;
        return start(kernel, launch, dim3(blocks, 1, items), threads, plan.shared_bytes, plan, p);
    });
}

// The one definition of these, for a type.
#define LLAMABUILD_STREAM(name)                                            \
    template bool takes_stream<Type::name>(const Product&, const Launch&); \
    template GPU(Error_t) multiply_stream<Type::name>(const Product&, const Launch&);

}  // namespace llamabuild
