// ggml's block formats: how 32 weights come out of a block.
//
// Every quantized format is brought to one shape, the chunk: 32 weights as signed bytes in two
// groups of 16, each group with a scale and an offset:
//
//     weight = scale * q + offset
//
// All products (scalar, DP4A, tensor cores) and the test on the host stand on `Format::chunk`
// alone. A chunk is what a thread gets by reading each byte of the block once, so its two groups
// need not be neighbours in the row: group 0 begins at weight `first(j)` of the block and group 1
// `step` weights later. The layouts are a file format; the `gguf` package has them in Python.
#pragma once
#include "portable.h"
#include "tables.h"

namespace llamabuild {

// Numbered as in ggml: the numbers are part of the file format.
enum class Type : int {
    f16 = 1, q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8, q2_K = 10, q3_K = 11, q4_K = 12,
    q5_K = 13, q6_K = 14, iq2_xxs = 16, iq2_xs = 17, iq3_xxs = 18, iq1_s = 19, iq4_nl = 20,
    iq3_s = 21, iq2_s = 22, iq4_xs = 23, iq1_m = 29, bf16 = 30, tq1_0 = 34, tq2_0 = 35,
    mxfp4 = 39, nvfp4 = 40,
};

#define LLAMABUILD_QUANTIZED_TYPES(X)                                                    \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) X(q2_K) X(q3_K) X(q4_K) X(q5_K) X(q6_K)      \
    X(iq4_nl) X(iq4_xs) X(mxfp4) X(nvfp4) X(iq2_xxs) X(iq2_xs) X(iq2_s) X(iq3_xxs)       \
    X(iq3_s) X(iq1_s) X(iq1_m) X(tq1_0) X(tq2_0)

// The same, divided among the files with the kernels' instances.
#define LLAMABUILD_BASIC_TYPES(X) \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) X(iq4_nl) X(mxfp4) X(nvfp4)
#define LLAMABUILD_K_TYPES(X) \
    X(q2_K) X(q3_K) X(q4_K) X(q5_K) X(q6_K) X(iq4_xs) X(tq1_0) X(tq2_0)
#define LLAMABUILD_IQ_TYPES(X) \
    X(iq2_xxs) X(iq2_xs) X(iq2_s) X(iq3_xxs) X(iq3_s) X(iq1_s) X(iq1_m)

struct Chunk {
    uint32_t q[8];  // words 0 to 3: group 0, words 4 to 7: group 1
    float scale[2];
    float offset[2];

    DEVICE void all(float s, float o = 0) {
        scale[0] = scale[1] = s;
        offset[0] = offset[1] = o;
    }
};

// Where the weights of a chunk are: group 0 begins at weight `first(j)` of a super-block of 256 (or
// of its part, where blocks are smaller), group 1 begins `step` weights later.
struct Linear {
    static constexpr int step = 16;
    DEVICE static constexpr int first(int j) { return 32 * j; }
};

// Neighbouring 32-blocks are in different bits of the same bytes.
struct Interleaved {
    static constexpr int step = 32;
    DEVICE static constexpr int first(int j) { return 64 * (j / 2) + 16 * (j % 2); }
};

// q6_K: the two nibbles of a byte are 64 weights apart.
struct Distant {
    static constexpr int step = 64;
    DEVICE static constexpr int first(int j) { return 128 * (j / 4) + 16 * (j % 4); }
};

// Facts that most formats share; a format overrides what differs.
template <class Places>
struct FormatOf : Places {
    using Layout = Places;
    static constexpr bool uniform = false;     // both groups in one 32-block, with the same numbers
    static constexpr bool has_offset = false;  // there are offsets, and no q is negative
    static constexpr int bias = 0;             // not 0: every offset is -bias * scale
    static constexpr int group = 32;           // neighbours with one scale and offset: 32 or 16
    static constexpr int table_words = 0;      // size of the codebook that `chunk` reads
    static constexpr bool streams = true;      // stream.h is faster than matvec.h, as measured
    static constexpr bool quick = false;       // unpacked as fast as memory delivers
    DEVICE static const uint32_t* table() { return nullptr; }
};
using FormatDefaults = FormatOf<Linear>;
using InterleavedDefaults = FormatOf<Interleaved>;

template <Type>
struct Format;

// `chunk` reads from memory, or, where blocks are short, from registers.
template <class Bytes>
DEVICE float half_at(Bytes p) { return half_to_float(load16(p)); }

// A weight that is a 16-bit float.
template <Type type>
DEVICE float to_float(uint32_t bits) {
    return type == Type::f16 ? half_to_float(bits) : bfloat_to_float(bits);
}

// --- 32 weights a block -------------------------------------------------------------------------

DEVICE void split_nibbles(Chunk& c, const uint32_t (&bytes)[4]) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
        c.q[i] = bytes[i] & 0x0f0f0f0f;
        c.q[4 + i] = bytes[i] >> 4 & 0x0f0f0f0f;
    }
}

