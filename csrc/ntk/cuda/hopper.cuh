// Barriers in shared memory, bulk copies and int8 products of a warpgroup (wgmma), as sm_90a has them. Under the tests'
// emulation tests/emulation/warpgroups.h gives the same names; elsewhere there are none, nor kernels that use them.
#pragma once

#include "gpu/wgmma.cuh"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HRTA_HOPPER
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace hrta {
namespace cuda {
namespace digits {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// What barrier_init wrote is there for the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives and announces `bytes` of bulk copies.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Until the phase of this parity is over. A whole warp.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
  asm volatile("{.reg .pred P; L%=: mbarrier.try_wait.parity.shared::cta.b64 P, [%0], %1; @!P bra L%=;}" ::"r"(barrier),
               "r"(parity)
               : "memory");
}
// Contiguous bytes, a multiple of 16 at addresses that are, from global to shared memory by the copy engine.
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

template <int kRegisters>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// d (64 rows, 128 columns; 64 sums a thread) += A (64, 32) B^T (128, 32). _ss: A from shared memory; _rs: from
// registers.
#define HRTA_NUMBERS                                                                                           \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "  \
  "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
#define HRTA_EIGHT(d, i)                                                                                      \
  "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), \
      "+r"(d[i + 7])
#define HRTA_SUMS(d)                                                                                              \
  HRTA_EIGHT(d, 0), HRTA_EIGHT(d, 8), HRTA_EIGHT(d, 16), HRTA_EIGHT(d, 24), HRTA_EIGHT(d, 32), HRTA_EIGHT(d, 40), \
      HRTA_EIGHT(d, 48), HRTA_EIGHT(d, 56)
#define HRTA_WGMMA(types) \
  "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n128k32.s32." types " " HRTA_NUMBERS
#define HRTA_WGMMA_SS(name, types)                                                   \
  __device__ __forceinline__ void name(int (&d)[64], uint64_t a, uint64_t b) {       \
    asm volatile(HRTA_WGMMA(types) "%64, %65, p;}" : HRTA_SUMS(d) : "l"(a), "l"(b)); \
  }
HRTA_WGMMA_SS(wgmma_ss_u8_u8, "u8.u8")
HRTA_WGMMA_SS(wgmma_ss_u8_s8, "u8.s8")
HRTA_WGMMA_SS(wgmma_ss_s8_u8, "s8.u8")
HRTA_WGMMA_SS(wgmma_ss_s8_s8, "s8.s8")

__device__ __forceinline__ void wgmma_rs_u8_s8(int (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(HRTA_WGMMA("u8.s8") "{%64, %65, %66, %67}, %68, p;}"
               : HRTA_SUMS(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta

#endif
