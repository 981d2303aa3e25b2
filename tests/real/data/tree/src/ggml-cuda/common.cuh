#pragma once
#ifdef GGML_USE_HIP
#include "vendors/hip.h"
#else
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime.h>
#endif
#include "ggml-cuda.h"
int product(const int *a, const int *b, int *out);
