// What a block of small_kernel.cuh holds in shared memory, and how the blocks of a network meet.
#pragma once

#include "network/cuda/units.cuh"
#include "training/cuda/small.cuh"

namespace hrta {
namespace cuda {
namespace small {

template <int D>
__device__ __forceinline__ void read_features(const float* row, float (&target)[D]) {
  if constexpr (D == 2) {
    const float2 word = *reinterpret_cast<const float2*>(row);
    target[0] = word.x, target[1] = word.y;
  } else {
#pragma unroll
    for (int d = 0; d < D; d += 4) {
      const float4 word = *reinterpret_cast<const float4*>(row + d);
      target[d] = word.x, target[d + 1] = word.y, target[d + 2] = word.z, target[d + 3] = word.w;
    }
  }
}

template <int D>
__device__ __forceinline__ float product(const float (&x)[D], const float (&w)[D]) {
  float z = x[0] * w[0];
#pragma unroll
  for (int d = 1; d < D; ++d) z = fmaf(x[d], w[d], z);
  return z;
}

template <int D>
struct Block {
  static constexpr int R = kRow<D>;

  const Work& work;
  const Network& network;
  const int rank, lane, warp;
  const int mine;  // neurons
  const int64_t first_neuron;
  float *x, *weight, *output_weight, *moments, *y, *sample_weight, *sums, *inbox;
  float2* grad;                      // (n): g and q g
  double* terms;                     // (n), of the loss
  const Digits my_element, my_sums;  // where this thread begins: element and neuron; word, sum and block

  __device__ __forceinline__ Block(const Work& the_work, int number, int the_rank, float* memory)
      : work(the_work),
        network(the_work.networks[number]),
        rank(the_rank),
        lane(int(threadIdx.x) % 32),
        warp(int(threadIdx.x) / 32),
        mine(neurons_of(the_work, the_rank)),
        first_neuron(int64_t(the_rank) * the_work.spread.pieces * the_work.cut.neurons),
        x(memory),
        weight(memory + work.spread.weight),
        output_weight(memory + work.spread.output_weight),
        moments(memory + work.spread.moments),
        y(memory + work.spread.y),
        sample_weight(memory + work.spread.sample_weight),
        sums(memory + work.spread.sums),
        inbox(memory + work.spread.inbox),
        grad(reinterpret_cast<float2*>(memory + work.spread.grad)),
        terms(reinterpret_cast<double*>(memory + work.spread.terms)),
        my_element(Digits::of(int(threadIdx.x), elements(), kUnbounded)),
        my_sums(Digits::of(int(threadIdx.x), work.spread.n4 / 4, work.spread.to_send)) {}

  static __device__ __forceinline__ int neurons_of(const Work& work, int rank) {
    const int most = work.spread.pieces * work.cut.neurons, left = work.cut.width - rank * most;
    return left < 0 ? 0 : left < most ? left : most;
  }
  __device__ __forceinline__ int elements() const { return work.cut.features + 1; }  // of a neuron
  // A block's output weights, of which update reads those of its step and writes those of the next.
  __device__ __forceinline__ float* outputs_at(int parity) const {
    return output_weight + parity * work.spread.pieces * work.cut.neurons;
  }

  // Where element d of neuron k lies in global memory: weights or their moments, the output weight's last.
  __device__ __forceinline__ float& element(float* of_weight, float* of_output, int k, int d) const {
    const int features = work.cut.features;
    return d < features ? of_weight[(first_neuron + k) * features + d] : of_output[first_neuron + k];
  }

  // Calls body(number, neuron, element) for this thread's elements.
  template <typename Body>
  __device__ __forceinline__ void each_element(const Body& body) const {
    int number = int(threadIdx.x);
    for (Digits at = my_element; at.middle < mine; number += kBlockThreads) {
      body(number, at.middle, at.low);
      at.add(work.spread.by_elements, elements(), kUnbounded);
    }
  }

  __device__ __forceinline__ void load() const {
    const int features = work.cut.features, n = work.cut.n;
    for (int at = int(threadIdx.x); at < n * D; at += kBlockThreads) {
      const int i = at / D, d = at % D;
      x[i * R + d] = d < features ? network.x[i * features + d] : 0.0f;
    }
    for (int i = int(threadIdx.x); i < n; i += kBlockThreads) {
      y[i] = network.y[i];
      sample_weight[i] = network.sample_weight == nullptr ? 1.0f : network.sample_weight[i];
    }
    for (int at = int(threadIdx.x); at < mine * D; at += kBlockThreads) weight[at / D * R + at % D] = 0.0f;
    __syncthreads();
    const int held = mine * elements();
    each_element([&](int at, int k, int d) {
      float& target = d < features ? weight[k * R + d] : outputs_at(0)[k];
      target = element(network.weight, network.output_weight, k, d);
      if (work.moments > 0) moments[at] = element(network.weight_first, network.output_first, k, d);
      if (work.moments > 1) moments[held + at] = element(network.weight_second, network.output_second, k, d);
    });
  }

