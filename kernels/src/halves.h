// Weights as 16-bit floats, on their way from a chunk to the tensor cores' registers.
#pragma once
#include "launch.h"

namespace llamabuild {

constexpr float weight_gain = 256;  // keeps small scales out of the subnormal 16-bit floats

#if LLAMABUILD_SM >= 800
// 1024 + byte is a 16-bit float with the byte as its last digits.
__device__ __forceinline__ void to_halves(uint32_t q, uint32_t scale, uint32_t offset,
                                          bool has_offset, uint32_t& low, uint32_t& high) {
    // Where there are offsets, q is never negative; else 128 is added and taken away again.
    const uint32_t biased = has_offset ? q : q ^ 0x80808080;
    const uint32_t bias = has_offset ? 0x64006400 : 0x64806480;
    low = __byte_perm(biased, 0x64646464, 0x4140);
    high = __byte_perm(biased, 0x64646464, 0x4342);
    asm("sub.f16x2 %0, %0, %1;" : "+r"(low) : "r"(bias));
    asm("sub.f16x2 %0, %0, %1;" : "+r"(high) : "r"(bias));
    if (has_offset) {
        asm("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(low) : "r"(scale), "r"(offset));
        asm("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(high) : "r"(scale), "r"(offset));
    } else {
        asm("mul.f16x2 %0, %0, %1;" : "+r"(low) : "r"(scale));
        asm("mul.f16x2 %0, %0, %1;" : "+r"(high) : "r"(scale));
    }
}

__device__ __forceinline__ uint32_t two_halves(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ uint32_t two_bfloats(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// One of two 16-bit floats, twice.
__device__ __forceinline__ uint32_t twice_half(uint32_t pair, int which) {
    return __byte_perm(pair, 0, which ? 0x3232 : 0x1010);
}

// What depends on the result is computed where it is used, instead of once before the loop: that
// would take registers which the sums need.
__device__ __forceinline__ int here(int x) {
    asm volatile("" : "+r"(x));
    return x;
}
// The same for a pointer.
__device__ __forceinline__ void stay(const uint8_t*& p) { asm volatile("" : "+l"(p)); }
#endif

}  // namespace llamabuild
