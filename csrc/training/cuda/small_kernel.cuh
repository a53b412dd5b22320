// The kernel of small.cuh. A step: forward, a lane a sample, over slices of the block's neurons; the sums meet; loss
// and its gradient, in every block; backward, a lane a neuron, over slices of the samples; update, a thread an element.
//
// Compiled with -fmad=false: what is fused is written out, so that kernels of different variants give the same bits.
#pragma once

#include "network/cuda/fast_bases.cuh"
#include "training/cuda/small_block.cuh"

namespace hrta {
namespace cuda {
namespace small {

// sigma_s at the step's s. For ReLU sign(s) sigma_s(z) = max(z', q z') at z' = sign(s) z.
template <typename Base>
struct Curve {
  float s, q;  // q = 1 - s

  // What samples are multiplied by before `value`, and its sums after.
  __device__ __forceinline__ float sign() const { return std::is_same_v<Base, Relu> && s < 0.0f ? -1.0f : 1.0f; }

  __device__ __forceinline__ float value(float z) const {
    if constexpr (std::is_same_v<Base, Relu>) {
      return fmaxf(z, q * z);
    } else {
      float sigma;
      FastBase<Base>::evaluate(z, &sigma, nullptr, nullptr);
      return fmaf(s, sigma, q * z);
    }
  }
};

template <typename Base, int D, int P, int Q>
struct Passes : Block<D> {
  static constexpr int R = Block<D>::R;
  static constexpr int kSums = D + 1;  // of a neuron: for its weights and its output weight
  static constexpr bool kHomogeneous = std::is_same_v<Base, Relu>;
  static constexpr int kUnroll = D <= 8 ? 4 : 2;  // what registers hold
  using Block<D>::work, Block<D>::network, Block<D>::rank, Block<D>::lane, Block<D>::warp, Block<D>::mine;
  using Block<D>::x, Block<D>::weight, Block<D>::moments, Block<D>::y, Block<D>::sample_weight, Block<D>::sums;
  using Block<D>::grad, Block<D>::terms, Block<D>::outputs_at, Block<D>::elements, Block<D>::each_element;

  Curve<Base> curve{};
  const Digits my_samples, my_neurons;  // where this warp begins: group, part and piece

  __device__ __forceinline__ Passes(const Work& the_work, int number, int the_rank, float* memory)
      : Block<D>(the_work, number, the_rank, memory),
        my_samples(Digits::of(warp, work.spread.sample_groups, work.spread.forward_parts)),
        my_neurons(Digits::of(warp, work.spread.neuron_groups, work.spread.backward_parts)) {}

  // Sums of a_k sigma_s(w_k . x_i) over the slices of the block's pieces, to `sums` (pieces, parts, n4).
  __device__ __forceinline__ void forward(const float* outputs) const {
    const Cut& cut = work.cut;
    const int parts = work.spread.forward_parts, n4 = work.spread.n4;
    const int slices = work.spread.forward_in_turn;
    for (Digits at = my_samples; at.high < work.spread.pieces;
         at.add(work.spread.by_samples, work.spread.sample_groups, parts)) {
      const int sample = at.low * P * 32 + lane, begin = at.high * cut.neurons;
      const int end = begin + cut.neurons < mine ? begin + cut.neurons : mine;
      float of_lane[P][D], total[P] = {};
#pragma unroll
      for (int p = 0; p < P; ++p) {
        if (sample + 32 * p < cut.n) {
          read_features(x + (sample + 32 * p) * R, of_lane[p]);
#pragma unroll
          for (int d = 0; d < D; ++d) of_lane[p][d] *= curve.sign();
        } else {
#pragma unroll
          for (int d = 0; d < D; ++d) of_lane[p][d] = 0.0f;
        }
      }
      for (int slice = at.middle * slices; slice < (at.middle + 1) * slices; ++slice) {
        float sum[P][2] = {};
        auto take = [&](int k, int chain) {
          float w[D];
          read_features(weight + k * R, w);
          const float a = outputs[k];
#pragma unroll
          for (int p = 0; p < P; ++p) sum[p][chain] = fmaf(a, curve.value(product(of_lane[p], w)), sum[p][chain]);
        };
        int k = begin + slice * cut.slice_neurons;
        const int last = k + cut.slice_neurons < end ? k + cut.slice_neurons : end;
        for (; k + 3 < last; k += 4) take(k, 0), take(k + 1, 1), take(k + 2, 0), take(k + 3, 1);
        for (; k + 1 < last; k += 2) take(k, 0), take(k + 1, 1);
        if (k < last) take(k, 0);
#pragma unroll
        for (int p = 0; p < P; ++p) total[p] += sum[p][0] + sum[p][1];
      }
#pragma unroll
      for (int p = 0; p < P; ++p) {
        if (sample + 32 * p < n4) sums[(at.high * parts + at.middle) * n4 + sample + 32 * p] = curve.sign() * total[p];
      }
    }
  }

