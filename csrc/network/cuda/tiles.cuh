// The kernel for more features than a lane holds: a block multiplies tiles that lie in shared memory. Both directions
// are one operation on rows, which are held, and columns, which stream: samples and neurons forward, neurons and
// samples backward. With a number p for each column (a or g) and a vector G (grad_df_dx, backward alone),
//   z_rc = row_r . column_c,  y_rc = row_r . G_c
//   A_r = sum_c p_c sigma(z_rc) + y_rc sigma'(z_rc)
//   H_r = sum_c (p_c sigma'(z_rc) + y_rc sigma''(z_rc)) column_c + sigma'(z_rc) G_c
// which units.cuh calls S and U, or A and H. A tile takes three steps with barriers between: 8 x 16 threads that have a
// few rows and columns each multiply z and y; a thread that has a row and some columns puts the factors of H in their
// place; 8 x 16 threads that have a few rows and features each multiply again. Between multiplications and reads that
// is some 2D + 2D / 3 instructions a pair, and the base, chosen at run time once a tile, its own.
#pragma once

#include "gpu/cooperation.cuh"
#include "network/cuda/plan.cuh"

namespace hrta {
namespace cuda {

constexpr int kTileThreads = 128, kTileHigh = 8, kTileWide = 16;  // as the threads lie over a tile

// `count` elements that are read at once.
template <typename T, int count>
struct alignas(count * sizeof(T) < 16 ? count * sizeof(T) : 16) Pack {
  T at[count];
};

template <typename Result, typename T>
__device__ __forceinline__ Result read_pack(const T* source) {
  return *reinterpret_cast<const Result*>(source);
}

// What lies in a block's shared memory. A float64 tile is a quarter, so that every block fits 96 KB.
template <typename T>
struct TileMemory {
  static constexpr int kVector = 16 / int(sizeof(T));
  static constexpr int kRows = kBlockRows<T>;
  static constexpr int kColumns = kRows;
  static constexpr int kZPitch = kRows + 8;  // of a column of z: 8 rows of 4 columns lie in different banks

  int padded;  // features, with zeros up to a multiple of 4
  int pitch;   // of a row of features: an odd number of 16-byte words, so that 8 rows lie in different banks
  bool sobolev;

  __host__ __device__ TileMemory(int64_t features, bool with_y) : padded((int(features) + 3) / 4 * 4), sobolev(with_y) {
    pitch = (padded / kVector | 1) * kVector;
  }
  __host__ __device__ int columns() const { return kRows * pitch; }
  __host__ __device__ int G() const { return columns() + kColumns * pitch; }
  __host__ __device__ int z() const { return G() + (sobolev ? kColumns * pitch : 0); }
  __host__ __device__ int y() const { return z() + kColumns * kZPitch; }
  __host__ __device__ int p() const { return y() + (sobolev ? kColumns * kZPitch : 0); }
  __host__ __device__ int bytes() const { return (p() + kColumns) * int(sizeof(T)); }
};

// Rows [first, first + kCount) of a (.., features) array, zeros from `end` on and beyond the features.
template <int kCount, int kSteps, typename T>
__device__ __forceinline__ void stage(const T* source, int64_t first, int64_t end, int features,
                                      const TileMemory<T>& memory, T* target) {
  const int high = threadIdx.x / kTileWide, wide = threadIdx.x % kTileWide;
#pragma unroll 2
  for (int r = high; r < kCount; r += kTileThreads / kTileWide) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const int d = wide + kTileWide * k;
      const bool there = d < features && first + r < end;
      const T value = there ? source[(first + r) * features + d] : T(0);
      if (d < memory.padded) target[r * memory.pitch + d] = value;
    }
  }
}

