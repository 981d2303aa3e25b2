#pragma once
#include "ggml-backend.h"
#ifdef __cplusplus
extern "C" {
#endif
void *ggml_backend_cuda_init(int device);
void *ggml_backend_cuda_reg(void);
int ggml_backend_cuda_get_device_count(void);
#ifdef __cplusplus
}
#endif
