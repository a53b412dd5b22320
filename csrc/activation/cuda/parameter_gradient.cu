// The gradient in s on the GPU: the sum of grad times d sigma_s / ds or d sigma_s' / ds, in float64 and in an order
// that the shape and the dtype decide, never the device. Stage 1: a block adds its share of the elements into a partial
// sum of its own; stage 2 adds the partial sums.
#include "activation/activation.h"
#include "activation/cuda/float_bases.cuh"
#include "activation/cuda/storage.cuh"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {
namespace {

constexpr int64_t kMaxSumBlocks = 4096;
constexpr int kSumVectors = 2;                    // of a thread in a tile
constexpr int kFeatureLanes = 32, kRowLanes = 8;  // of a block, when there is one s per feature

template <typename Stored>
constexpr int64_t kSumTile = int64_t(kThreads) * kSumVectors * Storage<Stored>::kLanes;

int64_t sum_blocks(int64_t tiles) {
  return tiles < kMaxSumBlocks ? tiles : kMaxSumBlocks;
}

int64_t row_chunks(int64_t rows) {
  return sum_blocks((rows + kRowLanes * 16 - 1) / (kRowLanes * 16));
}

// What grad is multiplied by; it does not depend on s.
template <typename Base, Quantity kQuantity, typename T>
__device__ __forceinline__ T by_s(T x) {
  if constexpr (kQuantity == Quantity::kParameterGradient && sizeof(T) == 4 && Base::kGrowth == Growth::kRectifier) {
    using F = float_math::Functions<Base>;
    const Pair<float> tail = F::tail(F::parts(x));
    return (x > 0.0f ? 0.0f : -x) + (tail.high + tail.low) * float_math::kTailScale;
  }
  return homotopy_quantity<Base, kQuantity>(x, Homotopy<T>{});
}

// Stage 1, one s: block b adds tiles b, b + gridDim.x, ... into partial[b].
template <typename Base, Quantity kQuantity, typename Stored>
__global__ void __launch_bounds__(kThreads)
    gradient_sum_kernel(const Stored* x, const Stored* grad, int64_t n, bool aligned, double* partial) {
  using S = Storage<Stored>;
  using T = typename S::Computed;
  constexpr int kLanes = S::kLanes;
  double sum = 0.0;
  for (int64_t first = int64_t(blockIdx.x) * kSumTile<Stored>; first < n;
       first += int64_t(gridDim.x) * kSumTile<Stored>) {
    if (aligned && n - first >= kSumTile<Stored>) {
      uint4 raw[kSumVectors], raw_grad[kSumVectors];
#pragma unroll
      for (int v = 0; v < kSumVectors; ++v) {
        raw[v] = reinterpret_cast<const uint4*>(x + first)[v * kThreads + int(threadIdx.x)];
        raw_grad[v] = reinterpret_cast<const uint4*>(grad + first)[v * kThreads + int(threadIdx.x)];
      }
#pragma unroll
      for (int v = 0; v < kSumVectors; ++v) {
        T in[kLanes], factor[kLanes];
        S::unpack(raw[v], in);
        S::unpack(raw_grad[v], factor);
#pragma unroll
        for (int j = 0; j < kLanes; ++j) sum += double(factor[j]) * double(by_s<Base, kQuantity>(in[j]));
      }
    } else {  // the same elements of a thread in the same order
      const int count = n - first < kSumTile<Stored> ? int(n - first) : int(kSumTile<Stored>);
      for (int v = 0; v < kSumVectors; ++v) {
        for (int j = 0; j < kLanes; ++j) {
          const int i = (v * kThreads + int(threadIdx.x)) * kLanes + j;
          if (i < count) sum += double(S::load(grad[first + i])) * double(by_s<Base, kQuantity>(S::load(x[first + i])));
        }
      }
    }
  }
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_partials_kernel(const double* partial, int64_t count, double* grad_s) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) *grad_s = sum;
}

