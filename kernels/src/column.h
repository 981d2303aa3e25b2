// A column of floats that the threads of a block quantize together, for itself alone.
#pragma once
#include "activations.h"
#include "launch.h"

namespace llamabuild {

#if LLAMABUILD_BULK_COPIES
// Four of a thread's pieces of a column, whole groups of 32 threads together. As in quantize_block,
// eight neighbouring lanes take a block; each has a piece of four blocks, and in between, the
// numbers of one. Piece i is of the block `first + i * step`; those from `end` on do not exist.
__device__ __forceinline__ void quantize_four(const float (&values)[4][4], int lane, int first,
                                              int step, int end, ActivationBlock* blocks) {
    const int quad = lane % 8, eight = lane - quad;
    uint32_t largest[4] = {};
    UNROLL
    for (int i = 0; i < 16; ++i)
        largest[i / 4] = larger_magnitude(largest[i / 4], values[i / 4][i % 4]);
    // Lane 4a + 2b + c of the eight ends with the largest of block 2a + b.
    const bool a = quad & 4, b = quad & 2, c = quad & 1;
    uint32_t two[2];
    UNROLL
    for (int i = 0; i < 2; ++i)
        two[i] = max(a ? largest[2 + i] : largest[i], exchange(a ? largest[i] : largest[2 + i], 4));
    uint32_t one = max(b ? two[1] : two[0], exchange(b ? two[0] : two[1], 2));
    one = max(one, exchange(one, 1));
    float d, inverse;
    scale_of(one, d, inverse);

    uint32_t sums[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
        const float factor = bits_to_float(from_lane(float_to_bits(inverse), eight + 2 * i));
        uint32_t q[4];
        UNROLL
        for (int j = 0; j < 4; ++j) q[j] = quantize(values[i][j], factor);
        const uint32_t packed =
            permute(permute(q[0], q[1], 0x0040), permute(q[2], q[3], 0x0040), 0x5410);
        sums[i] = static_cast<uint32_t>(dot4(packed, 0x01010101, 0));
        const int block = first + i * step;
        if (block < end) reinterpret_cast<uint32_t*>(blocks[block].q)[quad] = packed;
    }
    // Lane 4a + 2b + c ends with the sum over half a of block 2b + c.
    uint32_t pair[2];
    UNROLL
    for (int i = 0; i < 2; ++i)
        pair[i] = (b ? sums[2 + i] : sums[i]) + exchange(b ? sums[i] : sums[2 + i], 2);
    const uint32_t sum = (c ? pair[1] : pair[0]) + exchange(c ? pair[0] : pair[1], 1);
    const int block = first + quad % 4 * step;
    d = bits_to_float(from_lane(float_to_bits(d), eight + 2 * (quad % 4)));
    if (block < end) blocks[block].half[a] = {d, d * static_cast<float>(static_cast<int>(sum))};
}

// Quantizes a column; `warp` is one of `warps`. Calls `asked` when the first floats, mostly all, are
// on their way.
template <class Asked>
__device__ __forceinline__ void quantize_column(const float* column, int k, int warp, int warps,
                                                int lane, ActivationBlock* blocks, Asked asked) {
    const bool aligned = reinterpret_cast<uintptr_t>(column) % 16 == 0;
    const int step = 4 * group_size * warps;
    int begin = 4 * group_size * warp;
    KEEP_LOOP
    do {
        float values[2][4][4];  // all on their way before the first is used
        int at[8];
        UNROLL
        for (int i = 0; i < 8; ++i) at[i] = min(begin + 4 * lane + i * step, k - 4);
        if (aligned) {
            UNROLL
            for (int i = 0; i < 8; ++i) {
                const float4 four = *reinterpret_cast<const float4*>(column + at[i]);
                float(&piece)[4] = values[i / 4][i % 4];
                piece[0] = four.x, piece[1] = four.y, piece[2] = four.z, piece[3] = four.w;
            }
        } else {
            KEEP_LOOP
            for (int j = 0; j < 4; ++j) {
                UNROLL
                for (int i = 0; i < 8; ++i) {
                    float(&piece)[4] = values[i / 4][i % 4];
                    piece[0] = piece[1], piece[1] = piece[2], piece[2] = piece[3];
                    piece[3] = column[at[i] + j];
                }
            }
        }
        if (begin < step) asked();
        const int first = begin / 32 + lane / 8;
        quantize_four(values[0], lane, first, step / 32, k / 32, blocks);
        if (begin + 4 * step < k)
            quantize_four(values[1], lane, first + step / 8, step / 32, k / 32, blocks);
        begin += 8 * step;
    } while (begin < k);
}
#endif

}  // namespace llamabuild
