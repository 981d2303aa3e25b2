// The device functions of kernels/, compiled for the host: what a GPU's scalar path computes.
#include <vector>

#include "activations.h"

using namespace llamabuild;

namespace {

constexpr size_t read_beyond = 32;  // a chunk may read this many bytes past its block

template <Type type>
void unpack_row(const uint8_t* row, int k, float* out) {
    using F = Format<type>;
    std::vector<uint8_t> block(F::bytes + read_beyond);
    for (int b = 0; b < k / F::weights; ++b) {
        std::memcpy(block.data(), row + size_t(b) * F::bytes, F::bytes);
        for (int j = 0; j < F::weights / 32; ++j) {
            const Chunk c = F::chunk(block.data(), j, F::table());
            for (int i = 0; i < 32; ++i) {
                const int q = static_cast<int8_t>(c.q[i / 4] >> (8 * (i % 4)));
                const int at = F::first(j) + i / 16 * F::step + i % 16;
                out[b * F::weights + at] = c.scale[i / 16] * float(q) + c.offset[i / 16];
            }
        }
    }
}

template <Type type>
float dot_row(const uint8_t* row, int k, const void* quantized) {
    using F = Format<type>;
    std::vector<uint8_t> block(F::bytes + read_beyond);
    float sum = 0;
    for (int b = 0; b < k / F::weights; ++b) {
        std::memcpy(block.data(), row + size_t(b) * F::bytes, F::bytes);
        for (int j = 0; j < F::weights / 32; ++j) {
            const int chunk = b * F::weights / 32 + j;
            const auto x = ActivationChunk::at<F>(
                static_cast<const uint8_t*>(quantized) + chunk / 8 * 8 * sizeof(ActivationBlock),
                chunk % 8);
            sum += dot<F>(F::chunk(block.data(), j, F::table()), x);
        }
    }
    return sum;
}

}  // namespace

extern "C" {

int host_unpack(int type, const uint8_t* row, int k, float* out) {
    switch (static_cast<Type>(type)) {
#define CASE(name) case Type::name: unpack_row<Type::name>(row, k, out); return 0;
        LLAMABUILD_QUANTIZED_TYPES(CASE)
#undef CASE
        default: return 1;
    }
}

int host_dot(int type, const uint8_t* row, int k, const void* quantized, float* out) {
    switch (static_cast<Type>(type)) {
#define CASE(name) case Type::name: *out = dot_row<Type::name>(row, k, quantized); return 0;
        LLAMABUILD_QUANTIZED_TYPES(CASE)
#undef CASE
        default: return 1;
    }
}

void host_quantize(const float* x, int k, void* quantized) {
    for (int b = 0; b < k / 32; ++b)
        quantize_block(x + 32 * b, static_cast<ActivationBlock*>(quantized)[b]);
}

float host_half(uint16_t bits) { return half_to_float(bits); }
}
