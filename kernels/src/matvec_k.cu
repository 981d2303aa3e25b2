#include "matvec.h"

namespace llamabuild {
#define INSTANCE(name) \
    template GPU(Error_t) multiply_vectors<Type::name>(const Product&, const Launch&);
LLAMABUILD_K_TYPES(INSTANCE)
}  // namespace llamabuild
