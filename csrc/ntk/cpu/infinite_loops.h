// The loops of infinitely wide networks: one table per SIMD level (simd/levels.h).
#pragma once

#include "ntk/infinite.h"

namespace hrta {
namespace cpu {

constexpr int kInfiniteTile = 32;  // rows and columns at a time

struct InfiniteLoops {
  // chain (links, 2, n) of the samples of these norms.
  void (*chain)(const InfiniteCall& call, const Widths& widths, int64_t n, const double* norm, double* chain);

  // The results' tile at (row, column), and its mirror image where the samples are the same: row <= column.
  void (*tile)(const InfiniteCall& call, const Widths& widths, int64_t row, int64_t column);
};

const InfiniteLoops& infinite_loops();

}  // namespace cpu
}  // namespace hrta