// target_rc = row_r . column_c.
template <typename T>
__device__ __forceinline__ void multiply_rows(const T* rows, const T* columns, const TileMemory<T>& memory, T* target) {
  using Memory = TileMemory<T>;
  using Vector = Pack<T, Memory::kVector>;
  constexpr int kHeld = Memory::kRows / kTileHigh, kStreamed = Memory::kColumns / kTileWide;
  const int high = threadIdx.x % kTileHigh, wide = threadIdx.x / kTileHigh;
  T sums[kHeld][kStreamed] = {};
#pragma unroll 1
  for (int d = 0; d < memory.padded; d += Memory::kVector) {
    Vector column[kStreamed];
#pragma unroll
    for (int c = 0; c < kStreamed; ++c) {
      column[c] = read_pack<Vector>(columns + (wide + kTileWide * c) * memory.pitch + d);
    }
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const Vector row = read_pack<Vector>(rows + (high + kTileHigh * r) * memory.pitch + d);
#pragma unroll
      for (int v = 0; v < Memory::kVector; ++v) {
#pragma unroll
        for (int c = 0; c < kStreamed; ++c) sums[r][c] = multiply_add(row.at[v], column[c].at[v], sums[r][c]);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kStreamed; ++c) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      target[(wide + kTileWide * c) * Memory::kZPitch + high + kTileHigh * r] = sums[r][c];
    }
  }
}

// The rows of a thread in add_product.
template <typename T>
__device__ __forceinline__ int product_row(int r) {
  constexpr int kVector = TileMemory<T>::kVector;
  return kVector * (int(threadIdx.x) % kTileHigh) + kTileHigh * kVector * (r / kVector) + r % kVector;
}

// sums_rd += sum_c factor_rc column_cd for the thread's kHeld rows and kWide features.
template <typename T, int kHeld, int kWide>
__device__ __forceinline__ void add_product(const T* factors, const T* columns, const TileMemory<T>& memory,
                                            T (&sums)[kHeld][kWide]) {
  using Memory = TileMemory<T>;
  constexpr int kVector = Memory::kVector;
  const int feature = threadIdx.x / kTileHigh * kWide;
  if (feature >= memory.padded) return;
#pragma unroll 2
  for (int c = 0; c < Memory::kColumns; ++c) {
    const auto column = read_pack<Pack<T, kWide>>(columns + c * memory.pitch + feature);
#pragma unroll
    for (int r = 0; r < kHeld; r += kVector) {
      const auto factor = read_pack<Pack<T, kVector>>(factors + c * Memory::kZPitch + product_row<T>(r));
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
#pragma unroll
        for (int d = 0; d < kWide; ++d) {
          sums[r + v][d] = multiply_add(factor.at[v], column.at[d], sums[r + v][d]);
        }
      }
    }
  }
}

// One row's part of a tile: puts the factors of H where z and y were, and returns its share of A. Columns from `count`
// on are none: an infinite row would make NaN of their zeros.
template <typename Base, bool kFactors, bool kExcess, typename T>
__device__ __forceinline__ T apply_base(const TileMemory<T>& memory, int count, const T* p, T* z, T* y) {
  using Memory = TileMemory<T>;
  constexpr int kAtOnce = 4, kStep = kTileThreads / Memory::kRows;
  const int row = threadIdx.x % Memory::kRows;
  T sum = T(0);
#pragma unroll 1
  for (int first = threadIdx.x / Memory::kRows; first < Memory::kColumns; first += kAtOnce * kStep) {
    T at[kAtOnce], value[kAtOnce], slope[kAtOnce], curvature[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) at[j] = z[(first + j * kStep) * Memory::kZPitch + row];
    if constexpr (kExcess) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) value[j] = homotopy_parameter_gradient<Base>(at[j]);
    } else if (kFactors && memory.sobolev) {
      evaluate_base<Base>(at, value, slope, curvature);
    } else {
      evaluate_base<Base>(at, value, kFactors ? slope : nullptr, static_cast<T*>(nullptr));
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int c = first + j * kStep, place = c * Memory::kZPitch + row;
      const bool there = c < count;
      if (there) sum = multiply_add(p[c], value[j], sum);
      if constexpr (kFactors) {
        T factor = p[c] * slope[j];
        if (memory.sobolev) {
          const T along = y[place];
          if (there) sum = multiply_add(along, slope[j], sum);
          factor = multiply_add(along, curvature[j], factor);
          y[place] = there ? slope[j] : T(0);
        }
        z[place] = there ? factor : T(0);
      }
    }
  }
  return sum;
}

// Where a block's sums go.
template <typename T>
struct ForwardSums {
  const ForwardWork& work;
  int64_t network, chunk;

  __device__ void store(int64_t sample, int64_t sums, int64_t at, double sum) const {
    work.sums[((network * work.call.n + sample) * sums + at) * work.chunks + chunk] = sum;
  }
  __device__ void product(int64_t sample, int d, double U) const { store(sample, 1 + work.call.features, 1 + d, U); }
  template <bool kProduct>
  __device__ void sum(int64_t sample, const T*, double S) const {
    store(sample, kProduct ? 1 + work.call.features : 1, 0, S);
  }
};

