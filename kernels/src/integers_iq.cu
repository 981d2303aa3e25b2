#include "integers.h"

namespace llamabuild {
#define INSTANCE(name) \
    template GPU(Error_t) multiply_integers<Type::name>(const Product&, const Launch&);
LLAMABUILD_IQ_TYPES(INSTANCE)
}  // namespace llamabuild
