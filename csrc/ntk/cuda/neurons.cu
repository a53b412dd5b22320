// The neurons of the Gram builder on the GPU: drawn, or read and surveyed; and laid out as the operand kernel reads
// them.
#include "math/normals.h"
#include "ntk/cuda/plan.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

// Counter block j of neuron k: normals 4 j .. 4 j + 3, of which normal 0 is the output weight.
template <typename Weight, typename Output>
__device__ __forceinline__ void draw(uint64_t seed, uint64_t neuron, int j, int D, const Weight& weight,
                                     const Output& output) {
  const Philox r = philox(neuron, uint32_t(j), seed);
  float normal[4];
  normal_pair(r.word[0], r.word[1], normal[0], normal[1]);
  if (4 * j + 1 < D) normal_pair(r.word[2], r.word[3], normal[2], normal[3]);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const int d = 4 * j + q - 1;
    if (d < 0) {
      output(normal[q]);
    } else if (d < D) {
      weight(d, normal[q]);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    draw_kernel(uint64_t seed, uint64_t first, int64_t count, int D, float* weight, float* output_weight) {
  const int per_neuron = D / 4 + 1;
  const int64_t total = count * per_neuron, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += stride) {
    const int64_t k = i / per_neuron;
    draw(
        seed, first + uint64_t(k), int(i - k * per_neuron), D, [&](int d, float w) { weight[k * D + d] = w; },
        [&](float a) { output_weight[k] = a; });
  }
}

__device__ __forceinline__ unsigned long long magnitude(double x) {
  return (unsigned long long)__double_as_longlong(x) & 0x7fffffffffffffffull;
}

// The largest |w_k|^2 and a_k^2 of m neurons, drawn where there is no weight; not finite where a weight is not.
template <typename T>
__global__ void __launch_bounds__(kThreads) survey_kernel(Neurons neurons, int64_t m, int D, State* state) {
  const T *weight = static_cast<const T*>(neurons.weight),
          *output_weight = static_cast<const T*>(neurons.output_weight);
  unsigned long long norm2 = 0, square = 0;
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x; k < m; k += stride) {
    double sum = 0.0, output = 0.0;
    auto add = [&](int, double w) { sum = fma(w, w, sum); };
    if (output_weight == nullptr) {
      for (int j = 0; 4 * j <= D; ++j) {
        draw(neurons.seed, neurons.first + uint64_t(k), j, D, add, [&](float a) { output = double(a); });
      }
    } else {
      for (int d = 0; d < D; ++d) add(d, double(weight[k * D + d]));
      output = double(output_weight[k]);
    }
    const unsigned long long norm = magnitude(sum), of_output = magnitude(output * output);
    norm2 = norm > norm2 ? norm : norm2;
    square = of_output > square ? of_output : square;
  }
  for (int step = 16; step > 0; step /= 2) {
    const unsigned long long norm = __shfl_xor_sync(~0u, norm2, step), output = __shfl_xor_sync(~0u, square, step);
    norm2 = norm > norm2 ? norm : norm2;
    square = output > square ? output : square;
  }
  if (threadIdx.x % 32 == 0) {
    atomicMax(&state->norm2, norm2);
    atomicMax(&state->square, square);
  }
}

// |x_i|, of zeros beyond n, and the tiles. Bounds of z stand for them, with 1 for the norm of the weights.
__global__ void __launch_bounds__(kThreads) prepare_kernel(const double* x, const double* bounds, int n, int D,
                                                           int rows, double* norms, State* state, uint32_t* tiles) {
  const int at = int(blockIdx.x) * kThreads + int(threadIdx.x), row_blocks = rows / kRows;
  if (at == 0 && bounds != nullptr) state->norm2 = (unsigned long long)__double_as_longlong(1.0);
  if (at < rows && bounds != nullptr) {
    norms[at] = at < n ? bounds[at] : 0.0;
  } else if (at < rows) {
    double largest = 0.0, sum = 0.0;
    for (int d = 0; at < n && d < D; ++d) largest = fmax(largest, fabs(x[int64_t(at) * D + d]));
    for (int d = 0; largest > 0.0 && d < D; ++d) {
      const double part = x[int64_t(at) * D + d] / largest;
      sum = fma(part, part, sum);
    }
    norms[at] = largest * sqrt(sum);
  }
  // Patches of 12 row blocks by 11 column blocks: what runs at one time shares its operands in the L2 cache.
  if (at < row_blocks) {
    int before = 0;
    for (int r0 = 0; r0 < row_blocks; r0 += 12) {
      for (int c0 = r0; c0 < row_blocks; c0 += 11) {
        for (int r = r0; r < min(r0 + 12, row_blocks); ++r) {
          const int first = max(c0, r), last = min(c0 + 11, row_blocks);
          for (int c = first; r == at && c < last; ++c) tiles[before + c - first] = uint32_t(r) | uint32_t(c) << 16;
          before += max(last - first, 0);
        }
      }
    }
  }
}

