// Hopper's own instructions for emulate.h: what hopper.h has for code of 9.0a.
//
// A multiplication reads what it multiplies as late as it may, when it is waited for: what was
// overwritten until then, or has not come, is seen in the result. Layouts: "Asynchronous warpgroup
// level matrix instructions" in NVIDIA's PTX documentation.
#pragma once
#define LLAMABUILD_WARPGROUPS 1  // before the kernels' own
#include <array>

#include "emulate_nvidia.h"

namespace llamabuild {
// A thread's sets of them: those that are on their way, and behind these the one that has no end yet.
inline thread_local std::map<unsigned, std::deque<std::vector<std::function<void()>>>> sets;

inline void begin_multiplications() { sets[threadIdx.x].emplace_back(); }
inline void end_of_multiplications() {}
template <int Pending>
void wait_for_multiplications() {
    auto& mine = sets[threadIdx.x];
    for (; mine.size() > Pending; mine.pop_front())
        for (const auto& multiply : mine.front()) multiply();
}
template <int Count>
void keep_behind_wait(float (&)[Count]) {}
template <int>
void leave_registers() {}
template <int>
void take_registers() {}
inline void show_to_multiplications() {}

// Number k of a row or column of a matrix that is described. In 1024 bytes pieces of 16 are exchanged.
inline uint32_t described(uint64_t matrix, int row, int k) {
    if (matrix >> 62 != 1 || (matrix >> 32 & 0x3fff) != 1024 / 16) std::abort();
    const uint32_t at = uint32_t(matrix & 0x3fff) * 16 + row * 128 + k * 2;
    uint16_t bits;
    std::memcpy(&bits, shared + (at ^ (at >> 3 & 0x70)), sizeof bits);
    return bits;
}

// 64 rows, 16 of each warp. Lane 4 g + t gets the sums of rows g and g + 8, columns 8 i + 2 t and the
// next; where rows come in registers, it gives numbers 2 t and 2 t + 1 of both, then those 8 behind.
template <Type type, int N, class Rows>
void multiply_sixteen(float (&c)[N / 2], const Rows& rows, uint64_t columns) {
    const auto number = [](uint32_t bits) {
        return type == Type::bf16 ? bfloat_to_float(bits) : half_to_float(bits);
    };
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    std::function<float(int, int)> row;
    if constexpr (std::is_same_v<Rows, uint64_t>) {
        const int first = threadIdx.x / 32 % 4 * 16 + g;
        row = [=](int r, int k) { return number(described(rows, first + 8 * r, k)); };
    } else {
        static thread_local std::array<uint32_t, 4> given[1024];
        std::copy(rows, rows + 4, given[threadIdx.x].begin());
        Block::current->wait_for_group();
        std::array<std::array<uint32_t, 4>, 4> all;  // of the four lanes that have these rows
        for (int i = 0; i < 4; ++i) all[i] = given[threadIdx.x - t + i];
        Block::current->wait_for_group();
        row = [=](int r, int k) {
            return number(all[k % 8 / 2][k / 8 * 2 + r] >> k % 2 * 16 & 0xffff);
        };
    }
    sets[threadIdx.x].back().push_back([=, &c] {
        float a[2][16];
        for (int i = 0; i < 32; ++i) a[i / 16][i % 16] = row(i / 16, i % 16);
        for (int i = 0; i < N / 2; ++i)
            for (int k = 0; k < 16; ++k)
                c[i] += a[i / 2 % 2][k] *
                        number(described(columns, i / 4 * 8 + t * 2 + i % 2, k));
    });
}

struct Cluster {
    int blocks = Block::current->pair ? 2 : 1, rank = Block::current->pair ? blockIdx.z % 2 : 0;
    static void barrier() { Block::current->wait_for_pair(); }
    uint32_t other(uint32_t at) const { return at; }
    static float2 load(uint32_t from) {
        float2 value;
        std::memcpy(&value, Block::current->pair->shared[1 - blockIdx.z % 2] + from, sizeof value);
        return value;
    }
};
}  // namespace llamabuild
