// The search of neurons' arcs. As in activation/cpu/loops.cpp, no inline function of the standard library.
#include "circle/angles.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

// The first of bounds [first, last) above the angle.
HRTA_INLINE int64_t first_above(const Angle* bounds, Angle angle, int64_t first, int64_t last) {
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (bounds[middle] <= angle) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first;
}

template <typename T>
void find_typed(const ArcSearch& search) {
  const ArcTable table = search.table;
  const T* weight = static_cast<const T*>(search.weight);
  // All angles first: two or three times as fast as one neuron after the other.
  Angle angles[kArcBlock];
  for (int64_t k = 0; k < search.count; ++k) angles[k] = angle_of(double(weight[2 * k]), double(weight[2 * k + 1]));
  for (int64_t k = 0; k < search.count; ++k) {
    const int32_t* start = table.starts + (angles[k] >> table.shift);
    // Mostly the slot holds fewer bounds than are compared here without a branch; those behind it lie ahead.
    const Angle* bound = table.bounds + *start;
    int64_t passed = 0;
    for (int i = 0; i < kLookAhead; ++i) passed += bound[i] <= angles[k];
    int64_t arc = *start + passed;
    if (passed == kLookAhead) arc = first_above(table.bounds, angles[k], arc, start[1]);
    search.arcs[k] = static_cast<int32_t>(arc);
  }
  for (int64_t k = 0; k < search.count; ++k) {
    const bool zero = (weight[2 * k] == T(0)) & (weight[2 * k + 1] == T(0));
    search.arcs[k] = zero ? table.at_zero : search.arcs[k];
  }
}

void find_arcs(const ArcSearch& search) {
  if (search.dtype == ScalarKind::kFloat32) return find_typed<float>(search);
  find_typed<double>(search);
}

}  // namespace

extern const AngleLoops kAngleLoops;
const AngleLoops kAngleLoops = {find_arcs};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
