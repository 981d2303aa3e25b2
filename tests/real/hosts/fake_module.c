/* A classic module that multiplies on the CPU: the other side of classic_host.c, so that the host
 * itself can be tested without a GPU. Like a real module it keeps to the API table for whatever it
 * wants to know, and complains when an answer is not what it must be.
 *
 * FAULT, if defined, is what it gets wrong:
 */
enum {
    NO_GPU = 1,   /* finds no device */
    WRONG_VALUE,  /* one value of a product is off by a tenth of what a sum comes to */
    MISSED_VALUE, /* one value is never written */
    REFUSES,      /* says that it failed */
    TRAPS,        /* a kernel was compiled to a trap: its printf on stdout, then exit(1) */
    DIES,         /* abort() at the third product */
    HANGS,
};
#ifndef FAULT
#define FAULT 0
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ggml.h"
#include "ggml-backend-impl.h"
#include "ggml-cuda.h"
#include "quants.h"

#define EXPORT __attribute__((visibility("default"))) GGML_CALL

static const struct ggml_backend_api *api;
static struct ggml_backend_buffer_type buffer_type;

#define EXPECT(truth)                                                                              \
    do                                                                                             \
        if (!(truth)) {                                                                            \
            fprintf(stderr, "fake module: not so: %s\n", #truth);                                  \
            api->exit(1);                                                                          \
        }                                                                                          \
    while (0)

/* --- buffers: memory of the process ----------------------------------------------------------- */

static GGML_CALL void free_buffer(ggml_backend_buffer_t buffer) { free(buffer->context); }
static GGML_CALL void *get_base(ggml_backend_buffer_t buffer) { return buffer->context; }
static GGML_CALL void set_tensor(ggml_backend_buffer_t buffer, struct ggml_tensor *t,
                                 const void *data, size_t at, size_t size) {
    EXPECT(t->buffer == buffer && at + size <= api->ggml_nbytes(t));
    memcpy((char *)t->data + at, data, size);
}
static GGML_CALL void get_tensor(ggml_backend_buffer_t buffer, const struct ggml_tensor *t,
                                 void *data, size_t at, size_t size) {
    EXPECT(t->buffer == buffer && at + size <= api->ggml_nbytes(t));
    memcpy(data, (const char *)t->data + at, size);
}
static GGML_CALL size_t get_alignment(ggml_backend_buffer_type_t type) {
    (void)type;
    return 128;
}
/* As the CUDA buffers do: rows of quantized weights are read in steps of 512 values. */
static GGML_CALL size_t get_alloc_size(ggml_backend_buffer_type_t type,
                                       const struct ggml_tensor *t) {
    (void)type;
    size_t size = api->ggml_nbytes(t);
    if (api->ggml_is_quantized(t->type) && t->ne[0] % 512)
        size += api->ggml_row_size(t->type, 512 - t->ne[0] % 512);
    return size;
}
static GGML_CALL void init_tensor(ggml_backend_buffer_t buffer, struct ggml_tensor *t) {
    size_t at = (size_t)((char *)t->data - (char *)buffer->context);
    EXPECT(at % get_alignment(buffer->buft) == 0);
    EXPECT(at + get_alloc_size(buffer->buft, t) <= buffer->size);
    memset((char *)t->data + api->ggml_nbytes(t), 0,
           get_alloc_size(buffer->buft, t) - api->ggml_nbytes(t));
}
/* What is read behind the last row must count for nothing. */
static bool padding_is_clear(const struct ggml_tensor *t) {
    for (size_t at = api->ggml_nbytes(t); at < get_alloc_size(t->buffer->buft, t); ++at)
        if (((const char *)t->data)[at])
            return false;
    return true;
}
static GGML_CALL ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    void *memory = aligned_alloc(128, (size + 127) / 128 * 128);
    struct ggml_backend_buffer_i iface = {.free_buffer = free_buffer,
                                          .get_base = get_base,
                                          .init_tensor = init_tensor,
                                          .set_tensor = set_tensor,
                                          .get_tensor = get_tensor};
    return api->ggml_backend_buffer_init(type, iface, memory, size);
}

/* --- the backend ------------------------------------------------------------------------------ */

