// The kernels themselves on the host, for a few formats that differ in what makes kernels hard.
#include "emulate.h"
// The kernels:
#include "floats.cu"
#include "integers.h"
#include "matmul.cu"
#include "matvec.h"
#include "quantize.cu"
#include "stream.h"

namespace llamabuild {
alignas(128) thread_local uint8_t shared[shared_size];
}

using namespace llamabuild;

// One column, by the kernel that takes it as floats; all types. -1: the kernel is not for that.
extern "C" int emulate_stream(int type, const uint8_t* weights, const float* x, float* output, int m,
                              int k, int row_bytes, int batch, int multiprocessors) {
    std::fill(std::begin(shared), std::end(shared), 0xff);
    Product p = {};
    p.weights = weights;
    p.activations = reinterpret_cast<const uint8_t*>(x);
    p.output = output;
    p.m = m, p.n = 1, p.k = k, p.batch = batch;
    p.row_bytes = row_bytes;
    p.weight_batch = int64_t{m} * row_bytes;
    p.column_bytes = p.activation_batch = int64_t{4} * k;
    p.output_column = p.output_batch = m;
    Launch launch = {};
    launch.multiprocessors = multiprocessors;
    launch.shared_bytes = 227 * 1024;
    Block::lanes = 32;
    any_stuck = false;
    switch (static_cast<Type>(type)) {
#define CASE(name) \
    case Type::name: return multiply_stream<Type::name>(p, launch) ? -1 : any_stuck;
        LLAMABUILD_QUANTIZED_TYPES(CASE)
        CASE(f16)
        CASE(bf16)
#undef CASE
        default: return -1;
    }
}

// On a GPU with so many multiprocessors. With matrix cores (AMD's), and then waves of 64 threads (MFMA)
// or 32 (WMMA): all types; without, 0: a few.
extern "C" int emulate_multiply(int type, const uint8_t* weights, const float* x, float* output,
                                uint8_t* workspace, int m, int n, int k, int row_bytes, int batch,
                                int multiprocessors, int wave) {
    std::fill(std::begin(shared), std::end(shared), 0xff);
    Product p = {};
    p.weights = weights;
    p.output = output;
    p.m = m, p.n = n, p.k = k, p.batch = batch;
    p.row_bytes = row_bytes;
    p.weight_batch = int64_t{m} * row_bytes;
    p.output_column = m;
    p.output_batch = int64_t{m} * n;
    Launch launch = {};
    launch.multiprocessors = multiprocessors;
    launch.wmma = wave == 32;
    Block::lanes = wave == 64 ? 64 : 32;
    any_stuck = false;
    if (type == int(Type::f16)) {
        p.activations = reinterpret_cast<const uint8_t*>(x);
        p.column_bytes = int64_t{4} * k;
        p.activation_batch = p.column_bytes * n;
        multiply_vectors<Type::f16>(p, launch);
        return any_stuck;
    }
    quantize_columns(x, k, int64_t{k} * n, k, n, batch, workspace, launch);
    p.activations = workspace;
    p.column_bytes = k / 32 * int64_t(sizeof(ActivationBlock));
    p.activation_batch = p.column_bytes * n;
    if (wave) {
        switch (static_cast<Type>(type)) {
#define CASE(name) \
    case Type::name: multiply_integers<Type::name>(p, launch); return any_stuck;
            LLAMABUILD_QUANTIZED_TYPES(CASE)
#undef CASE
            default: return -1;
        }
    }
    switch (static_cast<Type>(type)) {
        case Type::q4_0: multiply_vectors<Type::q4_0>(p, launch); break;
        case Type::q4_K: multiply_vectors<Type::q4_K>(p, launch); break;
        case Type::q6_K: multiply_vectors<Type::q6_K>(p, launch); break;
        case Type::mxfp4: multiply_vectors<Type::mxfp4>(p, launch); break;
        case Type::iq2_xs: multiply_vectors<Type::iq2_xs>(p, launch); break;
        default: return -1;
    }
    return any_stuck;
}
