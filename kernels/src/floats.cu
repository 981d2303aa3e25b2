// 16-bit floats times a few columns: no blocks, no quantization, the activations as they are. More
// columns, where there are tensor cores: matmul_floats.cu.
#include "launch.h"

namespace llamabuild {
namespace {

constexpr int groups = 4;
constexpr int wide = 8;   // weights in 16 bytes

// Rows that share a thread's activations, and pieces of each that it has on their way.
template <int N> constexpr int rows_of = N == 1 ? 1 : N == 2 ? 2 : 4;
template <int N> constexpr int ahead_of = 4 / rows_of<N>;

template <Type type, int N>
__global__ void __launch_bounds__(groups * group_size) float_kernel(Product p, bool aligned) {
    constexpr int rows = rows_of<N>, ahead = ahead_of<N>;
    release_successor();
    wait_for_predecessor();
    const int lane = threadIdx.x % group_size;
    const int first_row = (blockIdx.x * groups + threadIdx.x / group_size) * rows;
    if (first_row >= p.m) return;
    const int first_column = blockIdx.y * N;
    const Place place(p, p.first_item + blockIdx.z);
    const uint8_t* weights[rows];  // past the last row, the last again; columns likewise
    UNROLL
    for (int r = 0; r < rows; ++r)
        weights[r] = place.weights + min(first_row + r, p.m - 1) * p.row_bytes;
    const float* columns[N];
    UNROLL
    for (int c = 0; c < N; ++c)
        columns[c] = reinterpret_cast<const float*>(
            place.activations + min(first_column + c, p.n - 1) * p.column_bytes);

    float sums[rows][N] = {};
    const int end = aligned ? p.k / wide * wide : 0;
    for (int k = lane * wide; k < end; k += ahead * group_size * wide) {
        uint4 w[ahead][rows];
        UNROLL
        for (int i = 0; i < ahead; ++i) {
            const int at = k + i * group_size * wide;
            UNROLL
            for (int r = 0; r < rows; ++r)
                w[i][r] = at < end ? *reinterpret_cast<const uint4*>(weights[r] + 2 * int64_t{at})
                                   : make_uint4(0, 0, 0, 0);
        }
        UNROLL
        for (int i = 0; i < ahead; ++i) {
            const int at = k + i * group_size * wide;
            if (at >= end) break;
            UNROLL
            for (int half = 0; half < 2; ++half) {
                float f[rows][4];
                UNROLL
                for (int r = 0; r < rows; ++r) {
                    const uint32_t a = half ? w[i][r].z : w[i][r].x;
                    const uint32_t b = half ? w[i][r].w : w[i][r].y;
                    f[r][0] = to_float<type>(a & 0xffff), f[r][1] = to_float<type>(a >> 16);
                    f[r][2] = to_float<type>(b & 0xffff), f[r][3] = to_float<type>(b >> 16);
                }
                UNROLL
                for (int c = 0; c < N; ++c) {
                    const float4 x = reinterpret_cast<const float4*>(columns[c] + at)[half];
                    UNROLL
                    for (int r = 0; r < rows; ++r)
                        sums[r][c] += f[r][0] * x.x + f[r][1] * x.y + f[r][2] * x.z + f[r][3] * x.w;
                }
            }
        }
    }
    for (int k = end + lane; k < p.k; k += group_size) {
        UNROLL
        for (int r = 0; r < rows; ++r) {
            const float w = to_float<type>(load16(weights[r] + 2 * int64_t{k}));
            UNROLL
            for (int c = 0; c < N; ++c) sums[r][c] += w * columns[c][k];
        }
    }
    UNROLL
    for (int r = 0; r < rows; ++r) {
        UNROLL
        for (int c = 0; c < N; ++c) {
            float sum = sums[r][c];
            UNROLL
            for (int distance = 1; distance < group_size; distance *= 2)
                sum += exchange(sum, distance);
            const int row = first_row + r, column = first_column + c;
            if (lane == 0 && row < p.m && column < p.n)
                place.output[column * p.output_column + row] = place.valid ? sum : 0;
        }
    }
}

template <Type type, int N>
GPU(Error_t) start_floats(const Product& product, const Launch& launch) {
    const uintptr_t low_bits = reinterpret_cast<uintptr_t>(product.weights) |
                               reinterpret_cast<uintptr_t>(product.activations) |
                               product.row_bytes | product.column_bytes | product.weight_batch |
                               product.activation_batch;
    constexpr int block_rows = groups * rows_of<N>;
    return for_batch(product, [&](const Product& p, int items) {
        const dim3 blocks((p.m + block_rows - 1) / block_rows, (p.n + N - 1) / N, items);
        return start(float_kernel<type, N>, launch, blocks, groups * group_size, 0, p,
                     low_bits % 16 == 0);
    });
}

template <Type type>
GPU(Error_t) multiply_floats(const Product& p, const Launch& launch) {
    if (p.n == 1) return start_floats<type, 1>(p, launch);
    if (p.n == 2) return start_floats<type, 2>(p, launch);
    if (p.n <= 4) return start_floats<type, 4>(p, launch);
    return start_floats<type, 8>(p, launch);
}

}  // namespace

template <>
GPU(Error_t) multiply_vectors<Type::f16>(const Product& p, const Launch& launch) {
    return multiply_floats<Type::f16>(p, launch);
}

template <>
GPU(Error_t) multiply_vectors<Type::bf16>(const Product& p, const Launch& launch) {
    return multiply_floats<Type::bf16>(p, launch);
}

}  // namespace llamabuild
