// The operands of the Gram builder's products: z, where it is positive, and its digits; and the sums of |z| w.
//
// z is a chain of float64 multiply-adds over the features, so its sign is the one of the formula in float64. One more,
// with the step as factor and 1.5 2^52 as addend, leaves the number in 32-bit fixed point in its low word: the digits
// are bytes of it, four numbers at a time, without a conversion. All is done on -z, whose sign bit says z > 0.
#include "ntk/cuda/bytes.cuh"
#include "ntk/cuda/plan.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

constexpr int kGiven = -1;

// `values` (row block, operand block, digit, 16-neuron group, row, 16): 8 KB planes that are the products' image in
// shared memory; `active` (row block, operand block, 16-neuron group, row, 16): 0xff where z > 0. cross (n, D) += |z|
// w, in fixed point: doubles over `share` operand blocks, then integers. kD: D if the compiler knows it, else 0;
// kGiven: z is given and its sums are not wanted.
template <int S, int kD>
__global__ void __launch_bounds__(kThreads, 2)
    operand_kernel(const __grid_constant__ GramCall call, const __grid_constant__ Layout layout, int64_t begin,
                   int64_t count, int blocks) {
  constexpr int kGroups = kBlock / 16;
  const int D = kD > 0 ? kD : kD == kGiven ? 0 : int(call.D), n = int(call.n);
  const int tid = int(threadIdx.x), r = tid % kRows, half = tid / kRows, row = int(blockIdx.x) * kRows + r;
  double* xs = reinterpret_cast<double*>(shared_memory());  // (D, 128)
  double* w = xs + D * kRows;                               // an image
  const double* constant = w + D * kBlock;
  const unsigned char* split = reinterpret_cast<const unsigned char*>(constant + kBlock);
  double* sums = w + layout.image_bytes / 8;  // kD = 0: (2, D, 128)
  for (int d = half; d < D; d += 2) xs[d * kRows + r] = row < n ? -call.x[int64_t(row) * D + d] : 0.0;
  if (kD == 0) {
    for (int d = 0; d < D; ++d) sums[(half * D + d) * kRows + r] = 0.0;
  }
  const double norm2 = as_double(layout.state->norm2), norm = layout.norms[row];
  const double largest = sqrt(norm2) * norm;
  double inverse = largest > 0.0 ? -0x1p32 * kFill / largest : 0.0;
  if (!(fabs(inverse) < 0x1p1000)) inverse = 0.0;  // nothing beside the other rows
  const double cross_scale = fixed_scale(call.total * norm2 * norm);
  const uint32_t row_hash = hash(uint64_t(row) ^ 0x9E3779B97F4A7C15ull);
  double cross[kD > 0 ? kD : 1] = {};
  long long fixed[kD > 0 ? kD : 1] = {};
  bool exceeds = false;
  const int words = int(layout.image_bytes / 16), shares = (blocks + layout.share - 1) / layout.share;
  uint4* image = reinterpret_cast<uint4*>(w);
  auto image_of = [&](int block) { return reinterpret_cast<const uint4*>(layout.image + block * layout.image_bytes); };
  for (int share = int(blockIdx.y); share < shares; share += int(gridDim.y)) {
    const int first = share * layout.share, last = min(blocks, first + layout.share);
    uint4 ahead = make_uint4(0, 0, 0, 0);  // of the next image, on its way while this one is worked on
    if (tid < words) ahead = image_of(first)[tid];
    for (int block = first; block < last; ++block) {
      __syncthreads();
      if (tid < words) image[tid] = ahead;
      for (int i = tid + kThreads; i < words; i += kThreads) image[i] = image_of(block)[i];
      __syncthreads();
      if (block + 1 < last && tid < words) ahead = image_of(block + 1)[tid];
      const int64_t at = int64_t(blockIdx.x) * blocks + block;
      // What warps of no samples leave in the planes, products put into sums that nobody reads.
#pragma unroll 1
      for (int group = row / 32 * 32 < n ? half : kGroups; group < kGroups; group += 2) {
        double z[16];
#pragma unroll
        for (int k = 0; k < 16; ++k) z[k] = 0.0;
        if constexpr (kD == kGiven) {
          const int64_t neuron = int64_t(block) * kBlock + group * 16;
          double* from = call.z + int64_t(row) * call.m + begin + neuron;
          const int there = row < n ? int(count - neuron < 16 ? count - neuron : 16) : 0;
          double2* pairs = reinterpret_cast<double2*>(from);
          const bool whole = there == 16 && call.m % 2 == 0;  // on the 16-byte grid
          // 0 - z: not -0 for 0, whose sign bit would say that z > 0.
#pragma unroll
          for (int k = 0; k < 16; k += 2) {
            if (whole) {
              const double2 pair = pairs[k / 2];
              z[k] = 0.0 - pair.x, z[k + 1] = 0.0 - pair.y;
            } else {
              if (k < there) z[k] = 0.0 - from[k];
              if (k + 1 < there) z[k + 1] = 0.0 - from[k + 1];
            }
          }
#pragma unroll
          for (int k = 0; k < 16; k += 2) {
            const double2 pair = make_double2(fmax(0.0 - z[k], 0.0), fmax(0.0 - z[k + 1], 0.0));
            exceeds |= !(fabs(z[k]) <= largest && fabs(z[k + 1]) <= largest);
            if (whole) {
              pairs[k / 2] = pair;
            } else {
              if (k < there) from[k] = pair.x;
              if (k + 1 < there) from[k + 1] = pair.y;
            }
          }
        }
        auto add_feature = [&](int d) {
          const double x = xs[d * kRows + r];
#pragma unroll
          for (int k = 0; k < 16; k += 2) {
            const double2 pair = *reinterpret_cast<const double2*>(w + d * kBlock + group * 16 + k);
            z[k] = fma(x, pair.x, z[k]);
            z[k + 1] = fma(x, pair.y, z[k + 1]);
          }
        };
        if constexpr (kD > 0) {
#pragma unroll
          for (int d = 0; d < kD; ++d) add_feature(d);
        } else {
          for (int d = 0; d < D; ++d) add_feature(d);
        }
        uint32_t digit[S][4], mask[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          uint32_t t[4], high[4];
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int k = group * 16 + 4 * q + e;
            high[e] = uint32_t(__double2hiint(z[4 * q + e]));
            if constexpr (S == 2) {
              const uint32_t neuron = reinterpret_cast<const uint2*>(constant)[k].x;
              t[e] = uint32_t(__double2loint(fma(z[4 * q + e], inverse, 0x1.8p52 + double(0x00800000u))));
              t[e] += mixed_once(neuron ^ row_hash) >> 16;
            } else {
              t[e] = uint32_t(__double2loint(fma(z[4 * q + e], inverse, constant[k])));
            }
          }
          mask[q] = sign_bytes(high[0], high[1], high[2], high[3]);
          const uint32_t low = permute(t[0], t[1], 0x6273), up = permute(t[2], t[3], 0x6273);
          const uint32_t second = permute(low, up, 0x7632);  // bytes 2 of the four
          digit[0][q] = permute(low, up, 0x5410) & mask[q];  // bytes 3
          if constexpr (S == 2) {
            digit[1][q] = (second ^ 0x80808080u) & mask[q];
          } else {
            const uint32_t third = permute(permute(t[0], t[1], 0x0051), permute(t[2], t[3], 0x0051), 0x5410);
            const uint32_t* dither = reinterpret_cast<const uint32_t*>(split) + group * 4 + q;
            const uint32_t b = second >> 1 & 0x7f7f7f7fu;
            const uint32_t c = (third >> 2 & 0x3f3f3f3fu) | (second & 0x01010101u) << 6;
            digit[1][q] = less_bytes(b, dither[0]) & mask[q];
            digit[2][q] = less_bytes(c, dither[kBlock / 4]) & mask[q];
          }
        }
        const int within = (group * kRows + r) * 16;
#pragma unroll
        for (int i = 0; i < S; ++i) {
          *reinterpret_cast<uint4*>(layout.values + (at * S + i) * kPlane + within) =
              make_uint4(digit[i][0], digit[i][1], digit[i][2], digit[i][3]);
        }
        *reinterpret_cast<uint4*>(layout.active + at * kPlane + within) =
            make_uint4(mask[0], mask[1], mask[2], mask[3]);
#pragma unroll
        for (int k = 0; k < 16; ++k) z[k] = fabs(z[k]);
        auto add_cross = [&](int d, double sum) {
#pragma unroll
          for (int k = 0; k < 16; k += 2) {
            const double2 pair = *reinterpret_cast<const double2*>(w + d * kBlock + group * 16 + k);
            sum = fma(z[k + 1], pair.y, fma(z[k], pair.x, sum));
          }
          return sum;
        };
        if constexpr (kD > 0) {
#pragma unroll
          for (int d = 0; d < kD; ++d) cross[d] = add_cross(d, cross[d]);
        } else {
          for (int d = 0; d < D; ++d) {
            double* sum = sums + (half * D + d) * kRows + r;
            *sum = add_cross(d, *sum);
          }
        }
      }
    }
    if constexpr (kD > 0) {
#pragma unroll
      for (int d = 0; d < kD; ++d) {
        fixed[d] += __double2ll_rn(cross[d] * cross_scale);
        cross[d] = 0.0;
      }
    } else {
      for (int d = 0; d < D; ++d) {
        double* sum = sums + (half * D + d) * kRows + r;
        if (row < n) add_to(layout.cross + int64_t(row) * D + d, __double2ll_rn(*sum * cross_scale));
        *sum = 0.0;
      }
    }
  }
  if constexpr (kD > 0) {
#pragma unroll
    for (int d = 0; d < kD; ++d) {
      if (row < n) add_to(layout.cross + int64_t(row) * D + d, fixed[d]);
    }
  }
  if (kD == kGiven && exceeds) atomicMax(&layout.state->norm2, 0x7ff0000000000000ull);
}

