// The Gram builder for ReLU and two features on a GPU, by arcs (circle/cuda/bounds.cuh): moments of the neurons of each
// arc, a^2 and w w^T; their running sums around the circle; and every entry of the two products from the moments of one
// range of arcs, the neurons that are active for both samples. O(m + n^2), in both classes of accuracy.
//
// Sums over neurons are integers (arcs_sums.cuh), so they depend on nothing but the neurons; what follows them is
// float64 in an order that n alone decides.
#pragma once

#include "circle/cuda/plan.cuh"
#include "gpu/cooperation.cuh"
#include "ntk/cuda/arcs_sums.cuh"
#include "ntk/gram.h"

namespace hrta {
namespace cuda {
namespace gram_arcs {

using arcs::Plan;

constexpr int64_t kMostNeurons = int64_t(1) << 30;  // of a session: limbs below 2^62
constexpr int kSweepThreads = 1024;
constexpr int kDrawnExponent = 6;  // |normal| <= 6.8: the terms are below 2^6

// On the device.
struct State {
  int exponent[2];  // the windows' of a^2 and of w w^T, for neurons in memory
  int bad;          // a weight is not finite
};

// What a session keeps in scratch memory.
struct Layout {
  Plan<double> plan;
  State* state;
  bool drawn;
  int words;                   // of the windows' integers
  int limbs;                   // of the long accumulators
  int shift, copies;           // sums in shared memory, 2^shift copies a block; or -1, and `copies` in global memory
  unsigned long long* window;  // (copies, words + 1, kMoments, arcs)
  unsigned long long* exact;   // (limbs, kMoments, arcs)
  size_t zeros;                // bytes from `state` on that are zero at first
  DoubleDouble* sums;          // (arcs, kMoments), by arc; then of the arcs before
  size_t shared;               // bytes that a block of the sweep takes
  int64_t bytes;
};

Layout layout_of(const GramCall& call, const Device& device);

void launch_window(const GramCall& call, const Layout& layout, void* stream);
void launch_sweep(const GramCall& call, const Layout& layout, int multiprocessors, void* stream);
void launch_finish(const GramCall& call, const Layout& layout, void* stream);

}  // namespace gram_arcs
}  // namespace cuda
}  // namespace hrta
