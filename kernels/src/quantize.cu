#include "launch.h"

namespace llamabuild {
namespace {

constexpr int threads_per_block = 256;

// Eight threads share a block of 32: see quantize_block.
__global__ void __launch_bounds__(threads_per_block)
quantize_kernel(const float* x, int64_t column_stride, int64_t x_batch, int k, int count,
                uint32_t total, ActivationBlock* blocks) {
    release_successor();
    wait_for_predecessor();
    const uint32_t index = blockIdx.x * threads_per_block + threadIdx.x;
    const uint32_t quads = k / 4;
    const uint32_t quad = min(index, total - 1) % quads;  // the last threads repeat the last quad
    const uint32_t column = min(index, total - 1) / quads;
    const float* from = x + column / count * x_batch + column % count * column_stride + 4 * quad;
    float values[4];
    uint32_t largest = 0;
    for (int i = 0; i < 4; ++i) {
        values[i] = from[i];
        largest = larger_magnitude(largest, values[i]);
    }
    for (int distance = 1; distance < 8; distance *= 2) {
        const uint32_t other = exchange(largest, distance);
        largest = other > largest ? other : largest;
    }
    float d, inverse;
    scale_of(largest, d, inverse);
    uint32_t packed = 0;
    int sum = 0;
    for (int i = 0; i < 4; ++i) {
        const auto q = static_cast<int8_t>(quantize(values[i], inverse));
        sum += q;
        packed |= static_cast<uint32_t>(q & 255) << (8 * i);
    }
    for (int distance = 1; distance < 4; distance *= 2)
        sum += static_cast<int>(exchange(static_cast<uint32_t>(sum), distance));
    if (index >= total) return;
    ActivationBlock& block = blocks[index / 8];  // columns follow each other without gaps
    reinterpret_cast<uint32_t*>(block.q)[quad % 8] = packed;
    if (quad % 4 == 0) block.half[quad / 4 % 2] = {d, d * static_cast<float>(sum)};
}

}  // namespace

GPU(Error_t) quantize_columns(const float* x, int64_t column, int64_t x_batch, int k, int count,
                              int batch, void* blocks_of_32, const Launch& launch) {
    const int64_t total = int64_t{k} / 4 * count * batch;
    const auto blocks = static_cast<unsigned>((total + threads_per_block - 1) / threads_per_block);
    return start(quantize_kernel, launch, blocks, threads_per_block, 0, x, column, x_batch, k,
                 count, static_cast<uint32_t>(total), static_cast<ActivationBlock*>(blocks_of_32));
}

}  // namespace llamabuild
