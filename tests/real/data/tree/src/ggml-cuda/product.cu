#include "common.cuh"
static __global__ void dot(const int *a, const int *b, int *out) {
#if __CUDA_ARCH__ >= 610
    atomicAdd(out, __dp4a(a[threadIdx.x], b[threadIdx.x], 0));
#else
    atomicAdd(out, a[threadIdx.x] * b[threadIdx.x]);
#endif
}
int product(const int *a, const int *b, int *out) {
    dot<<<1, 32>>>(a, b, out);
    return (int)cudaGetLastError();
}
