// What the kernels of training by arcs are told, and how a thread reads and writes its neurons.
#pragma once

#include "circle/cuda/bins.cuh"
#include "circle/cuda/plan.cuh"
#include "network/cuda/units.cuh"
#include "training/cuda/arcs_update.cuh"
#include "training/training.h"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {

// A training on the device.
template <typename T>
struct Data {
  Plan<T> plan;
  int64_t m;
  const T *y, *sample_weight;                                      // (n); c, or null
  T *weight, *output;                                              // (m, 2), (m)
  T *weight_first, *weight_second, *output_first, *output_second;  // as the rule has them
  bool aligned;                                                    // all of these allow accesses of 16 bytes
  Rule rule;
  Rates<T> rates;
  double scale;      // m^(-1/2)
  double over_n;     // 1 / n
  double *f, *loss;  // (n), (steps)
  int64_t* done;
};

// What sums over all neurons and over the active ones count for: (1 - s) and s, times m^(-1/2).
struct Shares {
  double all, active;
};
HRTA_INLINE Shares shares_of(double scale, double s) {
  return {scale * (1.0 - s), scale * s};
}

template <typename T>
Data<T> data_of(const TwoLayerMember& member, const Plan<T>& plan) {
  const TwoLayerTraining& t = *member.training;
  Data<T> data{};
  data.plan = plan, data.m = t.width;
  data.y = static_cast<const T*>(t.y), data.sample_weight = static_cast<const T*>(t.sample_weight);
  void* const neurons[] = {t.weight, t.output_weight, t.weight_first, t.weight_second, t.output_first, t.output_second};
  T** const targets[] = {&data.weight,        &data.output,       &data.weight_first,
                         &data.weight_second, &data.output_first, &data.output_second};
  uintptr_t bits = 0;
  for (int k = 0; k < 6; ++k)
    *targets[k] = static_cast<T*>(neurons[k]), bits |= reinterpret_cast<uintptr_t>(neurons[k]);
  data.aligned = bits % 16 == 0;
  data.rule = t.rule == UpdateRule::kAdam ? Rule::kAdam : t.weight_first != nullptr ? Rule::kMomentum : Rule::kPlain;
  data.rates = rates_of<T>({t.rule, 0.0, 1.0, t.beta1, t.beta2, t.epsilon});
  data.scale = output_scale(t.width), data.over_n = 1.0 / double(t.n);
  data.f = t.f, data.loss = member.loss, data.done = member.done;
  return data;
}

// The exponent of a set of products a w_d for its sums in fixed point: the least of .., -2, 2, 6, 10, .. with
// |a w_d| < 2^exponent for all of them. It comes from these products alone, not from what came before, so an integer of
// the sums does too: the sums of a step's new weights and those of the same weights read from a checkpoint are the same
// bits. Sums are begun at the exponent that they had in the step before and taken again, from the weights just written,
// where it turns out another one, larger or smaller. A maximum that drifts by a factor of 16 costs that once; the
// largest of 1e3 to 1e8 products of normal weights, 6 to 17, lies far from 4 and 64, where it would.
template <typename T>
__device__ __forceinline__ int exponent_for(uint32_t most) {
  return ((exponent_of<T>(most) + 1) & ~3) + 2;
}

// What an integer counts; NaN where a product is not finite, which makes every sum NaN, and so the loss.
template <typename T>
__device__ __forceinline__ double unit_of(uint32_t most, int exponent, int bits) {
  return is_finite<T>(most) ? power_of_two(exponent - bits) : bit_cast<double>(~uint64_t(0));
}

// kCount elements in one access (kWhole), or `count` of them one by one and zeros for the others.
template <typename T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Pack {
  T at[kCount];
};

template <bool kWhole, int kCount, typename T>
__device__ __forceinline__ void load_pack(const T* source, int count, T (&target)[kCount]) {
  Pack<T, kCount> pack{};
  if constexpr (kWhole) pack = *reinterpret_cast<const Pack<T, kCount>*>(source);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (!kWhole && j < count) pack.at[j] = source[j];
    target[j] = pack.at[j];
  }
}

