// Stands for the matrix library that comes as source.
#include "tinyblas.h"
template <typename T> static __global__ void tinyblas_scale(T *x, T factor) {
    x[blockIdx.x * blockDim.x + threadIdx.x] *= factor;
}
static cudaError_t tinyblas_run(float *x, double *y, cudaStream_t stream) {
    tinyblas_scale<<<1, 32, 0, stream>>>(x, 2.0f);
    tinyblas_scale<<<1, 32, 0, stream>>>(y, 2.0);
    return cudaGetLastError();
}
