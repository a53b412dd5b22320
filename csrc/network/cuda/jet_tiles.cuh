// The jet's kernel for more features than a lane holds, or several numbers of `second`: as in tiles.cuh a block holds
// rows and columns stream past them, samples and neurons forward, neurons and samples backward. V belongs to the
// neurons, h = grad_second and G = grad_df_dx to the samples, p is a or g:
//   z_rc = row_r . column_c, backward y_rc = row_r . G_c and t_rc = V_r . h_c too
//   forward:  A_r = sum_c p_c sigma, H_r = sum_c p_c sigma' column_c, Q_r = sum_c p_c sigma'' V_c
//   backward: A_r = sum_c p_c sigma + y sigma' + t sigma'', Q_r = sum_c sigma'' h_c,
//             H_r = sum_c (p_c sigma' + y sigma'' + t sigma''') column_c + sigma' G_c
// which units.cuh calls S, U and T, or A and H, to which Q comes by the derivatives of V in w. A tile takes two steps
// with barriers between: 8 x 16 threads that have a few rows and columns each multiply, apply the base to what they
// have in registers and put the factors of H and Q into shared memory; 8 x 16 threads that have a few rows, and
// features of H or numbers of Q, each multiply again.
#pragma once

#include "network/cuda/tiles.cuh"

namespace hrta {
namespace cuda {

// What lies in a block's shared memory: at most 82 KB.
template <typename T>
struct JetMemory {
  static constexpr int kVector = 16 / int(sizeof(T));
  static constexpr int kRows = kJetRows, kColumns = sizeof(T) == 4 ? 32 : 16;
  static constexpr int kHeld = kRows / kTileHigh, kStreamed = kColumns / kTileWide;  // a thread's
  static constexpr int kPitch = kRows + 8;  // of a column of factors: 8 rows of 4 columns lie in different banks

  int features, seconds;  // with zeros up to whole shares of a thread; the numbers of V or h stand behind the features
  int pitch;              // of a row: an odd number of 16-byte words, so that 8 rows lie in different banks
  bool sobolev;

