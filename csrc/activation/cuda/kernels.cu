// The activation on the GPU. Memory-bound: every kernel reads its inputs and writes its outputs once, 8 elements per
// thread. Templates go over base, quantity and the type computed in; the stored type is a run-time choice
// (gpu/launch.cuh).
#include "activation/activation.h"
#include "gpu/launch.cuh"

namespace hrta {
namespace cuda {
namespace {

// s of element i, and of the elements after it.
template <typename T>
struct ParameterReader {
  const ActivationCall& call;
  int64_t feature;
  Homotopy<T> current;

  __device__ ParameterReader(const ActivationCall& c, int64_t i)
      : call(c), feature(c.n_features > 1 ? i % c.n_features : 0) {
    if (call.n_features <= 1) current = Homotopy<T>::from(call.n_features == 0 ? call.s : *call.s_values);
  }

  __device__ Homotopy<T> next() {
    if (call.n_features > 1) {
      current = Homotopy<T>::from(call.s_values[feature]);
      feature = feature + 1 == call.n_features ? 0 : feature + 1;
    }
    return current;
  }
};

template <typename Base, Quantity kQuantity, bool kWithSlope, typename T>
__global__ void __launch_bounds__(kThreads) transform_kernel(const __grid_constant__ ActivationCall call) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kPerThread;
  if (i >= call.n) return;
  const int count = call.n - i < kPerThread ? int(call.n - i) : kPerThread;
  T x[kPerThread], y[kPerThread], slope[kPerThread];
  load_as(call.dtype, call.x, i, count, x);
  ParameterReader<T> parameter(call, i);
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const Homotopy<T> h = parameter.next();
    y[j] = homotopy_quantity<Base, kQuantity>(x[j], h);
    if constexpr (kWithSlope) slope[j] = homotopy_slope<Base>(x[j], h);
  }
  if (call.grad != nullptr) {
    T grad[kPerThread];
    load_as(call.dtype, call.grad, i, count, grad);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) y[j] *= grad[j];
  }
  store_as(call.dtype, y, count, call.y, i);
  if constexpr (kWithSlope) store_as(call.dtype, slope, count, call.slope, i);
}

template <typename Base, typename T>
void launch_transform(const ActivationCall& call, cudaStream_t stream) {
  const unsigned blocks = blocks_for(call.n);
  if (call.quantity == Quantity::kValue && call.slope != nullptr) {
    launch(transform_kernel<Base, Quantity::kValue, true, T>, blocks, kThreads, stream, call);
  } else if (call.quantity == Quantity::kValue) {
    launch(transform_kernel<Base, Quantity::kValue, false, T>, blocks, kThreads, stream, call);
  } else if (call.quantity == Quantity::kSlope) {
    launch(transform_kernel<Base, Quantity::kSlope, false, T>, blocks, kThreads, stream, call);
  } else {
    launch(transform_kernel<Base, Quantity::kCurvature, false, T>, blocks, kThreads, stream, call);
  }
}

// Fixed by the shape alone, never by the device, so that the sums have the same bits everywhere.
constexpr int64_t kMaxSumBlocks = 1024;
constexpr int kFeatureLanes = 32, kRowLanes = 8;  // of a block, when there is one s per feature

int64_t sum_blocks(int64_t n) {
  return blocks_for(n) < kMaxSumBlocks ? blocks_for(n) : kMaxSumBlocks;
}

int64_t row_chunks(int64_t rows) {
  const int64_t wanted = (rows + kRowLanes * 16 - 1) / (kRowLanes * 16);
  return wanted < kMaxSumBlocks ? wanted : kMaxSumBlocks;
}

