#include "network/cpu/arcs.h"

#include <algorithm>
#include <atomic>

#include "network/cpu/plan.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

namespace {

// Element `index` of an array that may be null.
template <typename T>
T* element(void* array, int64_t index) {
  return array == nullptr ? nullptr : static_cast<T*>(array) + index;
}

template <typename T>
const T* element(const void* array, int64_t index) {
  return array == nullptr ? nullptr : static_cast<const T*>(array) + index;
}

// The neurons of one task of (networks, chunks).
TwoLayerRange range_of(const TwoLayerCall& call, const ArcCut& cut, int64_t task) {
  const int64_t first = task % cut.chunks * cut.chunk_neurons;
  return {task / cut.chunks, first, std::min(first + cut.chunk_neurons, call.width), 0, call.n};
}

// body(first, count, weight (count, 2), arcs (count)) over the range's neurons.
template <typename T, typename Body>
void for_each_block(const Arcs& arcs, const TwoLayerCall& call, const TwoLayerRange& range, const Body& body) {
  const ArcTable table = arcs.table();
  int32_t found[kArcBlock];
  for (int64_t first = range.first_neuron; first < range.last_neuron; first += kArcBlock) {
    const int64_t count = std::min(kArcBlock, range.last_neuron - first);
    const T* weight = element<T>(call.weight, 2 * (range.network * call.width + first));
    angle_loops().find_arcs({table, call.dtype, weight, count, found});
    body(first, count, weight, found);
  }
}

// f and df_dx from U, which may be df_dx itself, and V.
template <typename T>
void finish(const TwoLayerCall& call, Quantity quantity, const double* active, const double* all, double factor,
            double* f, double* df_dx, ParallelFor parallel_for) {
  const T* x = static_cast<const T*>(call.x);
  const bool value = quantity == Quantity::kValue;
  const double of_active = factor * (value ? call.s : 1.0), of_all = factor * (value ? 1.0 - call.s : -1.0);
  run_parallel(parallel_for, call.n, kReduceGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double slope[2] = {of_active * active[2 * i] + of_all * all[0],
                               of_active * active[2 * i + 1] + of_all * all[1]};
      if (f != nullptr) f[i] = double(x[2 * i]) * slope[0] + double(x[2 * i + 1]) * slope[1];
      if (df_dx != nullptr) df_dx[2 * i] = slope[0], df_dx[2 * i + 1] = slope[1];
    }
  });
}

}  // namespace

// Measured on one AVX2 core (benchmarks/bench_two_layer.py): 0.11 ns per pair in the loops, against 12 to 15 ns per
// neuron, whatever n is, and 70 ns per sample (sorting, which only one thread does) in the arcs. AVX-512 halves the
// first of these.
bool arcs_win(const TwoLayerCall& call) {
  return call.base == kRelu && call.features == 2 && call.n >= 512 && call.n < kMostArcSamples &&
         call.width * call.networks >= 4096;
}

Arcs arcs_of(const TwoLayerCall& call) {
  return with_type(call.dtype, [&](auto zero) { return Arcs(element<decltype(zero)>(call.x, 0), call.n); });
}

void add_to_arcs(const Arcs& arcs, const TwoLayerCall& call, const TwoLayerRange& range, double* sums) {
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* output_weight = element<T>(call.output_weight, range.network * call.width);
    double all[2] = {};
    for_each_block<T>(arcs, call, range, [&](int64_t first, int64_t count, const T* weight, const int32_t* arc) {
      for (int64_t k = 0; k < count; ++k) {
        const double a = output_weight[first + k];
        double* target = sums + 2 * int64_t(arc[k]);
        for (int d = 0; d < 2; ++d) {
          const double term = a * double(weight[2 * k + d]);
          target[d] += term;
          all[d] += term;
        }
      }
    });
    sums[2 * arcs.count()] += all[0];
    sums[2 * arcs.count() + 1] += all[1];
  });
}

bool arc_outputs(const Arcs& arcs, const TwoLayerCall& call, Quantity quantity, const ArcParts& parts, double factor,
                 double* f, double* df_dx, ParallelFor parallel_for) {
  double* sums = parts.first;
  const int64_t grain = std::max<int64_t>(kReduceGrain / parts.count, 1);
  run_parallel(parallel_for, arc_sums(arcs), grain, [&](int64_t begin, int64_t end) {
    for (int64_t part = 1; part < parts.count; ++part) {
      for (int64_t at = begin; at < end; ++at) sums[at] += parts.first[part * parts.stride + at];
    }
  });
  const double* all = sums + 2 * arcs.count();
  if (!is_finite(all[0]) || !is_finite(all[1])) return false;
  std::vector<double> memory(df_dx == nullptr ? static_cast<size_t>(2 * call.n) : 0);
  double* active = df_dx == nullptr ? memory.data() : df_dx;
  arcs.sum_over_arcs(sums, active, call.n);
  with_type(call.dtype,
            [&](auto zero) { finish<decltype(zero)>(call, quantity, active, all, factor, f, df_dx, parallel_for); });
  return true;
}

