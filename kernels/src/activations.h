// Activations as the integer products read them: q8_1 in planes.
//
// ggml's q8_1 puts 32 bytes behind each pair of scale and sum. Here a column is two planes, all
// bytes and then all scales, so that both are read in whole 16-byte pieces; and the sum is kept
// for each half of a block, exactly, because formats change scale and offset every 16 weights.
#pragma once
#include "formats.h"

namespace llamabuild {

struct ActivationScale {
    float d;         // x = d * q
    int16_t sum[2];  // of q, over 16 activations each
};
static_assert(sizeof(ActivationScale) == 8, "part of the C ABI");

// Bytes of one quantized column; the next column follows at once, aligned to 16 bytes.
DEVICE constexpr size_t quantized_column_bytes(int64_t k) {
    return (static_cast<size_t>(k) + static_cast<size_t>(k) / 32 * sizeof(ActivationScale) + 15) /
           16 * 16;
}

struct Column {
    const uint8_t* q;
    const ActivationScale* scales;

    DEVICE Column(const void* quantized, int64_t k)
        : q(static_cast<const uint8_t*>(quantized)),
          scales(reinterpret_cast<const ActivationScale*>(q + k)) {}
};

// The larger magnitude, as bits: unlike fmaxf this lets a NaN through.
DEVICE uint32_t larger_magnitude(uint32_t bits, float x) {
    const uint32_t other = float_to_bits(x) & 0x7fffffff;
    return bits > other ? bits : other;
}

DEVICE int quantize(float x, float inverse) {
#if LLAMABUILD_DEVICE_CODE
    return __float2int_rn(x * inverse);
#else
    return static_cast<int>(__builtin_rintf(x * inverse));
#endif
}

// One block of 32 activations. The kernel spreads it over eight threads; this is what they compute.
DEVICE void quantize_block(const float* x, int8_t* q, ActivationScale& scale) {
    uint32_t largest = 0;
    for (int i = 0; i < 32; ++i) largest = larger_magnitude(largest, x[i]);
    scale.d = bits_to_float(largest) / 127;
    const float inverse = scale.d != 0 ? 1 / scale.d : 0;
    scale.sum[0] = scale.sum[1] = 0;
    for (int i = 0; i < 32; ++i) {
        q[i] = static_cast<int8_t>(quantize(x[i], inverse));
        scale.sum[i / 16] = static_cast<int16_t>(scale.sum[i / 16] + q[i]);
    }
}

// The 32 activations that a chunk meets: two groups, each with the scale and sum of its half block.
struct ActivationChunk {
    uint32_t q[8];
    float d[2];
    int sum[2];

    template <class F>
    DEVICE static ActivationChunk at(const Column& column, int k) {
        ActivationChunk x;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            const int start = k + group * F::step;
            uint32_t words[4];
            load<16>(words, column.q + start);
            UNROLL
            for (int i = 0; i < 4; ++i) x.q[4 * group + i] = words[i];
            const ActivationScale s = column.scales[start / 32];
            x.d[group] = s.d;
            x.sum[group] = start / 16 % 2 ? s.sum[1] : s.sum[0];
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
        float r = w.scale[0] * static_cast<float>(sum[0] + sum[1]);
        if constexpr (F::has_offset) r += w.offset[0] * static_cast<float>(x.sum[0] + x.sum[1]);
        return x.d[0] * r;
    } else {
        float r = 0;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            float g = w.scale[group] * static_cast<float>(sum[group]);
            if constexpr (F::has_offset) g += w.offset[group] * static_cast<float>(x.sum[group]);
            r += x.d[group] * g;
        }
        return r;
    }
}

}  // namespace llamabuild
