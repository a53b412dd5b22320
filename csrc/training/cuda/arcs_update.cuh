// The update of one neuron by the pull of its arc, in math/update.h's formulas.
//
// Adam in float32 has its root and quotient by the approximate instruction and one Newton step: within an ulp of the
// exact ones (test_arc_training.py holds the pair to 2 ulp), without the branches and the subroutine of the IEEE
// operations, which make a step's arithmetic longer than its traffic. float64 keeps the IEEE operations.
#pragma once

#include <cuda_runtime.h>

#include <cfloat>
#include <type_traits>

#include "circle/cuda/bounds.cuh"
#include "math/update.h"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {

enum class Rule { kAdam, kMomentum, kPlain };

// Calls body(the rule as a constant).
template <typename Body>
__device__ __forceinline__ void with_rule(Rule rule, const Body& body) {
  if (rule == Rule::kAdam) return body(std::integral_constant<Rule, Rule::kAdam>{});
  if (rule == Rule::kMomentum) return body(std::integral_constant<Rule, Rule::kMomentum>{});
  body(std::integral_constant<Rule, Rule::kPlain>{});
}

// What changes from step to step: UpdateNumbers' rate, and 1 / root.
template <typename T>
struct alignas(2 * sizeof(T)) StepNumbers {
  T rate, scale;
};

// What the approximate instructions are off by at most, by PTX's manual: on a CPU they are that bad.
constexpr float kApproximate = 0x1p-22f;

// sqrt(x) of a square: 0 below the normal numbers, where v counts as 0 from the next step on.
HRTA_INLINE float quick_root(float x) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
#else
  const float r = 1.0f / square_root(x) * (1.0f - kApproximate);
#endif
  const float root = x * r;
  return x < FLT_MIN ? 0.0f : multiply_add(multiply_add(-root, root, x), 0.5f * r, root);
}

// a / b for b in the normal numbers up to 2^126.
HRTA_INLINE float quick_quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
#else
  const float r = 1.0f / b * (1.0f - kApproximate);
#endif
  const float q = a * r;
  return multiply_add(multiply_add(-b, q, a), r, q);
}

HRTA_INLINE double quick_root(double x) {
  return square_root(x);
}
HRTA_INLINE double quick_quotient(double a, double b) {
  return a / b;
}

template <typename T>
struct Rates {
  T take_first, keep, take, epsilon;  // kMomentum: keep is the momentum
};

template <typename T>
Rates<T> rates_of(const UpdateNumbers& numbers) {
  const bool adam = numbers.rule == UpdateRule::kAdam;
  return {T(1.0 - numbers.beta1), T(adam ? numbers.beta2 : numbers.beta1), T(1.0 - numbers.beta2), T(numbers.epsilon)};
}

template <typename T>
StepNumbers<T> step_numbers_of(const UpdateNumbers& numbers) {
  return {T(numbers.rate), T(1.0 / numbers.root)};
}

// One parameter. A square beyond T's range stops it where it is, as dividing by an infinite root does.
template <Rule kRule, typename T>
__device__ __forceinline__ void update(const Rates<T>& rates, const StepNumbers<T>& step, T g, T& parameter, T& first,
                                       T& second) {
  if constexpr (kRule == Rule::kAdam) {
    constexpr T kLargest = sizeof(T) == 4 ? T(FLT_MAX) : T(DBL_MAX);
    const T mean = multiply_add(rates.take_first, g - first, first);
    const T square = multiply_add(rates.keep, second, rates.take * (g * g));
    first = without_subnormals(mean), second = without_subnormals(square);
    const T size = multiply_add(step.scale, quick_root(square), rates.epsilon);
    parameter -= square <= kLargest ? quick_quotient(step.rate * mean, size) : T(0) * mean;
  } else if constexpr (kRule == Rule::kMomentum) {
    first = without_subnormals(multiply_add(rates.keep, first, g));
    parameter = multiply_add(-step.rate, first, parameter);
  } else {
    parameter = multiply_add(-step.rate, g, parameter);
  }
}

// Neurons of a thread, rows of w, and their moments as far as the rule has them.
template <int kCount, typename T>
struct Neurons {
  T w[2 * kCount], a[kCount], w1[2 * kCount], a1[kCount], w2[2 * kCount], a2[kCount];

  // Each by the pull h of its arc: dR/dw = a h, dR/da = w . h.
  template <Rule kRule>
  __device__ __forceinline__ void step(const Rates<T>& rates, const StepNumbers<T>& numbers, const Point<T>* pull,
                                       const int (&arc)[kCount]) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const Point<T> h = pull[arc[j]];
      const T grad_a = multiply_add(w[2 * j], h.x, w[2 * j + 1] * h.y);
      update<kRule>(rates, numbers, a[j] * h.x, w[2 * j], w1[2 * j], w2[2 * j]);
      update<kRule>(rates, numbers, a[j] * h.y, w[2 * j + 1], w1[2 * j + 1], w2[2 * j + 1]);
      update<kRule>(rates, numbers, grad_a, a[j], a1[j], a2[j]);
    }
  }
};

}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
