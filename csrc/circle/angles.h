// Directions as angles, and the loop that finds their arcs (arcs.h), compiled once per SIMD level (simd/levels.h).
#pragma once

#include "math/host_device.h"
#include "types.h"

namespace hrta {
namespace cpu {

// An angle as a 64-bit integer, modulo a full turn: exact to compare and to turn by right angles. It grows with the
// true angle, but is linear in s / (c + s) within a quadrant, c and s the distances along its two axes.
using Angle = uint64_t;
constexpr Angle kQuarter = Angle(1) << 62;

// All ones where the double with these bits is positive, or negative; it is not -0.
HRTA_INLINE int64_t positive(int64_t bits) {
  return -bits >> 63;
}
HRTA_INLINE int64_t negative(int64_t bits) {
  return bits >> 63;
}

// Any angle if an argument is not finite, or both are zero. By masks: branches on random directions are mispredicted,
// and GCC's comparisons into bytes of registers make each angle wait for the division of the one before, 12 ns for 4.
HRTA_INLINE Angle angle_of(double x, double y) {
  const int64_t bits_x = bit_cast<int64_t>(x + 0.0), bits_y = bit_cast<int64_t>(y + 0.0);  // no -0
  const int64_t lower = negative(bits_y) | (negative(bits_x) & ~positive(bits_y));         // quadrants 2 and 3
  const int64_t odd = (positive(bits_y) & ~positive(bits_x)) | (negative(bits_y) & ~negative(bits_x));  // 1 and 3
  const int64_t chosen = bits_y ^ ((bits_x ^ bits_y) & odd);
  const double along = __builtin_fabs(0.5 * bit_cast<double>(chosen));
  const double fraction = along / (0.5 * __builtin_fabs(x) + 0.5 * __builtin_fabs(y));
  const Angle quadrant = (Angle(lower) & 2) | (Angle(odd) & 1);
  return quadrant * kQuarter + static_cast<Angle>(static_cast<int64_t>(fraction * 0x1p62));
}

constexpr int kLookAhead = 4;

// Where the arcs begin: arc k holds the angles with k of the bounds at or below them.
struct ArcTable {
  const Angle* bounds;    // (count + kLookAhead) sorted; the last ones are ~0, which is no direction's angle
  const int32_t* starts;  // (2^(64 - shift) + 1) bounds below each of equally long parts of the circle
  int shift;
  int32_t at_zero;  // the "arc" of w = 0
};

constexpr int64_t kArcBlock = 512;

// What the loop writes: arcs (count) of weight (count, 2), count <= kArcBlock; any arc for those that are not finite.
struct ArcSearch {
  ArcTable table;
  ScalarKind dtype;
  const void* weight;
  int64_t count;
  int32_t* arcs;
};

struct AngleLoops {
  void (*find_arcs)(const ArcSearch& search);
};

const AngleLoops& angle_loops();

}  // namespace cpu
}  // namespace hrta
