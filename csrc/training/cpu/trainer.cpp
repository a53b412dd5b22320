// Training of the two-layer network on the CPU: one sweep over the weights per step. A block of neurons is taken
// through backward, update, and the forward of the next step while it is in cache. For ReLU and two features the passes
// go by arcs (network/cpu/arcs.h) where that is faster.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "network/cpu/arcs.h"
#include "network/cpu/loops.h"
#include "network/cpu/plan.h"
#include "simd/levels.h"
#include "simd/parallel.h"
#include "training/cpu/loops.h"
#include "training/training.h"
#include "training/update.h"

namespace hrta {
namespace cpu {

HRTA_PICK_TABLE(UpdateLoops, kUpdateLoops, update_loops)

namespace {

void* at(void* array, int64_t bytes) {
  return array == nullptr ? nullptr : static_cast<char*>(array) + bytes;
}

// Vector operations of `neurons` in one step, roughly. A base that is not ReLU takes some twenty a pair, ReLU about as
// many as there are features; df_dx and the gradients through it go over the features three times more.
int64_t work(const TwoLayerTraining& t, int64_t neurons) {
  if (trains_by_arcs(t)) return kTrainingArcWork * neurons;
  const int64_t over_features = t.gradient_target == nullptr ? 1 : 4;
  return t.n * neurons * (over_features * t.features + (t.base == kRelu ? 2 : 20));
}

class Trainer {
 public:
  Trainer(const TwoLayerTraining& training, ParallelFor pool) : t(training), parallel_for(pool) {
    item = t.dtype == ScalarKind::kFloat32 ? 4 : 8;
    block = block_neurons(t.features);
    sums = t.n * t.outputs();
    int64_t least = 1;  // neurons in a chunk
    if (trains_by_arcs(t)) {
      arcs = std::make_unique<Arcs>(arcs_of(call(0, 1.0)));
      if (!arcs->finite()) arcs.reset();
    }
    if (arcs) {
      sums = std::max(sums, arc_sums(*arcs));
      least = std::max(t.n, kTrainingArcNeurons);
      pull.resize(static_cast<size_t>(2 * arcs->count()));
    }
    const int64_t most = std::clamp<int64_t>(kTrainingSums / std::max<int64_t>(sums, 1), 1, kMostChunks);
    chunk_blocks = std::max(ceil_div(ceil_div(t.width, block), most), ceil_div(least, block));
    chunks = ceil_div(t.width, chunk_blocks * block);
    grain = std::max<int64_t>(kGrainWork / std::max<int64_t>(work(t, chunk_blocks * block), 1), 1);
    partial.resize(static_cast<size_t>(chunks * sums));
    grad_f = Buffer<char>(t.n * item);
    if (t.gradient_target != nullptr) grad_df_dx = Buffer<char>(t.n * t.features * item);
  }

  // Updates the weights from the gradient in the outputs at `s`, if `step` is not null, and then sets f at `next_s`, if
  // it is wanted.
  void sweep(const Update* step, double s, bool want_f, double next_s) {
    s_of_gradients = s, s_of_outputs = next_s;
    by_arcs = {arcs && step != nullptr && arc_pull(*arcs, call(0, s), grad_f.get(), nullptr, pull.data()),
               arcs && want_f};
    run(step, want_f);
    if (!want_f || (by_arcs.forward && outputs_from_arcs())) return;
    if (by_arcs.forward) {  // a number is not finite: it shall show where it does without arcs
      by_arcs.forward = false;
      run(nullptr, true);
    }
    outputs_from_loops();
  }

  // The loss at f, and its gradient in the outputs.
  double loss() { return t.dtype == ScalarKind::kFloat32 ? typed_loss<float>() : typed_loss<double>(); }

  // The update of step number `taken` (from 0) at rate lr.
  Update step(int64_t taken, double lr) const { return {t.dtype, update_numbers(t, taken, lr), 0, {}, {}, {}, {}}; }