// One bit for each of four bytes, as 0 or 1 in the byte.
DEVICE uint32_t spread4(uint32_t bits) { return (bits & 15) * 0x00204081 & 0x01010101; }

// A fifth bit for each of 32 weights.
DEVICE void add_fifth_bits(Chunk& c, uint32_t bits) {
    UNROLL
    for (int i = 0; i < 8; ++i) c.q[i] |= spread4(bits >> (4 * i)) << 4;
}

template <>
struct Format<Type::q4_0> : FormatDefaults {
    static constexpr int weights = 32, bytes = 18;
    static constexpr int bias = 8;
    static constexpr bool uniform = true, has_offset = true;
    static constexpr bool quick = true;
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4];
        load<2>(nibbles, block + 2);
        split_nibbles(c, nibbles);
        const float d = half_at(block);
        c.all(d, -8 * d);
        return c;
    }
};

template <>
struct Format<Type::q4_1> : FormatDefaults {
    static constexpr int weights = 32, bytes = 20;
    static constexpr bool uniform = true, has_offset = true;
    static constexpr bool quick = true;
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4];
        load<4>(nibbles, block + 4);
        split_nibbles(c, nibbles);
        c.all(half_at(block), half_at(block + 2));
        return c;
    }
};

template <>
struct Format<Type::q5_0> : FormatDefaults {
    static constexpr int weights = 32, bytes = 22;
    static constexpr int bias = 16;
    static constexpr bool uniform = true, has_offset = true;
    static constexpr bool quick = true;
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4], fifth[1];
        load<2>(fifth, block + 2);
        load<2>(nibbles, block + 6);
        split_nibbles(c, nibbles);
        add_fifth_bits(c, fifth[0]);
        const float d = half_at(block);
        c.all(d, -16 * d);
        return c;
    }
};

template <>
struct Format<Type::q5_1> : FormatDefaults {
    static constexpr int weights = 32, bytes = 24;
    static constexpr bool uniform = true, has_offset = true;
    static constexpr bool quick = true;
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4], fifth[1];
        load<4>(fifth, block + 4);
        load<8>(nibbles, block + 8);
        split_nibbles(c, nibbles);
        add_fifth_bits(c, fifth[0]);
        c.all(half_at(block), half_at(block + 2));
        return c;
    }
};

template <>
struct Format<Type::q8_0> : FormatDefaults {
    static constexpr int weights = 32, bytes = 34;
    static constexpr bool uniform = true;
    static constexpr bool quick = true;
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int, const uint32_t*) {
        Chunk c;
        load<2>(c.q, block + 2);
        c.all(half_at(block));
        return c;
    }
};

template <class Codebook>
DEVICE void look_up_nibbles(Chunk& c, const uint32_t (&bytes)[4]) {
    UNROLL
    for (int i = 0; i < 4; ++i) lookup<Codebook>(bytes[i], c.q[i], c.q[4 + i]);
}

template <>
struct Format<Type::iq4_nl> : FormatDefaults {
    static constexpr int weights = 32, bytes = 18;
    static constexpr bool uniform = true;
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4];
        load<2>(nibbles, block + 2);
        look_up_nibbles<Codebook_iq4_nl>(c, nibbles);
        c.all(half_at(block));
        return c;
    }
};

template <>
struct Format<Type::mxfp4> : FormatDefaults {
    static constexpr int weights = 32, bytes = 17;
    static constexpr bool uniform = true;
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4];
        load<1>(nibbles, block + 1);
        look_up_nibbles<Codebook_mxfp4>(c, nibbles);
        // An exponent alone, halved because the codebook is doubled; 0 and 1 are subnormal.
        const uint32_t e = block[0];
        c.all(bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23));
        return c;
    }
};

// --- 64 weights a block -------------------------------------------------------------------------

