// A `bundled` module without a GPU: the C interface of kernels/include, over host memory and the
// device functions compiled for the host. What is tried with it is everything around a GPU.
//
// The environment variable FAULT plants one: crash, hang, refuse, exit, no_device, untouched,
// beyond, noise, first_only (of a batch), clamp (an expert that is out of range), crash_grouped.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "../kernels/host_build.cpp"
#include "llamabuild_kernels.h"

namespace {

thread_local std::string last_error;

int fail(int status, const std::string& why) {
    last_error = why;
    return status;
}

bool planted(const char* fault) {
    const char* wanted = std::getenv("FAULT");
    return wanted && std::string(wanted) == fault;
}

constexpr int32_t all_types[] = {
#define NUMBER(name) static_cast<int32_t>(Type::name),
    LLAMABUILD_QUANTIZED_TYPES(NUMBER)
#undef NUMBER
};

size_t row_bytes(const llamabuild_product* p) {
    switch (static_cast<Type>(p->type)) {
#define CASE(name) \
    case Type::name: return size_t(p->k / Format<Type::name>::weights * Format<Type::name>::bytes);
        LLAMABUILD_QUANTIZED_TYPES(CASE)
#undef CASE
        default: return 0;
    }
}

size_t column_bytes(const llamabuild_product* p) { return size_t((p->k + 255) / 32) * 48; }

// A stride, or what it is without gaps.
int64_t stride(int64_t given, int64_t without) { return given ? given : without; }

void multiply_column(const llamabuild_product* p, int64_t matrix, const float* column, float* out) {
    const auto bytes = int64_t(row_bytes(p));
    const auto* row = static_cast<const uint8_t*>(p->weights) +
                      matrix * stride(p->weight_batch_stride, p->m * bytes);
    host_quantize(column, int(p->k), p->workspace);
    for (int64_t i = 0; i < p->m; ++i, row += bytes)
        host_dot(p->type, row, int(p->k), p->workspace, out + i);
}

}  // namespace

extern "C" {

int llamabuild_version(void) { return LLAMABUILD_KERNELS_VERSION; }
const char* llamabuild_last_error(void) { return last_error.c_str(); }
const char* llamabuild_architectures(void) { return "the host"; }

int llamabuild_types(int32_t* types, int room) {
    int count = 0;
    for (const int32_t type : all_types)
        if (++count <= room) types[count - 1] = type;
    return count;
}

int llamabuild_device_count(int* count) {
    if (planted("noise"))
        std::puts("{\"row\": \"the module prints, too\"}\n\033[2Jand clears the screen");
    *count = planted("no_device") ? 0 : 1;
    return LLAMABUILD_OK;
}

int llamabuild_device_info(int device, char* name, int room, int* arch, int* code,
                           int64_t* memory_bytes) {
    if (device) return fail(LLAMABUILD_BAD_ARGUMENT, "there is one device");
    std::snprintf(name, size_t(room), "stand-in");
    *arch = *code = 0;
    *memory_bytes = int64_t{1} << 26;
    return LLAMABUILD_OK;
}

const char* llamabuild_path(const llamabuild_product*) { return "scalar"; }

int llamabuild_workspace_size(const llamabuild_product* product, size_t* bytes) {
    *bytes = column_bytes(product);
    return LLAMABUILD_OK;
}
int llamabuild_grouped_workspace_size(const llamabuild_product* product, const llamabuild_groups*,
                                      size_t* bytes) {
    return llamabuild_workspace_size(product, bytes);
}
int llamabuild_quantize(const llamabuild_product*) {
    return fail(LLAMABUILD_BAD_ARGUMENT, "not by itself");
}

int llamabuild_multiply(const llamabuild_product* p) {
    if (planted("crash")) std::abort();
    while (planted("hang")) pause();
    if (planted("exit")) {
        std::puts("kernel.cu:440: ERROR: CUDA kernel vec_dot_q4_0_q8_1_impl has no device code "
                  "compatible with CUDA arch 600.");
        std::exit(1);
    }
    if (planted("refuse")) return fail(LLAMABUILD_DEVICE_ERROR, "multiplying: out of memory");
    const int64_t x_column = stride(p->activation_stride, p->k);
    const int64_t x_batch = stride(p->activation_batch_stride, (p->n - 1) * x_column + p->k);
    const int64_t out_column = stride(p->output_stride, p->m);
    const int64_t out_batch = stride(p->output_batch_stride, (p->n - 1) * out_column + p->m);
    const int64_t batch = p->batch && !planted("first_only") ? p->batch : 1;
    for (int64_t item = 0; item < batch; ++item)
        for (int64_t column = 0; column < p->n; ++column) {
            const int64_t matrix = p->weight_batch_stride == -1 ? 0 : item;
            float* const out = p->output + item * out_batch + column * out_column;
            multiply_column(p, matrix, p->activations + item * x_batch + column * x_column, out);
            if (planted("untouched") && p->m == 129) out[128] = NAN;
            if (planted("beyond") && item == batch - 1 && column == p->n - 1) out[p->m] = 0;
        }
    return LLAMABUILD_OK;
}

int llamabuild_multiply_grouped(const llamabuild_product* p, const llamabuild_groups* groups) {
    if (planted("crash_grouped")) std::abort();
    for (int64_t i = 0; i < groups->count; ++i) {
        int64_t expert = groups->expert[i];
        const int64_t column = groups->column[i];
        if (planted("clamp")) expert = expert < 0 ? 0 : expert;
        float* const out = p->output + i * stride(p->output_batch_stride, p->m);
        if (expert < 0 || expert >= groups->experts || column < 0 || column >= p->n)
            std::fill_n(out, p->m, 0.0f);
        else
            multiply_column(p, expert,
                            p->activations + column * stride(p->activation_stride, p->k), out);
    }
    return LLAMABUILD_OK;
}

int llamabuild_allocate(int, size_t bytes, void** memory) {
    *memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    return *memory ? LLAMABUILD_OK : fail(LLAMABUILD_DEVICE_ERROR, "out of memory");
}
int llamabuild_release(int, void* memory) {
    std::free(memory);
    return LLAMABUILD_OK;
}
static int move(void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    return LLAMABUILD_OK;
}
int llamabuild_upload(int, void* to, const void* from, size_t bytes) { return move(to, from, bytes); }
int llamabuild_download(int, void* to, const void* from, size_t bytes) {
    return move(to, from, bytes);
}
int llamabuild_copy(int, void* to, const void* from, size_t bytes) { return move(to, from, bytes); }
int llamabuild_fill(int, void* memory, int byte, size_t bytes) {
    std::memset(memory, byte, bytes);
    return LLAMABUILD_OK;
}
int llamabuild_synchronize(int) { return LLAMABUILD_OK; }

int llamabuild_measure(const llamabuild_product* product, int copies, int64_t stride, int repeats,
                       float* microseconds) {
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) {
        llamabuild_product one = *product;
        one.weights = static_cast<const uint8_t*>(product->weights) + i % copies * stride;
        if (const int status = llamabuild_multiply(&one)) return status;
    }
    const std::chrono::duration<float, std::micro> all = std::chrono::steady_clock::now() - began;
    *microseconds = all.count() / float(repeats);
    return LLAMABUILD_OK;
}
int llamabuild_measure_copy(int, void* to, const void* from, size_t bytes, int repeats,
                            float* microseconds) {
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) move(to, from, bytes);
    const std::chrono::duration<float, std::micro> all = std::chrono::steady_clock::now() - began;
    *microseconds = all.count() / float(repeats);
    return LLAMABUILD_OK;
}
}
