#include "stream.h"

namespace llamabuild {
#define INSTANCE(name) \
    template GPU(Error_t) multiply_stream<Type::name>(const Product&, const Launch&);
INSTANCE(iq2_xxs)
INSTANCE(iq2_xs)
INSTANCE(iq2_s)
INSTANCE(iq3_xxs)
INSTANCE(iq3_s)
INSTANCE(iq1_s)
INSTANCE(iq1_m)
}  // namespace llamabuild