template <>
struct Format<Type::nvfp4> : FormatDefaults {
    static constexpr int weights = 64, bytes = 36;
    static constexpr int group = 16;
    // An unsigned 8-bit float (4 bits of exponent, 3 of mantissa), halved as above: these bits of a
    // 16-bit float mean 256 times less.
    DEVICE static float scale(uint32_t bits) {
        return bits == 0x7f ? 0 : half_to_float((bits & 0x7f) << 7) * 128;
    }
    template <class Bytes>
    DEVICE static Chunk chunk(Bytes block, int j, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4];
        load<4>(nibbles, block + 4 + 16 * j);
        UNROLL
        for (int group = 0; group < 2; ++group) {
            uint32_t* q = c.q + 4 * group;
            lookup<Codebook_mxfp4>(nibbles[2 * group], q[0], q[2]);
            lookup<Codebook_mxfp4>(nibbles[2 * group + 1], q[1], q[3]);
            c.scale[group] = scale(block[2 * j + group]);
            c.offset[group] = 0;
        }
        return c;
    }
};

// --- 256 weights a block: linear ----------------------------------------------------------------

// Bits 2 * shift and 2 * shift + 2 of 16 bytes, as two groups.
DEVICE void split_pairs(Chunk& c, const uint32_t (&bytes)[4], int shift) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
        c.q[i] = bytes[i] >> shift & 0x03030303;
        c.q[4 + i] = bytes[i] >> (shift + 2) & 0x03030303;
    }
}

template <>
struct Format<Type::q2_K> : InterleavedDefaults {
    static constexpr int weights = 256, bytes = 84;
    static constexpr int group = 16;
    static constexpr bool has_offset = true;
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        uint32_t pairs[4];
        load<4>(pairs, block + 16 + 32 * (j / 4) + 16 * (j % 2));
        split_pairs(c, pairs, 4 * (j / 2 % 2));
        const float d = half_at(block + 80), offset = half_at(block + 82);
        UNROLL
        for (int group = 0; group < 2; ++group) {
            const uint32_t s = block[first(j) / 16 + 2 * group];
            c.scale[group] = d * static_cast<float>(s & 15);
            c.offset[group] = -offset * static_cast<float>(s >> 4);
        }
        return c;
    }
};

template <>
struct Format<Type::q3_K> : InterleavedDefaults {
    static constexpr int weights = 256, bytes = 110;
    static constexpr int group = 16, bias = 4;
    static constexpr bool has_offset = true, streams = false;
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        uint32_t pairs[4], third[4];
        load<2>(third, block + 16 * (j % 2));
        load<2>(pairs, block + 32 + 32 * (j / 4) + 16 * (j % 2));
        split_pairs(c, pairs, 4 * (j / 2 % 2));
        const int bit = 2 * (j / 2);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            c.q[i] |= (third[i] >> bit & 0x01010101) << 2;
            c.q[4 + i] |= (third[i] >> (bit + 1) & 0x01010101) << 2;
        }
        const float d = half_at(block + 108);
        const uint8_t* scales = block + 96;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            const int s = first(j) / 16 + 2 * group;
            const uint32_t low = scales[s % 8] >> (4 * (s / 8)) & 15;
            const uint32_t high = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
            c.scale[group] = d * static_cast<float>(static_cast<int>(low | high << 4) - 32);
            c.offset[group] = -4 * c.scale[group];
        }
        return c;
    }
};

// The head of a q4_K or q5_K block: two halves, then twelve bytes with eight 6-bit scales and eight
// 6-bit offsets. A chunk needs those of two neighbours: two bytes of each of the three words.
DEVICE void k_scales(Chunk& c, const uint8_t* block, int j) {
    uint32_t head[4];
    load<16>(head, block);
    const int shift = 16 * (j / 2 % 2);
    const uint32_t a = head[1] >> shift, b = head[2] >> shift, low = head[3] >> shift;
    const bool upper = j >= 4;
    const uint32_t scales = upper ? (low & 0x0f0f) | (a >> 2 & 0x3030) : a & 0x3f3f;
    const uint32_t offsets = upper ? (low >> 4 & 0x0f0f) | (b >> 2 & 0x3030) : b & 0x3f3f;
    const float d = half_to_float(head[0] & 0xffff), o = -half_to_float(head[0] >> 16);
    UNROLL
    for (int group = 0; group < 2; ++group) {
        c.scale[group] = d * static_cast<float>(scales >> (8 * group) & 255);
        c.offset[group] = o * static_cast<float>(offsets >> (8 * group) & 255);
    }
}

