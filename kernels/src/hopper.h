// Hopper's warpgroups (`wgmma`, only in code for 90a): what their multiplications are told, and what
// becomes of a tile's sums.
#pragma once
#include <type_traits>

#include "barriers.h"
#include "tensor.h"

namespace llamabuild {

#if LLAMABUILD_WARPGROUPS
// One of a ring of places in shared memory, and whether it is come to for an odd time.
template <int Stages>
struct Ring {
    int stage = 0;
    uint32_t odd = 0;
    __device__ __forceinline__ void next() {
        if (++stage == Stages) stage = 0, odd ^= 1;
    }
};

// Where `wgmma` finds a step of rows or columns in shared memory: eight of them take 1024 bytes, in
// which pieces are exchanged among 128 bytes. The next 16 of k come 32 bytes behind.
__device__ __forceinline__ uint64_t describe_step(uint32_t at) {
    return uint64_t{1} << 62 | uint64_t{1024 / 16} << 32 | (at & 0x3ffff) >> 4;
}

#if LLAMABUILD_SM
// Begins the multiplication of 64 rows by N columns and 16 of k. Columns are described; so are the
// rows, or they are 16-bit floats in registers: uint32_t[4].
template <Type type, int N, class Rows>
__device__ __forceinline__ void multiply_sixteen(float (&c)[N / 2], const Rows& rows,
                                                 uint64_t columns) {
// An operand's name is its number: sums first (S), then what is multiplied (A to E).
#define TEN(i)                                                                       \
    "%" #i "0, %" #i "1, %" #i "2, %" #i "3, %" #i "4, %" #i "5, %" #i "6, %" #i "7, " \
    "%" #i "8, %" #i "9, "
#define C4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define C16(i) C4(i), C4(i + 4), C4(i + 8), C4(i + 12)
#define C32(i) C16(i), C16(i + 16)
#define C64(i) C32(i), C32(i + 32)
#define C128(i) C64(i), C64(i + 64)
#define MULTIPLY(n, kind, S, inputs, sums, ...)                                              \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." kind "." kind " {" S "}, " \
                 inputs ";" : sums(0) : __VA_ARGS__)
#define WIDTH(n, sums, S, A, B, C, D, E)                                                   \
    if constexpr (N == n) {                                                                \
        if constexpr (!std::is_same_v<Rows, uint64_t>)                                     \
            MULTIPLY(n, "f16", S, "{" A ", " B ", " C ", " D "}, " E ", 1, 1, 1, 0", sums,  \
                     "r"(rows[0]), "r"(rows[1]), "r"(rows[2]), "r"(rows[3]), "l"(columns)); \
        else if constexpr (type == Type::bf16)                                             \
            MULTIPLY(n, "bf16", S, A ", " B ", 1, 1, 1, 0, 0", sums, "l"(rows),             \
                     "l"(columns));                                                        \
        else                                                                               \
            MULTIPLY(n, "f16", S, A ", " B ", 1, 1, 1, 0, 0", sums, "l"(rows),              \
                     "l"(columns));                                                        \
    }
    WIDTH(8, C4, "%0, %1, %2, %3", "%4", "%5", "%6", "%7", "%8")
    WIDTH(32, C16, TEN() "%10, %11, %12, %13, %14, %15", "%16", "%17", "%18", "%19", "%20")
    WIDTH(64, C32, TEN() TEN(1) TEN(2) "%30, %31", "%32", "%33", "%34", "%35", "%36")
    WIDTH(128, C64, TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60, %61, %62, %63", "%64", "%65",
          "%66", "%67", "%68")
    WIDTH(256, C128,
          TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11)
          "%120, %121, %122, %123, %124, %125, %126, %127", "%128", "%129", "%130", "%131", "%132")
#undef WIDTH
#undef MULTIPLY
#undef C128
#undef C64
#undef C32
#undef C16
#undef C4
#undef TEN
}

// Before multiplications that read registers written by other instructions.
__device__ __forceinline__ void begin_multiplications() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void end_of_multiplications() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `Pending` sets of multiplications are still on their way.
template <int Pending>
__device__ __forceinline__ void wait_for_multiplications() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// After the last wait: the sums are not read before it.
template <int Count>
__device__ __forceinline__ void keep_behind_wait(float (&sums)[Count]) {
    UNROLL
    for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
}

// The threads of a warpgroup leave registers to others, or take them: each has so many then.
template <int Registers>
__device__ __forceinline__ void leave_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// What a thread knows that others have copied by `copy_piece` is seen by its multiplications, too.
__device__ __forceinline__ void show_to_multiplications() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The two blocks of a cluster, which have parts of k of the same tile. Without clusters, each block
// is one by itself.
struct Cluster {
    int blocks, rank;
    __device__ __forceinline__ Cluster() {
        asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    }
    // Waits for the threads of both blocks, except those that have ended.
    static __device__ __forceinline__ void barrier() {
        asm volatile("barrier.cluster.arrive.release;\n"
                     "barrier.cluster.wait.acquire;" ::: "memory");
    }
    // Where the other block has what is at `at` here, for `load`.
    __device__ __forceinline__ uint32_t other(uint32_t at) const {
        uint32_t there;
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank ^ 1));
        return there;
    }
    static __device__ __forceinline__ float2 load(uint32_t from) {
        float2 value;
        asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
                     : "=f"(value.x), "=f"(value.y)
                     : "r"(from)
                     : "memory");
        return value;
    }
};
#endif

