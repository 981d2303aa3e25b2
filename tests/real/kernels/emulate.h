// Enough of a GPU to run the kernels on the host: threads of a block as fibers, one at a time, in
// an order that changes, each until it waits for others. What a kernel computes, where it writes
// and where it waits are then its own doing; how fast it is, is not asked. Blocks come one after the
// other, but those of a pair, which see each other's shared memory, each in a thread of its own.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#define GPU(name) hip##name
#define __global__
#define __device__
#define __shared__ thread_local  // static, and may be extern: a block's fibers are of one thread
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __gfx90a__  // there are matrix instructions, of both kinds
#define __gfx1100__
#define LLAMABUILD_BULK_COPIES 1  // there is a bulk copy engine

using hipError_t = int;
using hipStream_t = void*;
constexpr hipError_t hipSuccess = 0, hipErrorInvalidValue = 1;
inline hipError_t hipGetLastError() { return hipSuccess; }
enum { hipFuncAttributeMaxDynamicSharedMemorySize };
inline hipError_t hipFuncSetAttribute(const void*, int, int) { return hipSuccess; }

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint4 { uint32_t x, y, z, w; };
struct float4 { float x, y, z, w; };
struct float2 { float x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
using std::max;
using std::min;

using FourInts = int __attribute__((vector_size(16)));
using EightInts = int __attribute__((vector_size(32), aligned(16)));

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

// What two blocks know of each other.
struct Pair {
    std::atomic<unsigned> come[2] = {};  // waits for both that all of a block have come to
    std::atomic<uint8_t*> shared[2] = {};
};

class Block {
public:
    static inline unsigned lanes = 32;  // of a group: of a warp, or of a wave of 64
    static inline bool pairs = false;   // of blocks, neighbours in z, if they are an even number
    static inline thread_local Block* current = nullptr;

    Block(unsigned threads, std::function<void()> body, Pair* pair = nullptr)
        : pair(pair), body_(std::move(body)), fibers_(threads) {
        thread_local std::mt19937 random{std::random_device{}()};
        current = this;
        for (Fiber& fiber : fibers_) {
            fiber.stack = std::make_unique<char[]>(stack_bytes);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = stack_bytes;
            fiber.context.uc_link = &scheduler_;
            makecontext(&fiber.context, run, 0);
        }
        std::vector<unsigned> order(threads);
        for (unsigned i = 0; i < threads; ++i) order[i] = i;
        const unsigned groups = threads / lanes;
        unsigned resting = groups;  // a group, or none
        for (bool alive = true; alive;) {
            alive = false;
            if (pair) {
                unsigned come = ~0u;
                for (const Fiber& f : fibers_)
                    if (!f.done) come = min(come, f.pair_waits);
                alive = come != ~0u && pair->come[blockIdx.z % 2].exchange(come) != come;
            }
            std::shuffle(order.begin(), order.end(), random);
            if (!copies_.empty()) {
                alive = true;
                // One arrives, at last; or, from time to time, all.
                size_t arrive = random() % 8 == 0;
                if (random() % 64 == 0) arrive = copies_.size();
                for (size_t i = 0; i < arrive; ++i) copies_[i]();
                copies_.erase(copies_.begin(), copies_.begin() + arrive);
            }
            // From time to time another group rests, so that the others get ahead of it.
            if (groups > 1 && random() % 64 == 0) resting = random() % (groups + 1);
            for (const unsigned i : order) {
                if (fibers_[i].done) continue;
                if (blocked(i)) {
                    alive |= fibers_[i].waits_for == both && pair->come[1 - blockIdx.z % 2] != ~0u;
                    continue;
                }
                alive = true;
                if (i / lanes == resting) continue;
                fibers_[i].waits_for = nobody;
                running_ = i;
                threadIdx.x = i;
                swapcontext(&scheduler_, &fibers_[i].context);
            }
        }
        stuck = std::any_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return !f.done; });
    }

    void wait_for_group() { wait(group); }
    void wait_for_pair() { wait(both); }
    void wait_until(std::function<bool()> what) {
        fibers_[running_].what = std::move(what);
        wait(event);
    }
    void copy_later(std::function<void()> copy) { copies_.push_back(std::move(copy)); }
    void wait_for_block() { wait(block); }

    uint32_t exchange(uint32_t value, unsigned distance) {
        fibers_[running_].value = value;
        wait(group);
        const uint32_t other = fibers_[running_ ^ distance].value;
        wait(group);
        return other;
    }

    uint32_t from_lane(uint32_t value, unsigned lane) {
        fibers_[running_].value = value;
        wait(group);
        const uint32_t other = fibers_[running_ / lanes * lanes + lane].value;
        wait(group);
        return other;
    }

    // D = A B + C for 16 x 16 matrices of bytes (C and D: of integers). Lane 16 * (k / 4) + i has
    // A[i][k] in byte k % 4; B[k][j] is where A[j][k] would be; lane 16 * (i / 4) + j has C[i][j]
    // and D[i][j] in number i % 4. (v_mfma_i32_16x16x16i8 in AMD's Matrix Instruction Calculator.)
    FourInts multiply(uint32_t a, uint32_t b, FourInts c) {
        fibers_[running_].a = a;
        fibers_[running_].b = b;
        wait(group);
        const Fiber* const wave = &fibers_[running_ / 64 * 64];
        for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 16; ++j)
                for (int k = 0; k < 16 && 16 * (i / 4) + j == int(running_ % 64); ++k)
                    c[i % 4] += int8_t(wave[16 * (k / 4) + i].a >> 8 * (k % 4)) *
                                int8_t(wave[16 * (k / 4) + j].b >> 8 * (k % 4));
        wait(group);
        return c;
    }

    // The same for 32 lanes. Lane i, and i + 16 as well, has A[i][k] in byte k, and B[k][i]; lane j has
    // C[2 * e][j] and D[2 * e][j] in number e, lane 16 + j those of row 2 * e + 1.
    EightInts multiply(FourInts a, FourInts b, EightInts c) {
        fibers_[running_].row = a;
        fibers_[running_].column = b;
        wait(group);
        const unsigned lane = running_ % 32;
        const Fiber* const wave = &fibers_[running_ - lane];
        const auto byte = [](const FourInts& words, int k) {
            return int8_t(uint32_t(words[k / 4]) >> 8 * (k % 4));
        };
        for (int l = 0; l < 16; ++l)
            for (int w = 0; w < 4; ++w)
                if (wave[l].row[w] != wave[l + 16].row[w] || wave[l].column[w] != wave[l + 16].column[w])
                    std::abort();
        for (unsigned e = 0; e < 8; ++e)
            for (int k = 0; k < 16; ++k)
                c[e] += byte(wave[2 * e + lane / 16].row, k) * byte(wave[lane % 16].column, k);
        wait(group);
        return c;
    }

    int come[16] = {};  // threads, to where so many wait for each other
    bool stuck = false;  // some threads waited for others that had gone
    Pair* const pair;    // or none

