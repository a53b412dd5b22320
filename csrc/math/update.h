// The optimizers' updates of one element, for the CPU loops and the CUDA kernels.
#pragma once

#include <cfloat>

#include "math/host_device.h"

namespace hrta {

enum class UpdateRule : int { kDescent, kAdam };

// One step of an optimizer.
struct UpdateNumbers {
  UpdateRule rule;
  double rate;  // lr; kAdam: lr / (1 - beta1^t)
  double root;  // kAdam: sqrt(1 - beta2^t)
  double beta1, beta2, epsilon;
};

inline namespace HRTA_SIMD_LEVEL {

// Zero where |x| is below the normal numbers. A neuron that falls silent, as a switch of s makes many, gets gradients
// of exactly 0: its first moment would shrink into the subnormal numbers, stay there by rounding, and cost a CPU a
// hundred cycles at every step. This halves the time of the paper's s = 0.5 -> 1; no weight of a usual size sees it.
template <typename T>
HRTA_INLINE T without_subnormals(T x) {
  constexpr T kLeast = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);
  return (x < T(0) ? -x : x) < kLeast ? T(0) : x;
}

// m += (1 - beta1) (g - m), v = beta2 v + (1 - beta2) g^2, w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) +
// eps): Kingma, Ba 2015, in the order of torch.optim.Adam.
template <typename T>
struct Adam {
  T take_first, keep, take, rate, scale, epsilon;

  explicit HRTA_INLINE Adam(const UpdateNumbers& numbers)
      : take_first(T(1.0 - numbers.beta1)),
        keep(T(numbers.beta2)),
        take(T(1.0 - numbers.beta2)),
        rate(T(numbers.rate)),
        scale(T(1.0 / numbers.root)),
        epsilon(T(numbers.epsilon)) {}

  HRTA_INLINE void operator()(T g, T& parameter, T& first, T& second) const {
    const T mean = first + take_first * (g - first);
    const T square = keep * second + take * (g * g);
    first = without_subnormals(mean);
    second = without_subnormals(square);
    parameter -= rate * mean / (scale * square_root(square) + epsilon);
  }
};

// b = momentum b + g, w -= lr b, as torch.optim.SGD; without momentum there is no b.
template <typename T>
struct Descent {
  T rate, momentum;

  explicit HRTA_INLINE Descent(const UpdateNumbers& numbers) : rate(T(numbers.rate)), momentum(T(numbers.beta1)) {}

  HRTA_INLINE void operator()(T g, T& parameter, T& first) const {
    first = without_subnormals(momentum * first + g);
    parameter -= rate * first;
  }
  HRTA_INLINE void operator()(T g, T& parameter) const { parameter -= rate * g; }
};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace hrta
