// One source for CUDA, HIP and, as a scalar build for tests, the host.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__HIPCC__)
#include <hip/hip_runtime.h>
#define GPU(name) hip##name
#define GPU_SHARED_MEMORY hipDeviceAttributeMaxSharedMemoryPerBlock
#define GPU_MULTIPROCESSORS hipDeviceAttributeMultiprocessorCount
using GPUProperties = hipDeviceProp_t;
#elif defined(__CUDACC__)
#include <cuda_runtime.h>
#define GPU(name) cuda##name
#define GPU_SHARED_MEMORY cudaDevAttrMaxSharedMemoryPerBlockOptin
#define GPU_MULTIPROCESSORS cudaDevAttrMultiProcessorCount
using GPUProperties = cudaDeviceProp;
#endif

#if defined(__CUDACC__) || defined(__HIPCC__)
#define DEVICE __host__ __device__ __forceinline__
#define TABLE(type, name, size) alignas(16) static __device__ const type name[size]
#else
#define DEVICE inline
#define TABLE(type, name, size) alignas(16) static const type name[size]
#endif

// What this pass compiles for. The paths below follow these and nothing else, so that code for an
// architecture without an instruction never meets it: there is no trap to run into.
#if defined(__CUDA_ARCH__)
#define LLAMABUILD_DEVICE_CODE 1
#define LLAMABUILD_SM __CUDA_ARCH__
#elif defined(__HIP_DEVICE_COMPILE__)
#define LLAMABUILD_DEVICE_CODE 1
#define LLAMABUILD_SM 0
#else
#define LLAMABUILD_DEVICE_CODE 0
#define LLAMABUILD_SM 0
#endif

// Copies by the bulk engine: CUDA 11.8 knows 9.0, but not these.
#if defined(__CUDACC_VER_MAJOR__) && __CUDACC_VER_MAJOR__ >= 12
#define LLAMABUILD_BULK_COMPILER 1
#else
#define LLAMABUILD_BULK_COMPILER 0
#endif
#if !defined(LLAMABUILD_BULK_COPIES)  // a test that imitates them has defined it
#define LLAMABUILD_BULK_COPIES (LLAMABUILD_BULK_COMPILER && LLAMABUILD_SM >= 900)
#endif

#if defined(__gfx906__) || defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx1011__) || \
    defined(__gfx1012__) || defined(__gfx1030__) || defined(__gfx1031__) ||                      \
    defined(__gfx1032__) || defined(__gfx1034__)
#define LLAMABUILD_SDOT4 1
#else
#define LLAMABUILD_SDOT4 0
#endif

#if defined(__gfx908__) || defined(__gfx90a__)
#define LLAMABUILD_MFMA 1
#else
#define LLAMABUILD_MFMA 0
#endif

#if defined(__gfx1100__) || defined(__gfx1101__) || defined(__gfx1102__) || defined(__gfx1103__)
#define LLAMABUILD_WMMA 1
#else
#define LLAMABUILD_WMMA 0
#endif

// Before a loop whose arrays must live in registers: every index is then known to the compiler.
#if LLAMABUILD_DEVICE_CODE
#define UNROLL _Pragma("unroll")
#define KEEP_LOOP _Pragma("unroll 1")
#else
#define UNROLL
#define KEEP_LOOP
#endif

namespace llamabuild {

// Threads that work together. On AMD's wave64 two such groups share a wave; every exchange below
// names the width, so both wave sizes give the same result.
constexpr int group_size = 32;

// Sum of the products of four signed bytes, plus `sum`.
DEVICE int dot4(uint32_t a, uint32_t b, int sum) {
#if LLAMABUILD_SM >= 610
    return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
#elif LLAMABUILD_DEVICE_CODE && LLAMABUILD_SDOT4
    return __builtin_amdgcn_sdot4(static_cast<int>(a), static_cast<int>(b), sum, false);
#elif LLAMABUILD_DEVICE_CODE && LLAMABUILD_WMMA  // the same architectures
    return __builtin_amdgcn_sudot4(true, static_cast<int>(a), true, static_cast<int>(b), sum,
                                   false);
#else
    for (int i = 0; i < 32; i += 8)
        sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return sum;
#endif
}

// The same, the bytes of `a` unsigned. Not for AMD, most of which has no such instruction.
DEVICE int dot4_unsigned(uint32_t a, uint32_t b, int sum) {
#if LLAMABUILD_SM >= 610
    int result;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
#else
    for (int i = 0; i < 32; i += 8)
        sum += static_cast<uint8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return sum;
#endif
}

// The 32 bits that start `shift` (below 32) bits into the pair.
DEVICE uint32_t funnel(uint32_t low, uint32_t high, uint32_t shift) {
    return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> shift);
}

DEVICE float bits_to_float(uint32_t bits) {
#if LLAMABUILD_DEVICE_CODE
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

DEVICE uint32_t float_to_bits(float value) {
#if LLAMABUILD_DEVICE_CODE
    return __float_as_uint(value);
#else
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

DEVICE float half_to_float(uint32_t bits) {
#if LLAMABUILD_SM
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(bits)));
    return value;
#else
    // Moves exponent and mantissa to their place in a float; the product repairs the exponent's
    // bias and makes subnormal numbers normal. Infinities and NaN keep their exponent.
    const uint32_t magnitude = (bits & 0x7fff) << 13;
    float value = bits_to_float(magnitude) * bits_to_float(0x77800000);  // 2^112
    if ((bits & 0x7c00) == 0x7c00) value = bits_to_float(magnitude | 0x7f800000);
    return bits_to_float(float_to_bits(value) | (bits & 0x8000) << 16);
#endif
}

