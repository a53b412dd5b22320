// The wide network's backward kernels: the samples become tiles of pieces once, and blocks that stay have neurons in
// registers and stream the tiles.
#pragma once

#include "network/cuda/wide_plan.cuh"
#include "network/cuda/wide_products.cuh"

namespace hrta {
namespace cuda {
namespace wide {

// A block a network and tile.
template <typename Product>
__global__ void __launch_bounds__(kThreads) samples_kernel(const __grid_constant__ SamplesWork work) {
  if constexpr (Product::kCompiled) {
    constexpr int D = Product::D;
    using L = Layout<D>;
    __shared__ float largest[kBlocks];
    __shared__ double of_warp[kBlocks][D];
    if (stopped(work.done)) return;
    const TwoLayerCall& call = work.call;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t tile = blockIdx.x % work.tiles, network = work.first_network + blockIdx.x / work.tiles;
    const float* grad_f = static_cast<const float*>(work.gradients.grad_f);
    const float* grad_df_dx = static_cast<const float*>(work.gradients.grad_df_dx);
    if (grad_f != nullptr) grad_f += network * call.n;
    if (grad_df_dx != nullptr) grad_df_dx += network * call.n * call.features;
    Columns<D, true> columns;
    columns.load(static_cast<const float*>(call.x), grad_f, grad_df_dx, tile * kTile + warp * 16, call.n,
                 int(call.features), lane);
    const float own = columns.largest();
    if (lane == 0) largest[warp] = own;
#pragma unroll
    for (int j = 0; j < L::kOwn; ++j) {
      double r = 0;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        r += double(columns.own[h][j]) * double(columns.factor[h]) + double(columns.addend[h][j]);
      }
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) r += __shfl_xor_sync(~0u, r, offset);
      if (lane < 4) of_warp[warp][L::feature(lane, j)] = r;
    }
    __syncthreads();
    float most = 0;
    for (int k = 0; k < kBlocks; ++k) most = fmaxf(most, largest[k]);
    columns.template store<Product>(work.pieces + int64_t(blockIdx.x) * L::kTileWords, warp, scale_for(most), lane);
    if (threadIdx.x == 0) work.back[blockIdx.x] = scale_back(most);
    if (threadIdx.x < D) {
      double total = 0;
      for (int k = 0; k < kBlocks; ++k) total += of_warp[k][threadIdx.x];
      work.partial[int64_t(blockIdx.x) * D + threadIdx.x] = total;
    }
  }
}

// One element's update. The rule is the same for the whole grid.
__device__ __forceinline__ void update_value(const BackwardWork& work, float grad, float value, float* target,
                                             float* first, float* second, int64_t at) {
  if (work.rule == UpdateRule::kAdam) {
    float mean = first[at], square = second[at];
    work.adam(grad, value, mean, square);
    first[at] = mean, second[at] = square;
  } else if (first != nullptr) {
    float mean = first[at];
    work.descent(grad, value, mean);
    first[at] = mean;
  } else {
    work.descent(grad, value);
  }
  target[at] = value;
}

// What a group of neurons needs at its end comes to the L2 cache while the one before it is multiplied.
__device__ __forceinline__ void prefetch_rows(const float* source, int64_t from, int64_t to) {
  if (source == nullptr) return;
  for (int64_t k = from + threadIdx.x * 32; k < to; k += kThreads * 32) prefetch(source + k);
}

// What is the block's network's own. In shared memory, for the products leave no registers.
struct OfNetwork {
  float *weight, *output_weight, *grad_weight, *grad_output_weight;
  const uint32_t* pieces;
  const float* back;
  double* totals;
  float q_scale, s_scale;
};

__device__ inline float* moved(void* gradient, int64_t by) {
  return gradient == nullptr ? nullptr : static_cast<float*>(gradient) + by;
}

template <typename Product, int Q>
__global__ void __launch_bounds__(kThreads, resident_blocks(Product::D))
    backward_kernel(const __grid_constant__ BackwardWork work) {
  if constexpr (Product::kCompiled) {
    constexpr int D = Product::D;
    using L = Layout<D>;
    __shared__ float everywhere[D];
    __shared__ OfNetwork own;
    if (stopped(work.samples.done)) return;
    uint32_t* shared = reinterpret_cast<uint32_t*>(shared_memory());
    const TwoLayerCall& call = work.samples.call;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4, features = int(call.features);
    const int64_t width = call.width;
    const int tiles = int(work.samples.tiles);
    {  // R, by all threads, in an order of its own
      const int64_t place = int(blockIdx.x) / work.network_blocks, network = work.samples.first_network + place;
      double* parts = reinterpret_cast<double*>(shared);
      const double* partial = work.samples.partial + place * tiles * D;
      double part = 0;
      for (int k = threadIdx.x / D; k < tiles; k += kThreads / D) part += partial[int64_t(k) * D + threadIdx.x % D];
      parts[threadIdx.x] = part;
      if (threadIdx.x == 0) {
        const double s = parameter(call), scale = output_scale(width);
        const int64_t first = network * width;
        own.weight = moved(const_cast<void*>(call.weight), first * features);
        own.output_weight = moved(const_cast<void*>(call.output_weight), first);
        own.grad_weight = moved(work.samples.gradients.grad_weight, first * features);
        own.grad_output_weight = moved(work.samples.gradients.grad_output_weight, first);
        own.pieces = work.samples.pieces + place * tiles * L::kTileWords;
        own.back = work.samples.back + place * tiles;
        own.totals = work.totals + int64_t(blockIdx.x) * (2 * Q * L::kOut * kThreads);
        own.q_scale = float((1 - s) * scale), own.s_scale = float(s * scale);
      }
      __syncthreads();
      if (threadIdx.x < D) {
        double total = 0;
        for (int k = 0; k < kThreads / D; ++k) total += parts[k * D + threadIdx.x];
        everywhere[threadIdx.x] = float(total);
      }
      __syncthreads();
    }
    auto load = [&](int first) {
      const int some = tiles - first < work.segment ? tiles - first : work.segment;
      const int count = some * (L::kTileWords / 4);
      const uint4* source = reinterpret_cast<const uint4*>(own.pieces + int64_t(first) * L::kTileWords);
      for (int k = threadIdx.x; k < count; k += kThreads)
        copy_16_bytes(reinterpret_cast<uint4*>(shared) + k, source + k);
      wait_for_copies();
      Product::written();
    };
    const bool resident = tiles <= work.segment;
    if (resident) load(0);
    __syncthreads();
    for (int group = int(blockIdx.x) % work.network_blocks; group < work.groups; group += work.network_blocks) {
      const int64_t row = first_row<Q>(group, warp);
      const int64_t from = int64_t(group + work.network_blocks) * (128 * Q),
                    to = from + 128 * Q < width ? from + 128 * Q : width;
      prefetch_rows(own.weight, from * features, to * features), prefetch_rows(own.output_weight, from, to);
      if (work.training) {
        prefetch_rows(work.weight_first, from * features, to * features), prefetch_rows(work.output_first, from, to);
        prefetch_rows(work.weight_second, from * features, to * features), prefetch_rows(work.output_second, from, to);
      }
      uint32_t a[Q][L::kRow];
      load_rows<D, Q>(own.weight, row, width, features, lane, a, work.zero);
      float sum[Q][L::kOut][4] = {};
      for (int first = 0; first < tiles; first += work.segment) {
        if (!resident) {
          __syncthreads();
          load(first);
          __syncthreads();
        }
        const int count = tiles - first < work.segment ? tiles - first : work.segment;
#pragma unroll 1
        for (int k = 0; k < count; ++k) {
          const float back = own.back[first + k];
          const int64_t left = call.n - int64_t(first + k) * kTile;
          const int blocks = left < kTile ? int(left + 15) / 16 : kBlocks;
          float out[Q][L::kOut * 4];
          Product::template multiply_tile<Q>(shared + k * L::kTileWords, blocks, a, out, lane);
#pragma unroll
          for (int q = 0; q < Q; ++q) {
#pragma unroll
            for (int j = 0; j < L::kOut; ++j) {
#pragma unroll
              for (int e = 0; e < 4; ++e) sum[q][j][e] = multiply_add(out[q][4 * j + e], back, sum[q][j][e]);
            }
          }
          const int done = first + k + 1;
          if (done % kFlush == 0 && done < tiles) {
#pragma unroll
            for (int q = 0; q < Q; ++q) {
#pragma unroll
              for (int j = 0; j < L::kOut; ++j) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                  double* at = own.totals + ((q * L::kOut + j) * 2 + h) * kThreads + threadIdx.x;
                  const double value = double(sum[q][j][2 * h]) + double(sum[q][j][2 * h + 1]);
                  *at = done > kFlush ? *at + value : value;
                  sum[q][j][2 * h] = sum[q][j][2 * h + 1] = 0;
                }
              }
            }
          }
        }
      }
#pragma unroll
      for (int q = 0; q < Q; ++q) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int64_t k = row + 64 * q + 8 * h + lane / 4;
          const bool here = k < width;
          float w[L::kOwn];
          load_own<D>(own.weight, k, width, features, t, w);
          const float output = here ? own.output_weight[k] : 0.0f;
          const float q_scale = own.q_scale, s_scale = own.s_scale;
          float along = 0, slope[L::kOwn];
#pragma unroll
          for (int j = 0; j < L::kOwn; ++j) {
            float H = sum[q][j][2 * h] + sum[q][j][2 * h + 1];
            if (tiles > kFlush) {
              const double total = own.totals[((q * L::kOut + j) * 2 + h) * kThreads + threadIdx.x];
              H = float(total + double(sum[q][j][2 * h]) + double(sum[q][j][2 * h + 1]));
            }
            const float linear = q_scale == 0 ? 0.0f : q_scale * everywhere[L::feature(t, j)];
            slope[j] = s_scale == 0 ? linear : linear + s_scale * H;
            along = multiply_add(w[j], slope[j], along);
          }
          along += __shfl_xor_sync(~0u, along, 1);
          along += __shfl_xor_sync(~0u, along, 2);
#pragma unroll
          for (int j = 0; j < L::kOwn; ++j) {
            const int f = L::feature(t, j);
            if (!here || f >= features) continue;
            const float grad = output * slope[j];
            if (work.training) {
              update_value(work, grad, w[j], own.weight, work.weight_first, work.weight_second, k * features + f);
            } else if (own.grad_weight != nullptr) {
              own.grad_weight[k * features + f] = grad;
            }
          }
          __syncwarp();  // the other lanes have read the output weight that lane 0 may update
          if (t != 0 || !here) continue;
          if (work.training) {
            update_value(work, along, output, own.output_weight, work.output_first, work.output_second, k);
          } else if (own.grad_output_weight != nullptr) {
            own.grad_output_weight[k] = along;
          }
        }
      }
    }
  }
}

}  // namespace wide
}  // namespace cuda
}  // namespace hrta