static void multiply(const struct ggml_tensor *weights, const struct ggml_tensor *activations,
                     struct ggml_tensor *out) {
    const char *type = api->ggml_type_name(weights->type);
    int64_t k = weights->ne[0], m = weights->ne[1], n = activations->ne[1];
    double row[2048];
    EXPECT(k <= 2048 && k % api->ggml_blck_size(weights->type) == 0);
    EXPECT(activations->ne[0] == k && out->ne[0] == m && out->ne[1] == n);
    EXPECT(api->ggml_nrows(weights) == m && api->ggml_nelements(activations) == n * k);
    EXPECT(api->ggml_is_contiguous(weights) && api->ggml_is_contiguous(activations));
    EXPECT(!api->ggml_is_transposed(weights) && !api->ggml_is_permuted(out));
    EXPECT(weights->nb[1] == api->ggml_row_size(weights->type, k));
    EXPECT(api->ggml_nbytes(weights) == weights->nb[1] * (size_t)m);
    EXPECT(api->ggml_type_size(GGML_TYPE_F32) == 4 && api->ggml_element_size(out) == 4);
    EXPECT(padding_is_clear(weights));
    EXPECT(api->ggml_is_quantized(weights->type) && !api->ggml_is_quantized(out->type));
    for (int64_t i = 0; i < m; ++i) {
        const uint8_t *blocks = (const uint8_t *)weights->data + (size_t)i * weights->nb[1];
        dequantize(type, blocks, (size_t)(k / api->ggml_blck_size(weights->type)), row);
        for (int64_t j = 0; j < n; ++j) {
            const float *column = (const float *)activations->data + j * k;
            double sum = 0, squares = 0;
            for (int64_t l = 0; l < k; ++l) {
                sum += row[l] * column[l];
                squares += row[l] * column[l] * row[l] * column[l];
            }
            if (FAULT == WRONG_VALUE && i == m - 1 && j == n - 1)
                sum += 0.1 * sqrt(squares);
            if (FAULT == MISSED_VALUE && i == m - 1 && j == n - 1)
                continue;
            ((float *)out->data)[j * m + i] = (float)sum;
        }
    }
}

#ifdef LINK_IS_VOID /* 0.6.2 */
typedef bool status;
enum { DONE = true, FAILED = false };
#else
typedef enum ggml_status status;
enum { DONE = GGML_STATUS_SUCCESS, FAILED = GGML_STATUS_FAILED };
#endif

/* Like a GPU: the work is only begun here, and done when somebody waits for it. */
static struct ggml_cgraph *begun;

static GGML_CALL status graph_compute(ggml_backend_t backend, struct ggml_cgraph *graph) {
    (void)backend;
    begun = graph;
    return FAULT == REFUSES ? FAILED : DONE;
}
static GGML_CALL void synchronize(ggml_backend_t backend) {
    static int products = 0;
    (void)backend;
    if (FAULT == TRAPS) {
        printf("ggml-cuda.cu:440: ERROR: CUDA kernel vec_dot_q8_0_q8_1_impl has no device code "
               "compatible with CUDA arch 600.\n");
        fflush(stdout);
        api->exit(1);
    }
    if (FAULT == DIES && ++products == 3)
        abort();
    while (FAULT == HANGS)
        pause();
    for (int i = 0; i < begun->n_nodes; ++i) {
        struct ggml_tensor *node = begun->nodes[i];
        EXPECT(node->op == GGML_OP_MUL_MAT && node->buffer->buft == &buffer_type);
        multiply(node->src[0], node->src[1], node);
    }
}
static GGML_CALL bool supports_op(ggml_backend_t backend, const struct ggml_tensor *op) {
    (void)backend;
    return op->op == GGML_OP_MUL_MAT;
}

/* --- what the host looks up; the linker adds the names that nobody calls ----------------------- */

#ifdef LINK_IS_VOID
EXPORT void ggml_cuda_link(const struct ggml_backend_api *table) { api = table; }
EXPORT void ggml_init_cublas(void) { EXPECT(!*api->FLAG_log_disable); }
EXPORT bool ggml_cublas_loaded(void) { return FAULT != NO_GPU; }
#else
EXPORT bool ggml_cuda_link(const struct ggml_backend_api *table) {
    api = table;
    EXPECT(!*api->FLAG_log_disable);
    return FAULT != NO_GPU;
}
#endif
EXPORT ggml_backend_buffer_type_t ggml_backend_cuda_buffer_type(int device) {
    EXPECT(device == 0);
    buffer_type.iface.alloc_buffer = alloc_buffer;
    buffer_type.iface.get_alignment = get_alignment;
    buffer_type.iface.get_alloc_size = get_alloc_size;
    return &buffer_type;
}
EXPORT int ggml_backend_cuda_get_device_count(void) { return 1; }
EXPORT int ggml_backend_cuda_reg_devices(void);
EXPORT int ggml_backend_cuda_reg_devices(void) {
    api->ggml_backend_register("CUDA0", NULL, ggml_backend_cuda_buffer_type(0), NULL);
    return 1;
}
EXPORT void ggml_backend_cuda_get_device_memory(int device, size_t *free, size_t *total) {
    EXPECT(device == 0);
    *free = *total = (size_t)8 << 30;
}
EXPORT ggml_backend_t ggml_backend_cuda_init(int device) {
    static struct ggml_backend backend;
    EXPECT(device == 0);
    backend.iface.graph_compute = graph_compute;
    backend.iface.synchronize = synchronize;
    backend.iface.supports_op = supports_op;
    return &backend;
}
