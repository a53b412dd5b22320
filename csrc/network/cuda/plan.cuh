// How the passes by lanes and tiles are cut and laid out in scratch memory, by the shapes alone.
#pragma once

#include <algorithm>

#include "network/cuda/backward.cuh"
#include "network/cuda/forward.cuh"
#include "network/cuda/ways.h"

namespace hrta {
namespace cuda {

constexpr int64_t kChunkTile = 64;  // neurons
template <typename T>
constexpr int kBlockRows = sizeof(T) == 4 ? 64 : 32;  // that a block of tiles.cuh holds

constexpr int kJetRows = 32;  // that a block of jet_tiles.cuh holds

// Whether tiles serve a pass; lanes are not compiled for sums of sigma(z) - z, nor for several second derivatives.
inline bool tiled(const TwoLayerCall& call, bool parameter_gradient, int seconds) {
  return call.features > kMostLaneFeatures || seconds > 1 || (parameter_gradient && degree_of(call.base) == 0);
}

// As units.cuh counts it: what it saves is nothing to a jet.
inline int degree_in(const TwoLayerCall& call, int seconds) {
  return seconds != 0 ? 0 : degree_of(call.base);
}

struct ForwardPlan {
  int64_t groups, chunks, chunk_neurons;  // as in ForwardWork
  bool value;                             // whether S is among the sums, or follows from U
  int64_t sums;                           // per sample and chunk: S, T, U
  int64_t linear;                         // where V begins in scratch, after the sums; in doubles, as what follows
  int64_t doubles;                        // in all

  ForwardPlan(const TwoLayerCall& call, const Outputs& outputs);
};

struct BackwardPlan {
  int64_t groups, splits, split_samples;  // as in BackwardWork
  int64_t partial;                        // where the partial sums begin in scratch, after R; in doubles
  int64_t doubles;                        // in all

  BackwardPlan(const TwoLayerCall& call, int seconds);
};

struct OutputsWork {
  ForwardWork forward;
  int64_t sums;
  int seconds;
  bool with_gradient, value, parameter_gradient;
  void *f, *df_dx, *second;
};

// One translation unit for a few bases or a type, which the build compiles side by side. Lanes: relu.cu and its likes
// (launches.cuh).
template <typename Unit, typename T>
struct LaneKernels {
  static void forward(const ForwardWork& work, bool with_gradient, void* stream);
  static void backward(const BackwardWork& work, void* stream);
};

// Tiles: tiles_float.cu, tiles_double.cu (tiles.cuh).
template <typename T>
struct TileKernels {
  static void forward(const ForwardWork& work, bool with_gradient, void* stream);
  static void backward(const BackwardWork& work, void* stream);

 private:
  template <int kWide, typename Work>
  static void run(const Work& work, bool sobolev, void* stream);
};

// Jets in tiles: jet_float.cu, jet_double.cu (jet_tiles.cuh).
template <typename T>
struct JetTileKernels {
  static void forward(const ForwardWork& work, bool with_gradient, void* stream);
  static void backward(const BackwardWork& work, void* stream);

 private:
  template <typename Work>
  static void run(const Work& work, bool sobolev, void* stream);
};

}  // namespace cuda
}  // namespace hrta
