// How the wide network's passes are cut into blocks and laid out in scratch memory, and what their kernels are told.
#pragma once

#include "network/cuda/ways.h"
#include "network/cuda/wide_pieces.cuh"

namespace hrta {
namespace cuda {
namespace wide {

#if defined(__CUDACC__)
constexpr int64_t kSlice = int64_t(64) << 20;  // bytes of scratch that one launch shares, where it has a choice
constexpr int64_t kForwardBlocks = 4 * 132;    // times those that a multiprocessor holds: four rounds of an H100
#else  // so that the emulation's small tests see several launches, and chunks of many tiles
constexpr int64_t kSlice = int64_t(1) << 18;
constexpr int64_t kForwardBlocks = 4;
#endif

inline int padded(int64_t features) {
  int count = 4;
  while (count < features) count *= 2;
  return count;
}

// Blocks of 256 threads that a multiprocessor holds, by registers.
HRTA_INLINE constexpr int resident_blocks(int D) {
  return D <= 16 ? 2 : 1;
}

HRTA_INLINE constexpr int64_t tile_bytes(int D) {
  return D == 4 ? 6144 : 1024 * D;  // Layout<D>::kTileWords * 4
}

// Row tiles of a warp (Q) and columns at a time, as measured on an H200. Forward with few samples has fewer, for the
// rest would be padding.
struct Cut {
  int q, columns;
};
HRTA_INLINE constexpr Cut forward_cut(bool wgmma, int D, int size) {  // size: 0 for n <= 128, 1 for n <= 256, 2 beyond
  const int most = D == 4 ? 4 : D == 8 || D == 32 || (D == 16 && !wgmma) ? 2 : 1;
  const int q = size == 0 ? 1 : size == 1 && most > 2 ? 2 : most;
  const bool whole = q == most && D != 16;
  return {q, D >= 32 || whole ? 32 : 64};
}
HRTA_INLINE constexpr Cut backward_cut(bool wgmma, int D) {
  if (!wgmma) return {D == 4 ? 4 : D == 64 ? 1 : 2, 0};
  return {D == 16 || D == 64 ? 1 : 2, D == 16 || D == 64 ? 64 : 32};
}
HRTA_INLINE constexpr int size_of(int64_t n) {
  return n <= 128 ? 0 : n <= 256 ? 1 : 2;
}

struct ForwardWork {
  TwoLayerCall call;
  int64_t groups;                 // of samples, in a network
  int64_t first_group, slice;     // of all networks' groups, those of this launch
  int64_t chunks, chunk_neurons;  // a chunk is a multiple of 128 neurons
  double* sums;                   // (chunks, slice, rows of a group, D): U
  double* linear;                 // (networks, chunks, D): V, written with a network's first group
  const int64_t* done;            // () on the device or null: nothing is done where it is not 0
  uint32_t zero;
};

struct OutputsWork {
  ForwardWork forward;
  int rows, D;
  Outputs outputs;
};

struct SamplesWork {
  TwoLayerCall call;
  TwoLayerGradients gradients;
  int64_t first_network, tiles;
  uint32_t* pieces;  // (networks of the launch, tiles, Layout::kTileWords)
  float* back;       // (networks, tiles): what the pieces of p were scaled by
  double* partial;   // (networks, tiles, D): sums of p
  const int64_t* done;
};

struct BackwardWork {
  SamplesWork samples;
  int groups;          // of neurons, in a network
  int network_blocks;  // thread blocks of a network
  int segment;         // tiles that shared memory holds
  double* totals;      // (blocks, 2 Q Layout::kOut, 256), where there are more than kFlush tiles
  bool training;
  UpdateRule rule;
  Adam<float> adam{UpdateNumbers{}};
  Descent<float> descent{UpdateNumbers{}};
  float *weight_first, *weight_second, *output_first, *output_second;
  uint32_t zero;
};

// One translation unit a number of padded features (wide_4.cu and its likes), which the build compiles side by side.
template <int D>
struct Kernels {
  static void forward(bool wgmma, const ForwardWork& work, int64_t blocks, void* stream);
  static void samples(bool wgmma, const SamplesWork& work, int64_t blocks, void* stream);
  static void backward(bool wgmma, const BackwardWork& work, int64_t blocks, void* stream);
};

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
