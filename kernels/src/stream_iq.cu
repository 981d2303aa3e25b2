#include "stream.h"

namespace llamabuild {
LLAMABUILD_IQ_TYPES(LLAMABUILD_STREAM)
}  // namespace llamabuild
