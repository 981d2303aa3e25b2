// What a thread of stream.h multiplies: 64 weights of a row, two neighbouring chunks, or 32 weights
// that are 16-bit floats.
//
// Its activations stay in registers while rows come and go, so what can be done once to activations
// is not done to each row's weights. Products of bytes are linear: a field of bits need not be moved
// to the end of its byte before it is multiplied. It counts 2^n times where it is, which the
// activations' scale makes up for. Such bytes are unsigned.
#pragma once
#include "activations.h"

namespace llamabuild {

// Any format, as its chunks.
template <Type type>
struct ChunkPair {
    using F = Format<type>;
    static constexpr int weights = 64, table_words = F::table_words;
    static constexpr bool floats = false;  // activations are quantized
    // On a multiprocessor. Where the arithmetic takes longer than the memory, the next product's
    // block had better begin early than have all of the shared memory.
    static constexpr int blocks_at_once = F::quick ? 1 : 2;
    ActivationChunk x[2];
    int j;   // the first chunk's place in its block
    int at;  // that block's in a row, in bytes

    // The place of one of a row's threads. Beyond k activations are zeros.
    DEVICE ChunkPair(const ActivationBlock* column, int k, int thread)
        : x{}, j(F::weights > 64 ? 2 * (thread % (F::weights / 64)) : 0), at(0) {
        if (thread >= k / 64) return;
        at = 2 * thread / (F::weights / 32) * F::bytes;
        const auto* const part = reinterpret_cast<const uint8_t*>(column + thread / 4 * 8);
        UNROLL
        for (int i = 0; i < 2; ++i) x[i] = ActivationChunk::at<F>(part, thread % 4 * 2 + i);
    }

    // The product with a row's weights.
    DEVICE float times(const uint8_t* row, const uint32_t* grid) const {
        constexpr int blocks = 64 / F::weights;  // or 0: part of one
        const uint8_t* const block = row + at;
        float sum = 0;
        if constexpr (blocks * F::bytes != 0 && blocks * F::bytes % 4 == 0) {
            uint32_t words[blocks * F::bytes / 4 + 1];  // no block straddles them
            load_words(words, block);
            UNROLL
            for (int i = 0; i < 2; ++i) {
                const RegisterBytes bytes{words, blocks == 2 ? i * F::bytes : 0};
                sum += dot<F>(F::chunk(bytes, i, grid), x[i]);
            }
        } else {
            UNROLL
            for (int i = 0; i < 2; ++i)
                sum += dot<F>(F::chunk(block + (blocks == 2 ? i * F::bytes : 0), j + i, grid), x[i]);
        }
        return sum;
    }

    // All words but one, which is for RegisterBytes.
    template <int Count>
    DEVICE static void load_words(uint32_t (&words)[Count], const uint8_t* block) {
        UNROLL
        for (int i = 0; i < Count - 1; ++i)
            words[i] = reinterpret_cast<const uint32_t*>(block)[i];
        words[Count - 1] = 0;
    }
};

template <Type type>
struct Pair : ChunkPair<type> {
    using ChunkPair<type>::ChunkPair;
};

// Four words of weights, of which `mask` is taken, times four of activations.
DEVICE int dot_fields(const uint32_t* w, uint32_t mask, const uint32_t* x, int sum = 0) {
    UNROLL
    for (int i = 0; i < 4; ++i) sum = dot4_unsigned(w[i] & mask, x[i], sum);
    return sum;
}

// One of four bytes as a float. (To convert it takes the processor four times as long.)
DEVICE float byte_as_float(uint32_t bytes, int i) {
    return bits_to_float(permute(bytes, 0x4b000000, 0x7440 + i)) - 8388608;
}

// 2^-exponent.
DEVICE float fraction(int exponent) {
    return bits_to_float(static_cast<uint32_t>(127 - exponent) << 23);
}

// Two blocks of a scale, perhaps an offset, and nibbles.
template <Type type>
struct NibblePair : ChunkPair<type> {
    using F = Format<type>;
    using ChunkPair<type>::at;
    using ChunkPair<type>::x;
    float d[2], sum[2];