DEVICE float bfloat_to_float(uint32_t bits) { return bits_to_float(bits << 16); }

// `Count` little-endian words from `p`, which is known to be aligned to `Align` bytes. On a GPU
// the words that contain them are read, up to 3 bytes more on either side: the caller's buffer
// allows for it.
template <int Align, int Count>
DEVICE void load(uint32_t (&words)[Count], const uint8_t* p) {
#if LLAMABUILD_DEVICE_CODE
    if constexpr (Align >= 16 && Count % 4 == 0) {
        UNROLL
        for (int i = 0; i < Count / 4; ++i) {
            const uint4 v = reinterpret_cast<const uint4*>(p)[i];
            words[4 * i] = v.x, words[4 * i + 1] = v.y;
            words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
        }
    } else if constexpr (Align >= 8 && Count % 2 == 0) {
        UNROLL
        for (int i = 0; i < Count / 2; ++i) {
            const uint2 v = reinterpret_cast<const uint2*>(p)[i];
            words[2 * i] = v.x, words[2 * i + 1] = v.y;
        }
    } else if constexpr (Align >= 4) {
        UNROLL
        for (int i = 0; i < Count; ++i) words[i] = reinterpret_cast<const uint32_t*>(p)[i];
    } else {
        // Arithmetic on the pointer, not on the number: the compiler still sees shared memory.
        const uint32_t behind = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p)) & 3;
        const uint32_t* aligned = reinterpret_cast<const uint32_t*>(p - behind);
        const uint32_t shift = 8 * behind;
        uint32_t low = aligned[0];
        UNROLL
        for (int i = 0; i < Count; ++i) {
            const uint32_t high = aligned[i + 1];
            words[i] = funnel(low, high, shift);
            low = high;
        }
    }
#else
    std::memcpy(words, p, sizeof words);
#endif
}

// A 16-bit number at an even address.
DEVICE uint32_t load16(const uint8_t* p) {
#if LLAMABUILD_DEVICE_CODE
    return *reinterpret_cast<const uint16_t*>(p);
#else
    uint16_t value;
    std::memcpy(&value, p, sizeof value);
    return value;
#endif
}

// Bytes that are in registers already. Every offset must be known to the compiler.
struct RegisterBytes {
    const uint32_t* words;  // one more than there are bytes for
    int at;
    DEVICE RegisterBytes operator+(int bytes) const { return {words, at + bytes}; }
    DEVICE uint32_t operator[](int i) const { return words[(at + i) / 4] >> (at + i) % 4 * 8 & 255; }
};

template <int Align, int Count>
DEVICE void load(uint32_t (&words)[Count], RegisterBytes p) {
    UNROLL
    for (int i = 0; i < Count; ++i) {
        const uint32_t* const from = p.words + p.at / 4 + i;
        words[i] = p.at % 4 ? funnel(from[0], from[1], p.at % 4 * 8) : from[0];
    }
}

DEVICE uint32_t load16(RegisterBytes p) {
    return p.words[p.at / 4] >> p.at % 4 * 8 & 0xffff;
}

// Four of the eight bytes of a pair, one for each of the lowest four nibbles of `which`; no nibble is
// above 7.
DEVICE uint32_t permute(uint32_t low, uint32_t high, uint32_t which) {
    uint32_t bytes = 0;
#if LLAMABUILD_SM
    // (`__byte_perm` would make sure of it, each time.)
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(which));
#else
    const uint64_t pair = uint64_t{high} << 32 | low;
    UNROLL
    for (int i = 0; i < 4; ++i)
        bytes |= static_cast<uint32_t>(pair >> (which >> 4 * i & 7) * 8 & 255) << 8 * i;
#endif
    return bytes;
}

// Sixteen signed values looked up by the low and by the high nibbles of four bytes.
template <class Codebook>
DEVICE void lookup(uint32_t nibbles, uint32_t& low, uint32_t& high) {
#if LLAMABUILD_SM
    const uint32_t index = nibbles & 0x77777777;
    const uint32_t half = (nibbles >> 1 & 0x44444444) | 0x32103210;  // of the codebook
    uint32_t picked[2];
    UNROLL
    for (int i = 0; i < 32; i += 16) {
        const uint32_t small = permute(Codebook::word(0), Codebook::word(1), index >> i);
        const uint32_t large = permute(Codebook::word(2), Codebook::word(3), index >> i);
        picked[i / 16] = permute(small, large, half >> i);
    }
    low = __byte_perm(picked[0], picked[1], 0x6420);
    high = __byte_perm(picked[0], picked[1], 0x7531);
#else
    low = high = 0;
    for (int i = 0; i < 32; i += 8) {
        const uint32_t a = nibbles >> i & 15, b = nibbles >> (i + 4) & 15;
        low |= (Codebook::word(a / 4) >> (8 * (a % 4)) & 255) << i;
        high |= (Codebook::word(b / 4) >> (8 * (b % 4)) & 255) << i;
    }
#endif
}

DEVICE uint32_t parity(uint32_t bits) {
#if LLAMABUILD_DEVICE_CODE
    return __popc(bits) & 1;
#else
    return __builtin_parity(bits);
#endif
}

}  // namespace llamabuild
