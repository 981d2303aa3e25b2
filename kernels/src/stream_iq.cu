#include "stream.h"

namespace llamabuild {
#define INSTANCE(name)                                                                     \
    template bool takes_stream<Type::name>(const Product&, const Launch&);                 \
    template GPU(Error_t) multiply_stream<Type::name>(const Product&, const Launch&);
LLAMABUILD_IQ_TYPES(INSTANCE)
}  // namespace llamabuild