template <typename T>
struct BackwardSums {
  const BackwardWork& work;
  int64_t network, split;
  const Finish finish;

  __device__ BackwardSums(const BackwardWork& work_, int64_t network_, int64_t split_)
      : work(work_), network(network_), split(split_), finish(work_.call) {}
  __device__ double& partial(int64_t k, int64_t at) const {
    return work.partial[(split * work.call.networks * work.call.width + k) * (work.call.features + 1) + at];
  }
  __device__ void product(int64_t neuron, int d, double H) const {
    const int64_t k = network * work.call.width + neuron;
    if (work.splits > 1) {
      partial(k, d) = H;
      return;
    }
    const double a = double(static_cast<const T*>(work.call.output_weight)[k]);
    finish.weight<T>(work, k, d, a, work.everywhere[network * work.call.features + d], H);
  }
  template <bool>
  __device__ void sum(int64_t neuron, const T* w, double A) const {
    const int64_t k = network * work.call.width + neuron;
    if (work.splits > 1) {
      partial(k, work.call.features) = A;
      return;
    }
    double of_R = 0;
    for (int d = 0; d < int(work.call.features); ++d) {
      of_R += double(w[d]) * work.everywhere[network * work.call.features + d];
    }
    finish.output_weight<T>(work, k, of_R, A);
  }
};

// Calls body(kWide as a constant) for a number of features.
template <typename Body>
void with_tile_width(int64_t features, const Body& body) {
  static_assert(kMostFeatures == 4 * kTileWide);
  if (features <= kTileWide) return body(std::integral_constant<int, 1>{});
  if (features <= 2 * kTileWide) return body(std::integral_constant<int, 2>{});
  body(std::integral_constant<int, 4>{});
}

