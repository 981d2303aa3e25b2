#pragma once
#include <hip/hip_runtime.h>
#define CUBLAS_STATUS_SUCCESS 0
#define CUDA_SUCCESS hipSuccess
#define CUdevice hipDevice_t
#define cuDeviceGet hipDeviceGet
#define cublasCreate(handle) (*(handle) = nullptr, CUBLAS_STATUS_SUCCESS)
#define cublasHandle_t void *
#define cudaGetDeviceCount hipGetDeviceCount
#define cudaGetLastError hipGetLastError
#define cudaSuccess hipSuccess
