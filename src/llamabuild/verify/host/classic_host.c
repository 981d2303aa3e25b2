/* Loads a module as llamafile 0.6.2 to 0.9.3 does, and multiplies matrices with it.
 *
 *     classic_host REPORT MODULE DEVICE [TYPE...]
 *
 * Compiled against the headers of the release under test, which lay down the API table, the
 * interfaces and the calling convention. The one who compiles says
 *     API_MEMBERS       X(name) for every member of that release's struct ggml_backend_api
 *     REQUIRED_SYMBOLS  X(name) for what that release's loader looks up, in its order
 *     LINK_IS_VOID      ggml_cuda_link answers nothing (0.6.2): ggml_cublas_loaded does
 * A member that has no host_... function here, or one of another type, does not compile.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ggml-backend-impl.h"
#include "ggml-cuda.h"
#include "ggml.h"
#include "host.h"

/* Older tables lack some of the functions. */
#define HOST static __attribute__((unused)) GGML_CALL

/* --- what a module may ask about types and tensors ------------------------------------------- */

static const enum ggml_type type_of[QUANTS] = {
    [Q4_0] = GGML_TYPE_Q4_0,
    [Q8_0] = GGML_TYPE_Q8_0,
    [Q4_K] = GGML_TYPE_Q4_K,
    [Q6_K] = GGML_TYPE_Q6_K,
};

struct layout {
    bool quantized;
    size_t bytes;
    int values;
};

static struct layout layout_of(enum ggml_type type) {
    if (type == GGML_TYPE_F32)
        return (struct layout){false, 4, 1};
    if (type == GGML_TYPE_F16)
        return (struct layout){false, 2, 1};
    if (type == GGML_TYPE_Q8_1) /* what the kernels turn activations into */
        return (struct layout){true, 36, 32};
    for (int i = 0; i < QUANTS; ++i)
        if (type == type_of[i])
            return (struct layout){true, (size_t)quants[i].bytes, quants[i].values};
    end(GAVE_UP, "the module asked about type %d, which has no part in any product", (int)type);
}

HOST bool host_ggml_is_quantized(enum ggml_type type) { return layout_of(type).quantized; }
HOST size_t host_ggml_type_size(enum ggml_type type) { return layout_of(type).bytes; }

/* int, and int64_t in later releases: ggml.h knows. */
HOST __typeof__(ggml_blck_size(GGML_TYPE_F32)) host_ggml_blck_size(enum ggml_type type) {
    return layout_of(type).values;
}
HOST size_t host_ggml_row_size(enum ggml_type type, int64_t values) {
    struct layout layout = layout_of(type);
    return layout.bytes * (size_t)(values / layout.values);
}
HOST size_t host_ggml_element_size(const struct ggml_tensor *t) { return layout_of(t->type).bytes; }
HOST int64_t host_ggml_nrows(const struct ggml_tensor *t) { return t->ne[1] * t->ne[2] * t->ne[3]; }
HOST int64_t host_ggml_nelements(const struct ggml_tensor *t) {
    return t->ne[0] * host_ggml_nrows(t);
}
HOST bool host_ggml_is_empty(const struct ggml_tensor *t) { return host_ggml_nelements(t) == 0; }

/* From the first byte to behind the last, holes between the rows included. */
HOST size_t host_ggml_nbytes(const struct ggml_tensor *t) {
    struct layout layout = layout_of(t->type);
    size_t bytes = layout.values == 1 ? layout.bytes + (size_t)(t->ne[0] - 1) * t->nb[0]
                                      : (size_t)(t->ne[0] / layout.values) * t->nb[0];
    for (int i = 1; i < GGML_MAX_DIMS; ++i)
        bytes += (size_t)(t->ne[i] - 1) * t->nb[i];
    return bytes;
}

/* Dense, but for the strides of dimensions 1 to ``free``, which may be anything. */
static bool dense(const struct ggml_tensor *t, int free) {
    struct layout layout = layout_of(t->type);
    size_t stride = layout.bytes;
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        if (t->ne[i] != 1) {
            if (0 < i && i <= free)
                stride = t->nb[i];
            if (t->nb[i] != stride)
                return false;
        }
        stride *= (size_t)(i ? t->ne[i] : t->ne[0] / layout.values);
    }
    return true;
}
HOST bool host_ggml_is_contiguous(const struct ggml_tensor *t) { return dense(t, 0); }
HOST bool host_ggml_is_contiguous_1(const struct ggml_tensor *t) { return dense(t, 1); }
HOST bool host_ggml_is_contiguous_2(const struct ggml_tensor *t) { return dense(t, 2); }
HOST bool host_ggml_is_transposed(const struct ggml_tensor *t) { return t->nb[0] > t->nb[1]; }
HOST bool host_ggml_is_permuted(const struct ggml_tensor *t) {
    return t->nb[0] > t->nb[1] || t->nb[1] > t->nb[2] || t->nb[2] > t->nb[3];
}
HOST bool host_ggml_are_same_shape(const struct ggml_tensor *a, const struct ggml_tensor *b) {
    return memcmp(a->ne, b->ne, sizeof a->ne) == 0;
}
HOST const char *host_ggml_op_name(enum ggml_op op) {
    return op == GGML_OP_MUL_MAT ? "MUL_MAT" : "another operation";
}
HOST const char *host_ggml_op_desc(const struct ggml_tensor *t) { return host_ggml_op_name(t->op); }
HOST const char *host_ggml_type_name(enum ggml_type type) {
    for (int i = 0; i < QUANTS; ++i)
        if (type == type_of[i])
            return quants[i].name;
    return "another type";
}

