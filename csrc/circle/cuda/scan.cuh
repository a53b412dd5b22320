// Running sums of pairs over the threads of a block, in an order that the number of threads alone decides.
#pragma once

#include <cuda_runtime.h>

namespace hrta {
namespace cuda {
namespace arcs {

template <typename V>
struct Two {
  V x, y;
};

template <typename V>
__device__ __forceinline__ Two<V> inclusive_scan_of_warp(Two<V> sum) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const V x = __shfl_up_sync(~0u, sum.x, offset), y = __shfl_up_sync(~0u, sum.y, offset);
    if (lane >= offset) sum.x += x, sum.y += y;
  }
  return sum;
}

// The sum over the threads before this one; `total` is that of all. Only the first `warps` (a number that all threads
// agree on) have anything to add. One barrier; `shared` (32) is free again after another.
template <typename V>
__device__ __forceinline__ Two<V> exclusive_scan(Two<V> own, int warps, Two<V>* shared, Two<V>* total) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  Two<V> before{V(0), V(0)};
  if (warp < warps) {
    const Two<V> sum = inclusive_scan_of_warp(own);
    if (lane == 31) shared[warp] = sum;
    before = {__shfl_up_sync(~0u, sum.x, 1), __shfl_up_sync(~0u, sum.y, 1)};
    if (lane == 0) before = {V(0), V(0)};
  }
  __syncthreads();
  if (warps <= 8) {
    Two<V> all{V(0), V(0)}, base{V(0), V(0)};
    for (int w = 0; w < warps; ++w) {
      if (w == warp) base = all;
      all.x += shared[w].x, all.y += shared[w].y;
    }
    *total = all;
    return {base.x + before.x, base.y + before.y};
  }
  const Two<V> sum = inclusive_scan_of_warp(lane < warps ? shared[lane] : Two<V>{V(0), V(0)});
  *total = {__shfl_sync(~0u, sum.x, 31), __shfl_sync(~0u, sum.y, 31)};
  const int last = warp == 0 ? 0 : warp - 1;
  const Two<V> base{__shfl_sync(~0u, sum.x, last), __shfl_sync(~0u, sum.y, last)};
  return warp == 0 ? before : Two<V>{base.x + before.x, base.y + before.y};
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
