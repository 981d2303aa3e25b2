#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
int64_t ggml_nelements(const int64_t *extents);
const char *ggml_where(void);
#ifdef __cplusplus
}
#endif