template <>
struct Format<Type::q4_K> : InterleavedDefaults {
    static constexpr int weights = 256, bytes = 144;
    static constexpr bool has_offset = true;
    static constexpr bool quick = true;
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4];
        load<16>(nibbles, block + 16 + 16 * j);
        split_nibbles(c, nibbles);
        k_scales(c, block, j);
        return c;
    }
};

template <>
struct Format<Type::q5_K> : InterleavedDefaults {
    static constexpr int weights = 256, bytes = 176;
    static constexpr bool has_offset = true;
    static constexpr bool quick = true;
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4], fifth[4];
        load<16>(fifth, block + 16 + 16 * (j % 2));
        load<16>(nibbles, block + 48 + 16 * j);
        split_nibbles(c, nibbles);
        const int bit = 2 * (j / 2);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            c.q[i] |= (fifth[i] >> bit & 0x01010101) << 4;
            c.q[4 + i] |= (fifth[i] >> (bit + 1) & 0x01010101) << 4;
        }
        k_scales(c, block, j);
        return c;
    }
};

template <>
struct Format<Type::q6_K> : FormatOf<Distant> {
    static constexpr int weights = 256, bytes = 210;
    static constexpr int group = 16, bias = 32;
    static constexpr bool has_offset = true;
    static constexpr bool quick = true;
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4], upper[4];
        load<2>(nibbles, block + 16 * j);
        load<2>(upper, block + 128 + 32 * (j / 4) + 16 * (j % 2));
        split_nibbles(c, nibbles);
        const int bit = 2 * (j / 2 % 2);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            c.q[i] |= (upper[i] >> bit & 0x03030303) << 4;
            c.q[4 + i] |= (upper[i] >> (bit + 4) & 0x03030303) << 4;
        }
        const float d = half_at(block + 208);
        UNROLL
        for (int group = 0; group < 2; ++group) {
            const auto s = static_cast<int8_t>(block[192 + first(j) / 16 + 4 * group]);
            c.scale[group] = d * static_cast<float>(s);
            c.offset[group] = -32 * c.scale[group];
        }
        return c;
    }
};

template <>
struct Format<Type::iq4_xs> : FormatDefaults {
    static constexpr int weights = 256, bytes = 136;
    static constexpr bool uniform = true;
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        uint32_t nibbles[4];
        load<8>(nibbles, block + 8 + 16 * j);
        look_up_nibbles<Codebook_iq4_nl>(c, nibbles);
        const uint32_t low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
        const uint32_t high = load16(block + 2) >> (2 * j) & 3;
        c.all(half_at(block) * static_cast<float>(static_cast<int>(low | high << 4) - 32));
        return c;
    }
};

// Ternary, five to a byte: the byte is a fraction, and multiplying by 3 brings out a digit.
DEVICE uint32_t digits(uint32_t bytes, uint32_t power) {
    const uint32_t even = (bytes & 0x00ff00ff) * power & 0x00ff00ff;
    const uint32_t odd = (bytes >> 8 & 0x00ff00ff) * power & 0x00ff00ff;
    return (even * 3 >> 8 & 0x00ff00ff) | (odd * 3 & 0xff00ff00);
}

template <>
struct Format<Type::tq1_0> : FormatDefaults {
    static constexpr int weights = 256, bytes = 54;
    static constexpr int bias = 1;
    static constexpr bool uniform = true, has_offset = true;
    DEVICE static uint32_t power(int exponent) {
        return static_cast<uint32_t>(0x511b090301ull >> (8 * exponent) & 255);  // 1 3 9 27 81
    }
    // Group 0 to 9: 32 bytes, five times; 10 to 14: 16 bytes, five times; 15: 4 bytes, four times.
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        UNROLL
        for (int group = 0; group < 2; ++group) {
            const int g = 2 * j + group;
            uint32_t packed[4];
            load<2>(packed, block + (g == 15 ? 48 : g >= 10 ? 32 : 16 * group));
            UNROLL
            for (int i = 0; i < 4; ++i) {
                const int exponent = g == 15 ? i : g >= 10 ? g - 10 : j;
                c.q[4 * group + i] = digits(g == 15 ? packed[0] : packed[i], power(exponent));
            }
        }
        const float d = half_at(block + 52);
        c.all(d, -d);
        return c;
    }
};

