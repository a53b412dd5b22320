// The jet on the CPU: cuts the work as passes.cpp does and adds up partial sums.
#include "network/jet.h"

#include <algorithm>
#include <vector>

#include "network/cpu/jet_loops.h"
#include "network/cpu/plan.h"
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
  const int64_t parts = call.networks * cut.chunks;
  std::vector<double> sums(static_cast<size_t>(parts * call.n * outputs), 0.0);
  const int64_t pairs = std::min(cut.range_samples, call.n) * std::min(cut.chunk_neurons, call.width);
  const int64_t grain = std::max<int64_t>(kGrainPairs / pairs, 1);
  run_parallel(parallel_for, parts * cut.ranges, grain, [&](int64_t begin, int64_t end) {
    const Buffer<char> scratch(jet_loops().scratch(call, second));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / cut.ranges;
      TwoLayerRange range;
      range.network = part / cut.chunks;
      range.first_neuron = part % cut.chunks * cut.chunk_neurons;
      range.last_neuron = std::min(range.first_neuron + cut.chunk_neurons, call.width);
      range.first_sample = task % cut.ranges * cut.range_samples;
      range.last_sample = std::min(range.first_sample + cut.range_samples, call.n);
      double* target = sums.data() + (part * call.n + range.first_sample) * outputs;
      jet_loops().forward(call, second, range, target, scratch.get());
    }
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
  const int64_t chunks = ceil_div(call.width, kChunkNeurons);
  const int64_t pairs = std::max<int64_t>(call.n, 1) * kChunkNeurons;
  const int64_t grain = std::max<int64_t>(kGrainPairs / pairs, 1);
  run_parallel(parallel_for, call.networks * chunks, grain, [&](int64_t begin, int64_t end) {
    const Buffer<char> scratch(jet_loops().scratch(call, second));
    while (begin < end) {  // chunks that lie side by side in one network make longer blocks
      const int64_t network = begin / chunks;
      const int64_t last = std::min(end, (network + 1) * chunks);
      TwoLayerRange range;
      range.network = network;
      range.first_neuron = begin % chunks * kChunkNeurons;
      range.last_neuron = std::min((last - network * chunks) * kChunkNeurons, call.width);
      range.first_sample = 0;
      range.last_sample = call.n;
      jet_loops().backward(call, second, gradients, range, scratch.get());
      begin = last;
    }
  });
}

}  // namespace cpu
}  // namespace hrta