  // Sets `grad` and `terms`. Whether the loss is finite, the same in all blocks.
  __device__ __forceinline__ bool residuals(int parity) const {
    int bad = 0;
    for (int i = int(threadIdx.x); i < work.cut.n; i += kBlockThreads) {
      const double residual = this->output(parity, i) - double(y[i]), weighted = double(sample_weight[i]) * residual;
      const double term = weighted * residual;  // of floats: the sum of such stays far below the largest double
      bad |= !(absolute(term) <= FloatTraits<double>::kLargest);
      terms[i] = term;
      const float g = float(weighted * work.inverse_n);
      grad[i] = make_float2(g, curve.q * g);
    }
    return __syncthreads_or(bad) == 0;
  }

  // By the last warp, the first that update leaves without work.
  __device__ __forceinline__ void write_loss(int64_t step) const {
    if (rank != 0 || warp != kBlockWarps - 1) return;
    double sum = 0;
    for (int i = lane; i < work.cut.n; i += 32) sum += terms[i];
    sum = sum_over_warp(sum);
    if (lane == 0) network.loss[step] = 0.5 * work.inverse_n * sum;
  }

  // Of every neuron the sums over samples for its weights and its output weight, without a_k m^(-1/2) and m^(-1/2), to
  // `sums` (parts, D + 1, column).
  __device__ __forceinline__ void backward() const {
    const Cut& cut = work.cut;
    const int parts = work.spread.backward_parts;
    const int slices = work.spread.backward_in_turn, column = work.spread.column;
    for (Digits at = my_neurons; at.high == 0; at.add(work.spread.by_neurons, work.spread.neuron_groups, parts)) {
      const int neuron = at.low * Q * 32 + lane;
      float w[Q][D], total[Q][kSums] = {};
#pragma unroll
      for (int v = 0; v < Q; ++v) {
        if (neuron + 32 * v < mine) {
          read_features(weight + (neuron + 32 * v) * R, w[v]);
        } else {
#pragma unroll
          for (int d = 0; d < D; ++d) w[v][d] = 0.0f;
        }
      }
      for (int slice = at.middle * slices; slice < (at.middle + 1) * slices; ++slice) {
        const int begin = slice * cut.slice_samples;
        const int end = begin + cut.slice_samples < cut.n ? begin + cut.slice_samples : cut.n;
        float h[Q][kSums] = {};
#pragma unroll kUnroll
        for (int i = begin; i < end; ++i) {
          float of_sample[D];
          read_features(x + i * R, of_sample);
          const float2 g = grad[i];
#pragma unroll
          for (int v = 0; v < Q; ++v) {
            const float z = product(of_sample, w[v]);
            float factor;
            if constexpr (kHomogeneous) {
              factor = z > 0.0f ? g.x : g.y;
            } else {
              float sigma, slope;
              FastBase<Base>::evaluate(z, &sigma, &slope, nullptr);
              factor = g.x * fmaf(curve.s, slope, curve.q);
              h[v][D] = fmaf(g.x, fmaf(curve.s, sigma, curve.q * z), h[v][D]);
            }
#pragma unroll
            for (int d = 0; d < D; ++d) h[v][d] = fmaf(factor, of_sample[d], h[v][d]);
          }
        }
#pragma unroll
        for (int v = 0; v < Q; ++v) {
          if constexpr (kHomogeneous) {
            h[v][D] = 0.0f;
#pragma unroll
            for (int d = 0; d < D; ++d) h[v][D] = fmaf(w[v][d], h[v][d], h[v][D]);
          }
#pragma unroll
          for (int d = 0; d < kSums; ++d) total[v][d] += h[v][d];
        }
      }
#pragma unroll
      for (int v = 0; v < Q; ++v) {
        if (neuron + 32 * v >= mine) continue;
#pragma unroll
        for (int d = 0; d < kSums; ++d) sums[(at.middle * kSums + d) * column + neuron + 32 * v] = total[v][d];
      }
    }
  }

