// The wide network's forward kernel: a block has the samples of a group and streams the neurons of a chunk.
#pragma once

#include "network/cuda/wide_plan.cuh"
#include "network/cuda/wide_products.cuh"

namespace hrta {
namespace cuda {
namespace wide {

template <typename Product, int Q>
__global__ void __launch_bounds__(kThreads, resident_blocks(Product::D))
    forward_kernel(const __grid_constant__ ForwardWork work) {
  if constexpr (Product::kCompiled) {
    constexpr int D = Product::D;
    using L = Layout<D>;
    __shared__ float largest[2][kBlocks];
    __shared__ double of_warp[kBlocks][D];
    __shared__ double* sums;  // of the block; a register saved
    if (stopped(work.done)) return;
    uint32_t* tiles = reinterpret_cast<uint32_t*>(shared_memory());  // two
    const TwoLayerCall& call = work.call;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, features = int(call.features);
    const int64_t chunk = blockIdx.x % work.chunks, place = blockIdx.x / work.chunks;
    const int64_t group = (work.first_group + place) % work.groups, network = (work.first_group + place) / work.groups;
    const bool with_linear = group == 0;
    const int64_t begin = network * call.width + chunk * work.chunk_neurons, left = (network + 1) * call.width - begin;
    const int neurons = int(left < work.chunk_neurons ? left : work.chunk_neurons);
    const float* weight = static_cast<const float*>(call.weight) + begin * features;
    const float* output_weight = static_cast<const float*>(call.output_weight) + begin;
    uint32_t a[Q][L::kRow];
    load_rows<D, Q>(static_cast<const float*>(call.x), first_row<Q>(group, warp), call.n, features, lane, a, work.zero);
    float sum[Q][L::kOut][4] = {};
    float linear[L::kOwn] = {};
    if (threadIdx.x == 0) sums = work.sums + (chunk * work.slice + place) * (128 * Q) * D;
    auto flush = [&](bool again) {
      double* target = sums + (int(first_row<Q>(0, warp)) + lane / 4) * D;
#pragma unroll
      for (int q = 0; q < Q; ++q) {
#pragma unroll
        for (int j = 0; j < L::kOut; ++j) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            double* at = target + (64 * q + 8 * h) * D + L::feature(lane % 4, j);
            const double value = double(sum[q][j][2 * h]) + double(sum[q][j][2 * h + 1]);
            *at = again ? *at + value : value;
            sum[q][j][2 * h] = sum[q][j][2 * h + 1] = 0;
          }
        }
      }
      if (!with_linear) return;
#pragma unroll
      for (int j = 0; j < L::kOwn; ++j) {
        double value = double(linear[j]);
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) value += __shfl_xor_sync(~0u, value, offset);
        double* at = of_warp[warp] + L::feature(lane % 4, j);
        if (lane < 4) *at = again ? *at + value : value;
        linear[j] = 0;
      }
    };
    // A tile's way: loaded into registers, its largest |p| told to all, its pieces stored, multiplied; each stage a
    // tile behind the one before, so that one barrier a tile is enough.
    Columns<D, false> columns;
    auto fetch = [&](int first) {
      columns.load(weight, output_weight, nullptr, first + warp * 16, neurons, features, lane);
    };
    auto tell = [&](int index) {
      const float own = columns.largest();
      if (lane == 0) largest[index & 1][warp] = own;
    };
    auto largest_of = [&](int index) {
      float most = 0;
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) most = fmaxf(most, largest[index & 1][k]);
      return most;
    };
    auto store = [&](int index, float most) {
      columns.template store<Product>(tiles + (index & 1) * L::kTileWords, warp, scale_for(most), lane);
      Product::written();
      if (!with_linear) return;
#pragma unroll
      for (int j = 0; j < L::kOwn; ++j) linear[j] += columns.p(0, j) + columns.p(1, j);
    };
    const int count = (neurons + kTile - 1) / kTile;
    fetch(0);
    tell(0);
    __syncthreads();
    float most = largest_of(0);
    store(0, most);
    if (count > 1) fetch(kTile), tell(1);
    for (int index = 0; index < count; ++index) {
      __syncthreads();
      const float back = scale_back(most);
      if (index + 1 < count) {
        most = largest_of(index + 1);
        store(index + 1, most);
      }
      const int first = index * kTile;
      if (index + 2 < count) fetch(first + 2 * kTile);
      const int blocks = neurons - first < kTile ? (neurons - first + 15) / 16 : kBlocks;
      float out[Q][L::kOut * 4];
      Product::template multiply_tile<Q>(tiles + (index & 1) * L::kTileWords, blocks, a, out, lane);
#pragma unroll
      for (int q = 0; q < Q; ++q) {
#pragma unroll
        for (int j = 0; j < L::kOut; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[q][j][e] = multiply_add(out[q][4 * j + e], back, sum[q][j][e]);
        }
      }
      if ((index + 1) % kFlush == 0) flush(index >= kFlush);
      if (index + 2 < count) tell(index + 2);
    }
    if (count % kFlush != 0) flush(count > kFlush);
    if (!with_linear) return;
    __syncthreads();
    if (threadIdx.x < D) {
      double total = 0;
      for (int k = 0; k < kBlocks; ++k) total += of_warp[k][threadIdx.x];
      work.linear[(network * work.chunks + chunk) * D + threadIdx.x] = total;
    }
  }
}

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
