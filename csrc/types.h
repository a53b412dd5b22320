// The words of every room: the types of elements, and the caller's thread pool.
#pragma once

#include <cstdint>

namespace hrta {

enum class ScalarKind : int { kFloat16, kBFloat16, kFloat32, kFloat64 };

// body(zero of the type), kFloat32 or kFloat64.
template <typename Body>
auto with_type(ScalarKind dtype, const Body& body) {
  return dtype == ScalarKind::kFloat32 ? body(0.0f) : body(0.0);
}

namespace cpu {

// Runs body(begin, end, context) over pieces of [0, count) on the caller's thread pool.
using RangeBody = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t count, int64_t grain, RangeBody body, void* context);

}  // namespace cpu

}  // namespace hrta
