#include "ggml-backend.h"
#include <string>
extern "C" const char *ggml_backend_name(int index) {
    static std::string name;
    name = "backend " + std::to_string(index);
    return name.c_str();
}
