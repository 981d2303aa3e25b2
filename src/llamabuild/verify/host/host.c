#include "host.h"

#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* Quantizing the activations to eight bits, as ggml's kernels do, makes an error of about 4e-3 in
 * the norm; the worst of 16,768 values is then about four times as far off. */
static const double TOLERANCE = 1e-2, TOLERANCE_OF_ONE = 5e-2;

int device;
static FILE *report;
static char **types; /* the names that were asked for, then NULL; none: all */

/* A JSON string; what is no plain character becomes a blank. */
static void print_text(const char *text) {
    fputc('"', report);
    for (; *text; ++text) {
        if (*text == '"' || *text == '\\')
            fputc('\\', report);
        fputc((unsigned char)*text < ' ' || *text == 127 ? ' ' : *text, report);
    }
    fputc('"', report);
}

void end(int code, const char *format, ...) {
    char why[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    fprintf(stderr, "host: %s\n", why);
    if (report) {
        fprintf(report, "{\"%s\": ", code == CANNOT_LOAD ? "cannot_load"
                                    : code == NO_DEVICE ? "no_device"
                                                        : "failed");
        print_text(why);
        fputs("}\n", report);
        fflush(report);
    }
    /* Not exit(): the handlers of a module that has just failed are not to be trusted. */
    _exit(code);
}

void *open_module(int count, char *arguments[]) {
    if (count < 4)
        end(GAVE_UP, "usage: %s REPORT MODULE DEVICE [TYPE...]", arguments[0]);
    report = fopen(arguments[1], "w");
    if (!report)
        end(GAVE_UP, "%s cannot be written", arguments[1]);
    device = atoi(arguments[3]);
    types = arguments + 4;
    void *module = dlopen(arguments[2], RTLD_LAZY);
    if (!module)
        end(CANNOT_LOAD, "%s", dlerror());
    return module;
}

void check_device(int devices) {
    fprintf(report, "{\"devices\": %d}\n", devices);
    if (device < 0 || device >= devices)
        end(NO_DEVICE, "the module found %d devices, and so no number %d", devices, device);
}

void find_symbols(void *module, const char *const names[], size_t count, void *addresses[]) {
    char missing[2048] = "";
    for (size_t i = 0; i < count; ++i) {
        addresses[i] = dlsym(module, names[i]);
        if (!addresses[i]) {
            strncat(missing, " ", sizeof missing - strlen(missing) - 1);
            strncat(missing, names[i], sizeof missing - strlen(missing) - 1);
        }
    }
    if (missing[0])
        end(CANNOT_LOAD, "missing symbols:%s", missing);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory)
        end(GAVE_UP, "out of memory");
    return memory;
}

/* How far off a product is; neither is a number if one of its values is not. */
struct error {
    double norm;  /* relative, in the Euclidean norm: a single wrong value may hide in it */
    double worst; /* of one value, in units of what a sum of such terms comes to */
};

static struct error error_of(const struct product *product) {
    const struct quant *quant = &quants[product->quant];
    double *row = allocate((size_t)product->k, sizeof *row);
    double wrong = 0, all = 0, worst = 0;
    for (int64_t i = 0; i < product->m; ++i) {
        size_t row_bytes = product->weights_bytes / (size_t)product->m;
        dequantize(quant->name, product->weights + (size_t)i * row_bytes,
                   (size_t)(product->k / quant->values), row);
        for (int64_t j = 0; j < product->n; ++j) {
            double sum = 0, squares = 0;
            for (int64_t l = 0; l < product->k; ++l) {
                double term = row[l] * product->activations[j * product->k + l];
                sum += term;
                squares += term * term;
            }
            double off = fabs(product->out[j * product->m + i] - sum);
            wrong += off * off;
            all += sum * sum;
            worst = fmax(worst, off / sqrt(squares));
        }
    }
    free(row);
    return (struct error){sqrt(wrong / all), isfinite(wrong) ? worst : NAN};
}

static void print_number(const char *name, double number) {
    fprintf(report, isfinite(number) ? ", \"%s\": %.3e" : ", \"%s\": null", name, number);
}

static bool judge(multiply_fn multiply, int quant, int64_t m, int64_t n, int64_t k) {
    const struct quant *format = &quants[quant];
    size_t blocks = (size_t)(m * (k / format->values));
    uint8_t *weights = allocate(blocks, (size_t)format->bytes);
    float *activations = allocate((size_t)(n * k), sizeof *activations);
    float *out = allocate((size_t)(n * m), sizeof *out);
    uint64_t state = (uint64_t)(quant * 1000 + n);
    random_blocks(format, blocks, &state, weights);
    for (int64_t i = 0; i < n * k; ++i)
        activations[i] = (float)random_number(&state);

    fprintf(report, "{\"doing\": \"%s, %d x %d times %d x %d\"}\n", format->name, (int)m, (int)k,
            (int)k, (int)n);
    fflush(report); /* the product may take the process with it */
    struct product product = {quant,       m,  n, k, weights, blocks * (size_t)format->bytes,
                              activations, out};
    struct error error = {NAN, NAN};
    if (multiply(&product))
        error = error_of(&product);
    /* False for what is not a number, too. */
    bool right = error.norm <= TOLERANCE && error.worst <= TOLERANCE_OF_ONE;
    fprintf(report, "{\"row\": {\"type\": \"%s\", \"m\": %d, \"n\": %d, \"k\": %d", format->name,
            (int)m, (int)n, (int)k);
    print_number("error", error.norm);
    print_number("worst", error.worst);
    fprintf(report, ", \"right\": %s}}\n", right ? "true" : "false");
    free(weights);
    free(activations);
    free(out);
    return right;
}

static bool wanted(const char *name) {
    for (char **type = types; *type; ++type)
        if (strcasecmp(*type, name) == 0)
            return true;
    return !*types;
}

int multiply_all(multiply_fn multiply) {
    static const int64_t columns[] = {1, 4, 64};
    bool right = true;
    for (int quant = 0; quant < QUANTS; ++quant)
        for (size_t i = 0; wanted(quants[quant].name) && i < sizeof columns / sizeof *columns; ++i)
            /* Awkward but legal: 262 rows fill no tile; they are even because the kernels of
             * 0.7 to 0.8.12 take rows in pairs. 43 or 3 blocks a row are no multiple of the 512
             * values to which CUDA buffers are padded. */
            right &= judge(multiply, quant, 262, columns[i], quants[quant].values == 32 ? 1376 : 768);
    fputs("{\"end\": true}\n", report);
    fflush(report);
    return right ? ALL_RIGHT : WRONG_RESULT;
}
