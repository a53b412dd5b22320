// s as the kernels take it: resolved on the host where it is known there, else read once per thread.
#pragma once

#include "activation/cuda/special.cuh"
#include "math/homotopy.h"

namespace hrta {
namespace cuda {

// Homotopy's numbers, and two more that spare instructions per element.
template <typename T>
struct Parameter : Homotopy<T> {
  T lowest;   // where (1 - s) x cuts x off: s = 1 gives 0 at -inf too
  T s_ratio;  // s_rest / s

  static HRTA_INLINE Parameter from(double s) {
    Parameter p;
    static_cast<Homotopy<T>&>(p) = Homotopy<T>::from(s);
    p.lowest = p.linear == T(0) ? -FloatTraits<T>::kLargest : -T(INFINITY);
    p.s_ratio = p.s == T(0) ? T(0) : p.s_rest / p.s;
    return p;
  }
};

// Out of line, so that the usual case, s known to the host, pays one branch for it and nothing else.
template <typename T>
__device__ __noinline__ Parameter<T> parameter_at(const double* s) {
  return Parameter<T>::from(*s);
}

template <typename T>
__device__ __forceinline__ Parameter<T> parameter(const Parameter<T>& known, const double* s_value) {
  return s_value == nullptr ? known : parameter_at<T>(s_value);
}

}  // namespace cuda
}  // namespace hrta
