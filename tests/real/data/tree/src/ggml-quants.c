#include "ggml.h"
int ggml_blck_size(int type) { return type ? 32 : 1; }
