// The same for AMD. For the tests.
#include <cstdio>
#include <hip/hip_runtime.h>

__global__ void works(float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] *= 2.f;
    }
}

__global__ void gives_up_in_a_loop(float *x, int n) {
    for (int j = threadIdx.x; j < n; j += 32) {
        if (x[j] != 0) {
            printf("ERROR: HIP kernel %s has no device code compatible with HIP arch %d.\n", "k", n);
            __builtin_trap();
        }
        x[j] += 1;
    }
}

__global__ void gives_up_at_once(float *x) {
    __builtin_trap();
}

__global__ void checks(float *x, int n) {
    if (x[threadIdx.x] < 0) {
        __builtin_trap();
    }
    x[threadIdx.x] = n;
}

__global__ void empty(float *x) {}