// Writes the images and the digits of a^2 of operand blocks; adds up W^T W and a^2. An image: weights (D, 64) in
// double, 64 constants of 8 bytes, two times 64 bytes. For two digits a constant is the neuron's hash, for three the
// double that the operand kernel adds, which carries the dither, and the bytes are the dither below a and below b; for
// levels it is a_k. Their squares have S digits, 0 to 2 for the first pass, a zero and two more for each of the others.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    stage_kernel(const __grid_constant__ GramCall call, const __grid_constant__ Layout layout, int64_t begin,
                 int64_t count) {
  unsigned char* image = shared_memory();
  const int D = int(layout.features), tid = int(threadIdx.x), pairs = int(layout.pairs);
  double *w = reinterpret_cast<double*>(image), *constant = w + D * kBlock;
  unsigned char* split = reinterpret_cast<unsigned char*>(constant + kBlock);
  double* a = reinterpret_cast<double*>(split + 2 * kBlock);
  long long* moment = reinterpret_cast<long long*>(a + kBlock);  // (2, pairs)
  const double norm2 = as_double(layout.state->norm2), square = as_double(layout.state->square);
  const double square_scale = square > 0.0 ? 0x1p32 * kSquareFill / square : 0.0;
  const int square_digits = layout.square_digits, dither_bits = 32 - 8 * square_digits;
  const double moment_scale = fixed_scale(call.total * norm2), sum_scale = fixed_scale(call.total * square);
  const int S = by_levels(call) ? digits_of(call) : 0;
  const double level_scale = ldexp(kSquareFill, 8 * S) / square;
  const bool binary = call.base == kRelu;
  const bool drawn = call.neurons.output_weight == nullptr;
  const T* weight = static_cast<const T*>(call.neurons.weight) + begin * D;
  const T* output_weight = static_cast<const T*>(call.neurons.output_weight) + begin;
  const uint64_t first = call.neurons.first + uint64_t(begin);
  for (int p = tid; p < 2 * pairs; p += kThreads) moment[p] = 0;
  long long square_sum = 0, square_rest = 0;
  const int blocks = int((count + kBlock - 1) / kBlock);
  for (int block = int(blockIdx.x); block < blocks; block += int(gridDim.x)) {
    const int64_t k0 = int64_t(block) * kBlock;
    const int here = int(count - k0 < kBlock ? count - k0 : kBlock);
    __syncthreads();
    if (drawn) {
      for (int i = tid; i < (D / 4 + 1) * kBlock; i += kThreads) {
        const int k = i % kBlock;
        const float keep = k < here ? 1.0f : 0.0f;
        draw(
            call.neurons.seed, first + uint64_t(k0 + k), i / kBlock, D,
            [&](int d, float normal) { w[d * kBlock + k] = double(keep * normal); },
            [&](float normal) { a[k] = double(keep * normal); });
      }
    } else {
      for (int i = tid; i < D * kBlock; i += kThreads) {
        const int k = i / D, d = i - k * D;
        w[d * kBlock + k] = k < here ? double(weight[k0 * D + i]) : 0.0;
      }
      if (tid < kBlock) a[tid] = tid < here ? double(output_weight[k0 + tid]) : 0.0;
    }
    __syncthreads();
    if (S > 0 && tid < kBlock) {  // whole warps
      constant[tid] = a[tid];
      double sum = a[tid] * a[tid];
      const long long q = __double2ll_rn(sum * level_scale);
      for (int i = 0; binary && i < S + (S - 3) / 2; ++i) {  // i counts the zeros too
        const int pass = i / kSquareDigits, digit = i - pass;
        const bool there = tid < here && (pass == 0 || i % kSquareDigits > 0);
        const int64_t at = int64_t(pass) * layout.chunk * kSquareDigits + int64_t(block) * kSquareDigits * kBlock;
        layout.squares[at + (i % kSquareDigits) * kBlock + tid] =
            there ? static_cast<unsigned char>(q >> (8 * (S - 1 - digit))) : static_cast<unsigned char>(0);
      }
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      const Fixed fixed = to_fixed(sum * sum_scale);
      square_sum += fixed.whole, square_rest += fixed.rest;
    } else if (tid < kBlock) {
      const uint32_t h = hash(first + uint64_t(k0 + tid)), other = mixed(h ^ 0x5bd1e995u);
      if (layout.digits == 2) {
        reinterpret_cast<uint2*>(constant)[tid] = make_uint2(h, 0u);
      } else {
        constant[tid] = 0x1.8p52 + double(h >> 8);  // 7 bits below a, 7 below b, 10 below c
        split[tid] = static_cast<unsigned char>(h >> 25);
        split[kBlock + tid] = static_cast<unsigned char>(h >> 18 & 127u);
      }
      uint32_t q = uint32_t(a[tid] * a[tid] * square_scale + double(other & ((1u << dither_bits) - 1u))) >> dither_bits;
      if (tid >= here) q = 0;  // the dither alone is below one step, but neither is it a neuron
      for (int i = 0; i < square_digits; ++i) {
        layout.squares[(int64_t(block) * square_digits + i) * kBlock + tid] =
            static_cast<unsigned char>(q >> (8 * (square_digits - 1 - i)));
      }
      square_sum += __reduce_add_sync(~0u, q);
    }
    // A pair of features by half a warp: 4 neurons a thread, then the half's sums in fixed point.
    for (int base = 0; base < 16 * pairs; base += kThreads) {
      const int item = base + tid, p = item / 16, slice = item % 16;
      int d = 0, e = p;
      while (d < D && e >= D - d) e -= D - d++;
      double sum = 0.0;
      for (int k = slice; p < pairs && k < kBlock; k += 16) sum = fma(w[d * kBlock + k], w[(d + e) * kBlock + k], sum);
      for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (slice == 0 && p < pairs) {
        const Fixed fixed = to_fixed(sum * moment_scale);
        moment[p] += fixed.whole, moment[pairs + p] += fixed.rest;
      }
    }
    __syncthreads();
    const uint4* words = reinterpret_cast<const uint4*>(image);
    uint4* out = reinterpret_cast<uint4*>(layout.image + int64_t(block) * layout.image_bytes);
    for (int i = tid; i < int(layout.image_bytes / 16); i += kThreads) out[i] = words[i];
  }
  __syncthreads();
  for (int p = tid; p < 2 * pairs; p += kThreads) add_to(layout.moment + p, moment[p]);
  if (tid < kBlock && tid % 32 == 0) {
    add_to(&layout.state->square_sum, square_sum);
    if (S > 0) add_to(&layout.state->square_rest, square_rest);
  }
}

}  // namespace

