/* Quantized matrix products on NVIDIA and AMD GPUs.
 *
 * Weights are rows of ggml's blocks, exactly as in a GGUF file; activations and results are
 * floats. One product is
 *
 *     output[column * output_stride + row] =
 *         sum over i of weight(row, i) * activations[column * activation_stride + i]
 *
 * with m rows, n columns and k weights a row. Calls enqueue work on a stream and return; memory is
 * the caller's. Every function that returns `int` returns LLAMABUILD_OK or an error code, and then
 * llamabuild_last_error() says what was wrong. No exception leaves the library; calls from several
 * threads are safe as long as they do not share a workspace. On 9.0 and later weights and
 * the lists of llamabuild_groups are read ahead: a kernel just before a product in its stream must
 * not write them if it lets its successor start early (programmatic dependent launch).
 */
#ifndef LLAMABUILD_KERNELS_H
#define LLAMABUILD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define LLAMABUILD_API __declspec(dllexport)
#else
#define LLAMABUILD_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a caller of an older version would have to change. */
#define LLAMABUILD_KERNELS_VERSION 1

enum llamabuild_status {
    LLAMABUILD_OK = 0,
    LLAMABUILD_BAD_ARGUMENT = 1, /* nothing was started */
    LLAMABUILD_DEVICE_ERROR = 2, /* CUDA or HIP reported an error, perhaps of earlier work */
    LLAMABUILD_NO_CODE = 3,      /* the library was not compiled for this device */
};

/* One product, or `batch` products of one shape. Zero in a stride means: without gaps. */
typedef struct llamabuild_product {
    size_t size;        /* sizeof(llamabuild_product) */
    int32_t type;       /* ggml's number of the weights' type: 2 is q4_0, 12 is q4_K, ... */
    int32_t device;
    int64_t m, n, k;    /* k is a multiple of the type's block */
    const void *weights;            /* device memory, aligned to 16 bytes, and readable up to the
                                       next multiple of 16 (which any allocator gives) */
    const float *activations;       /* device memory */
    float *output;                  /* device memory */
    int64_t activation_stride;      /* floats from a column to the next */
    int64_t output_stride;          /* floats from a column to the next */
    int64_t batch;                  /* 0 means 1 */
    int64_t weight_batch_stride;    /* bytes; -1: all products share the weights */
    int64_t activation_batch_stride; /* floats */
    int64_t output_batch_stride;    /* floats */
    void *workspace;                /* device memory, aligned to 16 bytes; see workspace_size */
    size_t workspace_size;          /* bytes */
    void *stream;                   /* cudaStream_t or hipStream_t; NULL is the default stream */
} llamabuild_product;

/* A mixture of experts: `count` products with one column each, output i going to
 * output + i * output_batch_stride. Both lists are device memory. Outputs whose expert or column
 * is out of range are set to zero. In the product itself `n` is the number of columns of
 * activations, `weight_batch_stride` leads from an expert to the next and `batch` is not used. */
typedef struct llamabuild_groups {
    size_t size;             /* sizeof(llamabuild_groups) */
    int64_t experts;         /* how many there are */
    int64_t count;
    const int32_t *expert;   /* which expert's weights */
    const int32_t *column;   /* which column of the activations */
} llamabuild_groups;

LLAMABUILD_API int llamabuild_version(void);

/* What went wrong in this thread's last call that did not return LLAMABUILD_OK. */
LLAMABUILD_API const char *llamabuild_last_error(void);

/* The architectures the compiler was asked for: "610,750,900" (CUDA, times ten) or, on AMD, "hip":
 * that compiler does not tell the host's code. */
LLAMABUILD_API const char *llamabuild_architectures(void);

/* Types as ggml numbers them; returns how many there are, writes at most `room`. */
LLAMABUILD_API int llamabuild_types(int32_t *types, int room);

LLAMABUILD_API int llamabuild_device_count(int *count);

/* `name` is cut to `room`; `arch` is the compute capability times ten (90 for 9.0), 0 on AMD;
 * `code` is the architecture of the code that really runs there, as the driver chose it (on AMD 75
 * where matrix cores are used, 61 where a four-byte dot product is, else 0): 0 if none does. */
LLAMABUILD_API int llamabuild_device_info(int device, char *name, int room, int *arch, int *code,
                                          int64_t *memory_bytes);

/* How a product would be computed: "scalar", "dp4a" and "int8" (integers, the last on tensor cores;
 * activations as llamabuild_quantize leaves them), "tensor" (16-bit floats on tensor cores) or
 * "float" (16-bit weights, activations as they are). NULL on an error. Follows what was compiled, not the card. */
LLAMABUILD_API const char *llamabuild_path(const llamabuild_product *product);

/* Bytes of workspace that a product needs. */
LLAMABUILD_API int llamabuild_workspace_size(const llamabuild_product *product, size_t *bytes);
LLAMABUILD_API int llamabuild_grouped_workspace_size(const llamabuild_product *product,
                                                     const llamabuild_groups *groups,
                                                     size_t *bytes);

LLAMABUILD_API int llamabuild_multiply(const llamabuild_product *product);
LLAMABUILD_API int llamabuild_multiply_grouped(const llamabuild_product *product,
                                               const llamabuild_groups *groups);

/* Quantizes the product's activations (k a multiple of 32) into its workspace, column after column:
 * for each 32 of them { int8_t q[32]; struct { float d, sum; } half[2]; }, 48 bytes. x = d * q; the
 * sums are those of 16 such products; d is written twice. */
LLAMABUILD_API int llamabuild_quantize(const llamabuild_product *product);

/* Device memory and time, for callers without the CUDA or HIP runtime (Python's ctypes). These
 * wait for the device. */
LLAMABUILD_API int llamabuild_allocate(int device, size_t bytes, void **memory);
LLAMABUILD_API int llamabuild_release(int device, void *memory);
LLAMABUILD_API int llamabuild_upload(int device, void *to, const void *from, size_t bytes);
LLAMABUILD_API int llamabuild_download(int device, void *to, const void *from, size_t bytes);
LLAMABUILD_API int llamabuild_fill(int device, void *memory, int byte, size_t bytes);
LLAMABUILD_API int llamabuild_copy(int device, void *to, const void *from, size_t bytes);
LLAMABUILD_API int llamabuild_synchronize(int device);

/* Microseconds of one product, from events around `repeats` of them; the i-th reads the weights at
 * weights + i % copies * copy_stride bytes, so that a cache does not hold them. */
LLAMABUILD_API int llamabuild_measure(const llamabuild_product *product, int copies,
                                      int64_t copy_stride, int repeats, float *microseconds);

/* Microseconds of one copy inside device memory: the bandwidth to compare with. */
LLAMABUILD_API int llamabuild_measure_copy(int device, void *to, const void *from, size_t bytes,
                                           int repeats, float *microseconds);

#ifdef __cplusplus
}
#endif
#endif
