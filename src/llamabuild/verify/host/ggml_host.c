/* Loads a module of ggml's that brings the core along, or finds it in libggml-base beside it, and
 * multiplies matrices with it through ggml's public C API.
 *
 *     ggml_host REPORT MODULE DEVICE [TYPE...]
 *
 * Compiled against the headers of the tree that the module comes from, for their types only: every
 * function is looked up in the module. HAS_REG: the tree has ggml_backend_cuda_reg.
 */
#include <math.h>
#include <stdio.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cuda.h"
#include "ggml.h"
#include "host.h"

#ifdef HAS_REG
#define REG X(ggml_backend_cuda_reg)
#else
#define REG
#endif

/* llamafile 0.10 and later look up the first ones; the others are needed to multiply. */
#define NEEDED                                                                                     \
    X(ggml_backend_cuda_init)                                                                      \
    REG                                                                                            \
    X(ggml_backend_cuda_get_device_count)                                                          \
    X(ggml_init)                                                                                   \
    X(ggml_free)                                                                                   \
    X(ggml_tensor_overhead)                                                                        \
    X(ggml_graph_overhead)                                                                         \
    X(ggml_new_tensor_2d)                                                                          \
    X(ggml_mul_mat)                                                                                \
    X(ggml_new_graph)                                                                              \
    X(ggml_build_forward_expand)                                                                   \
    X(ggml_nbytes)                                                                                 \
    X(ggml_backend_alloc_ctx_tensors)                                                              \
    X(ggml_backend_supports_op)                                                                    \
    X(ggml_backend_tensor_set)                                                                     \
    X(ggml_backend_tensor_get)                                                                     \
    X(ggml_backend_graph_compute)                                                                  \
    X(ggml_backend_buffer_free)                                                                    \
    X(ggml_backend_free)

static const char *const needed[] = {
#define X(name) #name,
    NEEDED
#undef X
};
enum {
#define X(name) AT_##name,
    NEEDED
#undef X
    NEEDED_COUNT
};
static void *found[NEEDED_COUNT];

/* A found function, as the tree's header declares it. */
#define FOUND(name) ((__typeof__(&name))found[AT_##name])

static const enum ggml_type type_of[QUANTS] = {
    [Q4_0] = GGML_TYPE_Q4_0,
    [Q8_0] = GGML_TYPE_Q8_0,
    [Q4_K] = GGML_TYPE_Q4_K,
    [Q6_K] = GGML_TYPE_Q6_K,
};

static ggml_backend_t backend;

static void fill(struct ggml_tensor *t, const void *data) {
    FOUND(ggml_backend_tensor_set)(t, data, 0, FOUND(ggml_nbytes)(t));
}

static bool multiply(const struct product *product) {
    struct ggml_init_params room = {
        .mem_size = 8 * FOUND(ggml_tensor_overhead)() + FOUND(ggml_graph_overhead)(),
        .no_alloc = true, /* the values live on the device */
    };
    struct ggml_context *context = FOUND(ggml_init)(room);
    struct ggml_tensor *weights = FOUND(ggml_new_tensor_2d)(context, type_of[product->quant],
                                                            product->k, product->m);
    struct ggml_tensor *activations =
        FOUND(ggml_new_tensor_2d)(context, GGML_TYPE_F32, product->k, product->n);
    struct ggml_tensor *out = FOUND(ggml_mul_mat)(context, weights, activations);
    struct ggml_cgraph *graph = FOUND(ggml_new_graph)(context);
    FOUND(ggml_build_forward_expand)(graph, out);

    ggml_backend_buffer_t buffer = FOUND(ggml_backend_alloc_ctx_tensors)(context, backend);
    if (!buffer)
        end(GAVE_UP, "no buffer on the device");
    fill(weights, product->weights);
    fill(activations, product->activations);
    /* A value that no kernel writes must not pass: it stays not a number. */
    for (int64_t i = 0; i < product->m * product->n; ++i)
        product->out[i] = NAN;
    fill(out, product->out);

    bool right = FOUND(ggml_backend_supports_op)(backend, out) &&
                 FOUND(ggml_backend_graph_compute)(backend, graph) == GGML_STATUS_SUCCESS;
    FOUND(ggml_backend_tensor_get)(out, product->out, 0, FOUND(ggml_nbytes)(out));
    FOUND(ggml_backend_buffer_free)(buffer);
    FOUND(ggml_free)(context);
    return right;
}

int main(int count, char *arguments[]) {
    find_symbols(open_module(count, arguments), needed, NEEDED_COUNT, found);
    check_device(FOUND(ggml_backend_cuda_get_device_count)());
#ifdef HAS_REG
    if (!FOUND(ggml_backend_cuda_reg)())
        end(GAVE_UP, "the module has no registry");
#endif
    backend = FOUND(ggml_backend_cuda_init)(device);
    if (!backend)
        end(GAVE_UP, "no backend for device %d", device);
    int answer = multiply_all(multiply);
    FOUND(ggml_backend_free)(backend);
    return answer;
}