template <>
struct Format<Type::tq2_0> : InterleavedDefaults {
    static constexpr int weights = 256, bytes = 66;
    static constexpr int bias = 1;
    static constexpr bool has_offset = true;
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t*) {
        Chunk c;
        uint32_t pairs[4];
        load<2>(pairs, block + 32 * (j / 4) + 16 * (j % 2));
        split_pairs(c, pairs, 4 * (j / 2 % 2));
        const float d = half_at(block + 64);
        c.all(d, -d);
        return c;
    }
};

// --- 256 weights a block: codebooks of magnitudes and separate signs ----------------------------

// Negates the bytes whose bit is set. No byte of a codebook is 0, so no carry leaves a byte.
DEVICE uint32_t negate(uint32_t bytes, uint32_t bits) {
    const uint32_t ones = spread4(bits);
    return (bytes ^ ((ones << 8) - ones)) + ones;
}

// Seven sign bits; the eighth makes their number even.
DEVICE uint32_t even_signs(uint32_t bits) {
    bits &= 127;
    return bits | parity(bits) << 7;
}

// Eight magnitudes of a codebook with their signs.
DEVICE void put_eight(uint32_t* q, const uint32_t* entry, uint32_t signs) {
    uint32_t magnitudes[2];
    load<8>(magnitudes, reinterpret_cast<const uint8_t*>(entry));
    q[0] = negate(magnitudes[0], signs);
    q[1] = negate(magnitudes[1], signs >> 4);
}

template <>
struct Format<Type::iq2_xxs> : FormatDefaults {
    static constexpr int weights = 256, bytes = 66;
    static constexpr bool uniform = true;
    static constexpr int table_words = 512;
    DEVICE static const uint32_t* table() { return grid_iq2_xxs; }
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t* grid) {
        Chunk c;
        uint32_t packed[2];
        load<2>(packed, block + 2 + 8 * j);
        UNROLL
        for (int i = 0; i < 4; ++i)
            put_eight(c.q + 2 * i, grid + 2 * (packed[0] >> (8 * i) & 255),
                      even_signs(packed[1] >> (7 * i)));
        c.all(half_at(block) * (0.5f + static_cast<float>(packed[1] >> 28)) * 0.25f);
        return c;
    }
};

// A 4-bit scale for each group.
DEVICE void nibble_scales(Chunk& c, float d, uint32_t nibbles) {
    UNROLL
    for (int group = 0; group < 2; ++group) {
        c.scale[group] = d * (0.5f + static_cast<float>(nibbles >> (4 * group) & 15)) * 0.25f;
        c.offset[group] = 0;
    }
}

template <>
struct Format<Type::iq2_xs> : FormatDefaults {
    static constexpr int weights = 256, bytes = 74;
    static constexpr int group = 16;
    static constexpr int table_words = 1024;
    DEVICE static const uint32_t* table() { return grid_iq2_xs; }
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t* grid) {
        Chunk c;
        uint32_t packed[2];
        load<2>(packed, block + 2 + 8 * j);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint32_t code = packed[i / 2] >> (16 * (i % 2)) & 0xffff;
            put_eight(c.q + 2 * i, grid + 2 * (code & 511), even_signs(code >> 9));
        }
        nibble_scales(c, half_at(block), block[66 + j]);
        return c;
    }
};

template <>
struct Format<Type::iq2_s> : FormatDefaults {
    static constexpr int weights = 256, bytes = 82;
    static constexpr int group = 16;
    static constexpr int table_words = 2048;
    DEVICE static const uint32_t* table() { return grid_iq2_s; }
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t* grid) {
        Chunk c;
        uint32_t low[1], signs[1];
        load<2>(low, block + 2 + 4 * j);
        load<2>(signs, block + 34 + 4 * j);
        const uint32_t high = block[66 + j];
        UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint32_t code = (low[0] >> (8 * i) & 255) | (high >> (2 * i) & 3) << 8;
            put_eight(c.q + 2 * i, grid + 2 * code, signs[0] >> (8 * i));
        }
        nibble_scales(c, half_at(block), block[74 + j]);
        return c;
    }
};

template <>
struct Format<Type::iq3_xxs> : FormatDefaults {
    static constexpr int weights = 256, bytes = 98;
    static constexpr bool uniform = true;
    static constexpr int table_words = 256;
    DEVICE static const uint32_t* table() { return grid_iq3_xxs; }
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t* grid) {
        Chunk c;
        uint32_t codes[2], packed[1];
        load<2>(codes, block + 2 + 8 * j);
        load<2>(packed, block + 66 + 4 * j);
        UNROLL
        for (int i = 0; i < 8; ++i) {
            const uint32_t signs = even_signs(packed[0] >> (7 * (i / 2)));
            c.q[i] = negate(grid[codes[i / 4] >> (8 * (i % 4)) & 255], signs >> (4 * (i % 2)));
        }
        c.all(half_at(block) * (0.5f + static_cast<float>(packed[0] >> 28)) * 0.5f);
        return c;
    }
};

