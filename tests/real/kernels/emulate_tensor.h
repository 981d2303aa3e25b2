// The tensor cores of 7.5 to 8.9 for emulate.h, as NVIDIA's PTX documentation has them.
#pragma once
#define LLAMABUILD_INTEGERS 1  // before the kernels' own
#define LLAMABUILD_MATMUL 1
#include "emulate_nvidia.h"
#include "tensor.h"

namespace llamabuild {
// What all lanes of a warp give for one instruction.
template <class T>
class Warp {
public:
    explicit Warp(const T& mine) {
        all()[threadIdx.x] = mine;
        Block::current->wait_for_group();
        for (unsigned lane = 0; lane < 32; ++lane) of[lane] = all()[threadIdx.x / 32 * 32 + lane];
        Block::current->wait_for_group();
    }
    T of[32];

private:
    static T* all() {
        static thread_local T every[1024];
        return every;
    }
};

// Lanes 8 i to 8 i + 7 name the rows of matrix i, 16 bytes each; lane 4 g + t gets four of row g.
template <int Count>
void load_matrices(uint32_t (&words)[Count], const uint8_t* row) {
    const Warp<const uint8_t*> rows(row);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < Count; ++i) std::memcpy(&words[i], rows.of[8 * i + g] + 4 * t, 4);
}
inline void load_matrices(uint32_t (&words)[4], uint32_t from) {
    load_matrices(words, const_cast<const uint8_t*>(shared + from));
}

struct Operands { uint32_t a[4], b[2]; };

// 16 rows, 8 columns, k numbers. Lane 4 g + t gives words t of rows g and g + 8 and of column g, then
// words t + 4; it gets the sums of rows g and g + 8, columns 2 t and 2 t + 1.
template <class Sum, class Product>
void multiply_warp(Sum (&c)[4], const Operands& mine, int words, const Product& product) {
    const Warp<Operands> warp(mine);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int e = 0; e < 4; ++e)
        for (int word = 0; word < words; ++word) {
            const uint32_t a = warp.of[4 * g + word % 4].a[word / 4 * 2 + e / 2];
            const uint32_t b = warp.of[4 * (2 * t + e % 2) + word % 4].b[word / 4];
            c[e] += product(a, b);
        }
}

inline int of_bytes(uint32_t a, uint32_t b) { return dot4(a, b, 0); }
inline void multiply16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
    std::fill(c, c + 4, 0);
    multiply_warp(c, {{a0, a1}, {b}}, 4, of_bytes);
}
inline void multiply32(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    std::fill(c, c + 4, 0);
    multiply_warp(c, {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, 8, of_bytes);
}

template <Type type = Type::f16>
void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_warp(c, {{a[0], a[1], a[2], a[3]}, {b0, b1}}, 8, [](uint32_t x, uint32_t y) {
        const auto number = [](uint32_t bits) {
            return type == Type::bf16 ? bfloat_to_float(bits) : half_to_float(bits);
        };
        return number(x & 0xffff) * number(y & 0xffff) + number(x >> 16) * number(y >> 16);
    });
}
}  // namespace llamabuild
