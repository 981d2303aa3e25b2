/* Four of ggml's quantized formats: random blocks, and what they mean, in double precision.
 *
 * Written from the formats' layout in memory, not from ggml's own conversions: the reference must
 * not share a mistake with the module under test. Little-endian machines only, like the formats.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct quant {
    const char *name;
    int values; /* in one block */
    int bytes;  /* of one block */
    /* Where the block keeps its half-precision factors (-1: no second one). */
    int factor_at[2];
    /* The factors' exponent, so that values stay near one whatever the integers are. */
    int exponent;
    void (*dequantize)(const uint8_t *block, double *values);
};

enum { Q4_0, Q8_0, Q4_K, Q6_K, QUANTS };
extern const struct quant quants[QUANTS];

double half_to_double(uint16_t half);

/* Uniform in -1 .. 1; the same numbers on every run. */
double random_number(uint64_t *state);

/* Random integers with sane factors: no infinity, nothing that overflows half precision. */
void random_blocks(const struct quant *quant, size_t blocks, uint64_t *state, uint8_t *out);

/* Convert whole blocks. ``name`` is looked up, for callers that are not C; 0 when known. */
int dequantize(const char *name, const uint8_t *blocks, size_t count, double *values);