    DEVICE NibblePair(const ActivationBlock* column, int k, int thread)
        : ChunkPair<type>(column, k, thread) {
        UNROLL
        for (int i = 0; i < 2; ++i) {
            d[i] = x[i].d[0] / 16;
            sum[i] = (x[i].sum[0] + x[i].sum[1]) * (F::bias != 0 ? -F::bias : 1);
        }
    }
    DEVICE float times(const uint8_t* row, const uint32_t*) const {
        uint32_t words[F::bytes / 2 + 1];
        this->load_words(words, row + at);
        float result = 0;
        UNROLL
        for (int i = 0; i < 2; ++i) {
            const RegisterBytes block{words, i * F::bytes};
            uint32_t nibbles[4];
            load<2>(nibbles, block + (F::bytes - 16));
            const int low = dot_fields(nibbles, 0x0f0f0f0f, x[i].q);
            const int high = dot_fields(nibbles, 0xf0f0f0f0, x[i].q + 4);
            const float product = d[i] * static_cast<float>(16 * low + high);
            if constexpr (F::bias != 0) {
                result += half_at(block) * (product + sum[i]);
            } else {
                result += half_at(block) * product;
                result += half_at(block + 2) * sum[i];
            }
        }
        return result;
    }
};

template <>
struct Pair<Type::q4_0> : NibblePair<Type::q4_0> {
    using NibblePair::NibblePair;
};
template <>
struct Pair<Type::q4_1> : NibblePair<Type::q4_1> {
    using NibblePair::NibblePair;
};

// A quarter of a super-block, where both chunks take half of the same two blocks of activations.
template <Type type>
struct QuarterPair : ChunkPair<type> {
    float d[2];  // for both groups, of fields that are `first` and `second` times too large

    DEVICE QuarterPair(const ActivationBlock* column, int k, int thread, float first, float second)
        : ChunkPair<type>(column, k, thread),
          d{this->x[0].d[0] / first, this->x[0].d[1] / second} {}
};

// With 6-bit scales and offsets for 32 weights.
template <Type type>
struct ScaledPair : QuarterPair<type> {
    using QuarterPair<type>::at;
    using QuarterPair<type>::d;
    using QuarterPair<type>::j;
    using QuarterPair<type>::x;
    static constexpr bool fifth = type == Type::q5_K;
    float sum[2];
    // Which of the twelve bytes hold this thread's scales and offsets, and which of their bits: those
    // of the first four groups are whole, the others have their low bits in the third word.
    uint32_t which, whole, low, high;

    DEVICE ScaledPair(const ActivationBlock* column, int k, int thread)
        : QuarterPair<type>(column, k, thread, fifth ? 4 : 1, 16),
          sum{x[0].sum[0] + x[1].sum[0], x[0].sum[1] + x[1].sum[1]},
          which(j / 2 % 2 ? 0x7632 : 0x5410),
          whole(j < 4 ? 0x3f3f3f3f : 0),
          low(j < 4 ? 0 : 0x0f0f0f0f),
          high(j < 4 ? 0 : 0x30303030) {}
    DEVICE float times(const uint8_t* row, const uint32_t*) const {
        const uint8_t* const block = row + at;
        uint32_t head[4], nibbles[8], bits[8];
        load<16>(head, block);
        if constexpr (fifth) load<16>(bits, block + 16);
        load<16>(nibbles, block + (fifth ? 48 : 16) + 16 * j);
        const uint32_t both = permute(head[1], head[2], which);
        const uint32_t third = permute(head[3], head[3] >> 4, which);
        // Two scales, two offsets.
        const uint32_t numbers = (both & whole) | (third & low) | (both >> 2 & high);
        float scaled = 0, offset = 0;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            int total = 0, more = 0;
            UNROLL
            for (int i = 0; i < 2; ++i) {
                const uint32_t* const q = x[i].q + 4 * group;
                total = dot_fields(nibbles + 4 * i, group ? 0xf0f0f0f0 : 0x0f0f0f0f, q, total);
                if constexpr (fifth)
                    more = dot_fields(bits + 4 * i, 0x01010101u << (j + group), q, more);
            }
            // It counts 2^(j + group) times, and should 64 or, beside upper nibbles, 256 times.
            if constexpr (fifth)
                total = group ? total + more * (128 >> j) : 4 * total + more * (64 >> j);
            total *= static_cast<int>(numbers >> (8 * group) & 255);
            scaled += d[group] * static_cast<float>(total);
            offset += byte_as_float(numbers, 2 + group) * sum[group];
        }
        return half_to_float(head[0] & 0xffff) * scaled - half_to_float(head[0] >> 16) * offset;
    }
};

template <>
struct Pair<Type::q4_K> : ScaledPair<Type::q4_K> {
    using ScaledPair::ScaledPair;
};
template <>
struct Pair<Type::q5_K> : ScaledPair<Type::q5_K> {
    using ScaledPair::ScaledPair;
};

