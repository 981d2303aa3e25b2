// What halves.h and launch.h have for NVIDIA's GPUs, for emulate.h: 16-bit floats, and copies in the
// background, which come as late as they may.
#pragma once
#include <deque>

#include "emulate.h"

#define LLAMABUILD_BACKGROUND_COPIES 1
#include "launch.h"

namespace llamabuild {
inline uint32_t to_half(double value) {
    const auto half = static_cast<_Float16>(value);
    uint16_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}
inline double low_half(uint32_t pair) { return half_to_float(pair & 0xffff); }
inline double high_half(uint32_t pair) { return half_to_float(pair >> 16); }

inline uint32_t two_halves(float low, float high) { return to_half(low) | to_half(high) << 16; }
inline uint32_t two_bfloats(float low, float high) {
    const auto nearest = [](float value) {
        const uint32_t bits = float_to_bits(value);
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return nearest(low) | nearest(high) << 16;
}
inline uint32_t twice_half(uint32_t pair, int which) {
    return (which ? pair >> 16 : pair & 0xffff) * 0x10001u;
}
inline void to_halves(uint32_t q, uint32_t scale, uint32_t offset, bool has_offset, uint32_t& low,
                      uint32_t& high) {
    uint32_t halves[4];
    for (int i = 0; i < 4; ++i) {
        const auto byte = uint8_t(q >> 8 * i);
        const int weight = has_offset ? byte : int8_t(byte);
        halves[i] = to_half(weight * low_half(scale) + (has_offset ? low_half(offset) : 0));
    }
    low = halves[0] | halves[1] << 16;
    high = halves[2] | halves[3] << 16;
}
inline int here(int x) { return x; }
inline void stay(const uint8_t*&) {}

// A thread's copies of 16 bytes: sets of them, the last of which has no end yet.
using Copies = std::vector<std::function<void()>>;
inline std::deque<Copies>& my_copies() {
    static thread_local std::map<unsigned, std::deque<Copies>> all;
    auto& mine = all[threadIdx.x];
    if (mine.empty()) mine.emplace_back();
    return mine;
}
inline void copy_piece(uint32_t to, const uint8_t* from, bool inside) {
    if (to % 16 || reinterpret_cast<uintptr_t>(from) % 16) std::abort();
    my_copies().back().push_back([=] {
        if (inside) std::memcpy(shared + to, from, 16);
        else std::memset(shared + to, 0, 16);
    });
}
struct CopyTarget {
    uint32_t to;
    explicit CopyTarget(uint8_t* place) : to(uint32_t(__cvta_generic_to_shared(place))) {}
    void copy16(int at, const uint8_t* from) const { copy_piece(to + at, from, true); }
};
inline void end_of_copies() { my_copies().emplace_back(); }
template <int Pending>
void wait_for_copies() {
    for (auto& mine = my_copies(); mine.size() > Pending + 1; mine.pop_front())
        for (const auto& copy : mine.front()) copy();
}
inline void Barriers::arrive_with_copies(int stage) const {
    Block::current->copy_later([copies = my_copies(), *this, stage] {
        for (const Copies& some : copies)
            for (const auto& copy : some) copy();
        arrive(stage);
    });
    my_copies().clear();
}
}  // namespace llamabuild
