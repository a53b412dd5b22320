// ReLU and two features on a GPU, by arcs. A sample x is active for the weights w with w . x > 0, an open half circle
// of directions. The 2 n ends of the half circles ("bounds"), sorted by angle, cut the circle into arcs; all neurons of
// one arc are active on the same samples, so sums over neurons, and over samples, are running sums around the circle,
// and a neuron costs the search of its arc (search.cuh) and one addition per sum (bins.cuh), whatever n is.
//
// Membership is the exact sign of w . x. No neuron's angle is compared with a bound's: an angle only says where among
// the bounds to begin. So unlike on the CPU (circle/angles.h) there is no limit beside the range of float64: products
// of float64 data that leave it, about 1e-300 to 1e300, may compare wrongly; products of float32 data cannot.
//
// Here: the exact comparisons, and the order of the bounds.
#pragma once

#include <cuda_runtime.h>

#include "math/host_device.h"

#if defined(__CUDACC__)
#define HRTA_RARE inline __host__ __device__ __noinline__
#else
#define HRTA_RARE inline __attribute__((noinline))
#endif

namespace hrta {
namespace cuda {
namespace arcs {

template <typename T>
struct PointOf;
template <>
struct PointOf<float> {
  using type = float2;
};
template <>
struct PointOf<double> {
  using type = double2;
};
template <typename T>
using Point = typename PointOf<T>::type;

HRTA_INLINE bool finite(double x) {
  return x - x == 0.0;
}

// a b + c, rounded once on every machine, unlike multiply_add.
HRTA_INLINE double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return fma(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// The sign of a b - c d: the products first, if they round to the same what rounding has taken from them.
HRTA_INLINE int compare_products(double a, double b, double c, double d) {
  const double p = a * b, q = c * d;
  if (p != q) return p > q ? 1 : -1;
  const double rest_p = fused(a, b, -p), rest_q = fused(c, d, -q);
  return rest_p > rest_q ? 1 : rest_p < rest_q ? -1 : 0;
}

// The sign of x . w.
template <typename T>
HRTA_INLINE int exact_sign(Point<T> x, T w0, T w1) {
  return compare_products(double(x.x), double(w0), -double(x.y), double(w1));
}

// Whether a sample has bounds. Rows of zeros are active nowhere; a plan with others than these is not to be used.
HRTA_INLINE bool has_direction(double x0, double x1) {
  return (x0 != 0.0 || x1 != 0.0) && finite(x0) && finite(x1);
}

// Where bound b of n samples lies: the half circle of b begins, or for b >= n that of b - n ends.
template <typename T>
HRTA_INLINE double2 direction_of(const T* x, int n, int b) {
  const int i = b < n ? b : b - n;
  const double x0 = double(x[2 * i]), x1 = double(x[2 * i + 1]);
  return b < n ? make_double2(x1, -x0) : make_double2(-x1, x0);
}

HRTA_INLINE bool in_second_half(double2 u) {
  return u.y < 0.0 || (u.y == 0.0 && u.x < 0.0);
}

// The order of two bounds with directions u and v: by angle in [0, 2 pi), exactly; ends before beginnings, so that a
// neuron on both is active on neither; then by number. A total order, so ranks never collide.
HRTA_INLINE bool is_before(double2 u, int bound_u, double2 v, int bound_v, int n) {
  const bool second_u = in_second_half(u), second_v = in_second_half(v);
  if (second_u != second_v) return second_v;
  const int sign = compare_products(u.x, v.y, u.y, v.x);
  if (sign != 0) return sign > 0;
  const bool ends_u = bound_u >= n, ends_v = bound_v >= n;
  return ends_u != ends_v ? ends_u : bound_u < bound_v;
}

// Rises with the angle, from 0 to 4 over a full turn.
HRTA_INLINE double turn_of(double x, double y) {
  const double p = y / (absolute(x) + absolute(y));
  return x < 0.0 ? 2.0 - p : p < 0.0 ? 4.0 + p : p;
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