template <>
struct Pair<Type::q2_K> : QuarterPair<Type::q2_K> {
    DEVICE Pair(const ActivationBlock* column, int k, int thread)
        : QuarterPair(column, k, thread, 1, 4) {}
    DEVICE float times(const uint8_t* row, const uint32_t*) const {
        const uint8_t* const block = row + at;
        const int shift = j % 4 * 2;
        uint32_t pairs[8], numbers[1];
        load<4>(pairs, block + 16 + 32 * (j / 4));
        load<4>(numbers, block + 2 * j);
        const uint32_t scales = numbers[0] & 0x0f0f0f0f, offsets = numbers[0] >> 4 & 0x0f0f0f0f;
        float scaled = 0, offset = 0;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            int total = 0;
            UNROLL
            for (int i = 0; i < 2; ++i) {
                const uint32_t mask = (group ? 0x0c0c0c0cu : 0x03030303u) << shift;
                const int sum = dot_fields(pairs + 4 * i, mask, x[i].q + 4 * group);
                total += sum * static_cast<int>(scales >> (8 * (2 * group + i)) & 255);
                offset += byte_as_float(offsets, 2 * group + i) * x[i].sum[group];
            }
            scaled += d[group] * static_cast<float>(total);
        }
        return half_at(block + 80) * fraction(shift) * scaled - half_at(block + 82) * offset;
    }
};

template <>
struct Pair<Type::q6_K> : QuarterPair<Type::q6_K> {
    int begin[2][2];  // of a sum: 32 times the activations are to be taken from it

    DEVICE Pair(const ActivationBlock* column, int k, int thread)
        : QuarterPair(column, k, thread, 1, 16) {
        constexpr uint32_t ones[] = {0x01010101, 0x01010101, 0x01010101, 0x01010101};
        UNROLL
        for (int group = 0; group < 2; ++group) {
            UNROLL
            for (int i = 0; i < 2; ++i)
                begin[group][i] =
                    (group ? -32 * 16 : -32) * dot_fields(ones, ~0u, x[i].q + 4 * group);
        }
    }
    DEVICE float times(const uint8_t* row, const uint32_t*) const {
        const uint8_t* const block = row + at;
        const int bit = j % 4;
        uint32_t nibbles[8], upper[8];
        load<2>(nibbles, block + 16 * j);
        load<2>(upper, block + 128 + 32 * (j / 4));
        const uint8_t* const scales = block + 192 + 8 * (j / 4) + j % 4;
        float result = 0;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            const uint32_t both = load16(scales + 4 * group);
            int total = 0;
            UNROLL
            for (int i = 0; i < 2; ++i) {
                const uint32_t* const q = x[i].q + 4 * group;
                const uint32_t nibble = group ? 0xf0f0f0f0 : 0x0f0f0f0f;
                const uint32_t field = (group ? 0x30303030u : 0x03030303u) << bit;
                const int sum = dot_fields(nibbles + 4 * i, nibble, q, begin[group][i]);
                const int more = dot_fields(upper + 4 * i, field, q);
                const auto scale = static_cast<int8_t>(both >> (8 * i));
                total += (sum + more * (16 >> bit)) * scale;
            }
            result += d[group] * static_cast<float>(total);
        }
        return half_at(block + 208) * result;
    }
};

// 16-bit floats. A thread's are not neighbours but four pieces of eight, each behind another thread's.
template <Type type>
struct FloatPair {
    static constexpr int weights = 32, table_words = 0;
    static constexpr bool floats = true;
    static constexpr int blocks_at_once = 1;
    float x[32];
    int at[4];

    // `column` is aligned to 16 bytes, or not; `threads` take the row.
    DEVICE FloatPair(const float* column, int k, int thread, int threads) {
        const bool aligned = reinterpret_cast<uintptr_t>(column) % 16 == 0;
        UNROLL
        for (int piece = 0; piece < 4; ++piece) {
            const int first = 8 * (thread + piece * threads);
            const bool inside = first < k;
            at[piece] = inside ? 2 * first : 0;
            const float* const from = column + (inside ? first : 0);
            uint32_t bits[8];
            if (aligned) {
                load<16>(bits, reinterpret_cast<const uint8_t*>(from));
            } else {
                load<4>(bits, reinterpret_cast<const uint8_t*>(from));
            }
            UNROLL
            for (int i = 0; i < 8; ++i) x[8 * piece + i] = inside ? bits_to_float(bits[i]) : 0;
        }
    }
    DEVICE float times(const uint8_t* row, const uint32_t*) const {
        float sum = 0;
        UNROLL
        for (int piece = 0; piece < 4; ++piece) {
            uint32_t words[4];
            load<16>(words, row + at[piece]);
            UNROLL
            for (int i = 0; i < 4; ++i) {
                sum += to_float<type>(words[i] & 0xffff) * x[8 * piece + 2 * i];
                sum += to_float<type>(words[i] >> 16) * x[8 * piece + 2 * i + 1];
            }
        }
        return sum;
    }
};

template <>
struct Pair<Type::f16> : FloatPair<Type::f16> {
    using FloatPair::FloatPair;
};
template <>
struct Pair<Type::bf16> : FloatPair<Type::bf16> {
    using FloatPair::FloatPair;
};

}  // namespace llamabuild