/* --- what it may ask about buffers ----------------------------------------------------------- */

HOST ggml_backend_buffer_t host_ggml_backend_buffer_init(ggml_backend_buffer_type_t type,
                                                         struct ggml_backend_buffer_i iface,
                                                         ggml_backend_buffer_context_t context,
                                                         size_t size) {
    ggml_backend_buffer_t buffer = calloc(1, sizeof *buffer);
    if (!buffer)
        end(GAVE_UP, "out of memory");
    buffer->iface = iface;
    buffer->buft = type;
    buffer->context = context;
    buffer->size = size;
    return buffer;
}
HOST ggml_backend_buffer_t host_ggml_backend_buft_alloc_buffer(ggml_backend_buffer_type_t type,
                                                               size_t size) {
    return type->iface.alloc_buffer(type, size);
}
HOST size_t host_ggml_backend_buft_get_alloc_size(ggml_backend_buffer_type_t type,
                                                  struct ggml_tensor *t) {
    return type->iface.get_alloc_size ? type->iface.get_alloc_size(type, t) : host_ggml_nbytes(t);
}
HOST bool host_ggml_backend_buffer_is_host(ggml_backend_buffer_t buffer) {
    return buffer->buft->iface.is_host && buffer->buft->iface.is_host(buffer->buft);
}
HOST enum ggml_backend_buffer_usage host_ggml_backend_buffer_get_usage(ggml_backend_buffer_t buffer) {
    return buffer->usage;
}
HOST void host_ggml_backend_tensor_set(struct ggml_tensor *t, const void *data, size_t at, size_t n) {
    t->buffer->iface.set_tensor(t->buffer, t, data, at, n);
}
HOST void host_ggml_backend_tensor_get(const struct ggml_tensor *t, void *data, size_t at, size_t n) {
    t->buffer->iface.get_tensor(t->buffer, t, data, at, n);
}
HOST bool host_ggml_backend_is_cpu(ggml_backend_t backend) {
    (void)backend;
    return false; /* this host has no other backend than the module's */
}

/* --- what it may ask of the program ---------------------------------------------------------- */

static bool quiet = false;
static int registered = 0;

HOST void *host_malloc(size_t size) { return malloc(size); }
HOST void host_free(void *memory) { free(memory); }
HOST char *host_getenv(const char *name) { return getenv(name); }
HOST long host_write(int file, const void *data, long size) {
    return write(file, data, (size_t)size);
}
HOST void host_exit(int code) { end(GAVE_UP, "the module called exit(%d)", code); }
HOST void host_ggml_backend_register(const char *name, ggml_backend_init_fn init,
                                     ggml_backend_buffer_type_t type, void *user_data) {
    (void)init, (void)type, (void)user_data;
    fprintf(stderr, "host: %s registered\n", name);
    ++registered;
}

#define NO_PART(result, name, ...)                                                                 \
    HOST result host_##name(__VA_ARGS__) {                                                         \
        end(GAVE_UP, "the module called " #name ", which has no part in any product");             \
    }
#pragma GCC diagnostic ignored "-Wunused-parameter"
NO_PART(ggml_backend_buffer_t, ggml_backend_cpu_buffer_from_ptr, void *memory, size_t size)
NO_PART(ggml_backend_buffer_type_t, ggml_backend_cpu_buffer_type, void)
NO_PART(enum ggml_unary_op, ggml_get_unary_op, const struct ggml_tensor *t)
NO_PART(void, ggml_rope_yarn_corr_dims, int dims, int context, float base, float fast, float slow,
        float out[2])
typedef uint8_t guid[16];
HOST bool host_ggml_guid_matches(guid *a, guid *b) { return memcmp(a, b, sizeof *a) == 0; }

static const struct ggml_backend_api api = {
    .FLAG_log_disable = &quiet,
#define X(member) .member = host_##member,
    API_MEMBERS
#undef X
};

#define X(member) +1
_Static_assert(sizeof api == (1 API_MEMBERS) * sizeof(void *), "the table has a hole");
#undef X

/* --- loading it ------------------------------------------------------------------------------ */

static const char *const required[] = {
#define X(name) #name,
    REQUIRED_SYMBOLS
#undef X
};
enum {
#define X(name) AT_##name,
    REQUIRED_SYMBOLS
#undef X
    REQUIRED_COUNT
};
static void *found[REQUIRED_COUNT];

/* A found function, as the release's header declares it. */
#define FOUND(name) ((__typeof__(&name))found[AT_##name])

