// The C ABI: checks what it is told, chooses the path, reports every error.
#include "llamabuild_kernels.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>
#include <string_view>

#include "tensor.h"

using namespace llamabuild;

namespace {

thread_local char last_error[512];

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int fail(int status, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}

int check(GPU(Error_t) error, const char* doing) {
    if (error == GPU(Success)) return LLAMABUILD_OK;
    (void)GPU(GetLastError)();  // forget it, or the next call would report it again
    return fail(LLAMABUILD_DEVICE_ERROR, "%s: %s", doing, GPU(GetErrorString)(error));
}

#define TRY(expression)                                  \
    do {                                                 \
        if (const int status = (expression)) return status; \
    } while (false)

// Makes a device current, and the caller's own again.
class Device {
public:
    explicit Device(int device) {
        int count = 0;
        status_ = check(GPU(GetDeviceCount)(&count), "counting devices");
        if (status_) return;
        if (device < 0 || device >= count) {
            status_ = fail(LLAMABUILD_BAD_ARGUMENT, "device %d: there are %d", device, count);
            return;
        }
        status_ = check(GPU(GetDevice)(&before_), "asking for the current device");
        if (!status_) status_ = check(GPU(SetDevice)(device), "choosing the device");
        changed_ = !status_ && before_ != device;
    }
    ~Device() {
        if (changed_) (void)GPU(SetDevice)(before_);
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    int status() const { return status_; }

private:
    int before_ = 0, status_ = 0;
    bool changed_ = false;
};

// Tells by its shared memory whether it is Hopper's own code: the driver has no other word for it.
constexpr size_t warpgroups_mark = 4096;

__global__ void probe_kernel() {
    __shared__ volatile uint8_t mark[LLAMABUILD_WARPGROUPS ? warpgroups_mark : 1];
    mark[0] = 0;
}

// What the driver would run on a device, once asked and remembered.
struct Code {
    // CUDA: of the code, times ten (610). HIP: of the least that can do as much (LLAMABUILD_MFMA,
    // LLAMABUILD_WMMA; LLAMABUILD_SDOT4), else 1.
    int arch = 0;
    int multiprocessors = 0;
    int shared_bytes = 0;  // that a block may ask for
    bool warpgroups = false;
    bool wmma = false;
};

int find_code(int device, Code& code) {
    TRY(check(GPU(DeviceGetAttribute)(&code.multiprocessors, GPU_MULTIPROCESSORS, device),
              "asking for the multiprocessors"));
    TRY(check(GPU(DeviceGetAttribute)(&code.shared_bytes, GPU_SHARED_MEMORY, device),
              "asking for the shared memory"));
#if defined(__HIPCC__)
    hipDeviceProp_t properties;
    TRY(check(hipGetDeviceProperties(&properties, device), "asking for the device's name"));
    hipFuncAttributes attributes;
    if (hipFuncGetAttributes(&attributes, reinterpret_cast<const void*>(probe_kernel)) !=
        hipSuccess)
        return fail(LLAMABUILD_NO_CODE, "no code for %s in this library", properties.gcnArchName);
    const std::string_view name(properties.gcnArchName,
                                std::strcspn(properties.gcnArchName, ":"));
    const auto is_one_of = [&](std::initializer_list<std::string_view> names) {
        return std::find(names.begin(), names.end(), name) != names.end();
    };
    code.wmma = is_one_of({"gfx1100", "gfx1101", "gfx1102", "gfx1103"});
    code.arch = code.wmma || is_one_of({"gfx908", "gfx90a"}) ? integer_arch
                : is_one_of({"gfx906", "gfx1011", "gfx1012", "gfx1030", "gfx1031", "gfx1032",
                             "gfx1034"})
                    ? 610
                    : 1;
#else
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return fail(LLAMABUILD_NO_CODE, "no code for device %d in this library: %s", device,
                    cudaGetErrorString(error));
    }
    code.arch = attributes.ptxVersion * 10;  // what the preprocessor saw, whatever was made of it
    code.warpgroups = attributes.sharedSizeBytes >= warpgroups_mark;
#endif
    return LLAMABUILD_OK;
}

int code_for(int device, Code& code) {
    static std::mutex mutex;
    static std::map<int, Code> known;
    const std::lock_guard<std::mutex> lock(mutex);
    Code& remembered = known[device];
    if (!remembered.arch) TRY(find_code(device, remembered));
    code = remembered;
    return LLAMABUILD_OK;
}

// --- types --------------------------------------------------------------------------------------

using Multiply = GPU(Error_t) (*)(const Product&, const Launch&);
using Takes = bool (*)(const Product&, const Launch&);

struct TypeFacts {
    Type type;
    int weights, bytes;  // of a block
    Multiply vectors, integers, matrices;  // no integers: 16-bit floats
    struct Stream { Takes takes; Multiply multiply; } stream;  // or none
    Order order;
};

template <Type type>
constexpr TypeFacts::Stream stream_of() {
    if constexpr (Format<type>::streams) return {takes_stream<type>, multiply_stream<type>};
    else return {};
}

constexpr TypeFacts all_types[] = {
    {Type::f16, 1, 2, multiply_vectors<Type::f16>, nullptr, multiply_matrices<Type::f16>,
     {takes_stream<Type::f16>, multiply_stream<Type::f16>}, Order::plain},
    {Type::bf16, 1, 2, multiply_vectors<Type::bf16>, nullptr, multiply_matrices<Type::bf16>,
     {takes_stream<Type::bf16>, multiply_stream<Type::bf16>}, Order::brain},
#define ENTRY(name)                                                                       \
    {Type::name, Format<Type::name>::weights, Format<Type::name>::bytes,                  \
     multiply_vectors<Type::name>, multiply_integers<Type::name>,                         \
     multiply_matrices<Type::name>, stream_of<Type::name>(),                               \
     order_of<Format<Type::name>::Layout>},
    LLAMABUILD_QUANTIZED_TYPES(ENTRY)
#undef ENTRY
};

// --- checks -------------------------------------------------------------------------------------

enum class Path { scalar, dp4a, stream, integers, tensor, floats };

struct Checked {
    const TypeFacts* facts;
    Product product;
    Launch launch;
    Path path;
    int arch;
    size_t workspace;
};

Path choose_path(const TypeFacts& facts, int arch, const Product& p, const Launch& launch) {
    if (LLAMABUILD_BULK_COMPILER && facts.stream.takes && arch >= stream_arch &&
        facts.stream.takes(p, launch))
        return Path::stream;
    if (!facts.integers)
        return arch >= tensor_arch && tensor_takes_floats(p, launch) && p.batch <= most_blocks_yz
                   ? Path::tensor
                   : Path::floats;
    if (arch >= integer_arch && p.n >= integer_columns) {
#if !defined(GGML_CUDA_FORCE_MMQ)
        if (arch >= tensor_arch && tensor_is_faster(p.n, launch) && p.batch <= most_blocks_yz)
            return Path::tensor;
#endif
        return Path::integers;
    }
    return arch >= 610 ? Path::dp4a : Path::scalar;
}

int check_range(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return LLAMABUILD_OK;
    return fail(LLAMABUILD_BAD_ARGUMENT, "%s is %lld, not between %lld and %lld", name,
                static_cast<long long>(value), static_cast<long long>(least),
                static_cast<long long>(most));
}

int check_stride(const char* name, int64_t& value, int64_t least) {
    if (value == 0) value = least;
    if (value >= least) return LLAMABUILD_OK;
    return fail(LLAMABUILD_BAD_ARGUMENT, "%s is %lld, less than the %lld that one takes", name,
                static_cast<long long>(value), static_cast<long long>(least));
}

// Everything that can be checked without touching memory; strides are filled in.
int check_shape(const llamabuild_product* given, const llamabuild_groups* groups, Checked& out) {
    constexpr int64_t most = INT32_MAX;
    if (!given) return fail(LLAMABUILD_BAD_ARGUMENT, "product is NULL");
    if (given->size != sizeof *given)
        return fail(LLAMABUILD_BAD_ARGUMENT, "product.size is %zu, not %zu: another version?",
                    given->size, sizeof *given);
    out.facts = nullptr;
    for (const TypeFacts& facts : all_types)
        if (static_cast<int>(facts.type) == given->type) out.facts = &facts;
    if (!out.facts) return fail(LLAMABUILD_BAD_ARGUMENT, "type %d is not known", given->type);
    TRY(check_range("m", given->m, 1, 1 << 30));
    TRY(check_range("n", given->n, 1, 1 << 19));
    TRY(check_range("k", given->k, 1, 1 << 28));
    if (given->k % out.facts->weights)
        return fail(LLAMABUILD_BAD_ARGUMENT, "k is %lld, not a multiple of the block of %d",
                    static_cast<long long>(given->k), out.facts->weights);
    int64_t batch = given->batch ? given->batch : 1;
    TRY(check_range("batch", batch, 1, most));

    Product& p = out.product;
    p = {};
    p.m = static_cast<int>(given->m);
    p.n = static_cast<int>(given->n);
    p.k = static_cast<int>(given->k);
    p.row_bytes = given->k / out.facts->weights * out.facts->bytes;
    int64_t column = given->activation_stride, activation_batch = given->activation_batch_stride;
    p.output_column = given->output_stride;
    p.output_batch = given->output_batch_stride;
    p.weight_batch = given->weight_batch_stride;
    TRY(check_stride("activation_stride", column, given->k));
    TRY(check_stride("output_stride", p.output_column, given->m));
    if (p.weight_batch == -1) p.weight_batch = 0;
    else TRY(check_stride("weight_batch_stride", p.weight_batch, given->m * p.row_bytes));
    if (p.weight_batch % out.facts->bytes)
        return fail(LLAMABUILD_BAD_ARGUMENT, "weight_batch_stride is no multiple of a block");

    int prepared_columns = p.n, prepared_batch = static_cast<int>(batch);
    if (groups) {
        if (groups->size != sizeof *groups)
            return fail(LLAMABUILD_BAD_ARGUMENT, "groups.size is %zu, not %zu", groups->size,
                        sizeof *groups);
        TRY(check_range("experts", groups->experts, 1, most));
        TRY(check_range("count", groups->count, 1, most));
        TRY(check_stride("output_batch_stride", p.output_batch, given->m));
        p.expert_count = static_cast<int>(groups->experts);
        p.column_count = p.n;
        p.experts = groups->expert;
        p.columns = groups->column;
        p.n = 1;
        p.batch = static_cast<int>(groups->count);
        prepared_batch = 1;
        activation_batch = column;
    } else {
        TRY(check_stride("activation_batch_stride", activation_batch,
                         (given->n - 1) * column + given->k));
        TRY(check_stride("output_batch_stride", p.output_batch,
                         (given->n - 1) * p.output_column + given->m));
        p.batch = static_cast<int>(batch);
    }
    const double work = static_cast<double>(p.m) * p.n * p.batch;
    const double prepared = static_cast<double>(p.k) * prepared_columns * prepared_batch;
    if (work > 2e9 || prepared > 8e9)
        return fail(LLAMABUILD_BAD_ARGUMENT, "the product is too large for one call");

    Code code;
    TRY(code_for(given->device, code));
    out.launch = {static_cast<GPU(Stream_t)>(given->stream), code.multiprocessors,
                  code.shared_bytes, code.arch >= 900, code.warpgroups, code.wmma};
    out.arch = code.arch;
    out.path = choose_path(*out.facts, code.arch, p, out.launch);
    out.workspace = 0;
    if (out.path == Path::floats || out.path == Path::stream) {
        p.column_bytes = column * 4;
        p.activation_batch = activation_batch * 4;
    } else if (out.path == Path::tensor) {
        p.column_bytes = TensorColumns::bytes(p.k);
        p.activation_batch = p.column_bytes * TensorColumns::count(p.n);
        const int splits = tensor_splits(p, out.facts->order, out.launch);
        out.workspace = p.activation_batch * p.batch +
                        tensor_partial_bytes(p, parts_in_memory(splits, out.launch));
    } else {
        p.column_bytes = int64_t{p.k} / 32 * static_cast<int64_t>(sizeof(ActivationBlock));
        p.activation_batch = groups ? p.column_bytes : p.column_bytes * p.n;
        out.workspace = static_cast<size_t>(p.column_bytes) * prepared_columns * prepared_batch;
        if (out.path == Path::integers)
            out.workspace += tensor_partial_bytes(p, integer_splits(p, out.launch));
    }
    return LLAMABUILD_OK;
}

int check_memory(const llamabuild_product& given, const llamabuild_groups* groups,
                 const Checked& c) {
    if (!given.weights || !given.activations || !given.output)
        return fail(LLAMABUILD_BAD_ARGUMENT, "weights, activations or output is NULL");
    if (groups && (!groups->expert || !groups->column))
        return fail(LLAMABUILD_BAD_ARGUMENT, "expert or column is NULL");
    if (reinterpret_cast<uintptr_t>(given.weights) % 16)
        return fail(LLAMABUILD_BAD_ARGUMENT, "weights are not aligned to 16 bytes");
    if (reinterpret_cast<uintptr_t>(given.activations) % 4 ||
        reinterpret_cast<uintptr_t>(given.output) % 4)
        return fail(LLAMABUILD_BAD_ARGUMENT, "activations or output are not aligned to 4 bytes");
    if (given.workspace_size < c.workspace)
        return fail(LLAMABUILD_BAD_ARGUMENT, "workspace of %zu bytes, %zu are needed",
                    given.workspace_size, c.workspace);
    if (c.workspace && (!given.workspace || reinterpret_cast<uintptr_t>(given.workspace) % 16))
        return fail(LLAMABUILD_BAD_ARGUMENT, "workspace is NULL or not aligned to 16 bytes");
    return LLAMABUILD_OK;
}

int prepare_activations(const llamabuild_product& given, const llamabuild_groups* groups,
                        const Checked& c) {
    const int64_t column = given.activation_stride ? given.activation_stride : given.k;
    const int n = static_cast<int>(given.n), batch = groups ? 1 : c.product.batch;
    const int64_t batch_stride = given.activation_batch_stride
                                     ? given.activation_batch_stride
                                     : (given.n - 1) * column + given.k;
    const auto error =
        c.path == Path::tensor
            ? prepare_tensor_columns(given.activations, column, batch_stride, c.product.k, n,
                                     batch, c.facts->order, given.workspace, c.launch)
            : quantize_columns(given.activations, column, batch_stride, c.product.k, n, batch,
                               given.workspace, c.launch);
    return check(error, "preparing activations");
}

int multiply(const llamabuild_product& given, const llamabuild_groups* groups, Checked& c) {
    TRY(check_memory(given, groups, c));
    c.product.weights = static_cast<const uint8_t*>(given.weights);
    c.product.output = given.output;
    if (c.path == Path::floats || c.path == Path::stream) {
        const auto kernel = c.path == Path::stream ? c.facts->stream.multiply : c.facts->vectors;
        c.product.activations = reinterpret_cast<const uint8_t*>(given.activations);
        return check(kernel(c.product, c.launch), "multiplying");
    }
    TRY(prepare_activations(given, groups, c));
    c.product.activations = static_cast<const uint8_t*>(given.workspace);
    const auto kernel = c.path == Path::tensor     ? c.facts->matrices
                        : c.path == Path::integers ? c.facts->integers
                                                   : c.facts->vectors;
    return check(kernel(c.product, c.launch), "multiplying");
}

#define DEVICE_OR_RETURN(device)         \
    const Device current(device);        \
    if (current.status()) return current.status()

#define TEXT_OF(...) #__VA_ARGS__
#define TEXT(...) TEXT_OF(__VA_ARGS__)

}  // namespace