template <int S, int kD>
void launch_for(const GramCall& call, const Layout& layout, int64_t begin, int64_t count, int multiprocessors,
                void* stream) {
  const int blocks = int((count + kBlock - 1) / kBlock);
  const int64_t shares = (blocks + layout.share - 1) / layout.share;
  const int64_t wave = 2 * int64_t(multiprocessors) / layout.row_blocks;
  Shape shape{dim3(unsigned(layout.row_blocks), unsigned(wave < 1 ? 1 : wave < shares ? wave : shares)), kThreads};
  shape.shared = size_t(operand_shared(layout.features));
  launch(operand_kernel<S, kD>, shape, stream, call, layout, begin, count, blocks);
}

template <int S>
void launch_digits(const GramCall& call, const Layout& layout, int64_t begin, int64_t count, int multiprocessors,
                   void* stream) {
  switch (layout.features) {
    case 0: return launch_for<S, kGiven>(call, layout, begin, count, multiprocessors, stream);
    case 2: return launch_for<S, 2>(call, layout, begin, count, multiprocessors, stream);
    case 3: return launch_for<S, 3>(call, layout, begin, count, multiprocessors, stream);
    case 4: return launch_for<S, 4>(call, layout, begin, count, multiprocessors, stream);
    default: return launch_for<S, 0>(call, layout, begin, count, multiprocessors, stream);
  }
}

}  // namespace

void launch_operands(const GramCall& call, const Layout& layout, int64_t begin, int64_t count, int multiprocessors,
                     void* stream) {
  if (layout.digits == 2) {
    launch_digits<2>(call, layout, begin, count, multiprocessors, stream);
  } else {
    launch_digits<3>(call, layout, begin, count, multiprocessors, stream);
  }
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
