// The jet on the CPU: cuts the work as passes.cpp does and adds up partial sums.
#include "network/jet.h"

#include <vector>

#include "network/cpu/jet_loops.h"
#include "network/cpu/tasks.h"
#include "simd/levels.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

HRTA_PICK_TABLE(JetLoops, kJetLoops, jet_loops)

namespace {

// sum_k a_k w_k of every network, (B, D), which carries the linear part of sigma_s = (1 - s) z + s sigma to f and
// df/dx.
template <typename T>
std::vector<double> directions(const TwoLayerCall& call) {
  std::vector<double> sums(static_cast<size_t>(call.networks * call.features), 0.0);
  if (call.s == 1.0) return sums;
  const T *weight = static_cast<const T*>(call.weight), *a = static_cast<const T*>(call.output_weight);
  for (int64_t k = 0; k < call.networks * call.width; ++k) {
    double* sum = sums.data() + k / call.width * call.features;
    for (int64_t d = 0; d < call.features; ++d) sum[d] += double(a[k]) * double(weight[k * call.features + d]);
  }
  return sums;
}

// sum_i grad_f_i x_i + grad_df_dx_i, (B, D), which carries it to the gradients in the weights; empty at s = 1.
template <typename T>
std::vector<double> directions(const TwoLayerCall& call, const TwoLayerJetGradients& gradients) {
  if (call.s == 1.0) return {};
  std::vector<double> sums(static_cast<size_t>(call.networks * call.features), 0.0);
  const T *x = static_cast<const T*>(call.x), *of_f = static_cast<const T*>(gradients.grad_f);
  const T* of_df_dx = static_cast<const T*>(gradients.grad_df_dx);
  for (int64_t i = 0; i < call.networks * call.n; ++i) {
    double* sum = sums.data() + i / call.n * call.features;
    for (int64_t d = 0; d < call.features; ++d) {
      if (of_f != nullptr) sum[d] += double(of_f[i]) * double(x[i % call.n * call.features + d]);
      if (of_df_dx != nullptr) sum[d] += double(of_df_dx[i * call.features + d]);
    }
  }
  return sums;
}

// Sums (B, chunks, n, count) over chunks of neurons.
struct ChunkSums {
  LoopCut cut;
  int64_t row;  // n count
  std::vector<double> sums;

  // Calls add(range, target, scratch) for what is to be added to the sums of the range's samples.
  template <typename Add>
  ChunkSums(const TwoLayerCall& call, const SecondDerivatives& second, int64_t count, ParallelFor parallel_for,
            const Add& add)
      : cut(call, count), row(call.n * count), sums(static_cast<size_t>(call.networks * cut.chunks * row), 0.0) {
    const int64_t bytes = jet_loops().scratch(call, second);
    forward_tasks(call, cut, bytes, parallel_for, [&](const auto& range, int64_t part, void* scratch) {
      add(range, sums.data() + part * row + range.first_sample * count, scratch);
    });
  }

  // Of one network, over its chunks in their order.
  double total(int64_t network, int64_t at) const {
    const double* first = sums.data() + network * cut.chunks * row + at;
    double sum = 0;
    for (int64_t chunk = 0; chunk < cut.chunks; ++chunk) sum += first[chunk * row];
    return sum;
  }
};

}  // namespace

void two_layer_jet_forward(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJet& jet,
                           ParallelFor parallel_for) {
  if (call.networks * call.n == 0) return;
  const int64_t outputs = jet_outputs(call, second), features = call.features;
  const ChunkSums sums(call, second, outputs, parallel_for, [&](const auto& range, double* target, void* scratch) {
    jet_loops().forward(call, second, range, target, scratch);
  });
  const double factor = output_scale(call.width), linear = 1.0 - call.s;
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<double> of_networks = directions<T>(call);
    const T* x = static_cast<const T*>(call.x);
    run_parallel(parallel_for, call.networks * call.n, kReduceGrain / outputs, [&](int64_t begin, int64_t end) {
      for (int64_t sample = begin; sample < end; ++sample) {
        const int64_t network = sample / call.n, at = sample % call.n * outputs;
        const double* direction = of_networks.data() + network * features;
        auto put = [&](void* target, int64_t size, int64_t to, int64_t which, double rest) {
          const double sum = call.s * sums.total(network, at + which);
          static_cast<T*>(target)[sample * size + to] = T(factor * (linear == 0 ? sum : sum + linear * rest));
        };
        double along = 0;
        for (int64_t d = 0; d < features; ++d) along += direction[d] * double(x[sample % call.n * features + d]);
        put(jet.f, 1, 0, 0, along);
        for (int64_t d = 0; d < features; ++d) put(jet.df_dx, features, d, 1 + d, direction[d]);
        const int64_t count = outputs - 1 - features;
        for (int64_t r = 0; r < count; ++r) put(jet.second, count, r, 1 + features + r, 0);
      }
    });
  });
}

void two_layer_jet_backward(const TwoLayerCall& call, const SecondDerivatives& second,
                            const TwoLayerJetGradients& gradients, ParallelFor parallel_for) {
  with_type(call.dtype, [&](auto zero) {
    const std::vector<double> along = directions<decltype(zero)>(call, gradients);
    backward_tasks(call, jet_loops().scratch(call, second), parallel_for, [&](const auto& range, void* scratch) {
      const double* of_network = along.empty() ? nullptr : along.data() + range.network * call.features;
      jet_loops().backward(call, second, gradients, range, of_network, false, scratch);
    });
  });
}

void two_layer_jet_input_gradient(const TwoLayerCall& call, const SecondDerivatives& second,
                                  const TwoLayerJetGradients& gradients, void* grad_x, ParallelFor parallel_for) {
  if (call.n == 0) return;
  const int64_t features = call.features;
  const ChunkSums sums(call, second, features, parallel_for, [&](const auto& range, double* target, void* scratch) {
    jet_loops().input_gradient(call, second, gradients, range, target, scratch);
  });
  const double factor = output_scale(call.width), linear = 1.0 - call.s;
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<double> of_networks = directions<T>(call);
    const T* of_f = static_cast<const T*>(gradients.grad_f);
    run_parallel(parallel_for, call.n * features, kReduceGrain, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        double sum = 0, rest = 0;
        for (int64_t network = 0; network < call.networks; ++network) {
          sum += sums.total(network, at);
          if (linear == 0 || of_f == nullptr) continue;
          rest += double(of_f[network * call.n + at / features]) * of_networks[network * features + at % features];
        }
        static_cast<T*>(grad_x)[at] = T(factor * (call.s * sum + linear * rest));
      }
    });
  });
}

double two_layer_jet_parameter_gradient(const TwoLayerCall& call, const SecondDerivatives& second,
                                        const TwoLayerJetGradients& gradients, ParallelFor parallel_for) {
  double sum = 0;
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> of_neurons(static_cast<size_t>(call.networks * call.width));
    TwoLayerJetGradients wanted = gradients;
    wanted.grad_weight = nullptr;
    wanted.grad_output_weight = of_neurons.data();
    backward_tasks(call, jet_loops().scratch(call, second), parallel_for, [&](const auto& range, void* scratch) {
      jet_loops().backward(call, second, wanted, range, nullptr, true, scratch);
    });
    const T* a = static_cast<const T*>(call.output_weight);
    for (size_t k = 0; k < of_neurons.size(); ++k) sum += double(a[k]) * double(of_neurons[k]);
  });
  return sum;
}

}  // namespace cpu
}  // namespace hrta