private:
    enum WaitsFor { nobody, group, block, both, event };
    static constexpr size_t stack_bytes = 64 * 1024;
    struct Fiber {
        ucontext_t context;
        std::unique_ptr<char[]> stack;
        WaitsFor waits_for = nobody;
        unsigned waits = 0;  // how often it has waited for its group, and for the block
        unsigned block_waits = 0, pair_waits = 0;
        bool done = false;
        uint32_t value = 0, a = 0, b = 0;
        FourInts row, column;
        std::function<bool()> what;  // that it waits for
    };

    static void run() {
        Block& self = *current;
        self.body_();
        self.fibers_[self.running_].done = true;
    }
    void wait(WaitsFor whom) {
        Fiber& me = fibers_[running_];
        me.waits_for = whom;
        if (whom != event)
            ++(whom == group ? me.waits : whom == block ? me.block_waits : me.pair_waits);
        const unsigned i = running_;
        swapcontext(&me.context, &scheduler_);
        running_ = i;
        threadIdx.x = i;
    }
    // A thread may go on when all others have come as far, and may be further by now.
    bool blocked(unsigned i) const {
        const Fiber& me = fibers_[i];
        if (me.waits_for == nobody) return false;
        if (me.waits_for == event) return !me.what();
        if (me.waits_for == both)  // but for the threads that have ended
            return min(pair->come[0].load(), pair->come[1].load()) < me.pair_waits;
        const unsigned first = me.waits_for == group ? i / lanes * lanes : 0;
        const unsigned last = me.waits_for == group ? first + lanes : unsigned(fibers_.size());
        for (unsigned other = first; other < last; ++other) {
            const Fiber& f = fibers_[other];
            if (me.waits_for == group ? f.waits < me.waits : f.block_waits < me.block_waits)
                return true;
        }
        return false;
    }

    std::function<void()> body_;
    std::vector<Fiber> fibers_;
    std::vector<std::function<void()>> copies_;  // on their way
    ucontext_t scheduler_;
    unsigned running_ = 0;
};

inline void __syncwarp() { Block::current->wait_for_group(); }
inline void __syncthreads() { Block::current->wait_for_block(); }
inline uint32_t __shfl_xor_sync(uint32_t, uint32_t value, int distance) {
    return Block::current->exchange(value, unsigned(distance));
}
inline float __shfl_xor_sync(uint32_t, float value, int distance) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    bits = Block::current->exchange(bits, unsigned(distance));
    __builtin_memcpy(&value, &bits, sizeof bits);
    return value;
}

