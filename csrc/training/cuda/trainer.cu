// Training of the two-layer network on the GPU. A step is four launches: the loss and its gradient in the outputs;
// backward with the update of each neuron as it is done, so that no gradient is stored; and the two of the forward
// pass. Nothing waits for the host: a loss that is not finite sets a number on the device at which the rest stands
// still.
#include "network/cuda/plan.cuh"
#include "training/training.h"
#include "training/update.h"

namespace hrta {
namespace cuda {

namespace {

struct LossWork {
  TwoLayerTraining training;
  void* grad_f;        // (n)
  void* grad_df_dx;    // (n, D), null without a gradient_target
  double* everywhere;  // (D): R of network/cuda/units.cuh
  double* loss;        // ()
  int64_t step;
  int64_t* done;
};

// One block: the loss at f, its gradients, and R.
template <typename T>
__global__ void __launch_bounds__(kThreads) loss_kernel(const __grid_constant__ LossWork work) {
  if (stopped(work.done)) return;
  const TwoLayerTraining& t = work.training;
  const int64_t features = t.features;
  const T *x = static_cast<const T*>(t.x), *y = static_cast<const T*>(t.y);
  const T *weights = static_cast<const T*>(t.sample_weight), *target = static_cast<const T*>(t.gradient_target);
  const double n = double(t.n);
  double sum = 0, R[kMostFeatures] = {};
  for (int64_t i = threadIdx.x; i < t.n; i += kThreads) {
    const double weight = weights == nullptr ? 1.0 : double(weights[i]);
    const double residual = t.f[i] - double(y[i]);
    const T g = T(weight * residual / n);
    double squares = residual * residual;
    static_cast<T*>(work.grad_f)[i] = g;
    for (int64_t d = 0; d < features; ++d) {
      R[d] += double(g) * double(x[i * features + d]);
      if (target == nullptr) continue;
      const double df_dx = t.f[t.n + i * features + d];
      const double off = d < t.gradient_features ? df_dx - double(target[i * t.gradient_features + d]) : 0.0;
      const T G = T(weight * off / n);
      squares += off * off;
      static_cast<T*>(work.grad_df_dx)[i * features + d] = G;
      R[d] += double(G);
    }
    sum += weight * squares;
  }
  for (int64_t d = 0; d < features; ++d) {
    const double total = sum_over_block(R[d]);
    if (threadIdx.x == 0) work.everywhere[d] = total;
  }
  sum = sum_over_block(sum) / (2.0 * n);
  if (threadIdx.x != 0) return;
  *work.loss = sum;
  if (!(absolute(sum) <= FloatTraits<double>::kLargest)) *work.done = work.step + 1;
}

TwoLayerCall call_of(const TwoLayerTraining& t) {
  return {t.dtype, t.base, 1, t.n, t.features, t.width, t.x, t.weight, t.output_weight, t.s};
}

// Scratch of a training, in doubles.
struct TrainingPlan {
  BackwardPlan backward;
  int64_t forward, grad_f, grad_df_dx, doubles;

  explicit TrainingPlan(const TwoLayerTraining& t) : backward(call_of(t)) {
    forward = backward.doubles;
    grad_f = forward + ForwardPlan(call_of(t), t.gradient_target != nullptr).doubles;
    grad_df_dx = grad_f + t.n;  // room for doubles, whatever the dtype
    doubles = grad_df_dx + (t.gradient_target == nullptr ? 0 : t.n * t.features);
  }
};

}  // namespace

int64_t two_layer_training_scratch(const TwoLayerTraining& training) {
  return 8 * TrainingPlan(training).doubles;
}

const char* two_layer_train(const TwoLayerTraining& training, int64_t steps, const double* lr, double* loss,
                            int64_t* done, bool outputs_on_entry, bool outputs_on_return, void* scratch, int device,
                            void* stream) {
  DeviceGuard guard(device);
  const TrainingPlan plan(training);
  double* memory = static_cast<double*>(scratch);
  const bool sobolev = training.gradient_target != nullptr;
  cudaMemsetAsync(done, 0, sizeof(*done), static_cast<cudaStream_t>(stream));

  const TwoLayerCall call = call_of(training);
  Outputs outputs;
  outputs.f = training.f;
  outputs.df_dx = sobolev ? training.f + training.n : nullptr;
  outputs.in_double = true;
  outputs.done = done;
  LossWork of_loss{training, memory + plan.grad_f, sobolev ? memory + plan.grad_df_dx : nullptr, memory, loss, 0, done};
  BackwardWork backward = plan.backward.work(call, {of_loss.grad_f, of_loss.grad_df_dx, nullptr, nullptr}, memory);
  backward.training = true;
  backward.weight_first = training.weight_first, backward.weight_second = training.weight_second;
  backward.output_first = training.output_first, backward.output_second = training.output_second;
  backward.done = done;
  auto forward = [&] { launch_forward(call, outputs, memory + plan.forward, stream); };

  if (!outputs_on_entry) forward();
  for (int64_t i = 0; i < steps; ++i) {
    of_loss.loss = loss + i, of_loss.step = i;
    if (training.dtype == ScalarKind::kFloat32) {
      launch(loss_kernel<float>, 1, kThreads, stream, of_loss);
    } else {
      launch(loss_kernel<double>, 1, kThreads, stream, of_loss);
    }
    backward.numbers = update_numbers(training, i, lr[i]);
    launch_backward(backward, stream);
    if (i + 1 < steps || outputs_on_return) forward();
  }
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
