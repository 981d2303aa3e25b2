#include "ggml.h"
int64_t ggml_nelements(const int64_t *extents) {
    return extents[0] * extents[1] * extents[2] * extents[3];
}
/* The path that the compiler was given: it must not be the build folder's. */
const char *ggml_where(void) { return __FILE__; }
