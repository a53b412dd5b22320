// Products of a warp group (4 warps, 64 rows) on Hopper's tensor cores: d = a b or d += a b, a in registers, b in
// shared memory. Warp w of the group has rows 16w to 16w + 15 in the layouts of mma.cuh; d is as many (16 x 8) side by
// side as there are columns. They run beside what follows: between wgmma_commit and wgmma_wait no register of theirs
// may be touched, and ptxas says so (C7510 and on) where it had to make them wait.
//
// Under the tests' emulation tests/emulation/fragments.h gives the same names; there nothing runs beside anything.
#pragma once

#include "gpu/mma.cuh"

namespace hrta {
namespace cuda {

// What the binary's wgmma kernels are compiled for: without the "a" ptxas refuses the instructions.
#if defined(__CUDACC__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kHasWgmma = false;
#else
constexpr bool kHasWgmma = true;
#endif

#if defined(__CUDACC__)

// Before the first product of a sequence: registers written by ordinary instructions may be read.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// All groups but the last kLeft are done.
template <int kLeft>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
// What this thread wrote to shared memory may be read by products, after a barrier.
__device__ __forceinline__ void fence_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// b without swizzle: core matrices of 8 columns by 16 bytes (8 rows), `along_rows` and `along_columns` bytes apart.
__device__ __forceinline__ uint64_t wgmma_matrix(uint32_t address, uint32_t along_rows, uint32_t along_columns) {
  return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(along_rows >> 4) << 16 | uint64_t(along_columns >> 4) << 32;
}

// Operand lists: one asm a number of columns, because nothing else differs.
#define HRTA_D4(c, at) c(d[at]), c(d[at + 1]), c(d[at + 2]), c(d[at + 3])
#define HRTA_D8(c, at) HRTA_D4(c, at), HRTA_D4(c, at + 4)
#define HRTA_D16(c, at) HRTA_D8(c, at), HRTA_D8(c, at + 8)
#define HRTA_D32(c, at) HRTA_D16(c, at), HRTA_D16(c, at + 16)
#define HRTA_D64(c, at) HRTA_D32(c, at), HRTA_D32(c, at + 32)
#define HRTA_NAMES_4 "%0,%1,%2,%3"
#define HRTA_NAMES_8 HRTA_NAMES_4 ",%4,%5,%6,%7"
#define HRTA_NAMES_16 HRTA_NAMES_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define HRTA_NAMES_32 HRTA_NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define HRTA_NAMES_64                                                                                 \
  HRTA_NAMES_32                                                                                       \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55," \
  "%56,%57,%58,%59,%60,%61,%62,%63"
// a: the names of its registers; b, add: those of the matrix and of whether d counts.
#define HRTA_WGMMA(word, count, constraint, shape, types, a, b, add)                                         \
  __device__ __forceinline__ void wgmma(word(&d)[count], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, \
                                        uint64_t matrix, bool to_d) {                                        \
    asm volatile("{.reg .pred p; setp.ne.b32 p," add ",0; wgmma.mma_async.sync.aligned." shape "k16." types  \
                 " {" HRTA_NAMES_##count "},{" a "}," b ",p,1,1,0;}"                                         \
                 : HRTA_D##count(constraint, 0)                                                              \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(matrix), "r"(int(to_d)));                         \
  }
HRTA_WGMMA(float, 4, "+f", "m64n8", "f32.f16.f16", "%4,%5,%6,%7", "%8", "%9")
HRTA_WGMMA(float, 8, "+f", "m64n16", "f32.f16.f16", "%8,%9,%10,%11", "%12", "%13")
HRTA_WGMMA(float, 16, "+f", "m64n32", "f32.f16.f16", "%16,%17,%18,%19", "%20", "%21")
HRTA_WGMMA(float, 32, "+f", "m64n64", "f32.f16.f16", "%32,%33,%34,%35", "%36", "%37")
HRTA_WGMMA(float, 64, "+f", "m64n128", "f32.f16.f16", "%64,%65,%66,%67", "%68", "%69")
// The same with float16 results, two in a register: rounded once, so a result has the sign of the sum.
HRTA_WGMMA(uint32_t, 8, "+r", "m64n32", "f16.f16.f16", "%8,%9,%10,%11", "%12", "%13")
HRTA_WGMMA(uint32_t, 16, "+r", "m64n64", "f16.f16.f16", "%16,%17,%18,%19", "%20", "%21")
#undef HRTA_WGMMA
#undef HRTA_NAMES_64
#undef HRTA_NAMES_32
#undef HRTA_NAMES_16
#undef HRTA_NAMES_8
#undef HRTA_NAMES_4
#undef HRTA_D64
#undef HRTA_D32
#undef HRTA_D16
#undef HRTA_D8
#undef HRTA_D4

#endif

}  // namespace cuda
}  // namespace hrta
