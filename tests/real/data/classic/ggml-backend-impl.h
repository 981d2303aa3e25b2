/* The table of host functions that a classic llamafile hands to its module. */
#pragma once
#include "ggml.h"
struct ggml_backend_api {
    bool *FLAG_log_disable;
};
