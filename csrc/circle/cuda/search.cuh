// The search of neurons' arcs. Arc k are the directions past k of the bounds, k = 0 .. 2 n; arc 2 n + 1 is w = 0.
#pragma once

#include "circle/cuda/bounds.cuh"

namespace hrta {
namespace cuda {
namespace arcs {

// What the search looks at, in shared or global memory. Part p of the turn: the first table[p] % 2^16 bounds lie before
// it for certain, the next table[p] / 2^16 may lie in it. table[parts] is the arc of w = 0.
template <typename T>
struct Search {
  const Point<T>* bound;  // (2 n) in their order: x where the half circle of x begins, -x where it ends
  const uint32_t* table;  // (parts + 1)
  const int* owner;       // (2 n) sample i, or ~i where the half circle of i ends
  int parts;
};

constexpr int64_t kMostSamples = 32766;  // 2 n + 2 in 16 bits

// Whether the weights w are past the bound y: w . y > 0. `certain` is false where rounding may have changed the sign.
template <typename T>
HRTA_INLINE bool is_past(Point<T> y, T w0, T w1, bool* certain) {
  constexpr T kRelative = sizeof(T) == 4 ? T(0x1p-23) : T(0x1p-52), kLeast = sizeof(T) == 4 ? T(1e-43) : T(1e-320);
  const T p = y.y * w1;
  const T z = multiply_add(y.x, w0, p);  // fused it has the sign of y.x w0 + p, and p is off by |p| 2^-24 at most
  const T doubt = kHasFusedMultiplyAdd<T> ? absolute(p) : absolute(p) + absolute(z);
  *certain = absolute(z) > multiply_add(doubt, kRelative, kLeast);
  return z > T(0);
}

// Past an end is also who lies on it (w . x = 0: not active), past a beginning is not.
template <typename T>
HRTA_RARE bool is_past_exactly(Point<T> y, T w0, T w1, const int* owner) {
  const int sign = exact_sign<T>(y, w0, w1);
  return sign > 0 || (sign == 0 && *owner < 0);
}

// part_of may be off by this much of a turn of 4.
constexpr double kTurnError = 4e-6;

HRTA_INLINE int part_at(float x, float y, float sum, int parts) {
  const float quarter = 0.25f * float(parts);
#if defined(__CUDA_ARCH__)
  const float p = __fdividef(y, sum) * quarter;
#else
  const float p = y / sum * quarter;
#endif
  // The sign of y, not of a rounded number, tells the last part from the first: there the order of the bounds ends.
  const float from = x < 0.0f ? 2.0f * quarter - 0.5f : y < 0.0f ? 4.0f * quarter - 0.5f : -0.5f;
  const float shifted = multiply_add(p, x < 0.0f ? -1.0f : 1.0f, from) + 0x1.8p23f;  // its lower bits: nearest integer
  const uint32_t part = bit_cast<uint32_t>(shifted) - 0x4b400000u;
  return int(part < uint32_t(parts) ? part : uint32_t(parts - 1));  // of NaN too
}

// Very large and small weights, and w = 0, which has the part after the last. Any part if w is not finite.
HRTA_RARE int part_of_extreme(double w0, double w1, int parts) {
  if (w0 == 0.0 && w1 == 0.0) return parts;
  int exponent = 0;
  frexp(absolute(w0) > absolute(w1) ? w0 : w1, &exponent);
  const float x = float(ldexp(w0, -exponent)), y = float(ldexp(w1, -exponent));
  return part_at(x, y, absolute(x) + absolute(y), parts);
}

// Which of `parts` equal parts of the turn holds w, off by kTurnError at most.
template <typename T>
HRTA_INLINE int part_of(T w0, T w1, int parts) {
  const float x = float(w0), y = float(w1), sum = absolute(x) + absolute(y);
  if (sum > 1e-30f && sum < 1e30f) return part_at(x, y, sum, parts);
  return part_of_extreme(double(w0), double(w1), parts);
}

// The arcs of kCount neurons, all at once, so that their reads overlap. Any arc of those that are not finite. W: T, or
// a type that goes into T.
template <int kCount, typename T, typename W>
HRTA_INLINE void arcs_of(const Search<T>& search, const W (&w)[2 * kCount], int (&arc)[kCount]) {
  int high[kCount];
  bool open = false;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const uint32_t entry = search.table[part_of(w[2 * j], w[2 * j + 1], search.parts)];
    arc[j] = int(entry & 0xffff), high[j] = arc[j] + int(entry >> 16);
    open |= arc[j] < high[j];
  }
  while (open) {  // seldom more than twice
    open = false;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int middle = (arc[j] + high[j]) >> 1;
      const bool mine = arc[j] < high[j];
      Point<T> bound{T(0), T(0)};
      if (mine) bound = search.bound[middle];  // reads that nobody needs would only cost bank conflicts
      bool certain, past = is_past<T>(bound, w[2 * j], w[2 * j + 1], &certain);
      if (mine && !certain) past = is_past_exactly<T>(bound, w[2 * j], w[2 * j + 1], search.owner + middle);
      arc[j] = mine && past ? middle + 1 : arc[j];
      high[j] = mine && !past ? middle : high[j];
      open |= arc[j] < high[j];
    }
  }
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
