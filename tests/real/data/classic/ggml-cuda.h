/* What a classic llamafile looks up in its module. */
#pragma once
#include "ggml.h"
struct ggml_backend_api;
#ifdef __cplusplus
extern "C" {
#endif
GGML_CALL bool ggml_cuda_link(const struct ggml_backend_api *api);
GGML_CALL void *ggml_backend_cuda_init(int device);
GGML_CALL void *ggml_backend_cuda_buffer_type(int device);
GGML_CALL void *ggml_backend_cuda_split_buffer_type(const float *split);
GGML_CALL void *ggml_backend_cuda_host_buffer_type(void);
GGML_CALL int ggml_backend_cuda_reg_devices(void);
GGML_CALL int ggml_backend_cuda_get_device_count(void);
GGML_CALL void ggml_backend_cuda_get_device_memory(int device, size_t *free, size_t *total);
GGML_CALL void ggml_backend_cuda_get_device_description(int device, char *text, size_t size);
GGML_CALL bool ggml_backend_cuda_register_host_buffer(void *buffer, size_t size);
GGML_CALL void ggml_backend_cuda_unregister_host_buffer(void *buffer);
GGML_CALL void ggml_backend_cuda_get_device_properties(int device, void *properties);
#ifdef __cplusplus
}
#endif
