// The two-layer network's loops over ranges of neurons, compiled once per SIMD level: weights into one array per
// feature, a block at a time, and the gradients back. As in activation/cpu/loops.cpp, no inline function of the
// standard library.
#include "network/cpu/loops.h"

#include "network/cpu/packing.h"
#include "network/cpu/tiles.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

template <typename T>
struct Scratch {
  T *weight, *output_weight, *grad_weight, *grad_output_weight;
  int64_t stride;

  Scratch(void* memory, int64_t features) : stride(block_neurons(features)) {
    weight = static_cast<T*>(memory);
    grad_weight = weight + features * stride;
    output_weight = grad_weight + features * stride;
    grad_output_weight = output_weight + stride;
  }
};

template <typename T>
TwoLayerBlock<T> pack(const TwoLayerCall& call, int64_t neuron, int count, const Scratch<T>& scratch) {
  const int padded = (count + kTile<T> - 1) / kTile<T> * kTile<T>;
  const T* weight = static_cast<const T*>(call.weight) + neuron * call.features;
  with_small_features(call.features, [&](auto tag) {
    to_columns<decltype(tag)::kValue>(weight, call.features, count, padded, scratch.weight, scratch.stride);
  });
  to_columns<1>(static_cast<const T*>(call.output_weight) + neuron, 1, count, padded, scratch.output_weight, 0);
  return {scratch.weight, scratch.output_weight, scratch.stride, padded};
}

template <typename T>
void forward_range(const TwoLayerCall& call, Quantity quantity, const TwoLayerRange& range, double* f, double* df_dx,
                   void* memory) {
  const Scratch<T> scratch(memory, call.features);
  const TwoLayerSamples<T> samples{static_cast<const T*>(call.x) + range.first_sample * call.features,
                                   range.last_sample - range.first_sample, int(call.features)};
  over_blocks(call, range, block_neurons(call.features), [&](int64_t neuron, int count) {
    forward_block(call.base, quantity, call.s, samples, pack(call, neuron, count, scratch), f, df_dx);
  });
}

void forward(const TwoLayerCall& call, Quantity quantity, const TwoLayerRange& range, double* f, double* df_dx,
             void* scratch) {
  if (call.dtype == ScalarKind::kFloat32) return forward_range<float>(call, quantity, range, f, df_dx, scratch);
  forward_range<double>(call, quantity, range, f, df_dx, scratch);
}

template <typename T>
void backward_range(const TwoLayerCall& call, const TwoLayerGradients& wanted, const TwoLayerRange& range,
                    void* memory) {
  const Scratch<T> scratch(memory, call.features);
  const TwoLayerSamples<T> samples{static_cast<const T*>(call.x), call.n, int(call.features)};
  const T* grad_f = static_cast<const T*>(wanted.grad_f);
  const T* grad_df_dx = static_cast<const T*>(wanted.grad_df_dx);
  if (grad_f != nullptr) grad_f += range.network * call.n;
  if (grad_df_dx != nullptr) grad_df_dx += range.network * call.n * call.features;
  const T factor = T(output_scale(call.width));
  const TwoLayerBlockGradients<T> gradients{scratch.grad_weight, scratch.grad_output_weight, scratch.stride,
                                            wanted.grad_weight != nullptr, wanted.grad_output_weight != nullptr};
  over_blocks(call, range, block_neurons(call.features), [&](int64_t neuron, int count) {
    const TwoLayerBlock<T> block = pack(call, neuron, count, scratch);
    backward_block(call.base, call.s, samples, block, grad_f, grad_df_dx, gradients);
    if (gradients.with_weight) {
      T* target = static_cast<T*>(wanted.grad_weight) + neuron * call.features;
      with_small_features(call.features, [&](auto tag) {
        to_rows<decltype(tag)::kValue>(gradients.weight, gradients.stride, call.features, count, factor, target);
      });
    }
    if (gradients.with_output_weight) {
      T* target = static_cast<T*>(wanted.grad_output_weight) + neuron;
      to_rows<1>(gradients.output_weight, 0, 1, count, factor, target);
    }
  });
}

void backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, const TwoLayerRange& range, void* scratch) {
  if (call.dtype == ScalarKind::kFloat32) return backward_range<float>(call, gradients, range, scratch);
  backward_range<double>(call, gradients, range, scratch);
}

}  // namespace

extern const TwoLayerLoops kTwoLayerLoops;
const TwoLayerLoops kTwoLayerLoops = {forward, backward};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
