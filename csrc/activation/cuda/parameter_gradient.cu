// The gradient in s on the GPU: the sum of grad times d sigma_s / ds or d sigma_s' / ds, in float64 and in an order
// that the shape and the dtype decide, never the device. Stage 1: a block adds its share of the elements into a partial
// sum of its own; stage 2 adds the partial sums.
#include <algorithm>
#include <numeric>

#include "activation/activation.h"
#include "activation/cuda/half_bases.cuh"
#include "activation/cuda/storage.cuh"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {
namespace {

constexpr int64_t kMaxSumBlocks = 4096;
constexpr int kSumVectors = 2;                     // of a thread in a tile
constexpr int kMaxColumns = 64, kRowsOfLane = 16;  // one s per feature: of a block, of a thread at least

template <typename Stored>
constexpr int64_t kSumTile = int64_t(kThreads) * kSumVectors * Storage<Stored>::kLanes;

int64_t sum_blocks(int64_t tiles) {
  return tiles < kMaxSumBlocks ? tiles : kMaxSumBlocks;
}

// What grad is multiplied by; it does not depend on s. sigma(x) - x of the half types is good to 2^-8 of their ulp at
// the larger of the two, and of float32 to 8 ulp of its own.
template <typename Base, Quantity kQuantity, typename Stored, typename T>
__device__ __forceinline__ T by_s(T x) {
  constexpr bool kHalf = sizeof(Stored) == 2;
  if constexpr (kQuantity != Quantity::kParameterGradient || sizeof(T) == 8) {
    return homotopy_quantity<Base, kQuantity>(x, Homotopy<T>{});
  } else if constexpr (Base::kGrowth == Growth::kRectifier) {  // max(-x, 0) + the tail, sigma(-|x|)
    float tail;
    if constexpr (kHalf) {
      tail = half_math::Functions<Base>::value(-absolute(x), Parameter<float>::from(1.0));
    } else {
      using F = float_math::Functions<Base>;
      const Pair<float> parts = F::tail(F::parts(x));
      tail = (parts.high + parts.low) * float_math::kTailScale;
    }
    return (x > 0.0f ? 0.0f : -x) + tail;
  } else if constexpr (kHalf && Base::kGrowth == Growth::kBounded) {
    const float far = half_math::Functions<Base>::value(x, Parameter<float>::from(1.0)) - x;
    if constexpr (!std::is_same_v<Base, Tanh>) return far;
    const float u = x * x;
    return absolute(x) < 0.75f ? x * u * tanh_core(u) : far;
  } else {
    return homotopy_quantity<Base, kQuantity>(x, Homotopy<T>{});
  }
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
        for (int j = 0; j < kLanes; ++j) sum += double(factor[j]) * double(by_s<Base, kQuantity, Stored>(in[j]));
      }
    } else {  // the same elements of a thread in the same order
      const int count = n - first < kSumTile<Stored> ? int(n - first) : int(kSumTile<Stored>);
      for (int v = 0; v < kSumVectors; ++v) {
        for (int j = 0; j < kLanes; ++j) {
          const int i = (v * kThreads + int(threadIdx.x)) * kLanes + j;
          if (i < count)
            sum += double(S::load(grad[first + i])) * double(by_s<Base, kQuantity, Stored>(S::load(x[first + i])));
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

// One s per feature. The vectors of 16 bytes are rows of `period`, after which the features come again lane by lane: as
// in per_feature.cuh, wherever the tensor's own rows begin. A block sums `columns` of the period's vectors over one of
// the chunks of rows, row_lanes rows at a time.
struct Columns {
  int64_t period, tiles;  // tiles: blocks side by side for one period
  int columns, row_lanes;
  int64_t rows, chunks, rows_per_chunk;
};

Columns columns_of(int64_t n, int64_t features, int64_t lanes) {
  Columns c;
  c.period = features / std::gcd(features, lanes);
  c.tiles = (c.period + kMaxColumns - 1) / kMaxColumns;
  c.columns = int((c.period + c.tiles - 1) / c.tiles);
  c.row_lanes = kThreads / c.columns;
  c.rows = ((n + lanes - 1) / lanes + c.period - 1) / c.period;
  const int64_t wanted = c.rows / (c.row_lanes * kRowsOfLane), most = kMaxSumBlocks / c.tiles;
  c.chunks = wanted < 1 || most < 1 ? 1 : wanted < most ? wanted : most;
  c.rows_per_chunk = (c.rows + c.chunks - 1) / c.chunks;
  return c;
}

// Doubles that stage 1 leaves: for each chunk every lane of the period. As rows of the features these are all alike.
int64_t partials_of(const Columns& c, int64_t lanes) {
  return c.chunks * c.period * lanes;
}

template <typename Base, Quantity kQuantity, typename Stored>
__global__ void __launch_bounds__(kThreads)
    gradient_columns_kernel(const Stored* x, const Stored* grad, int64_t n, const __grid_constant__ Columns c,
                            bool aligned, double* partial) {
  using S = Storage<Stored>;
  using T = typename S::Computed;
  constexpr int kLanes = S::kLanes;
  __shared__ double shared[kLanes][kThreads];
  const int row_lane = int(threadIdx.x) / c.columns;
  const int64_t chunk = int64_t(blockIdx.x) / c.tiles;
  const int64_t column = int64_t(blockIdx.x) % c.tiles * c.columns + int(threadIdx.x) % c.columns;
  const bool inside = row_lane < c.row_lanes && column < c.period;
  double sum[kLanes] = {};
  if (inside) {
    const int64_t last = (chunk + 1) * c.rows_per_chunk < c.rows ? (chunk + 1) * c.rows_per_chunk : c.rows;
#pragma unroll 1
    for (int64_t row = chunk * c.rows_per_chunk + row_lane; row < last; row += kSumVectors * c.row_lanes) {
      uint4 raw[kSumVectors] = {}, raw_grad[kSumVectors] = {};
#pragma unroll
      for (int v = 0; v < kSumVectors; ++v) {
        const int64_t i = ((row + v * c.row_lanes) * c.period + column) * kLanes, left = n - i;
        if (left <= 0 || row + v * c.row_lanes >= last) continue;
        const int count = int(left < kLanes ? left : kLanes);
        raw[v] = load_vector(x + i, aligned && left >= kLanes, count);
        raw_grad[v] = load_vector(grad + i, aligned && left >= kLanes, count);
      }
#pragma unroll
      for (int v = 0; v < kSumVectors; ++v) {  // what is not there is 0 times a finite number
        T in[kLanes], factor[kLanes];
        S::unpack(raw[v], in);
        S::unpack(raw_grad[v], factor);
#pragma unroll
        for (int j = 0; j < kLanes; ++j) sum[j] += double(factor[j]) * double(by_s<Base, kQuantity, Stored>(in[j]));
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kLanes; ++j) shared[j][threadIdx.x] = sum[j];
  __syncthreads();
  for (int rows = c.row_lanes; rows > 1;) {
    const int half = (rows + 1) / 2;
    if (row_lane + half < rows) {
#pragma unroll
      for (int j = 0; j < kLanes; ++j) shared[j][threadIdx.x] += shared[j][int(threadIdx.x) + half * c.columns];
    }
    __syncthreads();
    rows = half;
  }
  if (inside && row_lane == 0) {
#pragma unroll
    for (int j = 0; j < kLanes; ++j) partial[(chunk * c.period + column) * kLanes + j] = shared[j][threadIdx.x];
  }
}

// Stage 2: grad_s[j] = sum of column j of partial (rows, features), by one thread where rows are few, else by a warp.
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(const double* partial, int64_t rows, int64_t features, int lanes, double* grad_s) {
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x, feature = thread / lanes;
  double sum = 0.0;
  if (feature < features) {
    for (int64_t row = thread % lanes; row < rows; row += lanes) sum += partial[row * features + feature];
  }
  for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (feature < features && thread % lanes == 0) grad_s[feature] = sum;
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
  const int64_t features = call.n_features, vector = Storage<Stored>::kLanes;
  const Columns columns = columns_of(call.n, features, vector);
  launch(gradient_columns_kernel<Base, kQuantity, Stored>, unsigned(columns.chunks * columns.tiles), kThreads, stream,
         x, grad, call.n, columns, on_grid(x, grad), partial);
  const int64_t rows = partials_of(columns, vector) / features;
  const int lanes = rows < 64 ? 1 : 32;
  launch(add_rows_kernel, unsigned((features * lanes + kThreads - 1) / kThreads), kThreads, stream, partial, rows,
         features, lanes, grad_s);
}

}  // namespace

// Enough for every type.
int64_t parameter_gradient_scratch(int64_t n, int64_t n_features) {
  if (n_features <= 1) return sum_blocks((n + kSumTile<double> - 1) / kSumTile<double>);
  int64_t most = 0;
  for (const int64_t lanes : {2, 4, 8}) most = std::max(most, partials_of(columns_of(n, n_features, lanes), lanes));
  return most;
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
