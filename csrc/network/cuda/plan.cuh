// How a pass is cut into warps and laid out in scratch memory, by the shapes alone, and the passes without their
// checks.
#pragma once

#include <algorithm>

#include "network/cuda/backward.cuh"
#include "network/cuda/forward.cuh"

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

  BackwardWork work(const TwoLayerCall& call, const TwoLayerGradients& gradients, double* scratch) const {
    BackwardWork work{};
    work.call = call;
    work.gradients = gradients;
    work.everywhere = scratch;
    work.groups = groups, work.splits = splits, work.split_samples = split_samples;
    work.partial = scratch + partial;
    return work;
  }
};

// Which outputs are wanted, and where.
struct Outputs {
  void* f = nullptr;                // (networks, n)
  void* df_dx = nullptr;            // (networks, n, D)
  bool in_double = false;           // f and df_dx are double, not of the call's dtype
  bool parameter_gradient = false;  // f is to be df/ds
  const int64_t* done = nullptr;    // as in ForwardWork

  bool with_gradient() const { return df_dx != nullptr; }
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

void launch_forward(const TwoLayerCall& call, const Outputs& outputs, double* scratch, void* stream);
void launch_backward(const BackwardWork& work, void* stream);

}  // namespace cuda
}  // namespace hrta
