// Full-batch training of the two-layer network (network/network.h), many steps a call, on
//   R = 1/(2n) sum_i c_i [ (f_i - y_i)^2 + |df_dx_i - G_i|^2 ];
// c = 1 without sample weights, no second term (Sobolev loss) without a target G of the gradients.
#pragma once

#include <cstdint>

#include "math/update.h"
#include "network/network.h"

namespace hrta {

// One network and its optimizer. Everything is contiguous and of `dtype`, kFloat32 or kFloat64.
struct TwoLayerTraining {
  ScalarKind dtype;
  int base;  // BaseIndex
  int64_t n, features, width;
  const void* x;                // (n, D)
  const void* y;                // (n)
  const void* sample_weight;    // (n) c, or null
  const void* gradient_target;  // (n, d) G in the first d features, or null; the others (the bias) have no target
  int64_t gradient_features;    // d <= D
  void* weight;                 // (m, D)
  void* output_weight;          // (m)
  // kDescent, as torch.optim.SGD: b = momentum b + grad, w -= lr b, with b in `first`, which is null without momentum.
  // kAdam, as torch.optim.Adam: moments `first` and `second`, bias correction, epsilon added to the root.
  UpdateRule rule;
  void *weight_first, *weight_second;  // (m, D)
  void *output_first, *output_second;  // (m)
  double beta1, beta2, epsilon;        // kDescent: beta1 is the momentum
  int64_t updates;                     // steps that the moments have seen before
  // At the present weights, kept from call to call: outputs (n) and, with a gradient_target, df_dx (n, D) after them.
  double* f;

  // m of the formula where other processes hold neurons too; `width`, or 0, where they do not. Of such a share f is the
  // sum over all of them on entry, and on return what the neurons here give by themselves, as a network of `width`.
  int64_t total_width;

  bool is_share() const { return total_width > width; }
  int64_t whole() const { return is_share() ? total_width : width; }

  // Doubles in f per sample.
  int64_t outputs() const { return gradient_target == nullptr ? 1 : 1 + features; }
};

// Where a call stands between two others: whether f holds the outputs on entry, and whether it is to on return.
struct OutputsKept {
  bool on_entry, on_return;
};

// One network of an ensemble: the arguments and, in `done`, the result of two_layer_train.
struct TwoLayerMember {
  const TwoLayerTraining* training;
  const double* lr;  // (steps), on the host
  const double* s;   // (steps + 1), on the host: of every step, and of the outputs on return
  double* loss;      // (steps)
  OutputsKept outputs;
  int64_t* done;  // ()
};

namespace cpu {

// Whether the passes go by arcs (network/cpu/arcs.h) instead of loops over samples: a matter of the shapes.
bool trains_by_arcs(const TwoLayerTraining& training);

// Does `steps` steps, step i at rate lr[i] and homotopy parameter s[i], and writes the loss before each update to loss
// (steps). A loss that is not finite is the last one written, and nothing is updated from it. Returns the number of
// losses written. Every bit depends on the shapes alone, not on the threads nor on how the steps are cut into calls.
int64_t two_layer_train(const TwoLayerTraining& training, int64_t steps, const double* lr, const double* s,
                        double* loss, OutputsKept outputs, ParallelFor parallel_for);

// Every member does `steps` steps, to the bits that it would get alone. Small networks take one thread each.
void two_layer_train_ensemble(const TwoLayerMember* members, int64_t count, int64_t steps, ParallelFor parallel_for);

}  // namespace cpu

namespace cuda {

// As two_layer_train_ensemble, every pointer but `lr` and `s` on the device: all steps are queued on `stream` and
// nothing waits. `scratch`: two_layer_training_scratch bytes for the same members and steps. Returns null or the CUDA
// runtime's error message.
int64_t two_layer_training_scratch(const TwoLayerMember* members, int64_t count, int64_t steps, int device);
const char* two_layer_train_ensemble(const TwoLayerMember* members, int64_t count, int64_t steps, void* scratch,
                                     int device, void* stream);

}  // namespace cuda

}  // namespace hrta
