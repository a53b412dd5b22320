// How the two-layer network's work is cut on the CPU, and which loops serve it.
//
// A chunk is the neurons that share one array of partial sums, a block those whose weights stay in cache (loops.h), a
// tile those in registers (block.h): chunk > block > tile. Everything here is a function of the shapes alone, so that
// the order of the sums, and with it every bit, is the same for any number of threads: changing a number changes bits.
//
//   base        features           served by
//   ReLU        2, many samples    arcs: arcs_win, in a training trains_by_arcs; what is not finite goes on to the
//   loops ReLU        1, 2, 3, 4, 5, 9   relu.h, all in registers ReLU^2 / 2  1, 2, 3, 4, 5, 9   relu2.h, all in
//   registers any         any                tiles.h
#pragma once

#include <algorithm>
#include <cstdint>

#include "network/network.h"
#include "simd/parallel.h"

namespace hrta {
namespace cpu {

// --- for every pass --------------------------------------------------------------------------------------------------

constexpr int64_t kMostChunks = 64;        // enough for many cores, few enough that partial sums stay small
constexpr int64_t kReduceGrain = 1 << 15;  // additions of partial sums that repay waking a thread

// --- one pass by loops (passes.cpp) ----------------------------------------------------------------------------------

constexpr int64_t kChunkNeurons = 256;     // a chunk is a multiple of it: whole tiles at every SIMD level
constexpr int64_t kPartialSums = 1 << 21;  // doubles, 16 MiB, unless one per output is more
constexpr int64_t kGrainPairs = 1 << 15;   // (sample, neuron) pairs that repay waking a thread

// Tasks: networks x ranges of samples x chunks of neurons.
struct LoopCut {
  int64_t ranges, range_samples, chunks, chunk_neurons;

  LoopCut(const TwoLayerCall& call, int64_t sums_per_sample) {
    range_samples = call.features <= 16 ? 2048 : 256;
    ranges = ceil_div(call.n, range_samples);
    const int64_t rows = std::max<int64_t>(call.networks * call.n, 1);
    const int64_t most = std::max<int64_t>(kPartialSums / (rows * sums_per_sample), 1);
    chunks = std::min(ceil_div(kMostChunks, std::max<int64_t>(call.networks * ranges, 1)), most);
    chunk_neurons = ceil_div(ceil_div(call.width, chunks), kChunkNeurons) * kChunkNeurons;
    chunks = ceil_div(call.width, chunk_neurons);
  }
};

// --- one pass by arcs (arcs.cpp) -------------------------------------------------------------------------------------

constexpr int64_t kArcSums = 1 << 21;  // doubles, 16 MiB, unless one chunk per network is more
constexpr int64_t kArcNeurons = 8192;  // in a chunk, and at least one for each sample: adding up chunks stays cheap
constexpr int64_t kArcGrain = 2048;    // neurons that repay waking a thread

// Tasks: networks x chunks of neurons, each with `doubles` partial sums.
struct ArcCut {
  int64_t chunk_neurons, chunks;

  ArcCut(const TwoLayerCall& call, int64_t doubles) {
    const int64_t most = std::clamp<int64_t>(kArcSums / (call.networks * doubles), 1, kMostChunks);
    chunk_neurons = std::max({kArcNeurons, call.n, ceil_div(call.width, most)});
    chunks = ceil_div(call.width, chunk_neurons);
  }
};

// --- many steps (training/cpu/trainer.cpp), where one network's chunks are whole blocks ------------------------------

constexpr int64_t kTrainingSums = 1 << 22;  // doubles, 32 MiB: kept for all steps, so twice those of one pass
// Work that repays waking a thread, in operations on (sample, neuron) pairs: about 50 us. The hand-over comes twice per
// step and takes a few microseconds in a quiet machine, many in a busy one.
constexpr int64_t kGrainWork = 1 << 21;
constexpr int64_t kLargeWork = 64 * kGrainWork;  // a network that keeps many threads busy by itself

constexpr int64_t kTrainingArcNeurons = 2048;  // as kArcNeurons; fewer, since the arcs are sorted once for all steps
constexpr int64_t kTrainingArcWork = 800;      // of a neuron by arcs in one step: 20 ns

}  // namespace cpu
}  // namespace hrta