// Adds the other block's sums, from `Kept` on, to as many of this one's: half of them. The others
// are given to the other block.
template <class Tile, int Kept>
__device__ __forceinline__ void add_half(float (&sums)[Tile::columns / 2], uint8_t* shared,
                                         const Cluster& cluster) {
    constexpr int half = Tile::columns / 4, given = half - Kept, threads = Tile::multipliers;
    static_assert(half * threads * 4 <= Tile::shared_bytes, "they are exchanged there");
    auto* const place = reinterpret_cast<float2*>(shared) + threadIdx.x;
    wait_for_threads<1>(threads);  // nobody multiplies from there
    UNROLL
    for (int i = 0; i < half; i += 2)
        place[i / 2 * threads] = make_float2(sums[given + i], sums[given + i + 1]);
    Cluster::barrier();
    const uint32_t there =
        cluster.other(static_cast<uint32_t>(__cvta_generic_to_shared(place)));
    UNROLL
    for (int i = 0; i < half; i += 2) {
        const float2 more = Cluster::load(there + i / 2 * threads * sizeof(float2));
        sums[Kept + i] += more.x, sums[Kept + i + 1] += more.y;
    }
    Cluster::barrier();  // the other may still read what is here
}

// Where the first of a thread's results goes, and how many rows and columns are left from there.
struct ThreadOutput {
    float* at;
    int64_t column;
    int rows, columns;
    const float* factors;
    float gain;

    // Stores `Count` sums from `First` on, as `wgmma` leaves them.
    template <int First, int Count, int Sums>
    __device__ __forceinline__ void store(float (&sums)[Sums]) const {
        constexpr auto row_of = [](int i) { return i / 2 % 2 * 8; };
        constexpr auto column_of = [](int i) { return i / 4 * 8 + i % 2; };
        UNROLL
        for (int i = First; i < First + Count; ++i)  // all, before stores that loads would wait for
            sums[i] *= factors[column_of(i)] * gain;
        UNROLL
        for (int i = First; i < First + Count; ++i)
            if (row_of(i) < rows && column_of(i) < columns)
                at[column_of(i) * column + row_of(i)] = sums[i];
    }
};

// Where a block's tile begins. Neighbouring blocks have the same rows, so that these are read from
// memory once.
template <class Tile>
struct TilePlace {
    int row, column;
    __device__ __forceinline__ explicit TilePlace(const Product& p) {
        const int column_tiles = (p.n + Tile::columns - 1) / Tile::columns;
        row = static_cast<int>(blockIdx.x) / column_tiles * Tile::rows;
        column = static_cast<int>(blockIdx.x) % column_tiles * Tile::columns;
    }
};

// Stores a tile's sums, or a part's. All threads that multiply call it, at the end.
template <class Tile>
__device__ __forceinline__ void store_tile(const Product& p, float* parts, int splits,
                                           float (&sums)[Tile::columns / 2], uint8_t* shared,
                                           const float* factors, float gain) {
    const Cluster cluster;
    const int count = splits / cluster.blocks;  // of parts in memory
    const int item = p.first_item + blockIdx.z / splits;
    const int part = blockIdx.z % splits / cluster.blocks;
    const TilePlace<Tile> tile(p);
    const int first_column = tile.column, lane = threadIdx.x % 32;
    const int row = tile.row + threadIdx.x / 32 * 16 + lane / 4;
    const int columns = lane % 4 * 2;  // before this thread's first
    const int64_t stride = count == 1 ? p.output_column : p.m;
    float* const output = count == 1 ? p.output + item * p.output_batch
                                     : parts + (int64_t{item} * count + part) * p.m * p.n;
    const ThreadOutput to = {output + (first_column + columns) * stride + row,
                             stride,
                             p.m - row,
                             p.n - first_column - columns,
                             factors + columns,
                             gain};
    constexpr int half = Tile::columns / 4;
    if (cluster.blocks == 1) {
        to.template store<0, 2 * half>(sums);
    } else if (cluster.rank == 0) {
        add_half<Tile, 0>(sums, shared, cluster);
        to.template store<0, half>(sums);
    } else {
        add_half<Tile, half>(sums, shared, cluster);
        to.template store<half, half>(sums);
    }
}
#endif

// Starts a kernel whose blocks compute tiles or parts of them, and has these added.
template <class Tile>
GPU(Error_t) start_tiles(void (*kernel)(Product, float*, int), const Product& p, Order order,
                         const Launch& launch) {
    auto error = GPU(FuncSetAttribute)(reinterpret_cast<const void*>(kernel),
                                       GPU(FuncAttributeMaxDynamicSharedMemorySize),
                                       Tile::shared_bytes);
    if (error != GPU(Success)) return error;
    const int splits = tensor_splits(p, order, launch), count = parts_in_memory(splits, launch);
    auto* const parts = reinterpret_cast<float*>(const_cast<uint8_t*>(p.activations) +
                                                 p.activation_batch * p.batch);
    Launch with_pairs = launch;
    with_pairs.pairs = splits_in_pairs(splits, launch);
    const unsigned row_tiles = (p.m + Tile::rows - 1) / Tile::rows;
    const unsigned column_tiles = (p.n + Tile::columns - 1) / Tile::columns;
    const dim3 blocks(row_tiles * column_tiles, 1, p.batch * splits);
    error = start(kernel, with_pairs, blocks, Tile::threads, Tile::shared_bytes, p, parts, splits);
    if (error == GPU(Success) && count > 1) error = add_parts(p, parts, count, launch);
    return error;
}

}  // namespace llamabuild
