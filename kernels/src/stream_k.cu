#include "stream.h"

namespace llamabuild {
#define INSTANCE(name)                                                                     \
    template bool takes_stream<Type::name>(const Product&, const Launch&);                 \
    template GPU(Error_t) multiply_stream<Type::name>(const Product&, const Launch&);
INSTANCE(q2_K)
INSTANCE(q4_K)
INSTANCE(q5_K)
INSTANCE(q6_K)
INSTANCE(iq4_xs)
INSTANCE(tq1_0)
INSTANCE(tq2_0)
}  // namespace llamabuild
