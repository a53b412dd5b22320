// Training by arcs for any number of neurons, three launches a step: `middle` takes the sums over the neurons of each
// arc to outputs, loss and the pull of each arc; `sweep` goes once over the neurons and their moments, updates each and
// adds it, as it is then, to the sums of its share; `reduce` adds the shares up.
#pragma once

#include "circle/cuda/scan.cuh"
#include "training/cuda/arcs_data.cuh"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {

// One block of 1024 threads on each of an H100's 132 multiprocessors and, in float32, two neurons of a thread: on such
// a card two blocks of 512 or one neuron lose to that, for a block's loads in flight have to cover its search and its
// additions. A constant, so that the shares, and with them the bits, are those of every card: fewer multiprocessors
// take them one after the other.
constexpr int64_t kShares = 132;
constexpr int kSweepThreads = 1024;

template <typename T>
constexpr int kSweepNeurons = sizeof(T) == 4 ? 2 : 1;  // of a thread

// How m neurons are cut: share b has tiles b, b + shares, b + 2 shares, ... of kTile neurons.
template <typename T>
struct Cut {
  static constexpr int64_t kTile = kSweepThreads * kSweepNeurons<T>;
  int64_t shares;
  int bits;  // as bits_for a share's neurons

  explicit Cut(int64_t m) {
    const int64_t tiles = (m + kTile - 1) / kTile;
    shares = tiles < kShares ? tiles : kShares;
    bits = bits_for((tiles + shares - 1) / shares * kTile);
  }
};

template <typename T>
struct SweepWork {
  Data<T> data;
  StepNumbers<T> step;
  int64_t stride;  // neurons between two tiles of a share
  int bits, shift;
  const Point<T>* pull;  // (arcs)
  int* exponent;         // (shares): of the sums before
  double* partial;       // (shares, 2, arcs)
};

// Dynamic shared memory; null to measure it.
template <typename T>
struct SweepMemory {
  Point<T>*bound, *pull;    // (arcs) each
  uint32_t *table, *words;  // (parts + 1), of the bins
  size_t bytes;

  HRTA_INLINE SweepMemory(unsigned char* memory, int arcs, int parts, int shift) {
    bound = reinterpret_cast<Point<T>*>(memory), pull = bound + arcs;
    table = reinterpret_cast<uint32_t*>(pull + arcs), words = table + parts + 1;
    bytes = size_t(2 * arcs) * sizeof(Point<T>) + 4 * (size_t(parts) + 1 + (size_t(4 * arcs) << shift));
  }
};

template <typename T>
__device__ __forceinline__ void copy_by_block(T* target, const T* source, int count) {
  for (int k = int(threadIdx.x); k < count; k += int(blockDim.x)) target[k] = source[k];
}

// kUpdate: each neuron makes its step by the pull of its arc. In any case its a w is added to its arc's sums; if they
// turn out to have another exponent than expected, once more, from the weights that the block itself has written.
template <Rule kRule, bool kUpdate, typename T>
__global__ void __launch_bounds__(kSweepThreads, 1) sweep_kernel(const __grid_constant__ SweepWork<T> work) {
  constexpr int kCount = kSweepNeurons<T>;
  const Data<T>& data = work.data;
  const Plan<T>& plan = data.plan;
  if (stopped(data.done)) return;
  __shared__ uint32_t shared_most;
  const SweepMemory<T> memory(shared_memory(), plan.arcs, plan.parts, work.shift);
  const Bins bins(memory.words, plan.arcs, work.shift);
  copy_by_block(memory.bound, plan.bound, 2 * plan.n);
  copy_by_block(memory.table, plan.table, plan.parts + 1);
  if (kUpdate) copy_by_block(memory.pull, work.pull, plan.arcs);
  const Search<T> search{memory.bound, memory.table, plan.owner, plan.parts};
  const int64_t begin = (int64_t(blockIdx.x) * kSweepThreads + threadIdx.x) * kCount;

  if (threadIdx.x == 0) shared_most = 0;
  __syncthreads();
  int exponent;
  if (kUpdate) {
    exponent = work.exponent[blockIdx.x];
  } else {  // as the first neurons have it
    Neurons<kCount, T> own;
    load_weights(data, begin, int(at_most(at_least(data.m - begin, int64_t(0)), int64_t(kCount))), own);
    uint32_t most = 0;
#pragma unroll
    for (int j = 0; j < kCount; ++j) most = at_least(most, largest_product(own, j));
    exponent = exponent_for<T>(block_most(most, &shared_most));
  }

  uint32_t most;
  for (bool again = false;; again = true) {
    __syncthreads();  // all have read shared_most, and the exponent
    for (int k = int(threadIdx.x); k < 4 * bins.plane; k += kSweepThreads) bins.words[k] = 0;
    if (threadIdx.x == 0) shared_most = 0;
    __syncthreads();
    const double scale = power_of_two(work.bits - exponent);
    most = 0;
    for (int64_t first = begin; first < data.m; first += work.stride) {
      const int count = int(at_most(data.m - first, int64_t(kCount)));
      Neurons<kCount, T> own;
      int arc[kCount];
      if (kUpdate && !again) {
        load<kRule>(data, first, count, own);
        arcs_of<kCount>(search, own.w, arc);
        own.template step<kRule>(data.rates, work.step, memory.pull, arc);
        store<kRule>(own, first, count, data);
      } else {
        load_weights(data, first, count, own);
      }
      arcs_of<kCount>(search, own.w, arc);
      most = at_least(most, add<kCount>(bins, arc, count, scale, own));
    }
    most = block_most(most, &shared_most);
    const int exact = exponent_for<T>(most);
    if (!is_finite<T>(most) || exact == exponent) break;
    exponent = exact;
  }
  const double unit = unit_of<T>(most, exponent, work.bits);
  double* partial = work.partial + int64_t(blockIdx.x) * 2 * plan.arcs;
  for (int k = int(threadIdx.x); k < 2 * plan.arcs; k += kSweepThreads) {
    partial[k] = unit * double(bins.sum(k >= plan.arcs, k >= plan.arcs ? k - plan.arcs : k));
  }
  if (threadIdx.x == 0) work.exponent[blockIdx.x] = exponent;
}

}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
