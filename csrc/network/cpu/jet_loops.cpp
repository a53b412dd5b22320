// The jet's loops over ranges of neurons, compiled once per SIMD level. As in activation/cpu/loops.cpp, no inline
// function of the standard library.
#include "network/cpu/jet_loops.h"

#include "network/cpu/jet_tiles.h"
#include "network/cpu/packing.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

// A block's arrays: weights, V and a, the gradients in them, and the partial sums of forward.
template <typename T>
struct JetScratch {
  T *weight, *quadratic, *output_weight, *grad_weight, *grad_quadratic, *grad_output_weight;
  Vector<T>* partial;
  int64_t stride;

  static int64_t bytes(int features, int quadratic_count) {
    const int rows = features + quadratic_count + 1;
    return (2 * rows * longest(rows) + int64_t(kJetSamples) * rows * kLanes<T>)*int64_t(sizeof(T));
  }
  static int64_t longest(int rows) { return block_neurons(rows); }

  JetScratch(void* memory, int features, int quadratic_count) : stride(longest(features + quadratic_count + 1)) {
    weight = static_cast<T*>(memory);
    quadratic = weight + features * stride;
    output_weight = quadratic + quadratic_count * stride;
    grad_weight = output_weight + stride;
    grad_quadratic = grad_weight + features * stride;
    grad_output_weight = grad_quadratic + quadratic_count * stride;
    partial = reinterpret_cast<Vector<T>*>(grad_output_weight + stride);
  }
};

template <typename T>
JetBlock<T> pack_jet(const TwoLayerCall& call, const SecondDerivatives& second, int64_t neuron, int count,
                     const JetScratch<T>& scratch) {
  const int padded = (count + kTile<T> - 1) / kTile<T> * kTile<T>;
  const int64_t stride = scratch.stride;
  const T* weight = static_cast<const T*>(call.weight) + neuron * call.features;
  to_columns<0>(weight, call.features, count, padded, scratch.weight, stride);
  to_columns<1>(static_cast<const T*>(call.output_weight) + neuron, 1, count, padded, scratch.output_weight, 0);
  const int quadratic_count = quadratic_features(second);
  for (int64_t at = 0; at < quadratic_count * stride; ++at) scratch.quadratic[at] = T(0);
  over_products(second, [&](int r, int c, int other) {
    T* target = scratch.quadratic + r * stride;
    const T *left = scratch.weight + c * stride, *right = scratch.weight + other * stride;
    for (int j = 0; j < padded; ++j) target[j] = hrta::multiply_add(left[j], right[j], target[j]);
  });
  return {{scratch.weight, scratch.output_weight, stride, padded}, scratch.quadratic, quadratic_count};
}

template <typename T>
void forward_range(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerRange& range, double* sums,
                   void* memory) {
  const JetScratch<T> scratch(memory, int(call.features), quadratic_features(second));
  const TwoLayerSamples<T> samples{static_cast<const T*>(call.x) + range.first_sample * call.features,
                                   range.last_sample - range.first_sample, int(call.features)};
  const Homotopy<T> h = Homotopy<T>::from(call.s);
  over_blocks(call, range, scratch.stride, [&](int64_t neuron, int count) {
    const JetBlock<T> block = pack_jet(call, second, neuron, count, scratch);
    with_base(call.base, [&](auto tag) { jet_forward<decltype(tag)>(samples, block, h, sums, scratch.partial); });
  });
}

template <typename T>
void backward_range(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJetGradients& wanted,
                    const TwoLayerRange& range, void* memory) {
  const int features = int(call.features), quadratic_count = quadratic_features(second);
  const JetScratch<T> scratch(memory, features, quadratic_count);
  const TwoLayerSamples<T> samples{static_cast<const T*>(call.x), call.n, features};
  auto of_network = [&](const void* grad, int64_t size) {
    return grad == nullptr ? nullptr : static_cast<const T*>(grad) + range.network * call.n * size;
  };
  const JetSampleGradients<T> given{of_network(wanted.grad_f, 1), of_network(wanted.grad_df_dx, features),
                                    of_network(wanted.grad_second, quadratic_count)};
  const TwoLayerBlockGradients<T> gradients{scratch.grad_weight, scratch.grad_output_weight, scratch.stride,
                                            wanted.grad_weight != nullptr, wanted.grad_output_weight != nullptr};
  const Homotopy<T> h = Homotopy<T>::from(call.s);
  const T factor = T(output_scale(call.width));
  over_blocks(call, range, scratch.stride, [&](int64_t neuron, int count) {
    const JetBlock<T> block = pack_jet(call, second, neuron, count, scratch);
    const int64_t numbers = scratch.stride * (features + quadratic_count + 1);
    for (int64_t at = 0; at < numbers; ++at) scratch.grad_weight[at] = T(0);
    with_base(call.base, [&](auto tag) {
      jet_backward<decltype(tag)>(samples, second, block, h, given, gradients, scratch.grad_quadratic);
    });
    if (gradients.with_weight) {
      T* target = static_cast<T*>(wanted.grad_weight) + neuron * features;
      to_rows<0>(gradients.weight, gradients.stride, features, count, factor, target);
    }
    if (gradients.with_output_weight) {
      to_rows<1>(gradients.output_weight, 0, 1, count, factor, static_cast<T*>(wanted.grad_output_weight) + neuron);
    }
  });
}

int64_t scratch_bytes(const TwoLayerCall& call, const SecondDerivatives& second) {
  const int features = int(call.features), quadratic_count = quadratic_features(second);
  return call.dtype == ScalarKind::kFloat32 ? JetScratch<float>::bytes(features, quadratic_count)
                                            : JetScratch<double>::bytes(features, quadratic_count);
}

void forward(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerRange& range, double* sums,
             void* scratch) {
  if (call.dtype == ScalarKind::kFloat32) return forward_range<float>(call, second, range, sums, scratch);
  forward_range<double>(call, second, range, sums, scratch);
}

void backward(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJetGradients& gradients,
              const TwoLayerRange& range, void* scratch) {
  if (call.dtype == ScalarKind::kFloat32) return backward_range<float>(call, second, gradients, range, scratch);
  backward_range<double>(call, second, gradients, range, scratch);
}

}  // namespace

extern const JetLoops kJetLoops;
const JetLoops kJetLoops = {scratch_bytes, forward, backward};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