// Stage 1, one s: block b adds tiles b, b + gridDim.x, ... into partial[b].
template <typename Base, Quantity kQuantity, typename T>
__global__ void __launch_bounds__(kThreads)
    gradient_sum_kernel(const __grid_constant__ ActivationCall call, double* partial) {
  double sum = 0.0;
  for (int64_t tile = blockIdx.x; tile * kPerBlock < call.n; tile += gridDim.x) {
    const int64_t i = tile * kPerBlock + int64_t(threadIdx.x) * kPerThread;
    if (i >= call.n) continue;
    const int count = call.n - i < kPerThread ? int(call.n - i) : kPerThread;
    T x[kPerThread], grad[kPerThread];
    load_as(call.dtype, call.x, i, count, x);
    load_as(call.dtype, call.grad, i, count, grad);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      if (j < count) sum += double(grad[j]) * double(homotopy_quantity<Base, kQuantity>(x[j], Homotopy<T>::from(1.0)));
    }
  }
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Stage 1, one s per feature: partial (chunks, features), chunk c holding rows [c, c + 1) * rows_per_chunk.
template <typename Base, Quantity kQuantity, typename T>
__global__ void __launch_bounds__(kThreads)
    gradient_columns_kernel(const __grid_constant__ ActivationCall call, int64_t rows, int64_t rows_per_chunk,
                            double* partial) {
  __shared__ double shared[kRowLanes][kFeatureLanes];
  const int lane = threadIdx.x % kFeatureLanes, row_lane = threadIdx.x / kFeatureLanes;
  const int64_t chunk = blockIdx.x;
  const int64_t last = (chunk + 1) * rows_per_chunk < rows ? (chunk + 1) * rows_per_chunk : rows;
  for (int64_t first = int64_t(blockIdx.y) * kFeatureLanes; first < call.n_features;
       first += int64_t(gridDim.y) * kFeatureLanes) {
    const int64_t feature = first + lane;
    double sum = 0.0;
    if (feature < call.n_features) {
      for (int64_t row = chunk * rows_per_chunk + row_lane; row < last; row += kRowLanes) {
        T x[kPerThread], grad[kPerThread];
        load_as(call.dtype, call.x, row * call.n_features + feature, 1, x);
        load_as(call.dtype, call.grad, row * call.n_features + feature, 1, grad);
        sum += double(grad[0]) * double(homotopy_quantity<Base, kQuantity>(x[0], Homotopy<T>::from(1.0)));
      }
    }
    shared[row_lane][lane] = sum;
    __syncthreads();
    if (row_lane == 0 && feature < call.n_features) {
      for (int k = 1; k < kRowLanes; ++k) sum += shared[k][lane];
      partial[chunk * call.n_features + feature] = sum;
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

template <typename Base, Quantity kQuantity, typename T>
void launch_gradient(const ActivationCall& call, double* partial, double* grad_s, cudaStream_t stream) {
  int64_t chunks, features = 1;
  if (call.n_features <= 1) {
    chunks = sum_blocks(call.n);
    launch(gradient_sum_kernel<Base, kQuantity, T>, unsigned(chunks), kThreads, stream, call, partial);
  } else {
    features = call.n_features;
    const int64_t rows = call.n / features;
    chunks = row_chunks(rows);
    const int64_t column_blocks = (features + kFeatureLanes - 1) / kFeatureLanes;
    const dim3 grid(unsigned(chunks), unsigned(column_blocks < 65535 ? column_blocks : 65535));
    launch(gradient_columns_kernel<Base, kQuantity, T>, grid, kThreads, stream, call, rows,
           (rows + chunks - 1) / chunks, partial);
  }
  const int64_t blocks = (features + kThreads - 1) / kThreads;
  launch(add_chunks_kernel, unsigned(blocks < 65535 ? blocks : 65535), kThreads, stream, partial, chunks, features,
         grad_s);
}

// Calls launch(base tag, type tag).
template <typename Launch>
void with_base_and_type(const ActivationCall& call, const Launch& launch) {
  with_base(call.base, [&](auto base) {
    if (call.dtype == ScalarKind::kFloat64) return launch(base, double{});
    launch(base, float{});
  });
}

// Eight elements of a thread are one byte of the mask.
template <typename Stored, bool kForward>
__global__ void __launch_bounds__(kThreads) relu_mask_kernel(const __grid_constant__ ReluMaskCall call) {
  using T = Computed<Stored>;
  const int64_t pack = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t i = pack * kPerThread;
  if (i >= call.n) return;
  const int count = call.n - i < kPerThread ? int(call.n - i) : kPerThread;
  T value[kPerThread];
  load_pack(static_cast<const Stored*>(call.input) + i, count, value);
  const Homotopy<T> h = Homotopy<T>::from(call.s_value != nullptr ? *call.s_value : call.s);
  unsigned bits = kForward ? 0u : call.mask[pack];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    if constexpr (kForward) {
      bits |= value[j] > T(0) ? 1u << j : 0u;
      value[j] = homotopy_value<Relu>(value[j], h);
    } else {
      value[j] = (bits >> j & 1u) != 0 ? value[j] : h.linear * value[j];
    }
  }
  store_pack(value, count, static_cast<Stored*>(call.output) + i);
  if constexpr (kForward) call.mask[pack] = uint8_t(bits);
}

template <bool kForward>
const char* launch_relu_mask(const ReluMaskCall& call, int device, void* stream) {
  if (call.n == 0) return nullptr;
  DeviceGuard guard(device);
  const unsigned blocks = blocks_for(call.n);
  switch (call.dtype) {
    case ScalarKind::kFloat16: launch(relu_mask_kernel<Float16, kForward>, blocks, kThreads, stream, call); break;
    case ScalarKind::kBFloat16: launch(relu_mask_kernel<BFloat16, kForward>, blocks, kThreads, stream, call); break;
    case ScalarKind::kFloat32: launch(relu_mask_kernel<float, kForward>, blocks, kThreads, stream, call); break;
    case ScalarKind::kFloat64: launch(relu_mask_kernel<double, kForward>, blocks, kThreads, stream, call); break;
  }
  return launch_error();
}

}  // namespace

const char* transform(const ActivationCall& call, int device, void* stream) {
  if (call.n == 0) return nullptr;
  DeviceGuard guard(device);
  with_base_and_type(call, [&](auto base, auto type) {
    launch_transform<decltype(base), decltype(type)>(call, static_cast<cudaStream_t>(stream));
  });
  return launch_error();
}

const char* relu_mask_forward(const ReluMaskCall& call, int device, void* stream) {
  return launch_relu_mask<true>(call, device, stream);
}

const char* relu_mask_backward(const ReluMaskCall& call, int device, void* stream) {
  return launch_relu_mask<false>(call, device, stream);
}

int64_t parameter_gradient_scratch(int64_t n, int64_t n_features) {
  return n_features <= 1 ? sum_blocks(n) : row_chunks(n / n_features) * n_features;
}

const char* parameter_gradient(const ActivationCall& call, double* partial, double* grad_s, int device, void* stream) {
  DeviceGuard guard(device);
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (call.n == 0) {
    const size_t bytes = size_t(call.n_features > 1 ? call.n_features : 1) * sizeof(double);
    cudaMemsetAsync(grad_s, 0, bytes, queue);
    return launch_error();
  }
  with_base_and_type(call, [&](auto base, auto type) {
    using Base = decltype(base);
    using T = decltype(type);
    if (call.quantity == Quantity::kParameterGradient) {
      launch_gradient<Base, Quantity::kParameterGradient, T>(call, partial, grad_s, queue);
    } else {
      launch_gradient<Base, Quantity::kParameterGradient1, T>(call, partial, grad_s, queue);
    }
  });
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
