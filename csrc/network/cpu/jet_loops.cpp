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
  return {{scratch.weight, scratch.output_weight, stride, padded}, scratch.quadratic, quadratic_count, count};
}

template <typename T>
TwoLayerSamples<T> samples_of(const TwoLayerCall& call, const TwoLayerRange& range) {
  return {static_cast<const T*>(call.x) + range.first_sample * call.features, range.last_sample - range.first_sample,
          int(call.features)};
}

template <typename T>
JetSampleGradients<T> gradients_of(const TwoLayerCall& call, int quadratic_count, const TwoLayerJetGradients& given,
                                   const TwoLayerRange& range) {
  auto at = [&](const void* grad, int64_t size) {
    const int64_t first = range.network * call.n + range.first_sample;
    return grad == nullptr ? nullptr : static_cast<const T*>(grad) + first * size;
  };
  return {at(given.grad_f, 1), at(given.grad_df_dx, call.features), at(given.grad_second, quadratic_count)};
}

template <typename T>
void forward_range(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerRange& range, double* sums,
                   void* memory) {
  const JetScratch<T> scratch(memory, int(call.features), quadratic_features(second));
  const TwoLayerSamples<T> samples = samples_of<T>(call, range);
  over_blocks(call, range, scratch.stride, [&](int64_t neuron, int count) {
    const JetBlock<T> block = pack_jet(call, second, neuron, count, scratch);
    with_base(call.base, [&](auto tag) { jet_forward<decltype(tag)>(samples, block, sums, scratch.partial); });
  });
}

// From sums over samples of sigma and w to those of sigma_s: the gradients in V go to those in the weights.
template <typename T>
void finish_gradients(const TwoLayerCall& call, const SecondDerivatives& second, const JetBlock<T>& block,
                      const double* along, const TwoLayerBlockGradients<T>& gradients, const T* quadratic) {
  const int64_t stride = block.neurons.stride;
  const T* weight = block.neurons.weight;
  const int count = block.neurons.count;
  const T s = T(call.s), linear = T(1.0 - call.s);
  auto add_product = [&](int to, int other, int r) {
    T* target = gradients.weight + to * gradients.stride;
    for (int k = 0; k < count; ++k) {
      target[k] = hrta::multiply_add(weight[other * stride + k], quadratic[r * stride + k], target[k]);
    }
  };
  over_products(second, [&](int r, int c, int other) {
    add_product(c, other, r);
    add_product(other, c, r);
  });
  for (int k = 0; k < count; ++k) gradients.output_weight[k] *= s;
  for (int d = 0; d < int(call.features); ++d) {
    const T step = along == nullptr ? T(0) : linear * T(along[d]);
    T* target = gradients.weight + d * gradients.stride;
    for (int k = 0; k < count; ++k) {
      target[k] = block.neurons.output_weight[k] * hrta::multiply_add(s, target[k], step);
    }
    if (along == nullptr) continue;
    for (int k = 0; k < count; ++k) {
      gradients.output_weight[k] = hrta::multiply_add(step, weight[d * stride + k], gradients.output_weight[k]);
    }
  }
}

template <typename T>
void backward_range(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJetGradients& wanted,
                    const TwoLayerRange& range, const double* along, bool excess, void* memory) {
  const int features = int(call.features), quadratic_count = quadratic_features(second);
  const JetScratch<T> scratch(memory, features, quadratic_count);
  const TwoLayerSamples<T> samples = samples_of<T>(call, range);
  const JetSampleGradients<T> given = gradients_of<T>(call, quadratic_count, wanted, range);
  const TwoLayerBlockGradients<T> gradients{scratch.grad_weight, scratch.grad_output_weight, scratch.stride,
                                            wanted.grad_weight != nullptr, wanted.grad_output_weight != nullptr};
  const T factor = T(output_scale(call.width));
  over_blocks(call, range, scratch.stride, [&](int64_t neuron, int count) {
    const JetBlock<T> block = pack_jet(call, second, neuron, count, scratch);
    const int64_t numbers = scratch.stride * (features + quadratic_count + 1);
    for (int64_t at = 0; at < numbers; ++at) scratch.grad_weight[at] = T(0);
    T* quadratic = scratch.grad_quadratic;
    with_base(call.base, [&](auto tag) {
      using Base = decltype(tag);
      if (excess) return jet_backward<Base, true>(samples, block, given, gradients, quadratic);
      jet_backward<Base, false>(samples, block, given, gradients, quadratic);
    });
    if (!excess) finish_gradients(call, second, block, along, gradients, quadratic);
    if (gradients.with_weight) {
      T* target = static_cast<T*>(wanted.grad_weight) + neuron * features;
      to_rows<0>(gradients.weight, gradients.stride, features, count, factor, target);
    }
    if (gradients.with_output_weight) {
      to_rows<1>(gradients.output_weight, 0, 1, count, factor, static_cast<T*>(wanted.grad_output_weight) + neuron);
    }
  });
}

template <typename T>
void input_gradient_range(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJetGradients& given,
                          const TwoLayerRange& range, double* sums, void* memory) {
  const int quadratic_count = quadratic_features(second);
  const JetScratch<T> scratch(memory, int(call.features), quadratic_count);
  const TwoLayerSamples<T> samples = samples_of<T>(call, range);
  const JetSampleGradients<T> gradients = gradients_of<T>(call, quadratic_count, given, range);
  for (int64_t at = 0; at < scratch.stride; ++at) scratch.grad_output_weight[at] = T(0);
  over_blocks(call, range, scratch.stride, [&](int64_t neuron, int count) {
    const JetBlock<T> block = pack_jet(call, second, neuron, count, scratch);
    with_base(call.base, [&](auto tag) {
      jet_input_gradient<decltype(tag)>(samples, block, gradients, sums, scratch.partial, scratch.grad_output_weight);
    });
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
              const TwoLayerRange& range, const double* along, bool excess, void* scratch) {
  if (call.dtype == ScalarKind::kFloat32) {
    return backward_range<float>(call, second, gradients, range, along, excess, scratch);
  }
  backward_range<double>(call, second, gradients, range, along, excess, scratch);
}

void input_gradient(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJetGradients& gradients,
                    const TwoLayerRange& range, double* sums, void* scratch) {
  if (call.dtype == ScalarKind::kFloat32) {
    return input_gradient_range<float>(call, second, gradients, range, sums, scratch);
  }
  input_gradient_range<double>(call, second, gradients, range, sums, scratch);
}

}  // namespace

extern const JetLoops kJetLoops;
const JetLoops kJetLoops = {scratch_bytes, forward, backward, input_gradient};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
