#include "stream.h"

namespace llamabuild {
#define INSTANCE(name) \
    template GPU(Error_t) multiply_stream<Type::name>(const Product&, const Launch&);
INSTANCE(q4_0)
INSTANCE(q4_1)
INSTANCE(q5_0)
INSTANCE(q5_1)
INSTANCE(q8_0)
INSTANCE(iq4_nl)
INSTANCE(mxfp4)
INSTANCE(nvfp4)
}  // namespace llamabuild
