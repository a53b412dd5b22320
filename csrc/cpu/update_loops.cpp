// The optimizers' updates, element by element, compiled once per SIMD level.
#include "update_loops.h"

#include "simd.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

float root(float x) {
  return __builtin_sqrtf(x);
}
double root(double x) {
  return __builtin_sqrt(x);
}

// Zero where |x| is below the normal numbers. A neuron that falls silent, as a switch of s makes many, gets gradients
// of exactly 0: its first moment would shrink into the subnormal numbers, stay there by rounding, and cost a hundred
// cycles at every step. This halves the time of the paper's s = 0.5 -> 1; no weight of a usual size sees it.
template <typename T>
T without_subnormals(T x, T least) {
  return (x < T(0) ? -x : x) < least ? T(0) : x;
}

// m += (1 - beta1) (g - m), v = beta2 v + (1 - beta2) g^2, w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) +
// eps): Kingma, Ba 2015, in the order of torch.optim.Adam.
template <typename T>
void adam(const Update& update) {
  const T* __restrict grad = static_cast<const T*>(update.grad);
  T* __restrict parameter = static_cast<T*>(update.parameter);
  T* __restrict first = static_cast<T*>(update.first);
  T* __restrict second = static_cast<T*>(update.second);
  const T take_first = T(1.0 - update.beta1), keep = T(update.beta2), take = T(1.0 - update.beta2);
  const T rate = T(update.rate), scale = T(1.0 / update.root), epsilon = T(update.epsilon);
  const T least = sizeof(T) == 4 ? T(__FLT_MIN__) : T(__DBL_MIN__);
  for (int64_t i = 0; i < update.count; ++i) {
    const T g = grad[i];
    const T mean = first[i] + take_first * (g - first[i]);
    const T square = keep * second[i] + take * (g * g);
    first[i] = without_subnormals(mean, least);
    second[i] = without_subnormals(square, least);
    parameter[i] -= rate * mean / (scale * root(square) + epsilon);
  }
}

template <typename T>
void descent(const Update& update) {
  const T* __restrict grad = static_cast<const T*>(update.grad);
  T* __restrict parameter = static_cast<T*>(update.parameter);
  T* __restrict first = static_cast<T*>(update.first);
  const T rate = T(update.rate), momentum = T(update.beta1);
  const T least = sizeof(T) == 4 ? T(__FLT_MIN__) : T(__DBL_MIN__);
  if (first == nullptr) {
    for (int64_t i = 0; i < update.count; ++i) parameter[i] -= rate * grad[i];
    return;
  }
  for (int64_t i = 0; i < update.count; ++i) {
    const T direction = without_subnormals(momentum * first[i] + grad[i], least);
    first[i] = direction;
    parameter[i] -= rate * direction;
  }
}

template <typename T>
void update_typed(const Update& update) {
  if (update.rule == UpdateRule::kAdam) return adam<T>(update);
  descent<T>(update);
}

}  // namespace

void update(const Update& update) {
  if (update.dtype == ScalarKind::kFloat32) return update_typed<float>(update);
  update_typed<double>(update);
}

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