bool arc_forward(const TwoLayerCall& call, Quantity quantity, double* f, double* df_dx, ParallelFor parallel_for) {
  const Arcs arcs = arcs_of(call);
  if (!arcs.finite()) return false;
  const int64_t sums = arc_sums(arcs);
  const ArcCut cut(call, sums);
  std::vector<double> parts(static_cast<size_t>(call.networks * cut.chunks * sums), 0.0);
  run_parallel(parallel_for, call.networks * cut.chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      add_to_arcs(arcs, call, range_of(call, cut, task), parts.data() + task * sums);
    }
  });
  for (int64_t network = 0; network < call.networks; ++network) {
    const ArcParts of_network{parts.data() + network * cut.chunks * sums, cut.chunks, sums};
    double* network_f = element<double>(f, network * call.n);
    double* network_df_dx = element<double>(df_dx, network * call.n * 2);
    if (!arc_outputs(arcs, call, quantity, of_network, 1.0, network_f, network_df_dx, parallel_for)) return false;
  }
  return true;
}

bool arc_pull(const Arcs& arcs, const TwoLayerCall& call, const void* grad_f, const void* grad_df_dx, double* pull) {
  std::vector<double> terms(static_cast<size_t>(2 * call.n));
  double everywhere[2] = {};
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *x = element<T>(call.x, 0), *of_f = element<T>(grad_f, 0), *of_df_dx = element<T>(grad_df_dx, 0);
    for (int64_t at = 0; at < 2 * call.n; ++at) {
      double term = of_f == nullptr ? 0.0 : double(of_f[at / 2]) * double(x[at]);
      if (of_df_dx != nullptr) term += double(of_df_dx[at]);
      terms[static_cast<size_t>(at)] = term;
      everywhere[at % 2] += term;
    }
  });
  if (!is_finite(everywhere[0]) || !is_finite(everywhere[1])) return false;
  arcs.sum_over_samples(terms.data(), pull);
  const double scale = output_scale(call.width);
  for (int64_t at = 0; at < 2 * arcs.count(); ++at) {
    pull[at] = scale * (call.s * pull[at] + (1.0 - call.s) * everywhere[at % 2]);
  }
  return true;
}

bool arc_gradients(const Arcs& arcs, const TwoLayerCall& call, const double* pull, const TwoLayerRange& range,
                   const TwoLayerGradients& gradients) {
  return with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t before = range.network * call.width;
    const T* output_weight = element<T>(call.output_weight, before);
    T* grad_weight = element<T>(gradients.grad_weight, 2 * before);
    T* grad_output_weight = element<T>(gradients.grad_output_weight, before);
    bool finite = true;
    for_each_block<T>(arcs, call, range, [&](int64_t first, int64_t count, const T* weight, const int32_t* arc) {
      for (int64_t k = 0; k < count; ++k) {
        const double w[2] = {double(weight[2 * k]), double(weight[2 * k + 1])}, a = output_weight[first + k];
        finite &= is_finite(w[0]) & is_finite(w[1]) & is_finite(a);
        const double* h = pull + 2 * int64_t(arc[k]);
        if (grad_weight != nullptr) {
          grad_weight[2 * (first + k)] = T(a * h[0]);
          grad_weight[2 * (first + k) + 1] = T(a * h[1]);
        }
        if (grad_output_weight != nullptr) grad_output_weight[first + k] = T(w[0] * h[0] + w[1] * h[1]);
      }
    });
    return finite;
  });
}

bool arc_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, ParallelFor parallel_for) {
  const Arcs arcs = arcs_of(call);
  if (!arcs.finite()) return false;
  const int64_t item = call.dtype == ScalarKind::kFloat32 ? 4 : 8;
  std::vector<double> pull(static_cast<size_t>(2 * arcs.count()));
  std::atomic<bool> finite{true};
  for (int64_t network = 0; network < call.networks; ++network) {
    const void* grad_f = element<char>(gradients.grad_f, network * call.n * item);
    const void* grad_df_dx = element<char>(gradients.grad_df_dx, network * call.n * 2 * item);
    if (!arc_pull(arcs, call, grad_f, grad_df_dx, pull.data())) return false;
    run_parallel(parallel_for, call.width, kArcGrain, [&](int64_t begin, int64_t end) {
      if (!arc_gradients(arcs, call, pull.data(), {network, begin, end, 0, call.n}, gradients)) finite = false;
    });
    if (!finite) return false;
  }
  return true;
}

}  // namespace cpu
}  // namespace hrta
