#include "quants.h"

#include <math.h>
#include <string.h>

static double half_at(const uint8_t *bytes) {
    return half_to_double((uint16_t)(bytes[0] | bytes[1] << 8));
}

double half_to_double(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                 : ldexp(fraction, -24);
    return half >> 15 ? -size : size;
}

/* A factor, then 16 bytes: the low nibbles are the first 16 values, the high ones the others. */
static void q4_0(const uint8_t *block, double *values) {
    double factor = half_at(block);
    const uint8_t *nibbles = block + 2;
    for (int i = 0; i < 16; ++i) {
        values[i] = factor * ((nibbles[i] & 15) - 8);
        values[i + 16] = factor * ((nibbles[i] >> 4) - 8);
    }
}

/* A factor, then 32 signed bytes. */
static void q8_0(const uint8_t *block, double *values) {
    double factor = half_at(block);
    for (int i = 0; i < 32; ++i)
        values[i] = factor * (int8_t)block[2 + i];
}

/* Two factors; 12 bytes with eight 6-bit scales and eight 6-bit offsets; 128 bytes of nibbles.
 * The first four scales and offsets fill the low six bits of bytes 0..3 and 4..7. The last four
 * have their low four bits in bytes 8..11 and their high two in what bytes 0..7 leave free. */
static void q4_k(const uint8_t *block, double *values) {
    double factor = half_at(block), offset_factor = half_at(block + 2);
    const uint8_t *packed = block + 4, *nibbles = block + 16;
    for (int group = 0; group < 8; ++group) {
        int scale, offset;
        if (group < 4) {
            scale = packed[group] & 63;
            offset = packed[group + 4] & 63;
        } else {
            scale = (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
            offset = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
        }
        for (int i = 0; i < 32; ++i) {
            int both = nibbles[group / 2 * 32 + i];
            int integer = group % 2 ? both >> 4 : both & 15;
            values[group * 32 + i] = factor * scale * integer - offset_factor * offset;
        }
    }
}

/* 128 bytes with the low four bits of 256 integers, 64 with the high two, 16 signed scales, one
 * factor. Each half of the block has four runs of 32 values: runs 0 and 1 lie in low nibbles, 2
 * and 3 in high ones; run r has its high bits at 2r. Every 16 values share a scale. */
static void q6_k(const uint8_t *block, double *values) {
    const uint8_t *low_bits = block, *high_bits = block + 128, *scales = block + 192;
    double factor = half_at(block + 208);
    for (int i = 0; i < 256; ++i) {
        int half = i / 128, run = i / 32 % 4, at = i % 32;
        int low = low_bits[half * 64 + run % 2 * 32 + at] >> (run < 2 ? 0 : 4) & 15;
        int high = high_bits[half * 32 + at] >> 2 * run & 3;
        values[i] = factor * (int8_t)scales[i / 16] * ((low | high << 4) - 32);
    }
}

const struct quant quants[QUANTS] = {
    [Q4_0] = {"q4_0", 32, 18, {0, -1}, -4, q4_0},
    [Q8_0] = {"q8_0", 32, 34, {0, -1}, -8, q8_0},
    [Q4_K] = {"q4_K", 256, 144, {0, 2}, -10, q4_k},
    [Q6_K] = {"q6_K", 256, 210, {208, -1}, -13, q6_k},
};

/* SplitMix64: any state gives a good next number. */
static uint64_t random_bits(uint64_t *state) {
    uint64_t bits = *state += 0x9e3779b97f4a7c15;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111eb;
    return bits ^ bits >> 31;
}

double random_number(uint64_t *state) { return ldexp((double)(random_bits(state) >> 11), -52) - 1; }

void random_blocks(const struct quant *quant, size_t blocks, uint64_t *state, uint8_t *out) {
    for (size_t i = 0; i < blocks * (size_t)quant->bytes; ++i)
        out[i] = (uint8_t)random_bits(state);
    for (size_t block = 0; block < blocks; ++block)
        for (int i = 0; i < 2; ++i)
            if (quant->factor_at[i] >= 0) {
                /* Random sign and fraction, the exponent as the table says. */
                uint8_t *high = out + block * (size_t)quant->bytes + quant->factor_at[i] + 1;
                *high = (uint8_t)((*high & 0x83) | (quant->exponent + 15) << 2);
            }
}

int dequantize(const char *name, const uint8_t *blocks, size_t count, double *values) {
    for (int i = 0; i < QUANTS; ++i)
        if (strcmp(name, quants[i].name) == 0) {
            for (size_t block = 0; block < count; ++block)
                quants[i].dequantize(blocks + block * (size_t)quants[i].bytes,
                                     values + block * (size_t)quants[i].values);
            return 0;
        }
    return 1;
}