template <>
struct Format<Type::iq3_s> : FormatDefaults {
    static constexpr int weights = 256, bytes = 110;
    static constexpr bool uniform = true;
    static constexpr int table_words = 512;
    DEVICE static const uint32_t* table() { return grid_iq3_s; }
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t* grid) {
        Chunk c;
        uint32_t low[2], signs[1];
        load<2>(low, block + 2 + 8 * j);
        load<2>(signs, block + 74 + 4 * j);
        const uint32_t high = block[66 + j];
        UNROLL
        for (int i = 0; i < 8; ++i) {
            const uint32_t code = (low[i / 4] >> (8 * (i % 4)) & 255) | (high >> i & 1) << 8;
            c.q[i] = negate(grid[code], signs[0] >> (4 * i));
        }
        const uint32_t s = block[106 + j / 2] >> (4 * (j % 2)) & 15;
        c.all(half_at(block) * static_cast<float>(1 + 2 * s));
        return c;
    }
};

// --- 256 weights a block: codebooks of -1, 0, 1, shifted by an eighth up or down ----------------

// The codebook holds 8 * (value + 1), so `8 * value + 1 or - 1` is the entry plus 2 or 0, less 9.
// The entry's lowest three bits are free: the addition is an OR.
DEVICE void put_eight_shifted(uint32_t* q, const uint32_t* entry, bool down) {
    const uint32_t shift = down ? 0 : 0x02020202;
    uint32_t values[2];
    load<8>(values, reinterpret_cast<const uint8_t*>(entry));
    q[0] = values[0] | shift;
    q[1] = values[1] | shift;
}

template <>
struct Format<Type::iq1_s> : FormatDefaults {
    static constexpr int weights = 256, bytes = 50;
    static constexpr int bias = 9;
    static constexpr bool uniform = true, has_offset = true;
    static constexpr int table_words = 4096;
    DEVICE static const uint32_t* table() { return grid_iq1; }
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t* grid) {
        Chunk c;
        uint32_t low[1];
        load<2>(low, block + 2 + 4 * j);
        const uint32_t high = load16(block + 34 + 2 * j);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint32_t code = (low[0] >> (8 * i) & 255) | (high >> (3 * i) & 7) << 8;
            put_eight_shifted(c.q + 2 * i, grid + 2 * code, high >> 15);
        }
        const float scale = half_at(block) * static_cast<float>(2 * (high >> 12 & 7) + 1) * 0.125f;
        c.all(scale, -9 * scale);
        return c;
    }
};

template <>
struct Format<Type::iq1_m> : FormatDefaults {
    static constexpr int weights = 256, bytes = 56;
    static constexpr int group = 16, bias = 9;
    static constexpr bool has_offset = true;
    static constexpr int table_words = 4096;
    DEVICE static const uint32_t* table() { return grid_iq1; }
    DEVICE static Chunk chunk(const uint8_t* block, int j, const uint32_t* grid) {
        Chunk c;
        uint32_t low[1], scales[2];
        load<4>(low, block + 4 * j);
        load<8>(scales, block + 48);
        const uint32_t high = load16(block + 32 + 2 * j);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint32_t upper = high >> (4 * i);
            const uint32_t code = (low[0] >> (8 * i) & 255) | (upper & 7) << 8;
            put_eight_shifted(c.q + 2 * i, grid + 2 * code, upper & 8);
        }
        // The super-block's scale is spread over the highest nibbles of the four scale words.
        const float d = half_to_float((scales[0] >> 12 & 0x000f) | (scales[0] >> 24 & 0x00f0) |
                                      (scales[1] >> 4 & 0x0f00) | (scales[1] >> 16 & 0xf000));
        const uint32_t mine = (j < 4 ? scales[0] : scales[1]) >> (16 * (j / 2 % 2) + 6 * (j % 2));
        UNROLL
        for (int group = 0; group < 2; ++group) {
            c.scale[group] = d * static_cast<float>(2 * (mine >> (3 * group) & 7) + 1) * 0.125f;
            c.offset[group] = -9 * c.scale[group];
        }
        return c;
    }
};

}  // namespace llamabuild
