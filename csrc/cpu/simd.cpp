#include "simd.h"

#include <cstdlib>
#include <cstring>

namespace hrta {
namespace cpu {

extern const Loops kLoopsBaseline;
#if defined(HRTA_HAVE_X86_LEVELS)
extern const Loops kLoopsAvx2;
extern const Loops kLoopsAvx512;
#endif

namespace {

// HRTA_EXT_SIMD=baseline|avx2|avx512 keeps to that level or a lower one, for tests and comparisons.
const Loops& choose() {
#if defined(HRTA_HAVE_X86_LEVELS)
  const char* limit = std::getenv("HRTA_EXT_SIMD");
  const bool only_baseline = limit != nullptr && std::strcmp(limit, "baseline") == 0;
  const bool only_avx2 = limit != nullptr && std::strcmp(limit, "avx2") == 0;
  const bool avx2 = __builtin_cpu_supports("x86-64-v3");
  const bool avx512 = __builtin_cpu_supports("x86-64-v4");
  if (avx512 && !only_avx2 && !only_baseline) return kLoopsAvx512;
  if (avx2 && !only_baseline) return kLoopsAvx2;
#endif
  return kLoopsBaseline;
}

}  // namespace

const Loops& loops() {
  static const Loops& chosen = choose();
  return chosen;
}

const char* compiled_levels() {
#if defined(HRTA_HAVE_X86_LEVELS)
  return "baseline avx2 avx512";
#else
  return "baseline";
#endif
}

}  // namespace cpu
}  // namespace hrta
