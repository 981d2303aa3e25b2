// The kernels for the tensor cores of 7.5 to 8.9 on the host, for a few formats that differ in what
// makes kernels hard.
#include "emulate_tensor.h"
// The kernels:
#include "integers.h"
#include "matmul.cu"
#include "matmul.h"
#include "matmul_floats.cu"
#include "quantize.cu"

namespace llamabuild {
alignas(1024) thread_local uint8_t shared[shared_size];

template <Type type>
hipError_t multiply_warpgroups(const Product&, const Launch&) { return hipErrorInvalidValue; }
}  // namespace llamabuild

using namespace llamabuild;

namespace {
// As floats, or as integers.
template <Type type>
int multiply(Product& p, const float* x, uint8_t* workspace, Order order, const Launch& launch,
             bool integers) {
    p.activations = workspace;
    if constexpr (type != Type::f16 && type != Type::bf16)
        if (integers) {
            quantize_columns(x, p.k, int64_t{p.k} * p.n, p.k, p.n, p.batch, workspace, launch);
            p.column_bytes = p.k / 32 * int64_t(sizeof(ActivationBlock));
            p.activation_batch = p.column_bytes * p.n;
            const int splits = integer_splits(p, launch);
            auto* const parts = reinterpret_cast<float*>(workspace + p.activation_batch * p.batch);
            const auto start = p.n <= NarrowTile::columns ? start_integers<NarrowTile, type>
                                                          : start_integers<WideTile, type>;
            if (start(p, launch, parts, splits)) return -1;
            if (splits > 1) add_parts(p, parts, splits, launch);
            return any_stuck;
        }
    prepare_tensor_columns(x, p.k, int64_t{p.k} * p.n, p.k, p.n, p.batch, order, workspace, launch);
    p.column_bytes = TensorColumns::bytes(p.k);
    p.activation_batch = p.column_bytes * TensorColumns::count(p.n);
    return multiply_matrices<type>(p, launch) ? -1 : any_stuck;
}
}  // namespace

// On a GPU with so many multiprocessors, and tiles for its shared memory. -1: it cannot be started.
extern "C" int emulate_tensor(int type, const uint8_t* weights, const float* x, float* output,
                              uint8_t* workspace, int m, int n, int k, int row_bytes, int batch,
                              int multiprocessors, int shared_bytes, bool integers) {
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
    launch.shared_bytes = shared_bytes;
    Block::lanes = 32;
    any_stuck = false;
    switch (static_cast<Type>(type)) {
        case Type::f16: return multiply<Type::f16>(p, x, workspace, Order::plain, launch, false);
        case Type::bf16: return multiply<Type::bf16>(p, x, workspace, Order::brain, launch, false);
#define CASE(name)                                                                        \
    case Type::name:                                                                      \
        return multiply<Type::name>(p, x, workspace,                                      \
                                    order_of<Format<Type::name>::Layout>, launch, integers);
        CASE(q4_0)
        CASE(q4_K)
        CASE(q6_K)
        CASE(mxfp4)
        CASE(iq2_xs)
#undef CASE
        default: return -1;
    }
}
