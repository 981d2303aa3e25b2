#include "warpgroup.h"

namespace llamabuild {
#define INSTANCE(name) \
    template GPU(Error_t) multiply_warpgroups<Type::name>(const Product&, const Launch&);
LLAMABUILD_BASIC_TYPES(INSTANCE)
}  // namespace llamabuild
