/* What the stand-in hosts share: loading a module, multiplying with it, judging the products. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quants.h"

/* How a host ends. Anything a module does to the process itself (a signal) is seen by its parent. */
enum {
    ALL_RIGHT = 0,
    WRONG_RESULT = 1,
    CANNOT_LOAD = 2,
    NO_DEVICE = 3,
    GAVE_UP = 4, /* the module called exit, or did what no host can go on from */
};

/* out[n][m] = activations[n][k] times the transposed weights[m][k]; false: the module refused. */
struct product {
    int quant; /* index of quants[] */
    int64_t m, n, k;
    const uint8_t *weights;
    size_t weights_bytes;
    const float *activations;
    float *out;
};
typedef bool (*multiply_fn)(const struct product *product);

/* Multiply every format with 1, 4 and 64 columns, print one JSON object a line and return how the
 * host ends: ALL_RIGHT or WRONG_RESULT. */
int multiply_all(multiply_fn multiply);

/* From here on stdout holds only the host's own lines: whatever a module, a driver or a kernel's
 * printf writes there goes to stderr. */
void keep_stdout(void);

/* Load the module as llamafile does, or end with CANNOT_LOAD. */
void *open_module(const char *path);

/* Look up all names, or end with CANNOT_LOAD and say every one that is missing. */
void find_symbols(void *module, const char *const names[], size_t count, void *addresses[]);

_Noreturn void end(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
