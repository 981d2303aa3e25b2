// Hopper's own kernels on the host, for a few formats that differ in what makes kernels hard.
#include "emulate_hopper.h"
// The kernels:
#include "matmul.cu"
#include "warpgroup.h"
#include "warpgroup_floats.cu"

namespace llamabuild {
alignas(1024) thread_local uint8_t shared[shared_size];
}

using namespace llamabuild;

namespace {
template <Type type>
int multiply(Product& p, const float* x, uint8_t* workspace, Order order, const Launch& launch) {
    Block::pairs = false;
    prepare_tensor_columns(x, p.k, int64_t{p.k} * p.n, p.k, p.n, p.batch, order, workspace, launch);
    p.activations = workspace;
    p.column_bytes = TensorColumns::bytes(p.k);
    p.activation_batch = p.column_bytes * TensorColumns::count(p.n);
    Block::pairs = splits_in_pairs(tensor_splits(p, order, launch), launch);
    return multiply_warpgroups<type>(p, launch) ? -1 : any_stuck;
}
}  // namespace

// On a GPU with so many multiprocessors. -1: the kernel cannot be started.
extern "C" int emulate_warpgroups(int type, const uint8_t* weights, const float* x, float* output,
                                  uint8_t* workspace, int m, int n, int k, int row_bytes, int batch,
                                  int multiprocessors) {
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
    launch.warpgroups = true;
    Block::lanes = 32;
    any_stuck = false;
    switch (static_cast<Type>(type)) {
        case Type::f16: return multiply<Type::f16>(p, x, workspace, Order::plain, launch);
        case Type::bf16: return multiply<Type::bf16>(p, x, workspace, Order::brain, launch);
#define CASE(name)                                                                        \
    case Type::name:                                                                      \
        return multiply<Type::name>(p, x, workspace,                                      \
                                    order_of<Format<Type::name>::Layout>, launch);
        CASE(q4_0)
        CASE(q4_K)
        CASE(q6_K)
        CASE(mxfp4)
        CASE(iq2_xs)
#undef CASE
        default: return -1;
    }
}
