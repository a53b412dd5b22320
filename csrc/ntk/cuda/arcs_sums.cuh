// Sums of doubles whose order does not matter, for the moments of neurons.
//
// A neuron's terms go one of two ways, which its own size and the session's two windows decide. Mostly into the
// windows: as the integers nearest to term / unit, in two (float32 class) or three words of 32 bits, when the largest
// of a kind (a^2; w_0 w_0, w_0 w_1, w_1 w_1) is below 2^50 or 2^82 units, so that the words above have room for
// carries, and not below 2^24 or 2^46, so that rounding takes less than 2^-24 or 2^-46 of the kind's largest term,
// whatever the other neurons are. All others go into long accumulators (Kulisch), which hold every product of two
// numbers of a type exactly. So an arc's moments are good to 1e-7 or 2e-14 of its sum of |w|^2 or a^2, also beside
// neurons of any other size.
#pragma once

#include "circle/cuda/bins.cuh"

namespace hrta {
namespace cuda {
namespace gram_arcs {

using arcs::fused;

constexpr int kMoments = 4;  // a^2, w_0 w_0, w_0 w_1, w_1 w_1

HRTA_INLINE int kind_of(int moment) {
  return moment == 0 ? 0 : 1;
}

// --- windows --------------------------------------------------------------------------------------------------------

// Terms are below 2^kTermBits units.
template <int kWords>
constexpr int kTermBits = 32 * kWords - 14;
template <int kWords>
constexpr int kLeastBits = kWords == 2 ? 24 : 46;
// Of a window's exponent: its scales are normal numbers.
constexpr int kLeastExponent = -900, kMostExponent = 900;

// In two's complement, the lowest word first.
template <int kWords>
struct Integer {
  uint32_t word[kWords];
};

// Of terms below 2^exponent.
template <int kWords>
struct Window {
  uint32_t least, range;  // magnitudes from least to least + range, of powers of two
  double scale, back, low_scale;

  HRTA_INLINE explicit Window(int exponent)
      : least(arcs::magnitude(arcs::power_of_two(exponent - kTermBits<kWords> + kLeastBits<kWords>))),
        range(arcs::magnitude(arcs::power_of_two(exponent)) - least),
        scale(arcs::power_of_two(50 - exponent)),
        back(arcs::power_of_two(exponent - 50)),
        low_scale(arcs::power_of_two(82 - exponent)) {}

  // Whether terms go here, the largest of that magnitude; not if one is not finite.
  HRTA_INLINE bool holds(uint32_t magnitude) const { return magnitude - least < range; }

  // The integer nearest to term / unit, for |term| below 2^exponent.
  HRTA_INLINE Integer<kWords> in_units(double term) const {
    Integer<kWords> result;
    const double high = fused(term, scale, arcs::kMagic);
    int64_t upper = arcs::integer_in(high);
    if constexpr (kWords == 3) {
      const double rest = fused(arcs::kMagic - high, back, term);                    // exact
      const int64_t lower = arcs::integer_in(fused(rest, low_scale, arcs::kMagic));  // from -2^31 to 2^31
      result.word[0] = uint32_t(lower);
      upper += lower >> 32;
    }
    result.word[kWords - 2] = uint32_t(upper);
    result.word[kWords - 1] = uint32_t(upper >> 32);
    return result;
  }
};

// A block's sums in shared memory, as in circle/cuda/bins.cuh: words of 32 bits with carries from one to the next. The
// top words start at 2^31, so that sums of either sign cross their ends seldom; who sees that must keep count.
template <int kWords>
struct Bins {
  uint32_t* words;  // (kMoments, kWords, arcs, copies)
  int arcs, shift, copy;

  __device__ Bins(uint32_t* memory, int arcs, int shift)
      : words(memory), arcs(arcs), shift(shift), copy(int(threadIdx.x) & ((1 << shift) - 1)) {}

  static size_t bytes(int64_t arcs, int shift) { return size_t(4 * kMoments * kWords * arcs) << shift; }

  __device__ __forceinline__ int plane() const { return arcs << shift; }

  // By the whole block; barriers before and after.
  __device__ __forceinline__ void clear() const {
#pragma unroll
    for (int row = 0; row < kMoments * kWords; ++row) {
      const uint32_t start = row % kWords == kWords - 1 ? 0x80000000u : 0u;
      for (int k = int(threadIdx.x); k < plane(); k += int(blockDim.x)) words[row * plane() + k] = start;
    }
  }

