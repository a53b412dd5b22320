// The CUDA launchers of csrc/network/network.h, jet.h and training/training.h, emulated, as C functions for ctypes.
#include "cuda_runtime.h"
#include "network/jet.h"
#include "training/training.h"

using namespace hrta;

namespace {

TwoLayerCall call_of(int dtype, int base, const int64_t* sizes, const void* x, const void* weight,
                     const void* output_weight, const double* s) {
  return {
      static_cast<ScalarKind>(dtype), base, sizes[0], sizes[1], sizes[2], sizes[3], x, weight, output_weight, 0.0, s};
}

}  // namespace

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

// sizes: networks, n, D, m. `results`: f and df_dx; or grad_x; or grad_s; or grad_weight and grad_output_weight.
// Returns the bytes of scratch that the pass asks for where `scratch` is null.
int64_t two_layer_pass(int pass, int dtype, int base, const int64_t* sizes, const void* x, const void* weight,
                       const void* output_weight, const double* s, const void* grad_f, const void* grad_df_dx,
                       void* result, void* second_result, void* scratch) {
  const TwoLayerCall call = call_of(dtype, base, sizes, x, weight, output_weight, s);
  const auto kind = static_cast<cuda::TwoLayerPass>(pass);
  if (scratch == nullptr) return cuda::two_layer_scratch(call, kind, 0);
  switch (kind) {
    case cuda::TwoLayerPass::kForward:
    case cuda::TwoLayerPass::kForwardWithGradient:
      cuda::two_layer_forward(call, result, second_result, scratch, 0, nullptr);
      break;
    case cuda::TwoLayerPass::kInputGradient:
      cuda::two_layer_input_gradient(call, grad_f, result, scratch, 0, nullptr);
      break;
    case cuda::TwoLayerPass::kParameterGradient:
      cuda::two_layer_parameter_gradient(call, grad_f, static_cast<double*>(result), scratch, 0, nullptr);
      break;
    default: cuda::two_layer_backward(call, {grad_f, grad_df_dx, result, second_result}, scratch, 0, nullptr);
  }
  return 0;
}

// `first`, `second`, `third`: f, df_dx and second derivatives; backward grad_weight, grad_output_weight and none.
// Returns bytes as above.
int64_t two_layer_jet_pass(int backward, int dtype, int base, int form, uint64_t columns, const int64_t* sizes,
                           const void* x, const void* weight, const void* output_weight, const double* s,
                           const void* grad_f, const void* grad_df_dx, const void* grad_second, void* first,
                           void* second, void* third, void* scratch) {
  const TwoLayerCall call = call_of(dtype, base, sizes, x, weight, output_weight, s);
  const SecondDerivatives derivatives{static_cast<SecondForm>(form), columns};
  if (scratch == nullptr) return cuda::two_layer_jet_scratch(call, derivatives, backward != 0);
  if (backward == 0) {
    cuda::two_layer_jet_forward(call, derivatives, {first, second, third}, scratch, 0, nullptr);
  } else {
    cuda::two_layer_jet_backward(call, derivatives, {grad_f, grad_df_dx, grad_second, first, second}, scratch, 0,
                                 nullptr);
  }
  return 0;
}

// What lies between the products of a chunk; sizes: networks, n, m.
void two_layer_sum_neurons(int dtype, int base, const int64_t* sizes, const void* output_weight, const double* s,
                           double scale, double* z, double* sums, int replace, int excess) {
  const int64_t shape[] = {sizes[0], sizes[1], 0, sizes[2]};
  cuda::two_layer_sum_neurons(call_of(dtype, base, shape, nullptr, nullptr, output_weight, s), scale, z, sums,
                              replace != 0, excess != 0, 0, nullptr);
}

void two_layer_sum_samples(int dtype, int base, const int64_t* sizes, const void* output_weight, const double* s,
                           double scale, const void* grad_f, double* z, double* y, double* sums) {
  const int64_t shape[] = {sizes[0], sizes[1], 0, sizes[2]};
  cuda::two_layer_sum_samples(call_of(dtype, base, shape, nullptr, nullptr, output_weight, s), scale, grad_f, z, y,
                              sums, 0, nullptr);
}

// sizes: n, D, m, gradient features, m of the formula. `moments`: first of weight and output_weight, then second.
// numbers: beta1, beta2, epsilon. s (steps + 1).
int64_t two_layer_train(int dtype, int base, int adam, const int64_t* sizes, const void* x, const void* y,
                        const void* sample_weight, const void* gradient_target, void* weight, void* output_weight,
                        void** moments, const double* numbers, int64_t updates, double* f, int64_t steps,
                        const double* lr, const double* s, double* loss, int64_t* done, int on_entry, int on_return,
                        void* scratch) {
  TwoLayerTraining training{};
  training.dtype = static_cast<ScalarKind>(dtype);
  training.base = base;
  training.n = sizes[0], training.features = sizes[1], training.width = sizes[2];
  training.gradient_features = sizes[3], training.total_width = sizes[4];
  training.x = x, training.y = y;
  training.sample_weight = sample_weight, training.gradient_target = gradient_target;
  training.weight = weight, training.output_weight = output_weight;
  training.weight_first = moments[0], training.output_first = moments[1];
  training.weight_second = moments[2], training.output_second = moments[3];
  training.rule = adam != 0 ? UpdateRule::kAdam : UpdateRule::kDescent;
  training.beta1 = numbers[0], training.beta2 = numbers[1], training.epsilon = numbers[2];
  training.updates = updates;
  training.f = f;
  const TwoLayerMember member{&training, lr, s, loss, {on_entry != 0, on_return != 0}, done};
  if (scratch == nullptr) return cuda::two_layer_training_scratch(&member, 1, steps, 0);
  cuda::two_layer_train_ensemble(&member, 1, steps, scratch, 0, nullptr);
  return 0;
}
}
