// Activations as the integer products read them: ggml's q8_1, in blocks of its own.
//
// ggml puts two halves before 32 bytes: a scale, and the sum of the activations, which multiplies a
// format's offset. Here the sum is kept for each half of a block, because formats change scale and
// offset every 16 weights; floats replace the halves; and 48 bytes are whole pieces of 16.
#pragma once
#include "formats.h"

namespace llamabuild {

struct ActivationBlock {
    int8_t q[32];
    struct {
        float d;    // x = d * q
        float sum;  // d times the sum of q
    } half[2];      // both with the same d
};
static_assert(sizeof(ActivationBlock) == 48, "part of the C ABI");

// The larger magnitude, as bits: unlike fmaxf this lets a NaN through.
DEVICE uint32_t larger_magnitude(uint32_t bits, float x) {
    const uint32_t other = float_to_bits(x) & 0x7fffffff;
    return bits > other ? bits : other;
}

// x * inverse, rounded, as a byte: the low one.
DEVICE uint32_t quantize(float x, float inverse) {
#if LLAMABUILD_SM
    // The last bit of such a sum counts 1. (A conversion takes the processor four times as long.)
    return float_to_bits(__fmul_rn(x, inverse) + 12582912.0f);
#elif LLAMABUILD_DEVICE_CODE
    return static_cast<uint32_t>(__float2int_rn(x * inverse));
#else
    return static_cast<uint32_t>(static_cast<int>(__builtin_rintf(x * inverse)));
#endif
}

// A block's scale and the scale's inverse, of its largest magnitude (as bits). On CUDA without the
// slow paths of a division: magnitudes below 1e-35 are taken for zeros.
DEVICE void scale_of(uint32_t largest, float& d, float& inverse) {
    const float magnitude = bits_to_float(largest);
#if LLAMABUILD_SM
    d = magnitude * (1.0f / 127);
    d = fmaf(fmaf(-127.0f, d, magnitude), 1.0f / 127, d);
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(d));
    inverse = fmaf(fmaf(-d, inverse, 1.0f), inverse, inverse);
    if (magnitude < 1e-35f) d = inverse = 0;
#else
    d = magnitude / 127;
    inverse = d != 0 ? 1 / d : 0;
#endif
}

// One block of 32 activations. The kernel spreads it over eight threads; this is what they compute.
DEVICE void quantize_block(const float* x, ActivationBlock& block) {
    uint32_t largest = 0;
    for (int i = 0; i < 32; ++i) largest = larger_magnitude(largest, x[i]);
    float d, inverse;
    scale_of(largest, d, inverse);
    for (int half = 0; half < 2; ++half) {
        int sum = 0;
        for (int i = 16 * half; i < 16 * half + 16; ++i) {
            block.q[i] = static_cast<int8_t>(quantize(x[i], inverse));
            sum += block.q[i];
        }
        block.half[half] = {d, d * static_cast<float>(sum)};
    }
}

// The 32 activations that a chunk meets: two groups, each half a block.
struct ActivationChunk {
    uint32_t q[8];
    float d[2], sum[2];

    // `column` begins at a multiple of 256 activations; j is the chunk's place in those.
    template <class F>
    DEVICE static ActivationChunk at(const uint8_t* column, int j) {
        ActivationChunk x;
        const int first = F::first(j);
        const uint8_t* const block = column + first / 32 * sizeof(ActivationBlock);
        if constexpr (F::step == 16) {  // both groups in one block
            uint32_t words[12];
            load<16>(words, block);
            UNROLL
            for (int i = 0; i < 8; ++i) x.q[i] = words[i];
            UNROLL
            for (int group = 0; group < 2; ++group) {
                x.d[group] = bits_to_float(words[8 + 2 * group]);
                x.sum[group] = bits_to_float(words[9 + 2 * group]);
            }
        } else {  // group 1 whole blocks later
            const int half = first / 16 % 2;
            UNROLL
            for (int group = 0; group < 2; ++group) {
                const uint8_t* const from =
                    block + group * F::step / 32 * int(sizeof(ActivationBlock));
                uint32_t words[4], numbers[2];
                load<16>(words, from + 16 * half);
                load<8>(numbers, from + 32 + 8 * half);
                UNROLL
                for (int i = 0; i < 4; ++i) x.q[4 * group + i] = words[i];
                x.d[group] = bits_to_float(numbers[0]);
                x.sum[group] = bits_to_float(numbers[1]);
            }
        }
        return x;
    }
};

// The product of 32 weights and 32 activations: integers inside a group, then the two scales.
template <class F>
DEVICE float dot(const Chunk& w, const ActivationChunk& x) {
    int sum[2] = {0, 0};
    UNROLL
    for (int i = 0; i < 8; ++i) sum[i / 4] = dot4(w.q[i], x.q[i], sum[i / 4]);
    if constexpr (F::uniform) {
        const float r = w.scale[0] * x.d[0] * static_cast<float>(sum[0] + sum[1]);
        return F::has_offset ? r + w.offset[0] * (x.sum[0] + x.sum[1]) : r;
    } else {
        float r = 0;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            r += w.scale[group] * x.d[group] * static_cast<float>(sum[group]);
            if constexpr (F::has_offset) r += w.offset[group] * x.sum[group];
        }
        return r;
    }
}

}  // namespace llamabuild