inline uint32_t __shfl_sync(uint32_t, uint32_t value, int lane) {
    return Block::current->from_lane(value, unsigned(lane));
}

inline FourInts __builtin_amdgcn_mfma_i32_16x16x16i8(int a, int b, FourInts c, int, int, int) {
    return Block::current->multiply(uint32_t(a), uint32_t(b), c);
}
inline EightInts __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(bool a_signed, FourInts a, bool b_signed,
                                                            FourInts b, EightInts c, bool) {
    if (!a_signed || !b_signed) std::abort();
    return Block::current->multiply(a, b, c);
}

namespace llamabuild {
constexpr size_t shared_size = 227 * 1024;
extern thread_local uint8_t shared[shared_size];

// As barriers.h has them. A phase ends when all have arrived, and all bytes.
struct Barriers {
    struct Phase {
        int count, missing, number, bytes = 0;
        void end() {
            if (missing == 0 && bytes == 0) missing = count, ++number;
        }
    };
    static inline thread_local std::map<uint32_t, Phase> all;
    uint32_t at;

    void initialize(int stage, int arrivals) const { all[at + 8 * stage] = {arrivals, arrivals, 0}; }
    static void publish() {}
    void arrive_with_copies(int stage) const;  // emulate_hopper.h
    void arrive(int stage) const {
        Phase& phase = all.at(at + 8 * stage);
        --phase.missing;
        phase.end();
    }
    void expect(int stage, int bytes) const {
        all.at(at + 8 * stage).bytes += bytes;
        arrive(stage);
    }
    void expect_more(int stage, int bytes) const { all.at(at + 8 * stage).bytes += bytes; }
    void copy(int stage, uint32_t to, const uint8_t* from, int bytes) const {
        if (to % 16 || reinterpret_cast<uintptr_t>(from) % 16 || bytes % 16) std::abort();
        Block::current->copy_later([=, *this] {
            std::memcpy(shared + to, from, size_t(bytes));
            Phase& phase = all.at(at + 8 * stage);
            phase.bytes -= bytes;
            phase.end();
        });
    }
    void wait(int stage, uint32_t odd) const {
        const Phase& phase = all.at(at + 8 * stage);
        Block::current->wait_until([&phase, odd] { return (phase.number & 1) != int(odd); });
    }
    void wait_together(int stage, uint32_t odd) const {
        wait(stage, odd);
        Block::current->wait_for_group();
    }
    bool ended(int stage, uint32_t odd) const {
        const bool yes = (all.at(at + 8 * stage).number & 1) != int(odd);
        return Block::current->from_lane(yes, 0);
    }
};

// Each barrier always for as many.
template <int Barrier>
void come_without_waiting(int) { ++Block::current->come[Barrier]; }
template <int Barrier>
void wait_for_threads(int count) {
    int& come = Block::current->come[Barrier];
    const int needed = come++ / count * count + count;
    Block::current->wait_until([&come, needed] { return come >= needed; });
}
}  // namespace llamabuild

// A place in shared memory as its number.
inline size_t __cvta_generic_to_shared(const void* place) {
    return size_t(static_cast<const uint8_t*>(place) - llamabuild::shared);
}

inline bool any_stuck = false;

template <class... Parameters, class... Arguments>
void hipLaunchKernelGGL(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, uint32_t,
                        hipStream_t, Arguments... arguments) {
    const auto run = [&](dim3 block, Pair* pair) {
        gridDim = blocks, blockDim = threads, blockIdx = block;
        return Block(threads.x, [=] { kernel(arguments...); }, pair).stuck;
    };
    const auto run_pair = [&](dim3 block) {
        Pair pair;
        bool stuck[2];
        std::vector<std::thread> both;
        for (unsigned rank = 0; rank < 2; ++rank)
            both.emplace_back([&, rank] {
                const auto poison = [] {
                    std::memset(llamabuild::shared, 0xff, llamabuild::shared_size);
                };
                poison();
                pair.shared[rank] = llamabuild::shared;
                stuck[rank] = run({block.x, block.y, block.z + rank}, &pair);
                poison();  // a block that has ended has none
                pair.come[rank] = ~0u;
            });
        for (std::thread& one : both) one.join();
        return stuck[0] || stuck[1];
    };
    const bool pairs = Block::pairs && blocks.z % 2 == 0;
    for (unsigned z = 0; z < blocks.z; z += 1 + pairs)
        for (unsigned y = 0; y < blocks.y; ++y)
            for (unsigned x = 0; x < blocks.x; ++x)
                any_stuck |= pairs ? run_pair({x, y, z}) : run({x, y, z}, nullptr);
}
