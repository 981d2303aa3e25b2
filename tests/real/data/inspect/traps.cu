// Kernels that do their work, that check their arguments, and that give up. For the tests.
#include <cassert>
#include <cstdio>

#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 0
#endif

// As the sources do it that llamabuild is for: a message, then a trap.
static __device__ void no_device_code(const char *kernel, int arch) {
    printf("ERROR: CUDA kernel %s has no device code compatible with CUDA arch %d.\n", kernel, arch);
    __trap();
}

__global__ void works(float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] *= 2.f;
    }
}

template <int N> __global__ void works_too(float *x) {
    x[threadIdx.x] = N;
}

// The trap sits in a loop, behind conditions: not every path reaches it.
__global__ void gives_up_in_a_loop(float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    for (int j = i; j < n; j += 32) {
        if (x[j] != 0) {
            no_device_code("gives_up_in_a_loop", __CUDA_ARCH__);
        }
        x[j] += 1;
    }
}

__global__ void gives_up_at_once(float *x) {
    __trap();
}

__global__ void asserts(float *x, int n) {
    assert(threadIdx.x < n);
    x[threadIdx.x] = n;
}

__global__ void checks(float *x, int n) {
    if (x[threadIdx.x] < 0) {
        __trap();
    }
    x[threadIdx.x] = n;
}

__global__ void checks_and_says_so(float *x, int n) {
    if (x[threadIdx.x] < 0) {
        printf("negative: %d\n", n);
        __trap();
    }
    x[threadIdx.x] = n;
}

extern "C" void launch_them(float *x) {
    works<<<1, 32>>>(x, 3);
    works_too<7><<<1, 32>>>(x);
    gives_up_in_a_loop<<<1, 32>>>(x, 3);
    gives_up_at_once<<<1, 32>>>(x);
    asserts<<<1, 32>>>(x, 3);
    checks<<<1, 32>>>(x, 3);
    checks_and_says_so<<<1, 32>>>(x, 3);
}
