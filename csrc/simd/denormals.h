// Tails of smooth bases end in denormal numbers, each of which costs as much as a hundred other instructions. What sums
// over neurons take them for is zero.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "math/host_device.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

// While one of these lives, this thread takes denormal numbers, results and operands, for zero; NaN stays NaN.
class FlushDenormals {
 public:
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

#if defined(__x86_64__)
  HRTA_INLINE FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }
  HRTA_INLINE ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  HRTA_INLINE FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)) : "memory");
  }
  HRTA_INLINE ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_) : "memory"); }

 private:
  unsigned long long before_;
#else
  FlushDenormals() {}
#endif
};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
