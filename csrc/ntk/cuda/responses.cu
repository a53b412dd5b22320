// The operands of products in levels, for every base: z, sigma(z) and a sigma'(z) in float64, their digits, and the
// sums of sigma(z) w and a^2 sigma'(z).
#include "ntk/cuda/bytes.cuh"
#include "ntk/cuda/hopper.cuh"
#include "ntk/cuda/plan.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

#if defined(HRTA_HOPPER)

// Integers per unit of a number below `bound`: the largest has kFill of 8 S - 1 bits, so that its top digit, which a
// carry may reach, is one signed byte. Numbers too small for that are nothing beside the other rows.
__device__ __forceinline__ double steps_for(double bound, int S) {
  const double steps = ldexp(kFill, 8 * S - 1) / bound;
  return steps < 0x1p1000 ? steps : 0.0;
}

// The digits of four numbers, a word each, appended to those of the numbers before: the bytes of q with half a byte
// added to all below the top one, and taken off again, which leaves bytes that stand for [-128, 127].
template <int S>
__device__ __forceinline__ void append_digits(const double (&number)[4], double steps, uint32_t (&digit)[S][4]) {
  constexpr long long half = 0x0000808080808080ll >> (8 * (kMostDigits - S));
  uint32_t low[4], high[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const long long q = (__double2ll_rn(number[e] * steps) + half) ^ half;
    low[e] = uint32_t(q), high[e] = uint32_t((unsigned long long)q >> 32);
  }
#pragma unroll
  for (int i = 0; i < S; ++i) {
    const uint32_t* from = S - 1 - i > 3 ? high : low;
    const uint32_t byte = uint32_t(S - 1 - i) & 3u, both = byte | (byte + 4) << 4;
    digit[i][0] = digit[i][1], digit[i][1] = digit[i][2], digit[i][2] = digit[i][3];
    digit[i][3] = permute(permute(from[0], from[1], both), permute(from[2], from[3], both), 0x5410);
  }
}

// To the planes of an operand block, 16 bytes each.
template <int S>
__device__ __forceinline__ void store_digits(const uint32_t (&digit)[S][4], unsigned char* to) {
#pragma unroll
  for (int i = 0; i < S; ++i) {
    *reinterpret_cast<uint4*>(to + i * kPlane) = make_uint4(digit[i][0], digit[i][1], digit[i][2], digit[i][3]);
  }
}

#endif

