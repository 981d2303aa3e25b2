/* What the stand-in hosts share: loading a module, multiplying with it, judging the products.
 *
 *     HOST REPORT MODULE DEVICE [TYPE...]
 *
 * The file REPORT gets one JSON object a line, so that it survives whatever the module does:
 *     {"devices": 1}                   once the module is loaded
 *     {"doing": "q4_0, ..."}           before each product
 *     {"row": {"type": "q4_0", ...}}   after it
 *     {"end": true}                    when all were done, right or wrong
 *     {"cannot_load": "why"}, {"no_device": "why"} or {"failed": "why"} instead
 */
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

/* Multiply every format that was asked for with 1, 4 and 64 columns, report each and return how the
 * host ends: ALL_RIGHT or WRONG_RESULT. */
int multiply_all(multiply_fn multiply);

/* Read the command line, open the report, load the module as llamafile does; or end. */
void *open_module(int count, char *arguments[]);

/* DEVICE, as the module counts them. */
extern int device;

/* Report how many the module found; end with NO_DEVICE if ours is not among them. */
void check_device(int devices);

/* Look up all names, or end with CANNOT_LOAD and say every one that is missing. */
void find_symbols(void *module, const char *const names[], size_t count, void *addresses[]);

/* Report why, say it on stderr, and end the process. */
_Noreturn void end(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