  // `wide`: features or numbers of a thread in the last step.
  __host__ __device__ JetMemory(int64_t features_, int seconds_, int wide, bool sobolev_)
      : features(padded(int(features_), wide)), seconds(padded(seconds_, wide)), sobolev(sobolev_) {
    pitch = ((features + seconds) / kVector | 1) * kVector;
  }
  __host__ __device__ static int padded(int count, int wide) {
    const int whole = wide < 4 ? 4 : wide;
    return (count + whole - 1) / whole * whole;
  }
  __host__ __device__ int columns() const { return kRows * pitch; }
  __host__ __device__ int G() const { return columns() + kColumns * pitch; }
  __host__ __device__ int factor() const { return G() + (sobolev ? kColumns * pitch : 0); }
  __host__ __device__ int curvature() const { return factor() + kColumns * kPitch; }
  __host__ __device__ int slope() const { return curvature() + kColumns * kPitch; }
  __host__ __device__ int p() const { return slope() + (sobolev ? kColumns * kPitch : 0); }
  // At the end, in doubles from columns() on: H and Q, then what each thread has of A.
  __host__ __device__ int sums() const { return features + seconds + 1; }  // of a row; odd, for the banks
  __host__ __device__ int bytes() const {
    const int work = (p() + kColumns) * int(sizeof(T));
    const int results = columns() * int(sizeof(T)) + kRows * (sums() + kTileWide) * int(sizeof(double));
    return work > results ? work : results;
  }
};

// The least compiled number of features or numbers of a thread with which 16 threads hold a row: 1, 2 or 8; in float64,
// where the base is most of the work, 2 or 8.
template <typename T, int kWide = sizeof(T) == 4 ? 1 : 2, typename Body>
void with_jet_width(int64_t features, int seconds, const Body& body) {
  if constexpr (kWide < 8) {
    const JetMemory<T> memory(features, seconds, kWide, false);
    if (memory.features + memory.seconds > kWide * kTileWide) {
      return with_jet_width<T, kWide == 1 ? 2 : 8>(features, seconds, body);
    }
  }
  body(std::integral_constant<int, kWide>{});
}
static_assert(kMostFeatures + kMostQuadratic == 8 * kTileWide);

// The products of which V is made, in the order of its numbers; a Laplacian has them all in one number.
struct Products {
  uint8_t first[kMostFeatures], other[kMostFeatures];
  int count;
};

// Rows [first, first + kCount) of a (.., features) array, zeros from `end` on and up to `padded`.
template <int kCount, typename T>
__device__ __forceinline__ void stage_rows(const T* source, int64_t first, int64_t end, int features, int padded,
                                           int pitch, T* target) {
  const int high = threadIdx.x / kTileWide, wide = threadIdx.x % kTileWide;
  for (int d = wide; d < padded; d += kTileWide) {
#pragma unroll
    for (int r = high; r < kCount; r += kTileHigh) {
      target[r * pitch + d] = d < features && first + r < end ? source[(first + r) * features + d] : T(0);
    }
  }
}

// V behind the weights that stage_rows put there; by the same half warps, so that no other thread has to be waited for.
template <int kCount, typename T>
__device__ __forceinline__ void stage_quadratic(const Products& products, bool laplacian, const JetMemory<T>& memory,
                                                T* target) {
  const int high = threadIdx.x / kTileWide, wide = threadIdx.x % kTileWide;
  __syncwarp();
  if (laplacian) {
    if (wide >= kCount / kTileHigh) return;
    T* w = target + (high + kTileHigh * wide) * memory.pitch;
    T sum = T(0);
    for (int i = 0; i < products.count; ++i) sum = multiply_add(w[products.first[i]], w[products.first[i]], sum);
    for (int r = 0; r < memory.seconds; ++r) w[memory.features + r] = r == 0 ? sum : T(0);
    return;
  }
  for (int r = wide; r < memory.seconds; r += kTileWide) {
    const bool there = r < products.count;
    const int c = there ? products.first[r] : 0, other = there ? products.other[r] : 0;
#pragma unroll
    for (int row = high; row < kCount; row += kTileHigh) {
      T* w = target + row * memory.pitch;
      w[memory.features + r] = there ? w[c] * w[other] : T(0);
    }
  }
}

// A thread's products_cr = row_r . column_c over `length` numbers.
template <typename T>
__device__ __forceinline__ void multiply_jet_rows(const T* rows, const T* columns, int length, int pitch,
                                                  T (&products)[JetMemory<T>::kStreamed][JetMemory<T>::kHeld]) {
  using Memory = JetMemory<T>;
  using Vector = Pack<T, Memory::kVector>;
  const int high = threadIdx.x % kTileHigh, wide = threadIdx.x / kTileHigh;
#pragma unroll
  for (int c = 0; c < Memory::kStreamed; ++c) {
#pragma unroll
    for (int r = 0; r < Memory::kHeld; ++r) products[c][r] = T(0);
  }
#pragma unroll 1
  for (int d = 0; d < length; d += Memory::kVector) {
    Vector column[Memory::kStreamed];
#pragma unroll
    for (int c = 0; c < Memory::kStreamed; ++c) {
      column[c] = read_pack<Vector>(columns + (wide + kTileWide * c) * pitch + d);
    }
#pragma unroll
    for (int r = 0; r < Memory::kHeld; ++r) {
      const Vector row = read_pack<Vector>(rows + (high + kTileHigh * r) * pitch + d);
#pragma unroll
      for (int v = 0; v < Memory::kVector; ++v) {
#pragma unroll
        for (int c = 0; c < Memory::kStreamed; ++c) {
          products[c][r] = multiply_add(row.at[v], column[c].at[v], products[c][r]);
        }
      }
    }
  }
}

// sums_rd += sum_c factor_rc column_cd for the thread's rows and its features or numbers, which begin at `columns`.
template <typename T, int kHeld, int kWide>
__device__ __forceinline__ void add_jet_product(const T* factors, const T* columns, int pitch,
                                                T (&sums)[kHeld][kWide]) {
  using Memory = JetMemory<T>;
  constexpr int kVector = Memory::kVector;
#pragma unroll 2
  for (int c = 0; c < Memory::kColumns; ++c) {
    const auto column = read_pack<Pack<T, kWide>>(columns + c * pitch);
#pragma unroll
    for (int r = 0; r < kHeld; r += kVector) {
      const auto factor = read_pack<Pack<T, kVector>>(factors + c * Memory::kPitch + product_row<T>(r));
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

// Adds the thread's pairs to A and puts their factors into shared memory. Columns from `count` on are none: an infinite
// row would make NaN of their zeros.
template <typename Base, bool kForward, typename T, typename Sums, typename Pairs>
__device__ __forceinline__ void apply_jet(const JetMemory<T>& memory, int count, const T* p, const Pairs& z,
                                          const Pairs& y, const Pairs& t, T* shared, Sums& A) {
  using Memory = JetMemory<T>;
  const int high = threadIdx.x % kTileHigh, wide = threadIdx.x / kTileHigh;
#pragma unroll
  for (int c = 0; c < Memory::kStreamed; ++c) {
    const int column = wide + kTileWide * c;
    const bool there = column < count;
    T value[Memory::kHeld], slope[Memory::kHeld], curvature[Memory::kHeld], third[Memory::kHeld];
    evaluate_jet<Base>(z[c], value, slope, curvature, kForward ? nullptr : third);
#pragma unroll
    for (int r = 0; r < Memory::kHeld; ++r) {
      const int place = column * Memory::kPitch + high + kTileHigh * r;
      T sum = p[column] * value[r], factor = p[column] * slope[r], of_second = curvature[r];
      if constexpr (kForward) {
        of_second *= p[column];
      } else {
        sum = multiply_add(t[c][r], curvature[r], sum);
        factor = multiply_add(t[c][r], third[r], factor);
        if (memory.sobolev) {
          sum = multiply_add(y[c][r], slope[r], sum);
          factor = multiply_add(y[c][r], curvature[r], factor);
          shared[memory.slope() + place] = there ? slope[r] : T(0);
        }
      }
      if (there) A[r] += sum;
      shared[memory.factor() + place] = there ? factor : T(0);
      shared[memory.curvature() + place] = there ? of_second : T(0);
    }
  }
}

template <typename T, int kWide, typename Work>
__global__ void __launch_bounds__(kTileThreads, kWide == 8       ? 2
                                                : sizeof(T) == 8 ? 3
                                                                 : 4) jet_kernel(const __grid_constant__ Work work) {
  using Memory = JetMemory<T>;
  constexpr bool kForward = std::is_same_v<Work, ForwardWork>, kNarrow = sizeof(T) == 4;
  constexpr int kHeld = Memory::kHeld, kTotals = kNarrow ? kWide : 1;
  __shared__ Products products;
  const TwoLayerCall& call = work.call;
  const int features = int(call.features), seconds = quadratic_features(work.derivatives);
  const bool laplacian = work.derivatives.form == SecondForm::kLaplacian;
  const int64_t group = blockIdx.x % work.groups, part = blockIdx.x / work.groups % work.parts();
  const int64_t network = blockIdx.x / (work.groups * work.parts());
  const T* x = static_cast<const T*>(call.x);
  const T* weight = static_cast<const T*>(call.weight) + network * call.width * features;
  const T *p_source = nullptr, *G_source = nullptr, *h_source = nullptr;
  int64_t length;
  if constexpr (kForward) {
    p_source = static_cast<const T*>(call.output_weight) + network * call.width;
    length = work.chunk_neurons;
  } else {
    if (work.gradients.grad_f != nullptr) p_source = static_cast<const T*>(work.gradients.grad_f) + network * call.n;
    if (work.gradients.grad_df_dx != nullptr) {
      G_source = static_cast<const T*>(work.gradients.grad_df_dx) + network * call.n * features;
    }
    h_source = static_cast<const T*>(work.grad_second) + network * call.n * seconds;
    length = work.split_samples;
  }
  const int64_t row_count = kForward ? call.n : call.width, column_count = kForward ? call.width : call.n;
  const int64_t begin = part * length, end = begin + length < column_count ? begin + length : column_count;
  const int64_t first_row = group * Memory::kRows;
  const int high = threadIdx.x % kTileHigh, wide = threadIdx.x / kTileHigh;
  const Memory memory(features, seconds, kWide, G_source != nullptr);
  T* rows = reinterpret_cast<T*>(shared_memory());
  T *columns = rows + memory.columns(), *G = rows + memory.G(), *p = rows + memory.p();

  if (threadIdx.x == 0) {
    int count = 0;
    over_products(work.derivatives, [&](int, int c, int other) {
      products.first[count] = uint8_t(c), products.other[count] = uint8_t(other);
      ++count;
    });
    products.count = count;
  }
  __syncthreads();
  stage_rows<Memory::kRows>(kForward ? x : weight, first_row, row_count, features, memory.features, memory.pitch, rows);
  if constexpr (!kForward) stage_quadratic<Memory::kRows>(products, laplacian, memory, rows);
  T H[kHeld][kWide] = {}, A[kHeld] = {};  // H, or Q where the thread's share lies behind the features
  double H_total[kHeld][kTotals] = {}, A_total[kHeld] = {}, linear = 0;
  const int share = wide * kWide;
  for (int64_t first = begin; first < end; first += Memory::kColumns) {
    const int count = end - first < Memory::kColumns ? int(end - first) : Memory::kColumns;
    __syncthreads();  // what the last tile read is replaced
    stage_rows<Memory::kColumns>(kForward ? weight : x, first, end, features, memory.features, memory.pitch, columns);
    if constexpr (kForward) {
      stage_quadratic<Memory::kColumns>(products, laplacian, memory, columns);
    } else {
      stage_rows<Memory::kColumns>(h_source, first, end, seconds, memory.seconds, memory.pitch,
                                   columns + memory.features);
      if (memory.sobolev) {
        stage_rows<Memory::kColumns>(G_source, first, end, features, memory.features, memory.pitch, G);
      }
    }
    if (int(threadIdx.x) < Memory::kColumns) {
      const int64_t column = first + threadIdx.x;
      p[threadIdx.x] = p_source != nullptr && column < end ? p_source[column] : T(0);
    }
    __syncthreads();
    if (kForward && group == 0 && int(threadIdx.x) < features) {
      for (int c = 0; c < Memory::kColumns; ++c) {
        linear += double(p[c]) * double(columns[c * memory.pitch + int(threadIdx.x)]);
      }
    }
    T z[Memory::kStreamed][kHeld], y[Memory::kStreamed][kHeld], t[Memory::kStreamed][kHeld];
    multiply_jet_rows(rows, columns, memory.features, memory.pitch, z);
    if constexpr (!kForward) {
      multiply_jet_rows(rows + memory.features, columns + memory.features, memory.seconds, memory.pitch, t);
      if (memory.sobolev) multiply_jet_rows(rows, G, memory.features, memory.pitch, y);
    }
    with_base(call.base, [&](auto tag) { apply_jet<decltype(tag), kForward>(memory, count, p, z, y, t, rows, A); });
    __syncthreads();
    if (share < memory.features) {
      add_jet_product(rows + memory.factor(), columns + share, memory.pitch, H);
      if (memory.sobolev) add_jet_product(rows + memory.slope(), G + share, memory.pitch, H);
    } else if (share < memory.features + memory.seconds) {
      add_jet_product(rows + memory.curvature(), columns + share, memory.pitch, H);
    }
    // Every other tile: conversions are slow.
    if (kNarrow && ((first - begin) / Memory::kColumns % 2 != 0 || first + Memory::kColumns >= end)) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
#pragma unroll
        for (int d = 0; d < kTotals; ++d) {
          H_total[r][d] += double(H[r][d]);
          H[r][d] = T(0);
        }
        A_total[r] += double(A[r]);
        A[r] = T(0);
      }
    }
  }

  // Through the shared memory of columns and factors, for stores in the order of memory.
  double *results = reinterpret_cast<double*>(columns), *shares = results + Memory::kRows * memory.sums();
  const int held = row_count - first_row < Memory::kRows ? int(row_count - first_row) : Memory::kRows;
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kHeld; ++r) {
    shares[(high + kTileHigh * r) * kTileWide + wide] = kNarrow ? A_total[r] : double(A[r]);
#pragma unroll
    for (int d = 0; d < kWide; ++d) {
      if (share + d >= memory.features + memory.seconds) continue;
      results[product_row<T>(r) * memory.sums() + share + d] = kNarrow ? H_total[r][d % kTotals] : double(H[r][d]);
    }
  }
  __syncthreads();
  double A_row = 0;
  if (int(threadIdx.x) < held) {
    for (int k = 0; k < kTileWide; ++k) A_row += shares[threadIdx.x * kTileWide + k];
    if constexpr (!kForward) {
      double* H_row = results + threadIdx.x * memory.sums();
      const T* w = rows + threadIdx.x * memory.pitch;
      for (int i = 0; i < products.count; ++i) {
        const double Q = H_row[memory.features + (laplacian ? 0 : i)];
        H_row[products.first[i]] += double(w[products.other[i]]) * Q;
        H_row[products.other[i]] += double(w[products.first[i]]) * Q;
      }
    }
  }
  __syncthreads();
  if constexpr (kForward) {
    const int sums = 1 + seconds + features;
    auto target = [&](int64_t row, int at) -> double& {
      return work.sums[((network * call.n + first_row + row) * sums + at) * work.chunks + part];
    };
    for (int at = threadIdx.x; at < held * (sums - 1); at += kTileThreads) {
      const int row = at / (sums - 1), which = at % (sums - 1);
      const int place = which < seconds ? memory.features + which : which - seconds;
      target(row, 1 + which) = results[row * memory.sums() + place];
    }
    if (int(threadIdx.x) < held) target(threadIdx.x, 0) = A_row;
    if (group == 0 && int(threadIdx.x) < features) {
      work.linear[(network * features + threadIdx.x) * work.chunks + part] = linear;
    }
  } else {
    const BackwardSums<T> sums{work, network, part};
    for (int at = threadIdx.x; at < held * features; at += kTileThreads) {
      sums.product(first_row + at / features, at % features, results[at / features * memory.sums() + at % features]);
    }
    if (int(threadIdx.x) < held) {
      sums.template sum<true>(first_row + threadIdx.x, rows + threadIdx.x * memory.pitch, A_row);
    }
  }
}

template <typename T>
template <typename Work>
void JetTileKernels<T>::run(const Work& work, bool sobolev, void* stream) {
  const int seconds = quadratic_features(work.derivatives);
  with_jet_width<T>(work.call.features, seconds, [&](auto wide) {
    constexpr int kWide = decltype(wide)::value;
    const JetMemory<T> memory(work.call.features, seconds, kWide, sobolev);
    const Shape shape{dim3(unsigned(work.items())), kTileThreads, size_t(memory.bytes())};
    launch(jet_kernel<T, kWide, Work>, shape, stream, work);
  });
}

template <typename T>
void JetTileKernels<T>::forward(const ForwardWork& work, bool, void* stream) {
  run(work, false, stream);
}

template <typename T>
void JetTileKernels<T>::backward(const BackwardWork& work, void* stream) {
  run(work, work.gradients.grad_df_dx != nullptr, stream);
}

}  // namespace cuda
}  // namespace hrta