extern "C" {

int llamabuild_version(void) { return LLAMABUILD_KERNELS_VERSION; }

const char* llamabuild_last_error(void) { return last_error; }

const char* llamabuild_architectures(void) {
#if defined(__CUDA_ARCH_LIST__)
    return TEXT(__CUDA_ARCH_LIST__);
#else
    return "hip";
#endif
}

int llamabuild_types(int32_t* types, int room) {
    int count = 0;
    for (const TypeFacts& facts : all_types) {
        if (types && count < room) types[count] = static_cast<int32_t>(facts.type);
        ++count;
    }
    return count;
}

int llamabuild_device_count(int* count) {
    if (!count) return fail(LLAMABUILD_BAD_ARGUMENT, "count is NULL");
    return check(GPU(GetDeviceCount)(count), "counting devices");
}

int llamabuild_device_info(int device, char* name, int room, int* arch, int* code,
                           int64_t* memory_bytes) {
    if (!name || room < 1 || !arch || !code || !memory_bytes)
        return fail(LLAMABUILD_BAD_ARGUMENT, "an argument is NULL");
    DEVICE_OR_RETURN(device);
    GPUProperties properties;
    TRY(check(GPU(GetDeviceProperties)(&properties, device), "asking for the device's name"));
    std::snprintf(name, static_cast<size_t>(room), "%s", properties.name);
    *memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
#if defined(__HIPCC__)
    *arch = 0;
#else
    *arch = properties.major * 10 + properties.minor;
#endif
    Code found;
    *code = code_for(device, found) == LLAMABUILD_OK ? found.arch / 10 : 0;
    return LLAMABUILD_OK;
}

const char* llamabuild_path(const llamabuild_product* product) {
    const Device current(product ? product->device : -1);
    Checked c;
    if (current.status() || check_shape(product, nullptr, c)) return nullptr;
    constexpr const char* names[] = {"scalar", "dp4a", "dp4a", "int8", "tensor", "float"};
    if (c.path == Path::stream && !c.facts->integers) return "float";
    return names[static_cast<int>(c.path)];
}

int llamabuild_grouped_workspace_size(const llamabuild_product* product,
                                      const llamabuild_groups* groups, size_t* bytes) {
    if (!product || !bytes) return fail(LLAMABUILD_BAD_ARGUMENT, "an argument is NULL");
    DEVICE_OR_RETURN(product->device);
    Checked c;
    TRY(check_shape(product, groups, c));
    *bytes = c.workspace;
    return LLAMABUILD_OK;
}

int llamabuild_workspace_size(const llamabuild_product* product, size_t* bytes) {
    return llamabuild_grouped_workspace_size(product, nullptr, bytes);
}

int llamabuild_multiply(const llamabuild_product* product) {
    if (!product) return fail(LLAMABUILD_BAD_ARGUMENT, "product is NULL");
    DEVICE_OR_RETURN(product->device);
    Checked c;
    TRY(check_shape(product, nullptr, c));
    return multiply(*product, nullptr, c);
}

int llamabuild_multiply_grouped(const llamabuild_product* product,
                                const llamabuild_groups* groups) {
    if (!product || !groups) return fail(LLAMABUILD_BAD_ARGUMENT, "an argument is NULL");
    DEVICE_OR_RETURN(product->device);
    Checked c;
    TRY(check_shape(product, groups, c));
    return multiply(*product, groups, c);
}

int llamabuild_allocate(int device, size_t bytes, void** memory) {
    if (!memory) return fail(LLAMABUILD_BAD_ARGUMENT, "memory is NULL");
    DEVICE_OR_RETURN(device);
    return check(GPU(Malloc)(memory, (bytes + 15) / 16 * 16), "allocating");
}

int llamabuild_release(int device, void* memory) {
    DEVICE_OR_RETURN(device);
    return check(GPU(Free)(memory), "releasing");
}

int llamabuild_upload(int device, void* to, const void* from, size_t bytes) {
    DEVICE_OR_RETURN(device);
    return check(GPU(Memcpy)(to, from, bytes, GPU(MemcpyHostToDevice)), "copying to the device");
}

int llamabuild_download(int device, void* to, const void* from, size_t bytes) {
    DEVICE_OR_RETURN(device);
    return check(GPU(Memcpy)(to, from, bytes, GPU(MemcpyDeviceToHost)), "copying from the device");
}

int llamabuild_copy(int device, void* to, const void* from, size_t bytes) {
    DEVICE_OR_RETURN(device);
    return check(GPU(Memcpy)(to, from, bytes, GPU(MemcpyDeviceToDevice)), "copying");
}

int llamabuild_fill(int device, void* memory, int byte, size_t bytes) {
    DEVICE_OR_RETURN(device);
    TRY(check(GPU(Memset)(memory, byte, bytes), "filling"));
    return check(GPU(DeviceSynchronize)(), "filling");
}

int llamabuild_synchronize(int device) {
    DEVICE_OR_RETURN(device);
    return check(GPU(DeviceSynchronize)(), "waiting for the device");
}

}  // extern "C"

