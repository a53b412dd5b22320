// The optimizers' updates (math/update.h) over arrays, compiled once per SIMD level.
#include "training/cpu/loops.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

template <typename T>
void adam(const Update& update) {
  const T* __restrict grad = static_cast<const T*>(update.grad);
  T* __restrict parameter = static_cast<T*>(update.parameter);
  T* __restrict first = static_cast<T*>(update.first);
  T* __restrict second = static_cast<T*>(update.second);
  const Adam<T> step(update.numbers);
  for (int64_t i = 0; i < update.count; ++i) step(grad[i], parameter[i], first[i], second[i]);
}

template <typename T>
void descent(const Update& update) {
  const T* __restrict grad = static_cast<const T*>(update.grad);
  T* __restrict parameter = static_cast<T*>(update.parameter);
  T* __restrict first = static_cast<T*>(update.first);
  const Descent<T> step(update.numbers);
  if (first == nullptr) {
    for (int64_t i = 0; i < update.count; ++i) step(grad[i], parameter[i]);
    return;
  }
  for (int64_t i = 0; i < update.count; ++i) step(grad[i], parameter[i], first[i]);
}

template <typename T>
void update_typed(const Update& update) {
  if (update.numbers.rule == UpdateRule::kAdam) return adam<T>(update);
  descent<T>(update);
}

void update(const Update& update) {
  if (update.dtype == ScalarKind::kFloat32) return update_typed<float>(update);
  update_typed<double>(update);
}

}  // namespace

extern const UpdateLoops kUpdateLoops;
const UpdateLoops kUpdateLoops = {update};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
