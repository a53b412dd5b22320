#include "simd/levels.h"

#include <cstdlib>
#include <cstring>

namespace hrta {
namespace cpu {

namespace {

Level choose() {
#if defined(HRTA_HAVE_X86_LEVELS)
  const char* limit = std::getenv("HRTA_EXT_SIMD");
  const bool only_baseline = limit != nullptr && std::strcmp(limit, "baseline") == 0;
  const bool only_avx2 = limit != nullptr && std::strcmp(limit, "avx2") == 0;
  const bool avx2 = __builtin_cpu_supports("x86-64-v3");
  const bool avx512 = __builtin_cpu_supports("x86-64-v4");
  if (avx512 && !only_avx2 && !only_baseline) return Level::kAvx512;
  if (avx2 && !only_baseline) return Level::kAvx2;
#endif
  return Level::kBaseline;
}

}  // namespace

Level simd_level() {
  static const Level chosen = choose();
  return chosen;
}

const char* simd_level_name() {
  switch (simd_level()) {
    case Level::kAvx512: return "avx512";
    case Level::kAvx2: return "avx2";
    case Level::kBaseline: break;
  }
  return "baseline";
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
