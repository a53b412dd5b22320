// Kernels of infinitely wide networks: from samples to the results at every s in one launch, a tile of 32 by 32 entries
// a block. Beside the results nothing of size n n2 is in memory; what bounds it is float64 arithmetic, or for many s
// the writes. Of a symmetric result the tiles on and above the diagonal are computed, and written twice.
#include "gpu/cooperation.cuh"
#include "ntk/infinite.h"

namespace hrta {
namespace cuda {
namespace {

constexpr int kTile = 32, kFeatures = 32;
constexpr int kRowsApart = kThreads / kTile;  // a thread has one column, and rows that far apart
constexpr int kEntries = kTile / kRowsApart;  // of a thread
constexpr int kPitch = kTile + 1;             // columns are read as well as rows
constexpr int kSquare = kTile * kPitch;

// Dynamic shared memory. The last part is one thing after the other: features, then a mixture's sides or what a deep
// network carries from layer to layer.
struct Memory {
  double* inner;                        // kSquare: x . y
  double *apart, *together;             // of the pairs; in a shallow network then the moments
  double *norm, *norm2, *mean, *mean2;  // kTile each, before the first layer
  double* rest;
};

constexpr int kFixed = 3 * kSquare + 4 * kTile;

__device__ Memory memory_of_block() {
  double* at = reinterpret_cast<double*>(shared_memory());
  double* links = at + 3 * kSquare;
  return {at,
          at + kSquare,
          at + 2 * kSquare,
          links,
          links + kTile,
          links + 2 * kTile,
          links + 3 * kTile,
          links + 4 * kTile};
}

struct Place {
  int64_t row, column;  // of the tile's first entry
  bool triangle;        // on the diagonal of a symmetric result
};

__device__ Place place_of(const InfiniteCall& call, int64_t task) {
  const int64_t columns = (call.n2 + kTile - 1) / kTile;
  int64_t row, column;
  if (call.same) {  // rows of columns, columns - 1, ... tiles
    const double twice = double(2 * columns + 1);
    row = int64_t(0.5 * (twice - square_root(at_least(twice * twice - 8.0 * double(task), 0.0))));
    const auto before = [&](int64_t r) { return r * columns - r * (r - 1) / 2; };
    while (row > 0 && before(row) > task) --row;
    while (before(row + 1) <= task) ++row;
    column = row + task - before(row);
  } else {
    row = task / columns, column = task - row * columns;
  }
  return {row * kTile, column * kTile, call.same && row == column};
}

// In shared memory: it lives as long as the block, and in registers some kernels would spill.
__device__ const Place& place_of_block(const InfiniteCall& call) {
  __shared__ Place place;
  if (threadIdx.x == 0) place = place_of(call, blockIdx.x);
  __syncthreads();
  return place;
}

__device__ int row_of(int entry) {
  return int(threadIdx.x) / kTile + entry * kRowsApart;
}

// Whether the tile's entry (i, j) is computed; what is below the diagonal is a copy.
__device__ bool wanted(const InfiniteCall& call, const Place& place, int i, int j) {
  return place.row + i < call.n && place.column + j < call.n2 && (!place.triangle || i <= j);
}

// What a chain says of the tile's samples; those beyond the last repeat it.
__device__ void load_links(const InfiniteCall& call, const Place& place, const Memory& memory) {
  const int part = int(threadIdx.x) / kTile, i = int(threadIdx.x) % kTile;
  if (part < 4) {
    const bool second = part % 2 != 0, mean = part >= 2;
    const int64_t n = second ? call.n2 : call.n, at = (second ? place.column : place.row) + i;
    const double* chain = second ? call.chain2 : call.chain;
    memory.norm[part * kTile + i] = chain[(mean ? n : 0) + (at < n ? at : n - 1)];
  }
}

// Inner products and distances of directions, as on the CPU: differences first.
__device__ void measure(const InfiniteCall& call, const Place& place, const Memory& memory) {
  const int tid = int(threadIdx.x), column = tid % kTile;
  double* rows = memory.rest;  // (kFeatures, kPitch)
  double* columns = rows + kFeatures * kPitch;
  double inner[kEntries] = {}, apart[kEntries] = {}, together[kEntries] = {}, inverse[kEntries];
  const auto inverse_norm = [](double norm) { return 1.0 / at_least(norm, 1e-300); };
  for (int e = 0; e < kEntries; ++e) inverse[e] = inverse_norm(memory.norm[row_of(e)]);
  const double inverse2 = inverse_norm(memory.norm2[column]);
  for (int64_t begin = 0; begin < call.D; begin += kFeatures) {
    const int count = int(call.D - begin < kFeatures ? call.D - begin : kFeatures);
    if (begin > 0) __syncthreads();
    for (int at = tid; at < kTile * count; at += kThreads) {
      const int i = at / count, d = at - i * count;
      const int64_t row = place.row + i, column = place.column + i;
      rows[d * kPitch + i] = row < call.n ? call.x[row * call.D + begin + d] : 0.0;
      columns[d * kPitch + i] = column < call.n2 ? call.x2[column * call.D + begin + d] : 0.0;
    }
    __syncthreads();
    for (int d = 0; d < count; ++d) {
      const double y = columns[d * kPitch + column], v = y * inverse2;
#pragma unroll
      for (int e = 0; e < kEntries; ++e) {
        const double x = rows[d * kPitch + row_of(e)], u = x * inverse[e], minus = u - v, plus = u + v;
        inner[e] = fma(x, y, inner[e]);
        apart[e] = fma(minus, minus, apart[e]);
        together[e] = fma(plus, plus, together[e]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kEntries; ++e) {
    const int at = row_of(e) * kPitch + column;
    memory.inner[at] = inner[e], memory.apart[at] = apart[e], memory.together[at] = together[e];
  }
  __syncthreads();  // `rest` is free
}

template <typename Sums>
__device__ Moments mixture_moments(const SamplePair& pair, const Widths& widths, const Side* sides) {
  const double cosine = cosine_of(pair), acute = absolute(cosine), sine2 = 4.0 * pair.apart * pair.together;
  double sums[kMostSums] = {};
#pragma unroll 1
  for (int b = 0; b < widths.count; ++b) {
    const Side v = side_of<Sums>(pair.norm2, widths.square[b]);
    const double tilted = multiply_add(v.share, sine2, v.rest);
    double inner[kMostSums] = {};
#pragma unroll 2
    for (int a = 0; a < widths.count; ++a) {
      const Side u = sides[a];
      double terms[kMostSums];
      Sums::term(correlation_of(u, tilted, v.root, acute), u, v, terms);
#pragma unroll
      for (int k = 0; k < Sums::kSums; ++k) inner[k] = multiply_add(widths.weight[a], terms[k], inner[k]);
    }
#pragma unroll
    for (int k = 0; k < Sums::kSums; ++k) sums[k] = multiply_add(widths.weight[b], inner[k], sums[k]);
  }
  return Sums::moments(pair, cosine, sums);
}

// The entries `of` (i, j) of the tile to (S, n, n2) results and, of a symmetric one, to their mirror images, which
// stand in rows of the result as well.
template <typename Entry>
__device__ void write(const InfiniteCall& call, const Place& place, int64_t at, const Entry& of) {
  const int lane = int(threadIdx.x) % kTile;
  const int64_t first = at * call.n * call.n2;
#pragma unroll
  for (int e = 0; e < kEntries; ++e) {
    const int i = row_of(e);
    if (wanted(call, place, i, lane)) of(i, lane, first + (place.row + i) * call.n2 + place.column + lane);
  }
  if (!call.same) return;
#pragma unroll
  for (int e = 0; e < kEntries; ++e) {
    const int j = row_of(e);
    if (wanted(call, place, lane, j)) of(lane, j, first + (place.column + j) * call.n2 + place.row + lane);
  }
}

// As many blocks of a multiprocessor as its registers hold without a spill: a mixture's loops want more of them.
template <typename Pairs>
__global__ void __launch_bounds__(kThreads, Pairs::kMixture ? 3 : 4)
    shallow_kernel(const __grid_constant__ InfiniteCall call, const __grid_constant__ Widths widths) {
  const Memory memory = memory_of_block();
  const Place& place = place_of_block(call);
  const int tid = int(threadIdx.x), column = tid % kTile;
  load_links(call, place, memory);
  __syncthreads();
  measure(call, place, memory);
  Side* sides = reinterpret_cast<Side*>(memory.rest);  // (kTile, widths)
  if constexpr (Pairs::kMixture) {
    for (int at = tid; at < kTile * widths.count; at += kThreads) {
      const int i = at / widths.count, a = at - i * widths.count;
      sides[at] = side_of<typename Pairs::Sums>(memory.norm[i], widths.square[a]);
    }
    __syncthreads();
  }
#pragma unroll 1
  for (int e = 0; e < kEntries; ++e) {
    const int i = row_of(e), at = i * kPitch + column;
    if (!wanted(call, place, i, column)) continue;
    const SamplePair pair =
        pair_of(memory.inner[at], memory.apart[at], memory.together[at], memory.norm[i], memory.norm2[column]);
    Moments moments;
    if constexpr (Pairs::kMixture) {
      moments = mixture_moments<typename Pairs::Sums>(pair, widths, sides + i * widths.count);
    } else {
      moments = Pairs::moments(pair, widths);
    }
    memory.apart[at] = moments.value, memory.together[at] = moments.slope;
  }
  __syncthreads();
  for (int64_t at = 0; at < call.S; ++at) {
    const LayerAt layer = layer_at(call.s[at]);
    write(call, place, at, [&](int i, int j, int64_t to) {
      const double inner = memory.inner[i * kPitch + j];
      const Moments moments = {memory.apart[i * kPitch + j], memory.together[i * kPitch + j]};
      const LayerKernels kernels = layer_kernels(layer, inner, memory.mean[i] + memory.mean2[j], moments);
      call.a[to] = kernels.sigma, call.w[to] = inner * kernels.factor;
    });
  }
}

// Several hidden layers, one s after the other.
template <typename Pairs>
__global__ void __launch_bounds__(kThreads)
    deep_kernel(const __grid_constant__ InfiniteCall call, const __grid_constant__ Widths widths) {
  const Memory memory = memory_of_block();
  const Place& place = place_of_block(call);
  const int column = int(threadIdx.x) % kTile;
  load_links(call, place, memory);
  __syncthreads();
  measure(call, place, memory);
  double *result = memory.rest, *tangent = result + kSquare;  // K^[a] of the last layer, and the rest of the NTK
  for (int64_t s = 0; s < call.S; ++s) {
    const LayerAt layer = layer_at(call.s[s]);
#pragma unroll 1
    for (int e = 0; e < kEntries; ++e) {
      const int i = row_of(e), at = i * kPitch + column;
      if (!wanted(call, place, i, column)) continue;
      const double* link = call.chain + 2 * s * call.depth * call.n + place.row + i;
      const double* link2 = call.chain2 + 2 * s * call.depth * call.n2 + place.column + column;
      SamplePair pair = pair_of(memory.inner[at], memory.apart[at], memory.together[at], link[0], link2[0]);
      double sigma, carried = pair.inner;
#pragma unroll 1
      for (int64_t k = 1;; ++k, link += 2 * call.n, link2 += 2 * call.n2) {
        const Moments moments = Pairs::moments(pair, widths);
        const LayerKernels kernels = layer_kernels(layer, pair.inner, link[call.n] + link2[call.n2], moments);
        sigma = kernels.sigma, carried *= kernels.factor;
        if (k == call.depth) break;
        carried += sigma;
        pair = next_pair<Pairs>(layer, pair, sigma, link[2 * call.n], link2[2 * call.n2]);
      }
      result[at] = sigma, tangent[at] = carried;
    }
    __syncthreads();
    write(call, place, s,
          [&](int i, int j, int64_t to) { call.a[to] = result[i * kPitch + j], call.w[to] = tangent[i * kPitch + j]; });
    __syncthreads();  // before the next s overwrites what was read
  }
}

template <typename Pairs>
__global__ void __launch_bounds__(kThreads)
    chain_kernel(const __grid_constant__ InfiniteCall call, const __grid_constant__ Widths widths, int64_t n,
                 const double* norm, double* chain) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) fill_chain<Pairs>(call, widths, norm[i], chain + i, n);
}

template <typename Pairs>
void launch_all(const InfiniteCall& call, void* stream) {
  const Widths widths = widths_of(call);
  const auto fill = [&](int64_t n, const double* norm, double* chain) {
    launch(chain_kernel<Pairs>, dim3(unsigned((n + kThreads - 1) / kThreads)), kThreads, stream, call, widths, n, norm,
           chain);
  };
  fill(call.n, call.norm, call.chain);
  if (!call.same) fill(call.n2, call.norm2, call.chain2);
  const int64_t rows = (call.n + kTile - 1) / kTile, columns = (call.n2 + kTile - 1) / kTile;
  int64_t last = 2 * kFeatures * kPitch;
  if (Pairs::kMixture) last = std::max(last, int64_t(kTile * widths.count * sizeof(Side) / sizeof(double)));
  Shape shape{dim3(unsigned(call.same ? rows * (rows + 1) / 2 : rows * columns)), kThreads};
  shape.shared = size_t(kFixed + last) * sizeof(double);
  if (call.depth == 1) {
    launch(shallow_kernel<Pairs>, shape, stream, call, widths);
  } else if constexpr (!Pairs::kMixture) {
    launch(deep_kernel<Pairs>, shape, stream, call, widths);
  }
}

static_assert(2 * kFeatures * kPitch >= 2 * kSquare, "a deep network's results take the features' place");

}  // namespace

const char* infinite_gram(const InfiniteCall& call, int device, void* stream) {
  if (call.n * call.n2 * call.S == 0) return nullptr;
  DeviceGuard guard(device);
  with_pairs(call.base, [&](auto pairs) { launch_all<decltype(pairs)>(call, stream); });
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
