/* The least that the module below needs of a tensor library. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef GGML_MULTIPLATFORM
#define GGML_CALL __attribute__((__ms_abi__))
#else
#define GGML_CALL
#endif
