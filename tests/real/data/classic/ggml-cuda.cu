// A module with the outside of a classic llamafile's and next to nothing inside.
#ifdef GGML_USE_HIPBLAS
#include <hip/hip_runtime.h>
#define CUDA_SUCCESS hipSuccess
#define CUdevice hipDevice_t
#define cuDeviceGet hipDeviceGet
#define cudaError_t hipError_t
#define cudaGetDeviceCount hipGetDeviceCount
#define cudaGetLastError hipGetLastError
#define cudaMemGetInfo(free, total) (void)hipMemGetInfo(free, total)
#define cudaSetDevice(device) (void)hipSetDevice(device)
#define cudaStream_t hipStream_t
#define cudaSuccess hipSuccess
#define __trap __builtin_trap
#else
#include <cuda.h>
#include <cuda_runtime.h>
#endif
#include <string>
#include <vector>
#include "ggml-cuda.h"
#include "ggml-backend-impl.h"
#ifdef GGML_USE_TINYBLAS
#include "tinyblas.cu"
#else
#error "this source has no other matrix library"
#endif

#define MIN_CC_DP4A 610

[[noreturn]] static __device__ void no_device_code() { __trap(); for (;;) {} }

static __device__ int dot4(int a, int b, int sum) {
#if defined(__gfx906__)
    return __builtin_amdgcn_sdot4(a, b, sum, false);
#elif defined(GGML_USE_HIPBLAS)
    for (int byte = 0; byte < 32; byte += 8) {
        sum += (signed char)(a >> byte) * (signed char)(b >> byte);
    }
    return sum;
#elif __CUDA_ARCH__ >= MIN_CC_DP4A
    return __dp4a(a, b, sum);
#else
    no_device_code();
#endif
}

namespace {
template <int width> __global__ void vec_dot(const int *a, const int *b, float *out) {
    int sum = 0;
    for (int i = 0; i < width; ++i) {
        sum = dot4(a[threadIdx.x * width + i], b[i], sum);
    }
    out[threadIdx.x] = (float)sum;
}
} // namespace

static __global__ void add(float *x, float y) { x[threadIdx.x] += y; }

#ifdef GGML_CUDA_FORCE_MMQ
extern "C" int llamabuild_test_forced_mmq(void) { return 1; }
#endif

static cudaError_t launch_all(const int *a, const int *b, float *x, double *y) {
    vec_dot<4><<<1, 32>>>(a, b, x);
    vec_dot<8><<<1, 32>>>(a, b, x);
    add<<<1, 32>>>(x, 1.0f);
    return tinyblas_run(x, y, nullptr);
}

static std::vector<std::string> names; // so that the C++ runtime is needed

extern "C" {
GGML_CALL bool ggml_cuda_link(const struct ggml_backend_api *api) {
    (void)api;
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}
GGML_CALL void *ggml_backend_cuda_init(int device) {
    CUdevice handle;
    if (cuDeviceGet(&handle, device) != CUDA_SUCCESS) {
        return nullptr;
    }
    names.push_back("device " + std::to_string(device));
    return launch_all(nullptr, nullptr, nullptr, nullptr) == cudaSuccess ? &names : nullptr;
}
GGML_CALL void *ggml_backend_cuda_buffer_type(int device) { return device < 0 ? nullptr : &names; }
GGML_CALL void *ggml_backend_cuda_split_buffer_type(const float *split) { return (void *)split; }
GGML_CALL void *ggml_backend_cuda_host_buffer_type(void) { return &names; }
GGML_CALL int ggml_backend_cuda_reg_devices(void) { return ggml_backend_cuda_get_device_count(); }
GGML_CALL int ggml_backend_cuda_get_device_count(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
GGML_CALL void ggml_backend_cuda_get_device_memory(int device, size_t *free, size_t *total) {
    cudaSetDevice(device);
    cudaMemGetInfo(free, total);
}
GGML_CALL void ggml_backend_cuda_get_device_description(int, char *text, size_t size) {
    if (size > 0) {
        text[0] = 0;
    }
}
GGML_CALL bool ggml_backend_cuda_register_host_buffer(void *, size_t) { return false; }
GGML_CALL void ggml_backend_cuda_unregister_host_buffer(void *) {}
GGML_CALL void ggml_backend_cuda_get_device_properties(int, void *) {}
}
