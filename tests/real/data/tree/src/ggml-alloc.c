#include "ggml-alloc.h"
size_t ggml_aligned(size_t size) { return (size + 15) / 16 * 16; }