 private:
  // What of a sweep goes by arcs; whatever is not finite takes the loops. Decided by the numbers of the step alone.
  struct ByArcs {
    bool backward, forward;
  };

  void run(const Update* step, bool want_f) {
    run_parallel(parallel_for, chunks, grain, [&](int64_t begin, int64_t end) {
      const Buffer<char> scratch(block_scratch(t.features) * item);
      const Buffer<char> grad(block * (t.features + 1) * item);
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        double* target = partial.data() + chunk * sums;
        if (want_f) std::fill(target, target + sums, 0.0);
        const int64_t last = std::min((chunk + 1) * chunk_blocks * block, t.width);
        for (int64_t neuron = chunk * chunk_blocks * block; neuron < last; neuron += block) {
          const int64_t count = std::min(block, last - neuron);
          if (step != nullptr) update_block(*step, neuron, count, grad.get(), scratch.get());
          if (want_f) add_block(neuron, count, target, scratch.get());
        }
      }
    });
  }

  void add_block(int64_t neuron, int64_t count, double* target, void* scratch) const {
    if (by_arcs.forward) return add_to_arcs(*arcs, call(neuron, s_of_outputs), range(count), target);
    double* df_dx = t.gradient_target == nullptr ? nullptr : target + t.n;
    two_layer_loops().forward(call(neuron, s_of_outputs), Quantity::kValue, range(count), target, df_dx, scratch);
  }

  bool outputs_from_arcs() {
    return arc_outputs(*arcs, call(0, s_of_outputs), Quantity::kValue, {partial.data(), chunks, sums},
                       output_scale(t.width), t.f, nullptr, parallel_for);
  }

  void outputs_from_loops() {
    const double factor = output_scale(t.width);
    const int64_t outputs = t.n * t.outputs();
    run_parallel(parallel_for, outputs, std::max<int64_t>(kReduceGrain / chunks, 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        double sum = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[static_cast<size_t>(chunk * sums + i)];
        t.f[i] = factor * sum;
      }
    });
  }

  // The network as seen from `neuron` on: a range counts from there, the width stays the true one.
  TwoLayerCall call(int64_t neuron, double s) const {
    return {t.dtype,
            t.base,
            1,
            t.n,
            t.features,
            t.width,
            t.x,
            at(t.weight, neuron * t.features * item),
            at(t.output_weight, neuron * item),
            s};
  }
  TwoLayerRange range(int64_t count) const { return {0, 0, count, 0, t.n}; }

  void update_block(Update step, int64_t neuron, int64_t count, void* grad, void* scratch) const {
    void* grad_output_weight = at(grad, block * t.features * item);
    const TwoLayerGradients gradients{grad_f.get(), grad_df_dx.get(), grad, grad_output_weight};
    const TwoLayerCall network = call(neuron, s_of_gradients);
    if (!by_arcs.backward || !arc_gradients(*arcs, network, pull.data(), range(count), gradients)) {
      two_layer_loops().backward(network, gradients, range(count), scratch);
    }
    step.grad = grad;
    step.count = count * t.features;
    step.parameter = at(t.weight, neuron * t.features * item);
    step.first = at(t.weight_first, neuron * t.features * item);
    step.second = at(t.weight_second, neuron * t.features * item);
    update_loops().update(step);
    step.grad = grad_output_weight;
    step.count = count;
    step.parameter = at(t.output_weight, neuron * item);
    step.first = at(t.output_first, neuron * item);
    step.second = at(t.output_second, neuron * item);
    update_loops().update(step);
  }

  template <typename T>
  double typed_loss() {
    const T* y = static_cast<const T*>(t.y);
    const T* weights = static_cast<const T*>(t.sample_weight);
    T* grad = reinterpret_cast<T*>(grad_f.get());
    const double n = double(t.n), share = share_scale(t);
    double sum = 0;
    for (int64_t i = 0; i < t.n; ++i) {
      const double weight = weights == nullptr ? 1.0 : double(weights[i]);
      const double residual = t.f[i] - double(y[i]);
      double squares = residual * residual;
      if (t.gradient_target != nullptr) squares += gradient_squares<T>(i, share * weight / n);
      sum += weight * squares;
      grad[i] = T(share * weight * residual / n);
    }
    return sum / (2.0 * n);
  }