// `values`, `slopes` (row block, operand block, digit, 16-neuron group, row, 16), `active` as in operands.cu. Rows and
// neurons that are none have no digits: rows are left as they are, and what a product makes of them is not read. Four
// neurons at a time, for the size of a base's code. Sums are doubles over `share` operand blocks, then fixed point.
template <typename Base, int S>
__global__ void __launch_bounds__(kThreads, 2)
    response_kernel([[maybe_unused]] const __grid_constant__ GramCall call,
                    [[maybe_unused]] const __grid_constant__ Layout layout, [[maybe_unused]] int64_t count) {
#if defined(HRTA_HOPPER)
  constexpr bool kBinary = Base::kGrowth == Growth::kRamp;
  const int D = int(call.D), n = int(call.n);
  const int tid = int(threadIdx.x), r = tid % kRows, half = tid / kRows, row = int(blockIdx.x) * kRows + r;
  const int blocks = int((count + kBlock - 1) / kBlock);
  double* xs = reinterpret_cast<double*>(shared_memory());  // (D, 128)
  double* w = xs + D * kRows;                               // an image
  const double* a = w + D * kBlock;
  double* sums = w + layout.image_bytes / 8;  // (2, D, 128)
  for (int d = half; d < D; d += 2) xs[d * kRows + r] = row < n ? call.x[int64_t(row) * D + d] : 0.0;
  for (int d = 0; d < D; ++d) sums[(half * D + d) * kRows + r] = 0.0;
  const double value_steps = steps_for(layout.value_bounds[row], S);
  const double slope_steps = kBinary ? 0.0 : steps_for(layout.slope_bounds[row], S);
  double slope_sum = 0.0;
  const int words = int(layout.image_bytes / 16), shares = (blocks + layout.share - 1) / layout.share;
  uint4* image = reinterpret_cast<uint4*>(w);
  for (int share = int(blockIdx.y); share < shares; share += int(gridDim.y)) {
    const int first = share * layout.share, last = min(blocks, first + layout.share);
    for (int block = first; block < last; ++block) {
      const uint4* from = reinterpret_cast<const uint4*>(layout.image + block * layout.image_bytes);
      __syncthreads();
      for (int i = tid; i < words; i += kThreads) image[i] = from[i];
      __syncthreads();
      if (row >= n) continue;
      const int64_t at = int64_t(blockIdx.x) * blocks + block;
      const int here = int(min(count - int64_t(block) * kBlock, int64_t(kBlock)));
#pragma unroll 1
      for (int group = half; group < kBlock / 16; group += 2) {
        uint32_t values[S][4] = {}, slopes[S][4] = {};  // slopes[0] of ReLU: where it is active
#pragma unroll 1
        for (int k = group * 16; k < group * 16 + 16; k += 4) {
          double z[4] = {}, value[4], slope[4];
          for (int d = 0; d < D; ++d) {
            const double x = xs[d * kRows + r];
            const double2 u = *reinterpret_cast<const double2*>(w + d * kBlock + k);
            const double2 v = *reinterpret_cast<const double2*>(w + d * kBlock + k + 2);
            z[0] = fma(x, u.x, z[0]), z[1] = fma(x, u.y, z[1]);
            z[2] = fma(x, v.x, z[2]), z[3] = fma(x, v.y, z[3]);
          }
          uint32_t mask = 0;
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if constexpr (kBinary) {
              const bool on = z[e] > 0.0;
              value[e] = on ? z[e] : 0.0;
              mask |= on ? 0xffu << (8 * e) : 0u;
            } else {
              value[e] = k + e < here ? base_value<Base>(z[e]) : 0.0;
              slope[e] = a[k + e] * Base::slope(z[e]);
              slope_sum = fma(a[k + e], slope[e], slope_sum);
            }
          }
          append_digits(value, value_steps, values);
          if constexpr (kBinary) {
            slopes[0][0] = slopes[0][1], slopes[0][1] = slopes[0][2], slopes[0][2] = slopes[0][3];
            slopes[0][3] = mask;
          } else {
            append_digits(slope, slope_steps, slopes);
          }
          for (int d = 0; d < D; ++d) {
            const double2 u = *reinterpret_cast<const double2*>(w + d * kBlock + k);
            const double2 v = *reinterpret_cast<const double2*>(w + d * kBlock + k + 2);
            const double four = fma(value[1], u.y, value[0] * u.x) + fma(value[3], v.y, value[2] * v.x);
            sums[(half * D + d) * kRows + r] += four;
          }
        }
        const int within = (group * kRows + r) * 16;
        store_digits(values, layout.values + at * S * kPlane + within);
        if constexpr (kBinary) {
          *reinterpret_cast<uint4*>(layout.active + at * kPlane + within) =
              make_uint4(slopes[0][0], slopes[0][1], slopes[0][2], slopes[0][3]);
        } else {
          store_digits(slopes, layout.slopes + at * S * kPlane + within);
        }
      }
    }
    if (row >= n) continue;
    const double cross_scale = fixed_scale(cross_bound(call, layout, row));
    for (int d = 0; d < D; ++d) {
      double* sum = sums + (half * D + d) * kRows + r;
      const Fixed fixed = to_fixed(*sum * cross_scale);
      add_to(layout.cross + int64_t(row) * D + d, fixed.whole);
      add_to(layout.cross_rest + int64_t(row) * D + d, fixed.rest);
      *sum = 0.0;
    }
    if (kBinary) continue;
    const Fixed fixed = to_fixed(slope_sum * fixed_scale(slope_sum_bound(call, layout, row)));
    add_to(layout.slope_sum + row, fixed.whole);
    add_to(layout.slope_sum + n + row, fixed.rest);
    slope_sum = 0.0;
  }
#endif
}

}  // namespace

void launch_responses(const GramCall& call, const Layout& layout, int64_t count, int multiprocessors, void* stream) {
  const int64_t blocks = (count + kBlock - 1) / kBlock, shares = (blocks + layout.share - 1) / layout.share;
  const int64_t wave = 2 * int64_t(multiprocessors) / layout.row_blocks;
  Shape shape{dim3(unsigned(layout.row_blocks), unsigned(wave < 1 ? 1 : wave < shares ? wave : shares)), kThreads};
  shape.shared = size_t(8 * call.D * kRows + layout.image_bytes + 16 * call.D * kRows);
  with_base(call.base, [&](auto base) {
    // All |z| are below fast_turn_limit, or the bounds say that nothing is right (bounds in words.cu).
    using Base = std::conditional_t<std::is_same_v<decltype(base), Sin>, FastSin, decltype(base)>;
    if (digits_of(call) == 5) {
      launch(response_kernel<Base, 5>, shape, stream, call, layout, count);
    } else {
      launch(response_kernel<Base, kMostDigits>, shape, stream, call, layout, count);
    }
  });
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
