// Sums over the neurons of each arc, in fixed point: integers, so that they do not depend on the order in which the
// threads of a block add, and are the same on every run.
//
// A value v is added as the integer nearest to v 2^(bits - exponent), 2^exponent being above all |v| of the block and
// 2^bits times the number of neurons below 2^62. Each addition is off by at most half of 2^(exponent - bits), so a sum
// over N neurons by N / 2 of these at most, and by about sqrt(N) / 3 of them where they are random: small beside the
// largest value, not beside each sum. The exponent has to be a function of the block's neurons alone, as first_exponent
// and what follows it in a sweep are, never of an earlier step: a training that goes on must find the same bits.
#pragma once

#include "circle/cuda/bounds.cuh"

namespace hrta {
namespace cuda {
namespace arcs {

// In double, kMagic + v holds the integer nearest to v in its lower bits, |v| < 2^51.
constexpr double kMagic = 0x1.8p52;
constexpr int kMagicHigh = 0x43380000;
constexpr int kMostBits = 50;
constexpr int kHeadroom = 3;  // bits by which the magnitudes may exceed the first ones before a block starts again

HRTA_INLINE int bits_for(int64_t neurons) {
  int bits = 62;
  while (bits > 0 && neurons > (int64_t(1) << (62 - bits))) --bits;
  return bits < kMostBits ? bits : kMostBits;
}

HRTA_INLINE double power_of_two(int exponent) {
  return bit_cast<double>(uint64_t(1023 + exponent) << 52);
}

// Magnitudes as integers that rise with them, the upper 32 bits of |x|; those of infinity and NaN are not finite.
HRTA_INLINE uint32_t magnitude(float x) {
  return bit_cast<uint32_t>(x) & 0x7fffffffu;
}
HRTA_INLINE uint32_t magnitude(double x) {
  return uint32_t(bit_cast<uint64_t>(x) >> 32) & 0x7fffffffu;
}
template <typename T>
HRTA_INLINE bool is_finite(uint32_t magnitude) {
  return magnitude < (sizeof(T) == 4 ? 0x7f800000u : 0x7ff00000u);
}
// |x| < 2^exponent. At least -900, for the scales to be normal numbers.
template <typename T>
HRTA_INLINE int exponent_of(uint32_t magnitude) {
  const int exponent = sizeof(T) == 4 ? int(magnitude >> 23) - 126 : int(magnitude >> 20) - 1022;
  return exponent < -900 ? -900 : exponent;
}
template <typename T>
HRTA_INLINE int first_exponent(uint32_t magnitude_of_first) {
  return exponent_of<T>(magnitude_of_first) + kHeadroom;
}

// kMagic + a w scale, for |a w| scale < 2^51. float32 products are exact in double; float64's lose 2^-53 of themselves,
// for a scale alone may leave the range.
template <typename T>
HRTA_INLINE double scaled_product(T a, T w, double scale) {
  if constexpr (sizeof(T) == 4) {
    return fused(double(a) * scale, double(w), kMagic);
  } else {
    return fused(a * w, scale, kMagic);
  }
}

// The integer in kMagic + v.
HRTA_INLINE int64_t integer_in(double scaled) {
  return int64_t(bit_cast<uint64_t>(scaled) - bit_cast<uint64_t>(kMagic));
}

// Sums of a block, in shared memory, which adds 32 bits natively and 64 only in a loop of compare-and-swap: a sum is
// two words, and the carry goes from one addition to the other. To keep lanes from meeting on one address there are
// 2^shift copies of each word, neighbours in memory; lane l has copy l % 2^shift.
struct Bins {
  uint32_t* words;  // (2 values, arcs, copies): low and high words of each value
  int plane, shift, copy;

  __device__ Bins(uint32_t* memory, int arcs, int shift)
      : words(memory), plane(arcs << shift), shift(shift), copy(int(threadIdx.x) & ((1 << shift) - 1)) {}

  static size_t bytes(int64_t values, int64_t arcs, int shift) { return size_t(8 * values * arcs) << shift; }

  // scaled: kMagic + v
  __device__ __forceinline__ void add(int value, int arc, double scaled) const {
    uint32_t* low = words + 2 * value * plane + (arc << shift) + copy;
    const uint64_t all = bit_cast<uint64_t>(scaled);
    const uint32_t part = uint32_t(all), before = atomicAdd(low, part);
    const uint32_t carry = uint32_t(before + part) < part;
    atomicAdd(low + plane, uint32_t(all >> 32) - uint32_t(kMagicHigh) + carry);
  }

  __device__ int64_t sum(int value, int arc) const {
    uint64_t sum = 0;
    const uint32_t* low = words + 2 * value * plane + (arc << shift);
    for (int c = 0; c < 1 << shift; ++c) sum += uint64_t(low[c]) | uint64_t(low[plane + c]) << 32;
    return int64_t(sum);
  }
};

// The largest over the block, which it synchronises. `shared` was 0, and everybody knew, before.
__device__ __forceinline__ uint32_t block_most(uint32_t most, uint32_t* shared) {
  most = __reduce_max_sync(~0u, most);
  if (threadIdx.x % 32 == 0) atomicMax(shared, most);
  __syncthreads();
  return *shared;
}

}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