namespace {

// Events around `work(i)` for each of `repeats`, on a stream of its own.
template <class Work>
int measure(int repeats, float* microseconds, Work work) {
    GPU(Stream_t) stream;
    GPU(Event_t) begin, end;
    TRY(check(GPU(StreamCreate)(&stream), "making a stream"));
    TRY(check(GPU(EventCreate)(&begin), "making an event"));
    TRY(check(GPU(EventCreate)(&end), "making an event"));
    int status = check(GPU(EventRecord)(begin, stream), "recording an event");
    for (int i = 0; i < repeats && !status; ++i) status = work(i, stream);
    if (!status) status = check(GPU(EventRecord)(end, stream), "recording an event");
    if (!status) status = check(GPU(EventSynchronize)(end), "waiting for the device");
    float milliseconds = 0;
    if (!status) status = check(GPU(EventElapsedTime)(&milliseconds, begin, end), "timing");
    *microseconds = milliseconds * 1000 / static_cast<float>(repeats);
    (void)GPU(EventDestroy)(begin);
    (void)GPU(EventDestroy)(end);
    (void)GPU(StreamDestroy)(stream);
    return status;
}

}  // namespace

extern "C" {

int llamabuild_measure(const llamabuild_product* product, int copies, int64_t copy_stride,
                       int repeats, float* microseconds) {
    if (!product || !microseconds || copies < 1 || repeats < 1)
        return fail(LLAMABUILD_BAD_ARGUMENT, "an argument is NULL or less than 1");
    DEVICE_OR_RETURN(product->device);
    return measure(repeats, microseconds, [&](int i, GPU(Stream_t) stream) {
        llamabuild_product one = *product;
        one.weights = static_cast<const char*>(product->weights) + i % copies * copy_stride;
        one.stream = stream;
        return llamabuild_multiply(&one);
    });
}

int llamabuild_measure_copy(int device, void* to, const void* from, size_t bytes, int repeats,
                            float* microseconds) {
    if (!to || !from || !microseconds || repeats < 1)
        return fail(LLAMABUILD_BAD_ARGUMENT, "an argument is NULL or less than 1");
    DEVICE_OR_RETURN(device);
    return measure(repeats, microseconds, [&](int, GPU(Stream_t) stream) {
        return check(GPU(MemcpyAsync)(to, from, bytes, GPU(MemcpyDeviceToDevice), stream),
                     "copying");
    });
}

int llamabuild_quantize(const llamabuild_product* product) {
    if (!product) return fail(LLAMABUILD_BAD_ARGUMENT, "product is NULL");
    DEVICE_OR_RETURN(product->device);
    Checked c;
    TRY(check_shape(product, nullptr, c));
    TRY(check_range("k modulo 32", product->k % 32, 0, 0));
    c.path = Path::scalar;  // whatever the product itself would use
    c.workspace = sizeof(ActivationBlock) * (product->k / 32) * product->n * c.product.batch;
    llamabuild_product complete = *product;  // weights and output are not used
    complete.weights = product->workspace;
    complete.output = reinterpret_cast<float*>(product->workspace);
    TRY(check_memory(complete, nullptr, c));
    return prepare_activations(*product, nullptr, c);
}

}  // extern "C"
