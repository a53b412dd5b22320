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

void two_layer_jet_forward(const TwoLayerCall& call, const SecondDerivatives& second, const TwoLayerJet& jet,
                           ParallelFor parallel_for) {
  if (call.networks * call.n == 0) return;
  const int64_t outputs = jet_outputs(call, second), features = call.features;
  const LoopCut cut(call, outputs);
  std::vector<double> sums(static_cast<size_t>(call.networks * cut.chunks * call.n * outputs), 0.0);
  const int64_t bytes = jet_loops().scratch(call, second);
  forward_tasks(call, cut, bytes, parallel_for, [&](const auto& range, int64_t part, void* scratch) {
    double* target = sums.data() + (part * call.n + range.first_sample) * outputs;
    jet_loops().forward(call, second, range, target, scratch);
  });
  const double factor = output_scale(call.width);
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t row = call.n * outputs;
    run_parallel(parallel_for, call.networks * row, kReduceGrain, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const double* first = sums.data() + at / row * cut.chunks * row + at % row;
        double sum = 0;
        for (int64_t chunk = 0; chunk < cut.chunks; ++chunk) sum += first[chunk * row];
        const int64_t sample = at / outputs, which = at % outputs;
        T* target = which == 0 ? static_cast<T*>(jet.f) + sample
                    : which <= features
                        ? static_cast<T*>(jet.df_dx) + sample * features + (which - 1)
                        : static_cast<T*>(jet.second) + sample * (outputs - 1 - features) + (which - 1 - features);
        *target = T(factor * sum);
      }
    });
  });
}

void two_layer_jet_backward(const TwoLayerCall& call, const SecondDerivatives& second,
                            const TwoLayerJetGradients& gradients, ParallelFor parallel_for) {
  backward_tasks(call, jet_loops().scratch(call, second), parallel_for, [&](const auto& range, void* scratch) {
    jet_loops().backward(call, second, gradients, range, scratch);
  });
}

}  // namespace cpu
}  // namespace hrta