  // After `updates` steps.
  __device__ __forceinline__ void store(int64_t updates) const {
    const int held = mine * elements();
    each_element([&](int at, int k, int d) {
      element(network.weight, network.output_weight, k, d) =
          d < work.cut.features ? weight[k * R + d] : outputs_at(int(updates % 2))[k];
      if (work.moments > 0) element(network.weight_first, network.output_first, k, d) = moments[at];
      if (work.moments > 1) element(network.weight_second, network.output_second, k, d) = moments[held + at];
    });
  }

  // Adds the parts of pieces [first, last), for four samples.
  __device__ __forceinline__ float4 of_pieces(int first, int last, int samples) const {
    const int parts = work.spread.forward_parts, n4 = work.spread.n4;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int piece = first; piece < last; ++piece) {
      float4 of_piece = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      for (int part = 0; part < parts; ++part) {
        const float4 word = *reinterpret_cast<const float4*>(sums + (piece * parts + part) * n4 + samples);
        of_piece.x += word.x, of_piece.y += word.y, of_piece.z += word.z, of_piece.w += word.w;
      }
      sum.x += of_piece.x, sum.y += of_piece.y, sum.z += of_piece.z, sum.w += of_piece.w;
    }
    return sum;
  }

  // Brings the sums of all blocks to every block: the shares' to `inbox`, of which two steps in a row use different
  // halves, so that one barrier a step is enough; or f itself to work.f.
  __device__ __forceinline__ void meet(int parity, uint32_t& target) const {
    const int n4 = work.spread.n4, words = n4 / 4, blocks = work.spread.blocks, count = work.spread.to_send;
    const int first = rank * count, of_sum = work.spread.resident ? 1 : work.cut.of_share();
    const int destinations = work.spread.resident ? 1 : blocks;
    float* targets = work.spread.resident ? work.partial : inbox + parity * work.cut.shares * n4;
    for (Digits at = my_sums; at.high < destinations; at.add(work.spread.by_sums, words, count)) {
      if (first + at.middle >= work.cut.pieces) continue;  // beyond the last piece
      float* place = targets + (first + at.middle) * n4 + 4 * at.low;
      if (destinations > 1) place = shared_of_block(place, at.high);
      *reinterpret_cast<float4*>(place) = of_pieces(at.middle * of_sum, (at.middle + 1) * of_sum, 4 * at.low);
    }
    if (!work.spread.resident) return meet_cluster();
    grid_barrier(work.barrier, target);
    add_partials();
    grid_barrier(work.barrier, target);
  }

  __device__ __forceinline__ void meet_cluster() const {
    if (work.spread.blocks > 1 && !work.spread.resident) {
      cluster_barrier();
    } else {
      __syncthreads();
    }
  }

  // A half warp a sample, a lane a share.
  __device__ __forceinline__ void add_partials() const {
    const Cut& cut = work.cut;
    const int share = lane % kMostShares, of_share = cut.of_share(), n4 = work.spread.n4;
    for (int pair = rank * kBlockWarps + warp; 2 * pair < cut.n; pair += work.spread.blocks * kBlockWarps) {
      const int sample = 2 * pair + lane / kMostShares;
      float of_lane = 0.0f;
      if (share < cut.shares && sample < cut.n) {
        for (int piece = share * of_share; piece < (share + 1) * of_share; ++piece) {
          of_lane += __ldcg(work.partial + piece * n4 + sample);
        }
      }
      double sum = double(of_lane);
#pragma unroll
      for (int offset = 1; offset < kMostShares; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
      if (share == 0 && sample < cut.n) work.f[sample] = work.scale * sum;
    }
  }

  // f of a sample after meet(parity), the shares added as by add_partials.
  __device__ __forceinline__ double output(int parity, int sample) const {
    if (work.spread.resident) return __ldcg(work.f + sample);
    double sum[kMostShares];
#pragma unroll
    for (int share = 0; share < kMostShares; ++share) {
      const bool there = share < work.cut.shares;
      sum[share] = there ? double(inbox[(parity * work.cut.shares + share) * work.spread.n4 + sample]) : 0.0;
    }
#pragma unroll
    for (int width = 1; width < kMostShares; width *= 2) {
#pragma unroll
      for (int share = 0; share < kMostShares; share += 2 * width) sum[share] += sum[share + width];
    }
    return work.scale * sum[0];
  }
};

}  // namespace small
}  // namespace cuda
}  // namespace hrta
