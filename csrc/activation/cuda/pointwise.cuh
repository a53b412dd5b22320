// One tile of vectors per block, everything a thread needs loaded before the first use. Measured on an H200 with the
// formulas of this folder: two vectors of 16 bytes per thread, and so few registers (32) that 8 blocks share a
// multiprocessor, beat longer threads, streaming hints and a grid that stays; where there is hardly any arithmetic, one
// vector does.
#pragma once

#include <type_traits>

#include "activation/activation.h"
#include "activation/cuda/half_bases.cuh"
#include "activation/cuda/storage.cuh"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {

enum class Output { kValue, kSlope, kBoth, kCurvature };

// The parameter of a vector's element j: one for all, or one each.
template <typename T>
__device__ __forceinline__ const Parameter<T>& of(const Parameter<T>& h, int) {
  return h;
}

template <typename T, int kCount>
__device__ __forceinline__ const Parameter<T>& of(const Parameter<T> (&h)[kCount], int j) {
  return h[j];
}

// y, and second where there is one, of kCount elements. sin takes the short reduction unless one of the elements lies
// beyond its reach.
template <typename Base, typename Stored, Output kOutput, int kCount, typename T, typename Parameters>
__device__ __forceinline__ void evaluate(const Parameters& h, const T (&x)[kCount], T (&y)[kCount],
                                         T (&second)[kCount]) {
  constexpr bool kValue = kOutput == Output::kValue || kOutput == Output::kBoth;
  constexpr bool kSlope = kOutput == Output::kSlope || kOutput == Output::kBoth;
  if constexpr (kOutput == Output::kCurvature || sizeof(T) == 8) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if constexpr (kValue) y[j] = homotopy_value<Base>(x[j], of(h, j));
      if constexpr (kSlope) (kValue ? second : y)[j] = homotopy_slope<Base>(x[j], of(h, j));
      if constexpr (kOutput == Output::kCurvature) y[j] = homotopy_curvature<Base>(x[j], of(h, j));
    }
  } else {
    constexpr bool kIsSin = std::is_same_v<Base, Sin>;
    if constexpr (kIsSin) {
      bool far = false;
#pragma unroll
      for (int j = 0; j < kCount; ++j) far |= absolute(x[j]) > float_math::kFastTurnLimit;
      if (far) {
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          float_math::evaluate<Sin, kValue, kSlope>(x[j], of(h, j), y[j], kValue ? second[j] : y[j]);
        }
        return;
      }
    }
    using Near = std::conditional_t<kIsSin, FastSin, Base>;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      float& slope = kValue ? second[j] : y[j];
      if constexpr (sizeof(Stored) == 2 && float_math::kHasOwnMath<Base>) {
        half_math::evaluate<Near, kValue, kSlope>(x[j], of(h, j), y[j], slope);
      } else {
        float_math::evaluate<Near, kValue, kSlope>(x[j], of(h, j), y[j], slope);
      }
    }
  }
}

template <typename T>
struct PointwiseCall {
  const void* x;     // (n)
  const void* grad;  // (n) multiplies y, or null
  void* y;           // (n) may be x
  void* second;      // (n) the slope beside the value
  int64_t n;
  Parameter<T> h;
  const double* s_value;  // (1) on the device instead of h, or null
  bool aligned;           // all pointers on 16 bytes
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kFirstArchitecture = true;  // ptxas spends a register more there
#else
constexpr bool kFirstArchitecture = false;
#endif

// Blocks of a multiprocessor: what the register cap follows from, 32 to 64. With 8 of them some would spill.
template <typename Base, typename Stored, Output kOutput, bool kTimesGrad>
constexpr int min_blocks() {
  constexpr bool kHalf = sizeof(Stored) == 2;
  if (sizeof(Stored) == 8) return 4;
  if (kHalf && std::is_same_v<Base, Gelu>) return 5;
  if (std::is_same_v<Base, Sin> && (kHalf || kTimesGrad || kOutput == Output::kBoth)) return 6;
  return kHalf && kFirstArchitecture && float_math::kHasOwnMath<Base> ? 6 : 8;
}

// Vector `at` of a block's share: a base that all threads have in common and 32 bits of each one's own.
template <typename Stored>
__device__ __forceinline__ const uint4* vector_at(const Stored* first, unsigned at) {
  return reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(first) + at * 16u);
}
template <typename Stored>
__device__ __forceinline__ uint4* vector_at(Stored* first, unsigned at) {
  return reinterpret_cast<uint4*>(reinterpret_cast<char*>(first) + at * 16u);
}

