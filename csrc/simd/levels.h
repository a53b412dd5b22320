// The best SIMD level that this processor runs, chosen once, and the pick of a table of loops for it. Each op declares
// a table of its own; its loops are compiled once per level, each into the namespace of the level.
#pragma once

namespace hrta {
namespace cpu {

enum class Level { kBaseline, kAvx2, kAvx512 };

// HRTA_EXT_SIMD=baseline|avx2|avx512 keeps to that level or a lower one, for tests and comparisons.
Level simd_level();

// Its name, and those of the compiled levels, best last, separated by spaces.
const char* simd_level_name();
const char* compiled_levels();

// Defines `const Type& function()`: the table `name` of this processor's level. To be used once, in namespace hrta::cpu
// of a file that is not compiled per level.
#if defined(HRTA_HAVE_X86_LEVELS)
#define HRTA_PICK_TABLE(Type, name, function)                                    \
  inline namespace baseline {                                                    \
  extern const Type name;                                                        \
  }                                                                              \
  namespace avx2 {                                                               \
  extern const Type name;                                                        \
  }                                                                              \
  namespace avx512 {                                                             \
  extern const Type name;                                                        \
  }                                                                              \
  const Type& function() {                                                       \
    static const Type& chosen = simd_level() == Level::kAvx512 ? avx512::name    \
                                : simd_level() == Level::kAvx2 ? avx2::name      \
                                                               : baseline::name; \
    return chosen;                                                               \
  }
#else
#define HRTA_PICK_TABLE(Type, name, function) \
  inline namespace baseline {                 \
  extern const Type name;                     \
  }                                           \
  const Type& function() {                    \
    return baseline::name;                    \
  }
#endif

}  // namespace cpu
}  // namespace hrta
