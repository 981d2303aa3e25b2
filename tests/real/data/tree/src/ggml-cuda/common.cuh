#pragma once
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime.h>
#include "ggml-cuda.h"
int product(const int *a, const int *b, int *out);
