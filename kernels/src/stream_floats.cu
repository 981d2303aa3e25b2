#include "stream.h"

namespace llamabuild {
#define INSTANCE(name)                                                      \
    template bool takes_stream<Type::name>(const Product&, const Launch&); \
    template GPU(Error_t) multiply_stream<Type::name>(const Product&, const Launch&);
INSTANCE(f16)
INSTANCE(bf16)
}  // namespace llamabuild