  // `adam` and `descent` with the numbers of the step.
  __device__ __forceinline__ void update(const Adam<float>& adam, const Descent<float>& descent, int parity) const {
    const int held = mine * elements(), parts = work.spread.backward_parts;
    const float scale = float(work.scale);
    const float* outputs = outputs_at(parity);
    each_element([&](int at, int k, int d) {
      const bool of_weight = d < work.cut.features;
      const float* source = sums + (of_weight ? d : D) * work.spread.column + k;
      float h = 0.0f;
      for (int part = 0; part < parts; ++part) h += source[part * kSums * work.spread.column];
      const float a = outputs[k], g = scale * (of_weight ? a * h : h);
      float value = of_weight ? weight[k * R + d] : a;
      if (work.moments == 2) {
        adam(g, value, moments[at], moments[held + at]);
      } else if (work.moments == 1) {
        descent(g, value, moments[at]);
      } else {
        descent(g, value);
      }
      (of_weight ? weight[k * R + d] : outputs_at(1 - parity)[k]) = value;
    });
  }
};

template <typename Base, int D, int P, int Q>
__global__ void __launch_bounds__(kBlockThreads, 1) train_kernel(const __grid_constant__ Work work) {
  const int blocks = work.spread.blocks, number = int(blockIdx.x) / blocks;
  Passes<Base, D, P, Q> block(work, number, int(blockIdx.x) % blocks, reinterpret_cast<float*>(shared_memory()));
  const Network& network = block.network;
  const UpdateNumbers numbers{UpdateRule::kAdam, 0.0, 1.0, network.beta1, network.beta2, network.epsilon};
  Adam<float> adam(numbers);
  Descent<float> descent(numbers);
  block.load();
  block.meet_cluster();  // nobody writes to a block that has not begun
  const bool want_f = network.f != nullptr;
  uint32_t target = 0;
  int64_t step = 0, done = 0;
  for (; step < work.steps || want_f; ++step) {
    const int parity = int(step % 2);
    const float4 of_step = network.numbers[step];
    block.curve = {of_step.z, of_step.w};
    block.forward(block.outputs_at(parity));
    __syncthreads();
    block.meet(parity, target);
    if (step == work.steps) break;
    if (!block.residuals(parity)) {
      block.write_loss(step);
      done = step + 1;
      break;
    }
    block.backward();
    __syncthreads();
    block.write_loss(step);
    adam.rate = descent.rate = of_step.x, adam.scale = of_step.y;
    block.update(adam, descent, parity);
    __syncthreads();
  }
  if (block.rank == 0) {
    if (want_f) {
      for (int i = int(threadIdx.x); i < work.cut.n; i += kBlockThreads) network.f[i] = block.output(int(step % 2), i);
    }
    if (threadIdx.x == 0) *network.done = done;
  }
  block.store(step);
  block.meet_cluster();  // nobody leaves while another may still write to it
}

template <typename Base, int D>
Kernel* variant_of(int variant) {
  if constexpr (std::is_same_v<Base, Relu> && D <= 4) {
    static_assert(has_variants(kRelu, D));
    if (variant == 1) return train_kernel<Base, D, kVariants[1].samples, kVariants[1].neurons>;
    if (variant == 2) return train_kernel<Base, D, kVariants[2].samples, kVariants[2].neurons>;
  }
  return train_kernel<Base, D, kVariants[0].samples, kVariants[0].neurons>;
}

template <typename Base>
Kernel* kernel_for(int features, int variant) {
  switch (padded_features(features)) {
    case 2: return variant_of<Base, 2>(variant);
    case 4: return variant_of<Base, 4>(variant);
    case 8: return variant_of<Base, 8>(variant);
    default: return variant_of<Base, 16>(variant);
  }
}

}  // namespace small
}  // namespace cuda
}  // namespace hrta
