#include "stream.h"

namespace llamabuild {
LLAMABUILD_BASIC_TYPES(LLAMABUILD_STREAM)
}  // namespace llamabuild
