// The kernels of infinitely wide networks as the torch layer calls them: pointers and sizes, no torch.
#pragma once

#include "math/expectations.h"
#include "types.h"

namespace hrta {

// K^[a] and K^[w] of the samples x (n, D) and x2 (n2, D) at S values of s, after `depth` hidden layers; formulas in
// math/expectations.h, the recursion over layers in docs/kernels.md. More than one layer takes a base with one width.
struct InfiniteCall {
  int base;   // BaseIndex
  bool same;  // x2 is x: entries below the diagonal are copies
  int64_t n, n2, D, S, depth;
  const double *x, *x2;           // (n, D), (n2, D)
  const double *norm, *norm2;     // (n), (n2) their lengths
  const double* s;                // (S)
  int64_t widths;                 // at most kMostWidths
  const double *weight, *square;  // (widths) in the host's memory
  // Scratch: norms before each layer and means of sigma' there, (L, 2, n) and (L, 2, n2), L = S depth, or 1 for one
  // layer.
  double *chain, *chain2;
  double *a, *w;  // (S, n, n2)
};

inline Widths widths_of(const InfiniteCall& call) {
  Widths widths{};
  widths.count = int(call.widths);
  for (int k = 0; k < widths.count; ++k) widths.weight[k] = call.weight[k], widths.square[k] = call.square[k];
  return widths;
}

inline namespace HRTA_SIMD_LEVEL {

// The links of one sample of this norm; `stride` samples stand side by side.
template <typename Pairs>
HRTA_INLINE void fill_chain(const InfiniteCall& call, const Widths& widths, double norm, double* link, int64_t stride) {
  for (int64_t at = 0; at < (call.depth == 1 ? 1 : call.S); ++at) {
    const LayerAt layer = layer_at(call.s[at]);
    double r = norm;
    for (int64_t k = 0; k < call.depth; ++k, link += 2 * stride) {
      const double mean = Pairs::mean_slope(r, widths);
      link[0] = r, link[stride] = mean;
      if constexpr (!Pairs::kMixture) {
        if (k + 1 < call.depth) r = next_norm<Pairs>(layer, r, mean, widths);
      }
    }
  }
}

}  // namespace HRTA_SIMD_LEVEL

namespace cpu {
void infinite_gram(const InfiniteCall& call, ParallelFor parallel_for);
}

// Pointers to the memory of `device`, which works on `stream`, a cudaStream_t; null or an error message comes back.
namespace cuda {
const char* infinite_gram(const InfiniteCall& call, int device, void* stream);
}

}  // namespace hrta
