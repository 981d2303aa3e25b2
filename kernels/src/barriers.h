// Barriers between threads that copy and threads that multiply, on 9.0 and later.
#pragma once
#include "launch.h"

namespace llamabuild {

#if LLAMABUILD_BULK_COPIES && LLAMABUILD_SM
// Barriers in shared memory (`mbarrier`), one for each stage of a ring, the first one at `at`.
struct Barriers {
    uint32_t at;

    __device__ __forceinline__ void initialize(int stage, int arrivals) const {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at + 8 * stage), "r"(arrivals)
                     : "memory");
    }
    // After all are initialized: the copy engine will know them.
    static __device__ __forceinline__ void publish() {
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __device__ __forceinline__ void arrive(int stage) const {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at + 8 * stage) : "memory");
    }
    // Arrives when this thread's copies so far have.
    __device__ __forceinline__ void arrive_with_copies(int stage) const {
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at + 8 * stage)
                     : "memory");
    }
    // Arrives, and completes when `bytes` have come by bulk copies.
    __device__ __forceinline__ void expect(int stage, int bytes) const {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at + 8 * stage),
                     "r"(bytes)
                     : "memory");
    }
    // More bytes, that somebody else's arrival is to wait for.
    __device__ __forceinline__ void expect_more(int stage, int bytes) const {
        asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(at + 8 * stage),
                     "r"(bytes)
                     : "memory");
    }
    // A bulk copy of some of them.
    __device__ __forceinline__ void copy(int stage, uint32_t to, const uint8_t* from,
                                         int bytes) const {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%2], [%3], %1, "
            "[%0];" ::"r"(at + 8 * stage),
            "r"(bytes), "r"(to), "l"(from)
            : "memory");
    }
    // Waits for the end of the phase that began even, or odd; the one before the first was odd.
    __device__ __forceinline__ void wait(int stage, uint32_t odd) const {
        asm volatile(
            "{\n"
            ".reg .pred done;\n"
            "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
            "@!done bra again;\n"
            "}" ::"r"(at + 8 * stage),
            "r"(odd)
            : "memory");
    }
    // The same for whole warps. The vote tells the compiler that their lanes go on together: else
    // it would check that before each exchange between them.
    __device__ __forceinline__ void wait_together(int stage, uint32_t odd) const {
        while (!__all_sync(0xffffffffu, try_wait(stage, odd))) {
        }
    }
    // Whether it has ended, for whole warps. (`try_wait` makes pauses.)
    __device__ __forceinline__ bool ended(int stage, uint32_t odd) const {
        return __all_sync(0xffffffffu, test_wait(stage, odd));
    }

private:
    // Whether a phase has ended.
#define ASK(name)                                                                     \
    __device__ __forceinline__ uint32_t name(int stage, uint32_t odd) const {         \
        uint32_t done;                                                                \
        asm volatile("{\n"                                                            \
                     ".reg .pred done;\n"                                             \
                     "mbarrier." #name ".parity.shared::cta.b64 done, [%1], %2;\n"    \
                     "selp.u32 %0, 1, 0, done;\n"                                     \
                     "}"                                                              \
                     : "=r"(done)                                                     \
                     : "r"(at + 8 * stage), "r"(odd)                                  \
                     : "memory");                                                     \
        return done;                                                                  \
    }
    ASK(try_wait)
    ASK(test_wait)
#undef ASK
};

// Waits until so many of a block's threads, whole warps, have come here, or to the same barrier by
// `come_without_waiting`. Of barriers there are 1 to 15.
template <int Barrier>
__device__ __forceinline__ void wait_for_threads(int count) {
    asm volatile("bar.sync %0, %1;" ::"n"(Barrier), "r"(count) : "memory");
}
template <int Barrier>
__device__ __forceinline__ void come_without_waiting(int count) {
    asm volatile("bar.arrive %0, %1;" ::"n"(Barrier), "r"(count) : "memory");
}
#endif

}  // namespace llamabuild
