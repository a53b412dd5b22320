// The pieces of a pass over the neurons for the thread pool, as plan.h cuts them: forward and backward, of f and of
// jets.
#pragma once

#include <algorithm>

#include "network/cpu/loops.h"
#include "network/cpu/plan.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

// Calls work(range, part, scratch) for every chunk of neurons (`part`, counted over the networks) and range of samples.
template <typename Work>
void forward_tasks(const TwoLayerCall& call, const LoopCut& cut, int64_t scratch_bytes, ParallelFor parallel_for,
                   const Work& work) {
  const int64_t pairs = std::min(cut.range_samples, call.n) * std::min(cut.chunk_neurons, call.width);
  const int64_t grain = std::max<int64_t>(kGrainPairs / pairs, 1);
  run_parallel(parallel_for, call.networks * cut.chunks * cut.ranges, grain, [&](int64_t begin, int64_t end) {
    const Buffer<char> scratch(scratch_bytes);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / cut.ranges;
      TwoLayerRange range;
      range.network = part / cut.chunks;
      range.first_neuron = part % cut.chunks * cut.chunk_neurons;
      range.last_neuron = std::min(range.first_neuron + cut.chunk_neurons, call.width);
      range.first_sample = task % cut.ranges * cut.range_samples;
      range.last_sample = std::min(range.first_sample + cut.range_samples, call.n);
      work(range, part, scratch.get());
    }
  });
}

// Calls work(range, scratch) for ranges of neurons with all samples.
template <typename Work>
void backward_tasks(const TwoLayerCall& call, int64_t scratch_bytes, ParallelFor parallel_for, const Work& work) {
  const int64_t chunks = ceil_div(call.width, kChunkNeurons);
  const int64_t pairs = std::max<int64_t>(call.n, 1) * kChunkNeurons;
  const int64_t grain = std::max<int64_t>(kGrainPairs / pairs, 1);
  run_parallel(parallel_for, call.networks * chunks, grain, [&](int64_t begin, int64_t end) {
    const Buffer<char> scratch(scratch_bytes);
    while (begin < end) {  // chunks that lie side by side in one network make longer blocks
      const int64_t network = begin / chunks;
      const int64_t last = std::min(end, (network + 1) * chunks);
      TwoLayerRange range;
      range.network = network;
      range.first_neuron = begin % chunks * kChunkNeurons;
      range.last_neuron = std::min((last - network * chunks) * kChunkNeurons, call.width);
      range.first_sample = 0;
      range.last_sample = call.n;
      work(range, scratch.get());
      begin = last;
    }
  });
}

}  // namespace cpu
}  // namespace hrta