// Only the last tile, and tensors off the 16-byte grid, go element by element; the arithmetic is the same.
template <typename Base, typename Stored, Output kOutput, bool kTimesGrad, int kVectors>
__global__ void __launch_bounds__(kThreads, (min_blocks<Base, Stored, kOutput, kTimesGrad>()))
    pointwise_kernel(const __grid_constant__ PointwiseCall<typename Storage<Stored>::Computed> call) {
  using S = Storage<Stored>;
  using T = typename S::Computed;
  constexpr int kLanes = S::kLanes, kTile = kThreads * kVectors * kLanes;
  const int64_t first = int64_t(blockIdx.x) * kTile;
  const Stored* x = static_cast<const Stored*>(call.x) + first;
  const Stored* grad = static_cast<const Stored*>(call.grad) + first;
  Stored* y = static_cast<Stored*>(call.y) + first;
  Stored* second = static_cast<Stored*>(call.second) + first;
  if (call.aligned && call.n - first >= kTile) {
    const Parameter<T> h = parameter(call.h, call.s_value);
    uint4 raw[kVectors], raw_grad[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const unsigned at = v * kThreads + threadIdx.x;
      raw[v] = *vector_at(x, at);
      if constexpr (kTimesGrad) raw_grad[v] = *vector_at(grad, at);
    }
    __syncwarp();  // keeps the compiler from moving loads behind the first vectors' arithmetic
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const unsigned at = v * kThreads + threadIdx.x;
      T in[kLanes], out[kLanes], beside[kLanes];
      S::unpack(raw[v], in);
      evaluate<Base, Stored, kOutput>(h, in, out, beside);
      if constexpr (kTimesGrad) {
        T factor[kLanes];
        S::unpack(raw_grad[v], factor);
#pragma unroll
        for (int j = 0; j < kLanes; ++j) out[j] *= factor[j];
      }
      *vector_at(y, at) = S::pack(out);
      if constexpr (kOutput == Output::kBoth) *vector_at(second, at) = S::pack(beside);
    }
  } else {
    const Parameter<T> h = parameter(call.h, call.s_value);
    const int count = call.n - first < kTile ? int(call.n - first) : kTile;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < count; i += kThreads) {
      const T in[1] = {S::load(x[i])};
      T out[1], beside[1];
      evaluate<Base, Stored, kOutput>(h, in, out, beside);
      if constexpr (kTimesGrad) out[0] *= S::load(grad[i]);
      y[i] = S::store(out[0]);
      if constexpr (kOutput == Output::kBoth) second[i] = S::store(beside[0]);
    }
  }
}

template <typename Base, typename Stored, Output kOutput, bool kTimesGrad>
void launch_pointwise(const ActivationCall& call, void* stream) {
  using T = typename Storage<Stored>::Computed;
  // One where a thread writes two tensors, or would spill.
  constexpr bool kOne = !float_math::kHasOwnMath<Base> || kOutput == Output::kBoth || kOutput == Output::kCurvature;
  constexpr int kVectors = kOne ? 1 : 2;
  constexpr int64_t kTile = int64_t(kThreads) * kVectors * Storage<Stored>::kLanes;
  const PointwiseCall<T> pointwise{call.x,
                                   call.grad,
                                   call.y,
                                   call.slope,
                                   call.n,
                                   Parameter<T>::from(call.n_features == 0 ? call.s : 1.0),
                                   call.n_features == 0 ? nullptr : call.s_values,
                                   on_grid(call.x, call.grad, call.y, call.slope)};
  launch(pointwise_kernel<Base, Stored, kOutput, kTimesGrad, kVectors>, unsigned((call.n + kTile - 1) / kTile),
         kThreads, stream, pointwise);
}

// One s for all elements: value, value and slope, slope or curvature, these two also times a gradient.
template <typename Stored>
void pointwise(const ActivationCall& call, void* stream) {
  with_base(call.base, [&](auto tag) {
    using Base = decltype(tag);
    if (call.quantity == Quantity::kValue && call.slope != nullptr) {
      launch_pointwise<Base, Stored, Output::kBoth, false>(call, stream);
    } else if (call.quantity == Quantity::kValue) {
      launch_pointwise<Base, Stored, Output::kValue, false>(call, stream);
    } else if (call.quantity == Quantity::kSlope && call.grad != nullptr) {
      launch_pointwise<Base, Stored, Output::kSlope, true>(call, stream);
    } else if (call.quantity == Quantity::kSlope) {
      launch_pointwise<Base, Stored, Output::kSlope, false>(call, stream);
    } else if (call.grad != nullptr) {
      launch_pointwise<Base, Stored, Output::kCurvature, true>(call, stream);
    } else {
      launch_pointwise<Base, Stored, Output::kCurvature, false>(call, stream);
    }
  });
}

}  // namespace cuda
}  // namespace hrta