template <bool kWhole, int kCount, typename T>
__device__ __forceinline__ void store_pack(const T (&source)[kCount], int count, T* target) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    pack.at[j] = source[j];
    if (!kWhole && j < count) target[j] = source[j];
  }
  if constexpr (kWhole) *reinterpret_cast<Pack<T, kCount>*>(target) = pack;
}

// Calls body(whether all of a thread's kCount neurons are there and at addresses that allow it, as a constant).
template <int kCount, typename T, typename Body>
__device__ __forceinline__ void with_whole(const Data<T>& data, int count, const Body& body) {
  if (data.aligned && count == kCount) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

// `count` neurons from number `first` on and, for an update, the moments that the rule has.
template <int kCount, typename T>
__device__ __forceinline__ void load_weights(const Data<T>& data, int64_t first, int count, Neurons<kCount, T>& own) {
  with_whole<kCount>(data, count, [&](auto whole) {
    load_pack<decltype(whole)::value>(data.weight + 2 * first, 2 * count, own.w);
    load_pack<decltype(whole)::value>(data.output + first, count, own.a);
  });
}

template <Rule kRule, int kCount, typename T>
__device__ __forceinline__ void load(const Data<T>& data, int64_t first, int count, Neurons<kCount, T>& own) {
  with_whole<kCount>(data, count, [&](auto constant) {
    constexpr bool kWhole = decltype(constant)::value;
    load_pack<kWhole>(data.weight + 2 * first, 2 * count, own.w);
    load_pack<kWhole>(data.output + first, count, own.a);
    if constexpr (kRule != Rule::kPlain) {
      load_pack<kWhole>(data.weight_first + 2 * first, 2 * count, own.w1);
      load_pack<kWhole>(data.output_first + first, count, own.a1);
    }
    if constexpr (kRule == Rule::kAdam) {
      load_pack<kWhole>(data.weight_second + 2 * first, 2 * count, own.w2);
      load_pack<kWhole>(data.output_second + first, count, own.a2);
    }
  });
}

template <Rule kRule, int kCount, typename T>
__device__ __forceinline__ void store(const Neurons<kCount, T>& own, int64_t first, int count, const Data<T>& data) {
  with_whole<kCount>(data, count, [&](auto constant) {
    constexpr bool kWhole = decltype(constant)::value;
    store_pack<kWhole>(own.w, 2 * count, data.weight + 2 * first);
    store_pack<kWhole>(own.a, count, data.output + first);
    if constexpr (kRule != Rule::kPlain) {
      store_pack<kWhole>(own.w1, 2 * count, data.weight_first + 2 * first);
      store_pack<kWhole>(own.a1, count, data.output_first + first);
    }
    if constexpr (kRule == Rule::kAdam) {
      store_pack<kWhole>(own.w2, 2 * count, data.weight_second + 2 * first);
      store_pack<kWhole>(own.a2, count, data.output_second + first);
    }
  });
}

template <int kCount, typename T>
__device__ __forceinline__ uint32_t largest_product(const Neurons<kCount, T>& own, int j) {
  return at_least(magnitude(own.a[j] * own.w[2 * j]), magnitude(own.a[j] * own.w[2 * j + 1]));
}

// Adds the products a w_d of the first `count` neurons to their arcs' bins at `scale`; the largest magnitude.
template <int kCount, typename T>
__device__ __forceinline__ uint32_t add(const Bins& bins, const int (&arc)[kCount], int count, double scale,
                                        const Neurons<kCount, T>& own) {
  uint32_t most = 0;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (j >= count) break;
    bins.add(0, arc[j], scaled_product(own.a[j], own.w[2 * j], scale));
    bins.add(1, arc[j], scaled_product(own.a[j], own.w[2 * j + 1], scale));
    most = at_least(most, largest_product(own, j));
  }
  return most;
}

}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
