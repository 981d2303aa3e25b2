#include "common.cuh"
extern "C" {
void *ggml_backend_cuda_init(int device) {
    static cublasHandle_t handle;
    CUdevice found;
    const int64_t extents[4] = {32, 1, 1, 1};
    const bool there = cuDeviceGet(&found, device) == CUDA_SUCCESS &&
                       cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS &&
                       ggml_nelements(extents) == 32 && product(nullptr, nullptr, nullptr) == 0;
    return there ? (void *)&handle : nullptr;
}
void *ggml_backend_cuda_reg(void) { return (void *)&ggml_backend_cuda_reg; }
int ggml_backend_cuda_get_device_count(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
#ifdef GGML_BACKEND_DL
void *ggml_backend_init(void) { return ggml_backend_cuda_reg(); }
#endif
#ifdef GGML_CUDA_FORCE_MMQ
int llamabuild_test_forced_mmq(void) { return 1; }
#endif
}
