// Training by arcs (csrc/training/cuda/arcs.h), emulated, as C functions for ctypes.
#include "cuda_runtime.h"
#include "training/cuda/arcs.h"
#include "training/cuda/arcs_persistent.cuh"
#include "training/cuda/ways.h"

using namespace hrta;

namespace {

// In one of the forms that only large cards are given.
template <typename F>
void train_in(const TwoLayerMember& member, int64_t steps, void* scratch) {
  if (member.training->dtype == (sizeof(typename F::Type) == 4 ? ScalarKind::kFloat32 : ScalarKind::kFloat64)) {
    cuda::arcs::training::persistent::train_in<F>(member, steps, scratch, nullptr);
  }
}

}  // namespace

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

void limit_devices(int multiprocessors, int shared) {
  cuda::limit_devices({0, multiprocessors, shared, 0});
}

// root[i] = sqrt(x[i]), quotient[i] = x[i] / y[i], as the float32 update takes them.
void quick_operations(int64_t count, const float* x, const float* y, float* root, float* quotient) {
  for (int64_t i = 0; i < count; ++i) {
    root[i] = cuda::arcs::training::quick_root(x[i]), quotient[i] = cuda::arcs::training::quick_quotient(x[i], y[i]);
  }
}

// sizes: n, m, updates taken before. memory: x, y, sample_weight, weight, output_weight, first moments of both, second
// moments of both, f. numbers: beta1, beta2, epsilon. s (steps + 1). form: 0 as served, -1 by the way that serves, else
// one of the persistent kernel's. Returns the bytes of scratch where `scratch` is null; else 1 (persistent), 2 (sweep)
// or 0.
int64_t arc_train(int dtype, int adam, int form, const int64_t* sizes, void** memory, const double* numbers,
                  int64_t steps, const double* lr, const double* s, double* loss, int64_t* done, void* scratch) {
  using namespace cuda::arcs;
  using cuda::arcs::training::Form;
  TwoLayerTraining of{};
  of.dtype = static_cast<ScalarKind>(dtype), of.base = kRelu;
  of.n = sizes[0], of.features = 2, of.width = sizes[1], of.updates = sizes[2];
  of.x = memory[0], of.y = memory[1], of.sample_weight = memory[2];
  of.weight = memory[3], of.output_weight = memory[4];
  of.weight_first = memory[5], of.output_first = memory[6];
  of.weight_second = memory[7], of.output_second = memory[8];
  of.f = static_cast<double*>(memory[9]);
  of.rule = adam != 0 ? UpdateRule::kAdam : UpdateRule::kDescent;
  of.beta1 = numbers[0], of.beta2 = numbers[1], of.epsilon = numbers[2];
  const TwoLayerMember member{&of, lr, s, loss, {false, true}, done};
  const cuda::Device device = cuda::device_of(0);
  const bool by_arcs = serves(of, device), in_one = form > 0 || training::persistent::serves(of, device);
  if (scratch == nullptr) {
    if (form < 0) return cuda::two_layer_training_scratch(&member, 1, steps, 0);
    return form == 0 ? cuda::arcs::scratch(of, steps, device) : training::persistent::scratch(of, steps);
  }
  *done = 0;
  if (form < 0) cuda::two_layer_train_ensemble(&member, 1, steps, scratch, 0, nullptr);
  if (form == 0) train(member, steps, scratch, device, nullptr);
  if (form == 1) train_in<Form<float, 512, 4, 2>>(member, steps, scratch);
  if (form == 2) train_in<Form<float, 512, 4, 4>>(member, steps, scratch);
  if (form == 3) train_in<Form<double, 512, 2, 4>>(member, steps, scratch);
  return in_one ? 1 : by_arcs ? 2 : 0;
}
}