// kWide: features of a thread, of which a row has at most 16 kWide; 0 for A alone.
template <typename T, int kWide, typename Work>
__global__ void __launch_bounds__(kTileThreads, (kWide == 4 ? 3 : 4) - (sizeof(T) == 8))
    tile_kernel(const __grid_constant__ Work work) {
  using Memory = TileMemory<T>;
  constexpr bool kForward = std::is_same_v<Work, ForwardWork>, kProduct = kWide != 0, kNarrow = sizeof(T) == 4;
  constexpr int kHeld = Memory::kRows / kTileHigh, kOutputs = kProduct ? kWide : 1, kSteps = kProduct ? kWide : 4;
  if (stopped(work.done)) return;
  const TwoLayerCall& call = work.call;
  const int features = int(call.features);
  const int64_t group = blockIdx.x % work.groups, part = blockIdx.x / work.groups % work.parts();
  const int64_t network = blockIdx.x / (work.groups * work.parts());
  const T* x = static_cast<const T*>(call.x);
  const T* weight = static_cast<const T*>(call.weight) + network * call.width * features;
  const T *p_source = nullptr, *G_source = nullptr;
  int64_t length;
  if constexpr (kForward) {
    p_source = static_cast<const T*>(call.output_weight) + network * call.width;
    length = work.chunk_neurons;
  } else {
    if (work.gradients.grad_f != nullptr) p_source = static_cast<const T*>(work.gradients.grad_f) + network * call.n;
    if (work.gradients.grad_df_dx != nullptr) {
      G_source = static_cast<const T*>(work.gradients.grad_df_dx) + network * call.n * features;
    }
    length = work.split_samples;
  }
  const int64_t row_count = kForward ? call.n : call.width, column_count = kForward ? call.width : call.n;
  const int64_t begin = part * length, end = begin + length < column_count ? begin + length : column_count;
  const int64_t first_row = group * Memory::kRows;

  const Memory memory(features, G_source != nullptr);
  T* rows = reinterpret_cast<T*>(shared_memory());
  T *columns = rows + memory.columns(), *G = rows + memory.G(), *z = rows + memory.z(), *y = rows + memory.y(),
    *p = rows + memory.p();
  stage<Memory::kRows, kSteps>(kForward ? x : weight, first_row, row_count, features, memory, rows);
  T H[kHeld][kOutputs] = {};
  double H_total[kHeld][kOutputs] = {}, A_total = 0, linear = 0;
  for (int64_t first = begin; first < end; first += Memory::kColumns) {
    const int count = end - first < Memory::kColumns ? int(end - first) : Memory::kColumns;
    __syncthreads();  // what the last tile read is replaced
    stage<Memory::kColumns, kSteps>(kForward ? weight : x, first, end, features, memory, columns);
    if (memory.sobolev) stage<Memory::kColumns, kSteps>(G_source, first, end, features, memory, G);
    for (int c = threadIdx.x; c < Memory::kColumns; c += kTileThreads) {
      p[c] = p_source != nullptr && first + c < end ? p_source[first + c] : T(0);
    }
    __syncthreads();
    if (kForward && group == 0 && int(threadIdx.x) < features) {
      for (int c = 0; c < Memory::kColumns; ++c) {
        linear += double(p[c]) * double(columns[c * memory.pitch + int(threadIdx.x)]);
      }
    }
    multiply_rows(rows, columns, memory, z);
    if (memory.sobolev) multiply_rows(rows, G, memory, y);
    __syncthreads();
    with_base(call.base, [&](auto tag) {
      using Base = decltype(tag);
      if constexpr (kForward && !kProduct) {
        if (work.excess) {
          A_total += double(apply_base<Base, false, true>(memory, count, p, z, y));
          return;
        }
      }
      A_total += double(apply_base<Base, kProduct, false>(memory, count, p, z, y));
    });
    if constexpr (kProduct) {
      __syncthreads();
      add_product(z, columns, memory, H);
      if (memory.sobolev) add_product(y, G, memory, H);
      if constexpr (kNarrow) {
#pragma unroll
        for (int r = 0; r < kHeld; ++r) {
#pragma unroll
          for (int d = 0; d < kOutputs; ++d) {
            H_total[r][d] += double(H[r][d]);
            H[r][d] = T(0);
          }
        }
      }
    }
  }

  // Through the shared memory of columns and z, for stores in the order of memory.
  double *products = reinterpret_cast<double*>(columns), *shares = products + Memory::kRows * features;
  const std::conditional_t<kForward, ForwardSums<T>, BackwardSums<T>> sums{work, network, part};
  const int held = row_count - first_row < Memory::kRows ? int(row_count - first_row) : Memory::kRows;
  __syncthreads();
  shares[threadIdx.x] = A_total;
  if constexpr (kProduct) {
    const int feature = threadIdx.x / kTileHigh * kWide;
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
#pragma unroll
      for (int d = 0; d < kWide; ++d) {
        if (feature + d >= features) continue;
        products[product_row<T>(r) * features + feature + d] = kNarrow ? H_total[r][d] : double(H[r][d]);
      }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < held * features; at += kTileThreads) {
      sums.product(first_row + at / features, at % features, products[at]);
    }
  }
  __syncthreads();  // an output weight is updated after the last read of what it was
  if (int(threadIdx.x) < held) {
    double sum = 0;
    for (int k = threadIdx.x; k < kTileThreads; k += Memory::kRows) sum += shares[k];
    sums.template sum<kProduct>(first_row + threadIdx.x, rows + threadIdx.x * memory.pitch, sum);
  }
  if constexpr (kForward) {
    if (group == 0 && int(threadIdx.x) < features) {
      work.linear[(network * features + threadIdx.x) * work.chunks + part] = linear;
    }
  }
}

template <typename T>
template <int kWide, typename Work>
void TileKernels<T>::run(const Work& work, bool sobolev, void* stream) {
  const Shape shape{dim3(unsigned(work.items())), kTileThreads,
                    size_t(TileMemory<T>(work.call.features, sobolev).bytes())};
  launch(tile_kernel<T, kWide, Work>, shape, stream, work);
}

template <typename T>
void TileKernels<T>::forward(const ForwardWork& work, bool with_gradient, void* stream) {
  if (!with_gradient) return run<0>(work, false, stream);
  with_tile_width(work.call.features, [&](auto wide) { run<decltype(wide)::value>(work, false, stream); });
}

template <typename T>
void TileKernels<T>::backward(const BackwardWork& work, void* stream) {
  const bool sobolev = work.gradients.grad_df_dx != nullptr;
  with_tile_width(work.call.features, [&](auto wide) { run<decltype(wide)::value>(work, sobolev, stream); });
}

}  // namespace cuda
}  // namespace hrta
