// ReLU and two features by arcs (circle/cuda/bounds.cuh): O(m + n^2) with a small n^2, instead of O(n m), for
// everything. With U the sum of a_k w_k over the neurons active on x, V over all, and r_i = g_i x_i + G_i (units.cuh),
//   df_dx = q V + s U,  f = x . df_dx;
//   pull of an arc = m^(-1/2) (q R + s sum of r_i over the samples active on the arc),  dW_k = a_k pull, da_k = w_k .
//   pull.
//
// Neurons are cut into shares of whole tiles, by the shapes alone. Forward sums a_k w_k on each arc, in integers within
// a share (circle/cuda/bins.cuh), in float64 over the shares in their order; then around the circle in integers again,
// so that a sample without active neurons gets exactly 0. Where shared memory does not hold the bounds and the sums,
// both stay in global memory.
//
// Running sums would carry NaN and infinity everywhere, so whoever finds such a number clears `finite`: then the lanes,
// launched behind, do the forward pass after all, and each neuron of the backward pass goes through the samples one by
// one. Nobody waits for the host.
#pragma once

#include <algorithm>

#include "circle/cuda/access.cuh"
#include "circle/cuda/bins.cuh"
#include "circle/cuda/plan.cuh"
#include "gpu/cooperation.cuh"
#include "network/cuda/units.cuh"
#include "network/cuda/ways.h"

namespace hrta {
namespace cuda {
namespace arcs {

constexpr int kSweepThreads = 1024;
// Neurons of a thread at a time: 16 bytes of output weights.
template <typename T>
constexpr int kPer = 16 / int(sizeof(T));
template <typename T>
constexpr int64_t kTile = int64_t(kSweepThreads) * kPer<T>;

// A share a block: as many as an H100 has multiprocessors. A constant, for the bits to be those of another card.
constexpr int64_t kShares = 132;
constexpr int64_t kPartialBytes = int64_t(1) << 25;  // of all shares' sums, unless those of one share are more

struct Cut {
  int shares;       // of a network
  int64_t neurons;  // of a share at most
  int tiles;        // of a network; share i has the tiles i, i + shares, ..

  explicit Cut(const TwoLayerCall& call) {
    const int64_t tile = with_type(call.dtype, [](auto zero) { return kTile<decltype(zero)>; });
    const int64_t bytes = call.networks * 16 * (2 * call.n + 2);
    tiles = int(ceil_div(call.width, tile));
    shares =
        int(std::min({ceil_div(kShares, call.networks), int64_t(tiles), std::max<int64_t>(kPartialBytes / bytes, 1)}));
    neurons = ceil_div(tiles, shares) * tile;
  }
};

// A block's place: network, share, and which of the blocks that share the share.
struct SharePlace {
  int64_t network;
  int share, part;
};
__device__ __forceinline__ SharePlace share_of_block(int shares, int parts) {
  const int block = int(blockIdx.x);
  return {block / (shares * parts), block / parts % shares, block % parts};
}

// One network's arrays of neurons, and whether all begin on the 16-byte grid.
template <typename T>
struct Neurons {
  const T *weight, *output;
  bool aligned;

  __device__ Neurons(const TwoLayerCall& call, int64_t network)
      : weight(static_cast<const T*>(call.weight) + 2 * network * call.width),
        output(static_cast<const T*>(call.output_weight) + network * call.width) {
    aligned = (reinterpret_cast<uintptr_t>(weight) | reinterpret_cast<uintptr_t>(output)) % 16 == 0;
  }
};

// In one instruction: the compiler makes four of what a cast pointer stores, and each touches as many sectors as one.
template <typename Vector, typename T>
__device__ __forceinline__ void store_16_bytes(T* target, const Vector& value) {
#if defined(__CUDA_ARCH__)
  __stwb(reinterpret_cast<Vector*>(target), value);
#else
  *reinterpret_cast<Vector*>(target) = value;
#endif
}
template <int kCount, typename T>
__device__ __forceinline__ void store(const T (&source)[kCount], int count, bool aligned, T* target) {
  if (aligned && count == kCount) {
#pragma unroll
    for (int j = 0; j < kCount; j += kPer<T>) {
      if constexpr (sizeof(T) == 4) {
        store_16_bytes(target + j, make_float4(source[j], source[j + 1], source[j + 2], source[j + 3]));
      } else {
        store_16_bytes(target + j, make_double2(source[j], source[j + 1]));
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (j < count) target[j] = source[j];
    }
  }
}

// The first neuron and the number of neurons that this thread has in a tile.
template <typename T>
__device__ __forceinline__ int64_t own_in_tile(int tile, int64_t width, int* count) {
  const int64_t first = tile * kTile<T> + int(threadIdx.x) * kPer<T>, left = width - first;
  *count = left >= kPer<T> ? kPer<T> : left > 0 ? int(left) : 0;
  return first;
}

// One block goes once around the circle: warps that pay for n samples.
HRTA_INLINE int threads_around(int64_t n) {
  return n <= 512 ? 256 : 1024;
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
