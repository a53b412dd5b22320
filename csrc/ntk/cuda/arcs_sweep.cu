// The pass over the neurons: drawn or read, each finds its arc and adds its moments there.
#include <algorithm>

#include "circle/cuda/access.cuh"
#include "math/normals.h"
#include "ntk/cuda/arcs.cuh"

namespace hrta {
namespace cuda {
namespace gram_arcs {

namespace {

using arcs::Point;
using arcs::Search;

// Where neurons come from: kPer neighbours a thread, as numbers of a type.
template <typename T>
struct Stored {
  using Number = T;
  static constexpr bool kDrawn = false;
  static constexpr int kPer = 16 / int(sizeof(T));

  static __device__ __forceinline__ void fetch(const Neurons& neurons, bool aligned, int64_t first, int count,
                                               T (&w)[2 * kPer], T (&a)[kPer]) {
    arcs::load(static_cast<const T*>(neurons.weight) + 2 * first, 2 * count, aligned, w);
    arcs::load(static_cast<const T*>(neurons.output_weight) + first, count, aligned, a);
  }
};

struct Drawn {
  using Number = float;
  static constexpr bool kDrawn = true;
  static constexpr int kPer = 2;

  static __device__ __forceinline__ void fetch(const Neurons& neurons, bool, int64_t first, int, float (&w)[2 * kPer],
                                               float (&a)[kPer]) {
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      const Philox r = philox(neurons.first + uint64_t(first + j), 0, neurons.seed);
      float unused;
      normal_pair(r.word[0], r.word[1], a[j], w[2 * j]);
      normal_pair(r.word[2], r.word[3], w[2 * j + 1], unused);
    }
  }
};

template <typename Body>
void with_source(const GramCall& call, const Body& body) {
  if (call.neurons.weight == nullptr) return body(Drawn{});
  with_type(call.neurons.dtype, [&](auto zero) { body(Stored<decltype(zero)>{}); });
}

// The terms of a neuron, and the magnitude of the largest of each kind.
struct Terms {
  double of[kMoments];
  uint32_t most[2];

  HRTA_INLINE Terms(double a, double w0, double w1)
      : of{a * a, w0 * w0, w0 * w1, w1 * w1},
        most{arcs::magnitude(of[0]), at_least(arcs::magnitude(of[1]), arcs::magnitude(of[3]))} {}