void launch_prepare(const GramCall& call, const Layout& layout, void* stream) {
  launch(prepare_kernel, dim3(unsigned((layout.rows + kThreads - 1) / kThreads)), kThreads, stream, call.x, call.bounds,
         int(call.n), int(call.D), int(layout.rows), layout.norms, layout.state, layout.tiles);
  const int64_t total = int64_t(call.total), blocks = (total + kThreads - 1) / kThreads;
  with_type(call.neurons.output_weight == nullptr ? ScalarKind::kFloat32 : call.neurons.dtype, [&](auto zero) {
    launch(survey_kernel<decltype(zero)>, dim3(unsigned(blocks < 1056 ? blocks : 1056)), kThreads, stream, call.neurons,
           total, int(layout.features), layout.state);
  });
}

void launch_stage(const GramCall& call, const Layout& layout, int64_t begin, int64_t count, int multiprocessors,
                  void* stream) {
  const int64_t blocks = (count + kBlock - 1) / kBlock, most = 8 * int64_t(multiprocessors);
  Shape shape{dim3(unsigned(blocks < most ? blocks : most)), kThreads};
  shape.shared = size_t(layout.image_bytes + 8 * (kBlock + 2 * layout.pairs));
  with_type(call.neurons.output_weight == nullptr ? ScalarKind::kFloat32 : call.neurons.dtype,
            [&](auto zero) { launch(stage_kernel<decltype(zero)>, shape, stream, call, layout, begin, count); });
}

}  // namespace digits

using namespace digits;

const char* random_weights(uint64_t seed, uint64_t first, int64_t count, int64_t D, float* weight, float* output_weight,
                           int device, void* stream) {
  if (count == 0) return nullptr;
  DeviceGuard guard(device);
  const int64_t blocks = (count * (D / 4 + 1) + kThreads - 1) / kThreads;
  const int64_t most = 8 * int64_t(device_of(device).multiprocessors);
  launch(draw_kernel, dim3(unsigned(blocks < most ? blocks : most)), kThreads, stream, seed, first, count, int(D),
         weight, output_weight);
  return launch_error();
}

}  // namespace cuda
}  // namespace hrta
