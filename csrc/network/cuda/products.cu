// More features than kernels hold: the library multiplies a chunk of weights with the samples, and these do in one
// sweep what lies between two products. z and what takes its place are float64, whatever the call's dtype: then no sign
// of z is wrong and no setting of the library's matters. sigma is evaluated in the call's dtype.
#include "network/cuda/units.cuh"

namespace hrta {
namespace cuda {

namespace {

constexpr int kAtOnce = 4;

// A warp's lanes beside each other in a row of z, a block's threads below one another in kHigh rows.
constexpr int kHigh = kThreads / kLanes;

// A block per sample and piece of the neurons.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_neurons_kernel(const __grid_constant__ TwoLayerCall call, double scale,
                                                               double* z, double* sums, bool replace, bool excess) {
  const int64_t pieces = ceil_div(call.width, kPieceNeurons), row = blockIdx.x / pieces;
  const int64_t begin = blockIdx.x % pieces * kPieceNeurons;
  const int64_t end = begin + kPieceNeurons < call.width ? begin + kPieceNeurons : call.width;
  const T* a = static_cast<const T*>(call.output_weight) + row / call.n * call.width;
  double* here = z + row * call.width;
  const double s = parameter(call), q = 1.0 - s;
  double sum = 0;
  with_base(call.base, [&](auto tag) {
    using Base = decltype(tag);
    for (int64_t first = begin + threadIdx.x; first < end; first += kAtOnce * kThreads) {
      double wide[kAtOnce];
      T at[kAtOnce], value[kAtOnce], slope[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t k = first + j * kThreads;
        wide[j] = k < end ? here[k] : 0.0;
        at[j] = T(wide[j]);
      }
      if (excess) {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) value[j] = homotopy_parameter_gradient<Base>(at[j]);
      } else if (replace) {
        evaluate_base<Base>(at, value, slope, static_cast<T*>(nullptr));
      } else {
        evaluate_base<Base>(at, value, static_cast<T*>(nullptr), static_cast<T*>(nullptr));
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t k = first + j * kThreads;
        if (k >= end) continue;
        const double weight = scale * double(a[k]);
        sum += weight * (excess ? double(value[j]) : combine(q, wide[j], s, double(value[j])));
        if (replace && !excess) here[k] = weight * (q + s * double(slope[j]));
      }
    }
  });
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// A block per 32 neurons, piece of the samples and network.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_samples_kernel(const __grid_constant__ TwoLayerCall call, double scale,
                                                               const T* grad_f, double* z, double* y, double* sums) {
  __shared__ double shares[kHigh][kLanes];
  const int64_t groups = ceil_div(call.width, kLanes), pieces = ceil_div(call.n, kPieceSamples);
  const int lane = threadIdx.x % kLanes, high = threadIdx.x / kLanes;
  const int64_t k = blockIdx.x % groups * kLanes + lane, piece = blockIdx.x / groups % pieces;
  const int64_t network = blockIdx.x / (groups * pieces);
  const int64_t begin = piece * kPieceSamples;
  const int64_t end = begin + kPieceSamples < call.n ? begin + kPieceSamples : call.n;
  const double s = parameter(call), q = 1.0 - s;
  double sum = 0;
  if (k < call.width) {
    const double a = scale * double(static_cast<const T*>(call.output_weight)[network * call.width + k]);
    const T* g = grad_f == nullptr ? nullptr : grad_f + network * call.n;
    with_base(call.base, [&](auto tag) {
      using Base = decltype(tag);
      for (int64_t first = begin + high; first < end; first += kAtOnce * kHigh) {
        double wide[kAtOnce];
        T at[kAtOnce], value[kAtOnce], slope[kAtOnce], curvature[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int64_t i = first + j * kHigh;
          wide[j] = i < end ? z[(network * call.n + i) * call.width + k] : 0.0;
          at[j] = T(wide[j]);
        }
        if (y != nullptr) {
          evaluate_base<Base>(at, value, slope, curvature);
        } else {
          evaluate_base<Base>(at, value, slope, static_cast<T*>(nullptr));
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int64_t i = first + j * kHigh, place = (network * call.n + i) * call.width + k;
          if (i >= end) continue;
          const double of_f = g == nullptr ? 0.0 : double(g[i]), slope_s = q + s * double(slope[j]);
          double factor = of_f * slope_s;
          sum += of_f * combine(q, wide[j], s, double(value[j]));
          if (y != nullptr) {
            const double along = y[place];
            sum += along * slope_s;
            factor += along * (s * double(curvature[j]));
            y[place] = a * slope_s;
          }
          z[place] = a * factor;
        }
      }
    });
  }
  shares[high][lane] = sum;
  __syncthreads();
  if (high != 0 || k >= call.width) return;
  sum = 0;
  for (int row = 0; row < kHigh; ++row) sum += shares[row][lane];
  sums[(network * pieces + piece) * call.width + k] = scale * sum;
}

}  // namespace

const char* two_layer_sum_neurons(const TwoLayerCall& call, double scale, double* z, double* sums, bool replace,
                                  bool excess, int device, void* stream) {
  const int64_t blocks = call.networks * call.n * ceil_div(call.width, kPieceNeurons);
  if (blocks == 0) return nullptr;
  DeviceGuard guard(device);
  with_type(call.dtype, [&](auto zero) {
    launch(sum_neurons_kernel<decltype(zero)>, blocks, kThreads, stream, call, scale, z, sums, replace, excess);
  });
  return launch_error();
}

const char* two_layer_sum_samples(const TwoLayerCall& call, double scale, const void* grad_f, double* z, double* y,
                                  double* sums, int device, void* stream) {
  const int64_t blocks = call.networks * ceil_div(call.n, kPieceSamples) * ceil_div(call.width, kLanes);
  if (blocks == 0) return nullptr;
  DeviceGuard guard(device);
  with_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(sum_samples_kernel<T>, blocks, kThreads, stream, call, scale, static_cast<const T*>(grad_f), z, y, sums);
  });
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
