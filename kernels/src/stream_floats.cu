#include "stream.h"

namespace llamabuild {
LLAMABUILD_STREAM(f16)
LLAMABUILD_STREAM(bf16)
}  // namespace llamabuild