static bool link_module(void) {
#ifdef LINK_IS_VOID
    FOUND(ggml_cuda_link)(&api);
    FOUND(ggml_init_cublas)();
    return FOUND(ggml_cublas_loaded)();
#else
    return FOUND(ggml_cuda_link)(&api);
#endif
}

/* After the link, as llama.cpp does: every device is registered as a backend of its own. */
static ggml_backend_t start_backend(void) {
    typedef int (*GGML_CALL register_fn)(void); /* in no header before 0.9 */
    int devices = FOUND(ggml_backend_cuda_get_device_count)();
    int answered = ((register_fn)found[AT_ggml_backend_cuda_reg_devices])();
    if (devices < 1 || answered != devices || registered != devices)
        end(GAVE_UP, "%d devices, but %d registered", devices, registered);
    size_t free = 0, total = 0;
    check_device(devices);
    FOUND(ggml_backend_cuda_get_device_memory)(device, &free, &total);
    fprintf(stderr, "host: %zu of %zu bytes free\n", free, total);
    ggml_backend_t backend = FOUND(ggml_backend_cuda_init)(device);
    if (!backend)
        end(GAVE_UP, "no backend for device %d", device);
    return backend;
}

/* --- multiplying with it --------------------------------------------------------------------- */

static ggml_backend_t backend;

static struct ggml_tensor tensor(enum ggml_type type, int64_t columns, int64_t rows) {
    struct ggml_tensor t = {.type = type, .ne = {columns, rows, 1, 1}};
    t.nb[0] = layout_of(type).bytes;
    t.nb[1] = host_ggml_row_size(type, columns);
    t.nb[2] = t.nb[3] = t.nb[1] * (size_t)rows;
    return t;
}

/* Place tensors one behind the other in a buffer of their own. */
static ggml_backend_buffer_t place(struct ggml_tensor *tensors[], size_t count) {
    ggml_backend_buffer_type_t type = FOUND(ggml_backend_cuda_buffer_type)(device);
    size_t alignment = type->iface.get_alignment(type), size = 0;
    for (size_t i = 0; i < count; ++i) {
        tensors[i]->view_offs = size; /* its place, until there is a buffer */
        size += host_ggml_backend_buft_get_alloc_size(type, tensors[i]);
        size += (alignment - size % alignment) % alignment;
    }
    ggml_backend_buffer_t buffer = type->iface.alloc_buffer(type, size);
    if (!buffer)
        end(GAVE_UP, "no buffer of %zu bytes on the device", size);
    for (size_t i = 0; i < count; ++i) {
        tensors[i]->buffer = buffer;
        tensors[i]->data = (char *)buffer->iface.get_base(buffer) + tensors[i]->view_offs;
        tensors[i]->view_offs = 0;
        if (buffer->iface.init_tensor)
            buffer->iface.init_tensor(buffer, tensors[i]);
    }
    return buffer;
}

static void fill(struct ggml_tensor *t, const void *data) {
    host_ggml_backend_tensor_set(t, data, 0, host_ggml_nbytes(t));
}

static bool compute(struct ggml_cgraph *graph) {
#ifdef LINK_IS_VOID
    bool right = backend->iface.graph_compute(backend, graph);
#else
    bool right = backend->iface.graph_compute(backend, graph) == GGML_STATUS_SUCCESS;
#endif
    if (backend->iface.synchronize)
        backend->iface.synchronize(backend);
    return right;
}

static bool multiply(const struct product *product) {
    struct ggml_tensor weights = tensor(type_of[product->quant], product->k, product->m);
    struct ggml_tensor activations = tensor(GGML_TYPE_F32, product->k, product->n);
    struct ggml_tensor out = tensor(GGML_TYPE_F32, product->m, product->n);
    out.op = GGML_OP_MUL_MAT;
    out.src[0] = &weights;
    out.src[1] = &activations;

    ggml_backend_buffer_t buffer = place((struct ggml_tensor *[]){&weights, &activations, &out}, 3);
    fill(&weights, product->weights);
    fill(&activations, product->activations);
    /* A value that no kernel writes must not pass: it stays not a number. */
    for (int64_t i = 0; i < product->m * product->n; ++i)
        product->out[i] = NAN;
    fill(&out, product->out);

    struct ggml_tensor *nodes[] = {&out}, *leafs[] = {&weights, &activations};
    struct ggml_cgraph graph = {
        .size = 2, .n_nodes = 1, .n_leafs = 2, .nodes = nodes, .leafs = leafs};
    bool right = backend->iface.supports_op(backend, &out) && compute(&graph);
    host_ggml_backend_tensor_get(&out, product->out, 0, host_ggml_nbytes(&out));
    buffer->iface.free_buffer(buffer);
    free(buffer);
    return right;
}

int main(int count, char *arguments[]) {
    find_symbols(open_module(count, arguments), required, REQUIRED_COUNT, found);
    if (!link_module())
        end(NO_DEVICE, "the module found no device");
    backend = start_backend();
    return multiply_all(multiply);
}
