// The two-layer network on the CPU: cuts the work into pieces for the thread pool and adds up partial sums.
#include <algorithm>
#include <vector>

#include "network/cpu/arcs.h"
#include "network/cpu/loops.h"
#include "network/cpu/tasks.h"
#include "network/network.h"
#include "simd/levels.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

HRTA_PICK_TABLE(TwoLayerLoops, kTwoLayerLoops, two_layer_loops)

namespace {

int64_t scratch_bytes(const TwoLayerCall& call) {
  return block_scratch(call.features) * (call.dtype == ScalarKind::kFloat32 ? 4 : 8);
}

// Sums over each chunk of neurons: f (networks, chunks, n) and df_dx (networks, chunks, n, D), those that are wanted.
struct PartialSums {
  LoopCut cut;
  std::vector<double> f, df_dx;

  PartialSums(const TwoLayerCall& call, Quantity quantity, bool want_f, bool want_df_dx, ParallelFor parallel_for)
      : cut(call, want_df_dx ? call.features + 1 : 1) {
    if (arcs_win(call) && from_arcs(call, quantity, want_f, want_df_dx, parallel_for)) return;
    const int64_t parts = call.networks * cut.chunks;
    if (want_f) f.assign(static_cast<size_t>(parts * call.n), 0.0);
    if (want_df_dx) df_dx.assign(static_cast<size_t>(parts * call.n * call.features), 0.0);
    forward_tasks(call, cut, scratch_bytes(call), parallel_for, [&](const auto& range, int64_t part, void* scratch) {
      const int64_t at = part * call.n + range.first_sample;
      two_layer_loops().forward(call, quantity, range, want_f ? f.data() + at : nullptr,
                                want_df_dx ? df_dx.data() + at * call.features : nullptr, scratch);
    });
  }

  // The sum over the chunks of one network's number `at` of `count`, in their order.
  double total(const std::vector<double>& sums, int64_t network, int64_t count, int64_t at) const {
    const double* first = sums.data() + network * cut.chunks * count + at;
    double sum = 0;
    for (int64_t chunk = 0; chunk < cut.chunks; ++chunk) sum += first[chunk * count];
    return sum;
  }

 private:
  bool from_arcs(const TwoLayerCall& call, Quantity quantity, bool want_f, bool want_df_dx, ParallelFor parallel_for) {
    if (want_f) f.resize(static_cast<size_t>(call.networks * call.n));
    if (want_df_dx) df_dx.resize(static_cast<size_t>(call.networks * call.n * 2));
    const bool done =
        arc_forward(call, quantity, want_f ? f.data() : nullptr, want_df_dx ? df_dx.data() : nullptr, parallel_for);
    if (done) cut.chunks = 1;
    return done;
  }
};

}  // namespace

void two_layer_forward(const TwoLayerCall& call, void* f, void* df_dx, ParallelFor parallel_for) {
  if (call.networks * call.n == 0) return;
  const PartialSums partial(call, Quantity::kValue, f != nullptr, df_dx != nullptr, parallel_for);
  const double factor = output_scale(call.width);
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto finish = [&](const std::vector<double>& sums, int64_t count, void* result) {
      run_parallel(parallel_for, call.networks * count, kReduceGrain, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; ++at) {
          static_cast<T*>(result)[at] = T(factor * partial.total(sums, at / count, count, at % count));
        }
      });
    };
    if (f != nullptr) finish(partial.f, call.n, f);
    if (df_dx != nullptr) finish(partial.df_dx, call.n * call.features, df_dx);
  });
}

void two_layer_input_gradient(const TwoLayerCall& call, const void* grad_f, void* grad_x, ParallelFor parallel_for) {
  const int64_t count = call.n * call.features;
  if (count == 0) return;
  const PartialSums partial(call, Quantity::kValue, false, true, parallel_for);
  const double factor = output_scale(call.width);
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* grad = static_cast<const T*>(grad_f);
    run_parallel(parallel_for, count, kReduceGrain, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        double sum = 0;
        for (int64_t network = 0; network < call.networks; ++network) {
          sum += double(grad[network * call.n + at / call.features]) * partial.total(partial.df_dx, network, count, at);
        }
        static_cast<T*>(grad_x)[at] = T(factor * sum);
      }
    });
  });
}

double two_layer_parameter_gradient(const TwoLayerCall& call, const void* grad_f, ParallelFor parallel_for) {
  if (call.networks * call.n == 0) return 0;
  const PartialSums partial(call, Quantity::kParameterGradient, true, false, parallel_for);
  double sum = 0;
  with_type(call.dtype, [&](auto zero) {
    const auto* grad = static_cast<const decltype(zero)*>(grad_f);
    for (int64_t network = 0; network < call.networks; ++network) {
      for (int64_t i = 0; i < call.n; ++i) {
        sum += double(grad[network * call.n + i]) * partial.total(partial.f, network, call.n, i);
      }
    }
  });
  return output_scale(call.width) * sum;
}

void two_layer_backward(const TwoLayerCall& call, const TwoLayerGradients& gradients, ParallelFor parallel_for) {
  if (arcs_win(call) && arc_backward(call, gradients, parallel_for)) return;
  backward_tasks(call, scratch_bytes(call), parallel_for, [&](const auto& range, void* scratch) {
    two_layer_loops().backward(call, gradients, range, scratch);
  });
}

}  // namespace cpu
}  // namespace hrta