// Stage 1, one s per feature: partial (chunks, features), chunk c holding rows [c, c + 1) * rows_per_chunk.
template <typename Base, Quantity kQuantity, typename Stored>
__global__ void __launch_bounds__(kThreads)
    gradient_columns_kernel(const Stored* x, const Stored* grad, int64_t features, int64_t rows, int64_t rows_per_chunk,
                            double* partial) {
  using S = Storage<Stored>;
  __shared__ double shared[kRowLanes][kFeatureLanes];
  const int lane = int(threadIdx.x) % kFeatureLanes, row_lane = int(threadIdx.x) / kFeatureLanes;
  const int64_t chunk = blockIdx.x;
  const int64_t last = (chunk + 1) * rows_per_chunk < rows ? (chunk + 1) * rows_per_chunk : rows;
  for (int64_t first = int64_t(blockIdx.y) * kFeatureLanes; first < features;
       first += int64_t(gridDim.y) * kFeatureLanes) {
    const int64_t feature = first + lane;
    double sum = 0.0;
    if (feature < features) {
      for (int64_t row = chunk * rows_per_chunk + row_lane; row < last; row += kRowLanes) {
        const int64_t i = row * features + feature;
        sum += double(S::load(grad[i])) * double(by_s<Base, kQuantity>(S::load(x[i])));
      }
    }
    shared[row_lane][lane] = sum;
    __syncthreads();
    if (row_lane == 0 && feature < features) {
      for (int k = 1; k < kRowLanes; ++k) sum += shared[k][lane];
      partial[chunk * features + feature] = sum;
    }
    __syncthreads();
  }
}

// Stage 2: grad_s[j] = sum over chunks, in order.
__global__ void __launch_bounds__(kThreads)
    add_chunks_kernel(const double* partial, int64_t chunks, int64_t features, double* grad_s) {
  for (int64_t j = int64_t(blockIdx.x) * kThreads + threadIdx.x; j < features; j += int64_t(gridDim.x) * kThreads) {
    double sum = 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * features + j];
    grad_s[j] = sum;
  }
}

template <typename Base, Quantity kQuantity, typename Stored>
void launch_gradient(const ActivationCall& call, double* partial, double* grad_s, void* stream) {
  const Stored* x = static_cast<const Stored*>(call.x);
  const Stored* grad = static_cast<const Stored*>(call.grad);
  if (call.n_features <= 1) {
    const int64_t blocks = sum_blocks((call.n + kSumTile<Stored> - 1) / kSumTile<Stored>);
    launch(gradient_sum_kernel<Base, kQuantity, Stored>, unsigned(blocks), kThreads, stream, x, grad, call.n,
           on_grid(x, grad), partial);
    launch(add_partials_kernel, 1, kThreads, stream, partial, blocks, grad_s);
    return;
  }
  const int64_t features = call.n_features, rows = call.n / features, chunks = row_chunks(rows);
  const int64_t column_blocks = (features + kFeatureLanes - 1) / kFeatureLanes;
  const dim3 grid(unsigned(chunks), unsigned(column_blocks < 65535 ? column_blocks : 65535));
  launch(gradient_columns_kernel<Base, kQuantity, Stored>, grid, kThreads, stream, x, grad, features, rows,
         (rows + chunks - 1) / chunks, partial);
  const int64_t blocks = (features + kThreads - 1) / kThreads;
  launch(add_chunks_kernel, unsigned(blocks < 65535 ? blocks : 65535), kThreads, stream, partial, chunks, features,
         grad_s);
}

}  // namespace

// For the smallest tile of all types, float64's.
int64_t parameter_gradient_scratch(int64_t n, int64_t n_features) {
  if (n_features > 1) return row_chunks(n / n_features) * n_features;
  return sum_blocks((n + kSumTile<double> - 1) / kSumTile<double>);
}

const char* parameter_gradient(const ActivationCall& call, double* partial, double* grad_s, int device, void* stream) {
  DeviceGuard guard(device);
  if (call.n == 0) {
    const size_t bytes = size_t(call.n_features > 1 ? call.n_features : 1) * sizeof(double);
    cudaMemsetAsync(grad_s, 0, bytes, static_cast<cudaStream_t>(stream));
    return launch_error();
  }
  with_base(call.base, [&](auto base) {
    with_stored(call.dtype, [&](auto stored) {
      using Base = decltype(base);
      using Stored = decltype(stored);
      if (call.quantity == Quantity::kParameterGradient) {
        launch_gradient<Base, Quantity::kParameterGradient, Stored>(call, partial, grad_s, stream);
      } else {
        launch_gradient<Base, Quantity::kParameterGradient1, Stored>(call, partial, grad_s, stream);
      }
    });
  });
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