  template <int kWords>
  HRTA_INLINE bool fit(const Window<kWords> (&windows)[2]) const {
    return (windows[0].holds(most[0]) || of[0] == 0.0) && (windows[1].holds(most[1]) || of[1] + of[3] == 0.0);
  }
};

// The windows: somewhat above the largest terms of some of the session's neurons, from all of its parts.
template <typename T>
__global__ void __launch_bounds__(kSweepThreads) window_kernel(Neurons neurons, int64_t m, State* state) {
  constexpr int kLooks = 4 * kSweepThreads, kMargin = 2;
  __shared__ uint32_t most[2];
  const T *weight = static_cast<const T*>(neurons.weight), *output = static_cast<const T*>(neurons.output_weight);
  if (threadIdx.x < 2) most[threadIdx.x] = 0;
  __syncthreads();
  uint32_t own[2] = {};
  const int count = int(m < kLooks ? m : kLooks);
  for (int t = int(threadIdx.x); t < count; t += kSweepThreads) {
    const int64_t k = t * m / count;
    const Terms terms{double(output[k]), double(weight[2 * k]), double(weight[2 * k + 1])};
    for (int kind = 0; kind < 2; ++kind) own[kind] = at_least(own[kind], terms.most[kind]);
  }
  for (int kind = 0; kind < 2; ++kind) {
    const int exponent = arcs::exponent_of<double>(arcs::block_most(own[kind], most + kind)) + kMargin;
    if (threadIdx.x == 0) state->exponent[kind] = at_most(at_least(exponent, kLeastExponent), kMostExponent);
  }
}

struct SweepWork {
  Neurons neurons;
  int64_t m;
  Search<double> search;  // in global memory
  int n, arcs, tiles, shift, copies;
  State* state;
  unsigned long long *window, *exact;
};

// Into the long accumulators, or none at all where a weight is not finite.
template <typename T>
__device__ __noinline__ void add_outside(const SweepWork& work, int arc, T a, T w0, T w1) {
  const Terms terms{double(a), double(w0), double(w1)};
  for (int q = 0; q < kMoments; ++q) {
    if (!arcs::finite(terms.of[q])) {
      work.state->bad = 1;
      return;
    }
  }
  for (int q = 0; q < kMoments; ++q) {
    add_exactly<T>(work.exact + q * work.arcs + arc, int64_t(kMoments) * work.arcs, terms.of[q]);
  }
}

// Limb i of the block's copy of a window.
__device__ __forceinline__ unsigned long long* window_at(const SweepWork& work, int words, int i, int moment, int arc) {
  const int copy = int(blockIdx.x) % work.copies;
  return work.window + ((int64_t(copy) * (words + 1) + i) * kMoments + moment) * work.arcs + arc;
}

// What Bins::add says.
__device__ __noinline__ void count_what_left(const SweepWork& work, int words, int arc, uint32_t left) {
  for (int q = 0; q < kMoments; ++q) {
    const int count = int(left >> q & 1u) - int(left >> (kMoments + q) & 1u);
    if (count != 0) add_to(window_at(work, words, words, q, arc), count);
  }
}

template <typename Source, int kWords, bool kShared>
__global__ void __launch_bounds__(kSweepThreads, 1) sweep_kernel(const __grid_constant__ SweepWork work) {
  using T = typename Source::Number;
  constexpr int kPer = Source::kPer;
  Search<double> search = work.search;
  Point<double>* const bound = reinterpret_cast<Point<double>*>(shared_memory());
  uint32_t* const table = reinterpret_cast<uint32_t*>(bound + work.arcs);
  const Bins<kWords> bins(table + work.search.parts + 1, work.arcs, kShared ? work.shift : 0);
  if constexpr (kShared) {
    arcs::copy_to_shared(bound, work.search.bound, 2 * work.n);
    arcs::copy_to_shared(table, work.search.table, work.search.parts + 1);
    bins.clear();
    search.bound = bound, search.table = table;
    __syncthreads();
  }
  const Window<kWords> windows[2] = {Window<kWords>(Source::kDrawn ? kDrawnExponent : work.state->exponent[0]),
                                     Window<kWords>(Source::kDrawn ? kDrawnExponent : work.state->exponent[1])};
  const bool aligned =
      (reinterpret_cast<uintptr_t>(work.neurons.weight) | reinterpret_cast<uintptr_t>(work.neurons.output_weight)) %
          16 ==
      0;
  for (int tile = int(blockIdx.x); tile < work.tiles; tile += int(gridDim.x)) {
    const int64_t first = (int64_t(tile) * kSweepThreads + int(threadIdx.x)) * kPer, ahead = work.m - first;
    if (ahead <= 0) break;  // the last tile
    const int count = ahead < kPer ? int(ahead) : kPer;
    T w[2 * kPer], a[kPer];
    Source::fetch(work.neurons, aligned, first, count, w, a);
    int arc[kPer];
    arcs::arcs_of<kPer>(search, w, arc);
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      if (j >= count) break;
      const Terms terms{double(a[j]), double(w[2 * j]), double(w[2 * j + 1])};
      if (!terms.fit(windows)) {
        add_outside<T>(work, arc[j], a[j], w[2 * j], w[2 * j + 1]);
        continue;
      }
      Integer<kWords> integers[kMoments];
#pragma unroll
      for (int q = 0; q < kMoments; ++q) integers[q] = windows[kind_of(q)].in_units(terms.of[q]);
      if constexpr (kShared) {
        const uint32_t left = bins.add(arc[j], integers);
        if (left != 0) count_what_left(work, kWords, arc[j], left);
      } else {
#pragma unroll
        for (int q = 0; q < kMoments; ++q) {
#pragma unroll
          for (int i = 0; i < kWords; ++i) {
            const uint32_t word = integers[q].word[i];
            add_to(window_at(work, kWords, i, q, arc[j]), i < kWords - 1 ? int64_t(word) : int64_t(int32_t(word)));
          }
        }
      }
    }
  }
  if constexpr (kShared) {
    __syncthreads();
    for (int row = 0; row < kMoments * kWords; ++row) {
      const int moment = row / kWords, i = row % kWords;
      for (int arc = int(threadIdx.x); arc < work.arcs; arc += kSweepThreads) {
        const int64_t sum = bins.sum(moment, i, arc);
        if (sum != 0) add_to(window_at(work, kWords, i, moment, arc), sum);
      }
    }
  }
}

template <typename Source, int kWords>
void sweep(const SweepWork& work, const Shape& shape, void* stream) {
  if (work.shift >= 0) {
    launch(sweep_kernel<Source, kWords, true>, shape, stream, work);
  } else {
    launch(sweep_kernel<Source, kWords, false>, shape, stream, work);
  }
}

}  // namespace

void launch_window(const GramCall& call, const Layout& layout, void* stream) {
  if (layout.drawn) return;
  with_type(call.neurons.dtype, [&](auto zero) {
    launch(window_kernel<decltype(zero)>, dim3(1), kSweepThreads, stream, call.neurons, call.m, layout.state);
  });
}

void launch_sweep(const GramCall& call, const Layout& layout, int multiprocessors, void* stream) {
  const Plan<double>& plan = layout.plan;
  with_source(call, [&](auto source) {
    using Source = decltype(source);
    constexpr int64_t kTile = int64_t(kSweepThreads) * Source::kPer;
    const int64_t tiles = (call.m + kTile - 1) / kTile;
    const SweepWork work{call.neurons, call.m,        plan.search(), plan.n,        plan.arcs,   int(tiles),
                         layout.shift, layout.copies, layout.state,  layout.window, layout.exact};
    const Shape shape{dim3(unsigned(std::min<int64_t>(tiles, multiprocessors))), kSweepThreads, layout.shared};
    if (layout.words == 3) {
      sweep<Source, 3>(work, shape, stream);
    } else if constexpr (sizeof(typename Source::Number) == 4) {
      sweep<Source, 2>(work, shape, stream);
    }
  });
}

}  // namespace gram_arcs
}  // namespace cuda
}  // namespace hrta
