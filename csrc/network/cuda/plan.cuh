// How the lanes' passes are cut into warps and laid out in scratch memory, by the shapes alone.
#pragma once

#include <algorithm>

#include "network/cuda/backward.cuh"
#include "network/cuda/forward.cuh"
#include "network/cuda/ways.h"

namespace hrta {
namespace cuda {

constexpr int64_t kChunkTile = 64;  // neurons

inline int padded(int64_t features) {
  int count = 0;
  with_padded_features(features, [&](auto constant) { count = decltype(constant)::value; });
  return count;
}

struct ForwardPlan {
  int64_t groups, chunks, chunk_neurons;  // as in ForwardWork
  int64_t sums;                           // per sample and chunk
  int64_t linear;                         // where V begins in scratch, after the sums; in doubles, as what follows
  int64_t doubles;                        // in all

  ForwardPlan(const TwoLayerCall& call, bool with_gradient);
};

struct BackwardPlan {
  int64_t groups, splits, split_samples;  // as in BackwardWork
  int64_t partial;                        // where the partial sums begin in scratch, after R; in doubles
  int64_t doubles;                        // in all

  explicit BackwardPlan(const TwoLayerCall& call);
};

struct OutputsWork {
  ForwardWork forward;
  int64_t sums;
  bool with_gradient, parameter_gradient;
  void *f, *df_dx;
};

// One translation unit per Unit and type, which the build compiles side by side: relu.cu and its likes define them
// (launches.cuh).
template <typename Unit, typename T>
struct TwoLayerKernels {
  static void forward(const ForwardWork& work, bool with_gradient, void* stream);
  static void backward(const BackwardWork& work, void* stream);
};

}  // namespace cuda
}  // namespace hrta
