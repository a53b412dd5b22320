// The plan: the sorted bounds of given samples, made once for many steps and many networks.
#pragma once

#include "circle/cuda/memory.h"
#include "circle/cuda/search.cuh"
#include "types.h"

namespace hrta {
namespace cuda {
namespace arcs {

constexpr int kWarp = 32;
constexpr int kPlanThreads = 256;

// Sizes are known to the host; rows of zeros leave some of the arcs unused, which then are empty.
template <typename T>
struct Plan {
  int n, arcs, parts;  // arcs = 2 n + 2
  const T* x;          // (n, 2)
  int64_t* finite;     // () 1 if all samples are finite, else 0: then there is nothing to search
  Point<T>* bound;     // (arcs) of which 2 n are used, as the search's
  uint32_t* table;     // (parts + 1)
  int* owner;          // (2 n)
  int *begin, *end;    // (n) places of a sample's bounds among them, or -1; active on arcs begin + 1 .. end, around
                       // the circle if end < begin
  int* active;         // (arcs) number of samples that are active on the arc: sums over none are to be exactly 0; or
                       // null, where nobody sums over samples: counting takes n^2 comparisons
  double* turn;        // (2 n) turn_of
  int* rank;           // (2 n), (2): number of bounds, whether a sample is not finite

  HRTA_INLINE Search<T> search() const { return {bound, table, owner, parts}; }
};

// About four parts a sample; 32 KB where the table has to go to shared memory.
HRTA_INLINE int parts_of(int64_t n) {
  int parts = 1024;
  while (parts < 4 * n && (parts < 8192 || n > 4096)) parts *= 2;
  return parts;
}

// A plan of x (n, 2), n <= kMostSamples, that lies in `memory`; build_plan fills it.
template <typename T>
Plan<T> plan_in(Memory& memory, const void* x, int64_t n) {
  Plan<T> plan{};
  plan.n = int(n), plan.arcs = int(2 * n + 2), plan.parts = parts_of(n), plan.x = static_cast<const T*>(x);
  plan.finite = memory.take<int64_t>(1);
  plan.bound = memory.take<Point<T>>(plan.arcs);
  plan.table = memory.take<uint32_t>(plan.parts + 1);
  plan.owner = memory.take<int>(2 * n);
  plan.begin = memory.take<int>(n), plan.end = memory.take<int>(n);
  plan.active = memory.take<int>(plan.arcs);
  plan.turn = memory.take<double>(2 * n);
  plan.rank = memory.take<int>(2 * n + 2);
  return plan;
}

// Four launches, eight for many samples. n >= 1.
void build_plan(const Plan<float>& plan, void* stream);
void build_plan(const Plan<double>& plan, void* stream);

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