  // The sums that have left their words: bit q where moment q did upwards, bit kMoments + q downwards.
  __device__ __forceinline__ uint32_t add(int arc, const Integer<kWords> (&terms)[kMoments]) const {
    uint32_t* const at = words + (arc << shift) + copy;
    uint32_t carry[kMoments] = {};
#pragma unroll
    for (int i = 0; i < kWords - 1; ++i) {
#pragma unroll
      for (int q = 0; q < kMoments; ++q) {  // side by side, for their latencies to overlap
        const uint32_t part = terms[q].word[i] + carry[q];
        const bool wrapped = part < carry[q];
        const uint32_t before = atomicAdd(at + (q * kWords + i) * plane(), part);
        carry[q] = wrapped || before + part < part;
      }
    }
    uint32_t left = 0;
#pragma unroll
    for (int q = 0; q < kMoments; ++q) {
      const uint32_t part = terms[q].word[kWords - 1] + carry[q];
      const uint32_t before = atomicAdd(at + (q * kWords + kWords - 1) * plane(), part), after = before + part;
      const bool down = int32_t(part) < 0;
      left |= uint32_t(down ? after > before : after < before) << (down ? kMoments + q : q);
    }
    return left;
  }

  // Word i of a sum over the copies, of either sign for the top one. Neighbours in a warp begin with different copies,
  // for their banks to differ.
  __device__ __forceinline__ int64_t sum(int moment, int i, int arc) const {
    const uint32_t* at = words + (moment * kWords + i) * plane() + (arc << shift);
    int64_t sum = i == kWords - 1 ? -(int64_t(0x80000000u) << shift) : 0;
    for (int c = 0; c < 1 << shift; ++c) sum += int64_t(at[(c + int(threadIdx.x)) & ((1 << shift) - 1)]);
    return sum;
  }
};

// --- long accumulators ----------------------------------------------------------------------------------------------

// Limb i counts 2^(32 i + kLowest): from the square of the smallest number of a type (of double: from the smallest
// product that is not 0) to that of the largest, a term having three limbs. Signed words of 64 bits, without carries.
template <typename T>
constexpr int kLowest = sizeof(T) == 4 ? -352 : -1088;
template <typename T>
constexpr int kLimbs = sizeof(T) == 4 ? 20 : 67;

// In global memory: of a pointer that may be to either, the compiler makes a loop for shared memory too.
__device__ __forceinline__ void add_to(unsigned long long* sum, int64_t value) {
#if defined(__CUDA_ARCH__)
  asm volatile("red.global.add.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(sum)), "l"(value) : "memory");
#else
  atomicAdd(sum, static_cast<unsigned long long>(value));
#endif
}

// limbs: the lowest one, the next `stride` words further.
template <typename T>
__device__ __forceinline__ void add_exactly(unsigned long long* limbs, int64_t stride, double term) {
  const uint64_t bits = bit_cast<uint64_t>(term);
  const int field = int(bits >> 52 & 0x7ff), position = at_least(field, 1) - 1075 - kLowest<T>, shift = position & 31;
  const uint64_t mantissa = (bits & 0xfffffffffffffull) | uint64_t(field != 0) << 52;
  const uint64_t low = mantissa << shift, high = mantissa >> 1 >> (63 - shift);
  const int64_t parts[3] = {int64_t(low & 0xffffffffu), int64_t(low >> 32), int64_t(high)};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const int64_t part = term < 0.0 ? -parts[i] : parts[i];
    if (part != 0) add_to(limbs + (position / 32 + i) * stride, part);
  }
}

// --- two doubles ----------------------------------------------------------------------------------------------------

// high + low: some 100 bits, so that differences of nearly equal running sums keep their digits.
struct alignas(16) DoubleDouble {
  double high, low;
};

__device__ __forceinline__ DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
  const double sum = a.high + b.high, part = sum - a.high;
  const double rest = (a.high - (sum - part)) + (b.high - part) + (a.low + b.low);
  const double high = sum + rest;
  return {high, rest - (high - sum)};
}

__device__ __forceinline__ double difference(DoubleDouble a, DoubleDouble b) {
  return (a.high - b.high) + (a.low - b.low);
}

// sum + limb 2^exponent
__device__ __forceinline__ DoubleDouble with_limb(DoubleDouble sum, int64_t limb, int exponent) {
  if (limb == 0) return sum;
  const double sign = limb < 0 ? -1.0 : 1.0;
  const uint64_t size = uint64_t(limb < 0 ? -limb : limb);
  sum = sum + DoubleDouble{ldexp(sign * double(uint32_t(size >> 32)), exponent + 32), 0.0};
  return sum + DoubleDouble{ldexp(sign * double(uint32_t(size)), exponent), 0.0};
}

}  // namespace gram_arcs
}  // namespace cuda
}  // namespace hrta