  // |df_dx_i - G_i|^2; sets the loss's gradient in df_dx_i.
  template <typename T>
  double gradient_squares(int64_t i, double factor) {
    const double* df_dx = t.f + t.n + i * t.features;
    const T* target = static_cast<const T*>(t.gradient_target) + i * t.gradient_features;
    T* grad = reinterpret_cast<T*>(grad_df_dx.get()) + i * t.features;
    double squares = 0;
    for (int64_t d = 0; d < t.features; ++d) {
      const double residual = d < t.gradient_features ? df_dx[d] - double(target[d]) : 0.0;
      squares += residual * residual;
      grad[d] = T(factor * residual);
    }
    return squares;
  }

  const TwoLayerTraining& t;
  ParallelFor parallel_for;
  int64_t item, block, chunk_blocks, chunks, grain;
  // Of each chunk: n outputs, and df_dx (n, D) where the loss has a gradient_target; or what arcs need.
  int64_t sums;
  std::vector<double> partial;  // (chunks, sums)
  Buffer<char> grad_f;          // (n)
  Buffer<char> grad_df_dx;      // (n, D), null without a gradient_target
  std::unique_ptr<Arcs> arcs;   // null where the loops are faster
  std::vector<double> pull;     // as in arc_pull
  ByArcs by_arcs{};
  double s_of_gradients = 1.0, s_of_outputs = 1.0;
};

}  // namespace

// Adam in float32, one AVX2 core, many steps a call: arcs 21 ns per neuron and 20 ns per sample, loops 0.22 ns per
// pair, so
//   n = 128, m = 1024: 24 us against 31;  n = 256, m = 512: 17 against 30;  n = 256, m = 1024: 27 against 59;
//   n = 256, m = 16 384: 0.36 ms against 0.94;  n = 1024, m = 16 384: 0.46 against 3.8.
// Calls of single steps sort the samples in each (65 ns per sample). A loss of gradients, which ReLU's curvature of 0
// would train wrongly, never comes here from hrta_ext/training.
bool trains_by_arcs(const TwoLayerTraining& t) {
  const bool shapes = t.n >= 256 && t.n < kMostArcSamples && t.whole() >= 1024;
  return shapes && t.base == kRelu && t.features == 2 && t.gradient_target == nullptr;
}

int64_t two_layer_train(const TwoLayerTraining& training, int64_t steps, const double* lr, const double* s,
                        double* loss, OutputsKept outputs, ParallelFor parallel_for) {
  Trainer trainer(training, parallel_for);
  if (!outputs.on_entry) trainer.sweep(nullptr, s[0], true, s[0]);
  for (int64_t i = 0; i < steps; ++i) {
    loss[i] = trainer.loss();
    if (!std::isfinite(loss[i])) return i + 1;
    const Update step = trainer.step(i, lr[i]);
    trainer.sweep(&step, s[i], i + 1 < steps || outputs.on_return, s[i + 1]);
  }
  return steps;
}

void two_layer_train_ensemble(const TwoLayerMember* members, int64_t count, int64_t steps, ParallelFor parallel_for) {
  auto train = [&](int64_t begin, int64_t end) {
    for (const TwoLayerMember* member = members + begin; member < members + end; ++member) {
      *member->done =
          two_layer_train(*member->training, steps, member->lr, member->s, member->loss, member->outputs, parallel_for);
    }
  };
  bool large = false;
  for (int64_t i = 0; i < count; ++i) large |= work(*members[i].training, members[i].training->width) > kLargeWork;
  if (large) return train(0, count);
  run_parallel(parallel_for, count, 1, train);  // the pool runs what is inside on the thread that it is on
}

}  // namespace cpu
}  // namespace hrta
