// Training by launches, the way that serves everything. A step is the loss and its gradient in the outputs; backward
// with the update of each neuron as it is done, so that no gradient is stored; and the forward pass. Nothing waits for
// the host: a loss that is not finite sets a number on the device at which the rest stands still.
#include <algorithm>
#include <vector>

#include "network/cuda/units.cuh"
#include "network/cuda/ways.h"
#include "training/cuda/ways.h"
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
  double share;  // share_scale of training/update.h
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
    const T g = T(work.share * weight * residual / n);
    double squares = residual * residual;
    static_cast<T*>(work.grad_f)[i] = g;
    for (int64_t d = 0; d < features; ++d) {
      R[d] += double(g) * double(x[i * features + d]);
      if (target == nullptr) continue;
      const double df_dx = t.f[t.n + i * features + d];
      const double off = d < t.gradient_features ? df_dx - double(target[i * t.gradient_features + d]) : 0.0;
      const T G = T(work.share * weight * off / n);
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
  return {t.dtype, t.base, 1, t.n, t.features, t.width, t.x, t.weight, t.output_weight, 1.0};
}

// Scratch of a training, in bytes. The passes follow one another, so they share theirs.
struct TrainingPlan {
  int64_t grad_f, grad_df_dx, passes, bytes;

  TrainingPlan(const TwoLayerTraining& t, const Outputs& outputs, const Targets& targets, const Device& device) {
    grad_f = 8 * t.features;  // R comes first; room for doubles, whatever the dtype
    grad_df_dx = grad_f + 8 * t.n;
    passes = grad_df_dx + (t.gradient_target == nullptr ? 0 : 8 * t.n * t.features);
    passes = ceil_div(passes, 256) * 256;
    const TwoLayerCall call = call_of(t);
    bytes = passes + std::max(forward_scratch(call, outputs, device), backward_scratch(call, targets, device));
  }
};

Outputs outputs_of(const TwoLayerTraining& t, const int64_t* done) {
  Outputs outputs;
  outputs.f = t.f;
  outputs.df_dx = t.gradient_target == nullptr ? nullptr : t.f + t.n;
  outputs.in_double = true;
  outputs.done = done;
  return outputs;
}

}  // namespace

namespace launches {

int64_t scratch(const TwoLayerTraining& training, const Device& device) {
  Targets targets;
  const Update update{};
  targets.gradients.grad_df_dx = training.gradient_target;
  targets.update = &update;  // as train will ask: the way may depend on it
  return TrainingPlan(training, outputs_of(training, nullptr), targets, device).bytes;
}

void train(const TwoLayerMember& member, int64_t steps, void* scratch, const Device& device, void* stream) {
  const TwoLayerTraining& training = *member.training;
  unsigned char* memory = static_cast<unsigned char*>(scratch);
  cudaMemsetAsync(member.done, 0, sizeof(*member.done), static_cast<cudaStream_t>(stream));

  TwoLayerCall call = call_of(training);
  const Outputs outputs = outputs_of(training, member.done);
  Update update{
      {}, training.weight_first, training.weight_second, training.output_first, training.output_second, member.done};
  Targets targets;
  targets.gradients.grad_df_dx = training.gradient_target;
  targets.update = &update;
  targets.everywhere = static_cast<double*>(scratch);
  const TrainingPlan plan(training, outputs, targets, device);
  LossWork loss{training,
                memory + plan.grad_f,
                training.gradient_target != nullptr ? memory + plan.grad_df_dx : nullptr,
                static_cast<double*>(scratch),
                member.loss,
                0,
                member.done,
                share_scale(training)};
  targets.gradients = {loss.grad_f, loss.grad_df_dx, nullptr, nullptr};
  auto forward = [&](double s) {
    call.s = s;
    launch_forward(call, outputs, memory + plan.passes, device, stream);
  };

  if (!member.outputs.on_entry) forward(member.s[0]);
  for (int64_t i = 0; i < steps; ++i) {
    loss.loss = member.loss + i, loss.step = i;
    if (training.dtype == ScalarKind::kFloat32) {
      launch(loss_kernel<float>, 1, kThreads, stream, loss);
    } else {
      launch(loss_kernel<double>, 1, kThreads, stream, loss);
    }
    update.numbers = update_numbers(training, i, member.lr[i]);
    call.s = member.s[i];
    launch_backward(call, targets, memory + plan.passes, device, stream);
    if (i + 1 < steps || member.outputs.on_return) forward(member.s[i + 1]);
  }
}

}  // namespace launches

namespace {

// Of a share the outputs on entry are not those of its weights, which the other ways would take in their place.
bool by_arcs(const TwoLayerTraining& training, const Device& device) {
  return !training.is_share() && arcs::serves(training, device);
}

// The members that `small` serves, and the others.
struct ByWay {
  std::vector<TwoLayerMember> small, others;

  ByWay(const TwoLayerMember* members, int64_t count, const Device& device) {
    bool served = false;
    for (int64_t i = 0; i < count; ++i) {
      const TwoLayerTraining& training = *members[i].training;
      if (i == 0 || !small::alike(*members[i - 1].training, training)) served = small::serves(training, device);
      (served && !training.is_share() ? small : others).push_back(members[i]);
    }
  }
};

}  // namespace

int64_t two_layer_training_scratch(const TwoLayerMember* members, int64_t count, int64_t steps, int device) {
  DeviceGuard guard(device);
  const Device card = device_of(device);
  const ByWay by_way(members, count, card);
  int64_t bytes = small::scratch(by_way.small.data(), int64_t(by_way.small.size()), steps, card);
  for (const TwoLayerMember& member : by_way.others) {
    const TwoLayerTraining& training = *member.training;
    bytes = std::max(
        bytes, by_arcs(training, card) ? arcs::scratch(training, steps, card) : launches::scratch(training, card));
  }
  return bytes;
}

const char* two_layer_train_ensemble(const TwoLayerMember* members, int64_t count, int64_t steps, void* scratch,
                                     int device, void* stream) {
  DeviceGuard guard(device);
  const Device card = device_of(device);
  const ByWay by_way(members, count, card);
  if (!by_way.small.empty()) {
    small::train(by_way.small.data(), int64_t(by_way.small.size()), steps, scratch, card, stream);
  }
  for (const TwoLayerMember& member : by_way.others) {
    const auto train = by_arcs(*member.training, card) ? arcs::train : launches::train;
    train(member, steps, scratch, card, stream);
  }
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
