// Pairs of float16 in a register, and products of a warp's fragments on the tensor cores (mma.sync, sm_80 and later).
// Lane (g, t) = (lane / 4, lane % 4) holds two elements in a register, the first in its low half:
//   a (16 x 16)  a0: row g, columns 2t, 2t + 1;  a1: row g + 8;  a2, a3: the same rows, columns 2t + 8, 2t + 9
//   b (16 x 8)   b0: rows 2t, 2t + 1 of column g;  b1: rows 2t + 8, 2t + 9
//   d (16 x 8)   d0, d1: row g, columns 2t, 2t + 1;  d2, d3: row g + 8
// so two d side by side have the layout of an a. Float sums are not rounded to nearest: the hardware cuts bits off.
// Of bytes a register holds four elements: 4t to 4t + 3 where pairs are 2t and 2t + 1, and 16 more where they are 8.
//
// Under the tests' emulation tests/emulation/fragments.h gives the same names.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDACC__)

namespace hrta {
namespace cuda {

// Rounded to float16, to nearest: too large is infinite.
__device__ __forceinline__ uint32_t halves(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ float low_half(uint32_t pair) {
  float value;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(value) : "r"(pair));
  return value;
}

__device__ __forceinline__ float high_half(uint32_t pair) {
  float value;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high;}" : "=f"(value) : "r"(pair));
  return value;
}

// The low halves of two pairs, or their high ones.
__device__ __forceinline__ uint32_t same_halves(uint32_t first, uint32_t second, bool high) {
  return __byte_perm(first, second, high ? 0x7632 : 0x5410);
}

// The same value in a register of its own. `zero` is 0, which the compiler does not know: it would keep one register
// for both and copy it before every product.
__device__ __forceinline__ uint32_t own_register(uint32_t value, uint32_t zero) {
  uint32_t copy;
  asm volatile("add.u32 %0, %1, %2;" : "=r"(copy) : "r"(value), "r"(zero));
  return copy;
}

// 1 where an element is positive, 0 where it is not or NaN: saturation does it, of z times 57344, in the pipe that the
// tensor cores leave free. Below 2^-15.8 a positive element gives less than 1.
__device__ __forceinline__ uint32_t positive(uint32_t z) {
  uint32_t ones;
  asm volatile("mul.rn.sat.f16x2 %0, %1, %2;" : "=r"(ones) : "r"(z), "r"(0x7B007B00u));
  return ones;
}

// d += a b.
__device__ __forceinline__ void multiply(float* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// d = a b in float16, two in a register: rounded once, so a result has the sign of the sum.
__device__ __forceinline__ void multiply_to_halves(uint32_t* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                   uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%8};"
      : "=r"(d[0]), "=r"(d[1])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(0));
}

// d += a b, bytes in int32: a (16 x 32), b (32 x 8); signed or not, by the names of their types.
#define HRTA_MULTIPLY_BYTES(name, types)                                                                            \
  __device__ __forceinline__ void name(int* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                  \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." types ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                            \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                            \
  }
HRTA_MULTIPLY_BYTES(multiply_u8_u8, "u8.u8")
HRTA_MULTIPLY_BYTES(multiply_u8_s8, "u8.s8")
HRTA_MULTIPLY_BYTES(multiply_s8_u8, "s8.u8")
HRTA_MULTIPLY_BYTES(multiply_s8_s8, "s8.s8")
#undef HRTA_MULTIPLY_BYTES

// --- memory ---------------------------------------------------------------------------------------------------------

// Of an address in shared memory, as instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* at) {
  return uint32_t(__cvta_generic_to_shared(at));
}

// 16 bytes from global to shared memory, both on the 16-byte grid; there after wait_for_copies, to the thread itself.
__device__ __forceinline__ void copy_16_bytes(void* shared, const void* source) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(source) : "memory");
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Copies go in groups: all since the last commit are one. All groups but the last kLeft are there.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void wait_for_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Four matrices of 8 rows by 16 bytes from shared memory: lane l gives the address of row l % 8 of matrix l / 8, and
// gets bytes 4t to 4t + 3 of row g of each.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// The line comes to the L2 cache.
__device__ __forceinline__ void prefetch(const void* source) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(source));
}

}  // namespace cuda
}  // namespace hrta

#endif
