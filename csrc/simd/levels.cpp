#include "simd/levels.h"

#include <cstdlib>
#include <cstring>

#include "ntk/cpu/loops.h"

namespace hrta {
namespace cpu {

// One table per level and family of loops.
#define HRTA_TABLES(type, name)     \
  extern const type name##Baseline; \
  HRTA_X86_TABLES(type, name)
#if defined(HRTA_HAVE_X86_LEVELS)
#define HRTA_X86_TABLES(type, name) \
  extern const type name##Avx2;     \
  extern const type name##Avx512;
#else
#define HRTA_X86_TABLES(type, name)
#endif
HRTA_TABLES(Loops, kLoops)
HRTA_TABLES(GramLoops, kGramLoops)

namespace {

enum class Level { kBaseline, kAvx2, kAvx512 };

// HRTA_EXT_SIMD=baseline|avx2|avx512 keeps to that level or a lower one, for tests and comparisons.
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

template <typename Table>
const Table& pick(const Table& baseline, [[maybe_unused]] const Table& avx2, [[maybe_unused]] const Table& avx512) {
  static const Level level = choose();
#if defined(HRTA_HAVE_X86_LEVELS)
  if (level == Level::kAvx512) return avx512;
  if (level == Level::kAvx2) return avx2;
#endif
  return baseline;
}

}  // namespace

#if defined(HRTA_HAVE_X86_LEVELS)
#define HRTA_PICK(name) pick(name##Baseline, name##Avx2, name##Avx512)
#else
#define HRTA_PICK(name) pick(name##Baseline, name##Baseline, name##Baseline)
#endif

const Loops& loops() {
  static const Loops& chosen = HRTA_PICK(kLoops);
  return chosen;
}

const GramLoops& gram_loops() {
  static const GramLoops& chosen = HRTA_PICK(kGramLoops);
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
