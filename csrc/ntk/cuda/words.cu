// Before and after the products: bounds on values and slopes, and integers of two words.
#include "ntk/cuda/plan.cuh"

namespace hrta {
namespace cuda {
namespace digits {

namespace {

// The largest |sigma'|, of gelu at sqrt(2) and of silu at 2.4, rounded up. relu2 and softplus grow with |z|.
template <typename Base>
constexpr double kSteepest = 1.0;
template <>
constexpr double kSteepest<Gelu> = 1.129;
template <>
constexpr double kSteepest<Silu> = 1.1;
template <>
constexpr double kSteepest<Erf> = 1.1284;

// What |sigma(z)| and |sigma'(z)| are at most for |z| <= reach: each |sigma| is largest at reach itself, the sine's
// beyond a quarter turn excepted. Infinite where the kernel's sine does not reach.
template <typename Base>
__device__ __forceinline__ double2 bounds_for(double reach) {
  if constexpr (std::is_same_v<Base, Sin>) {
    const double value = reach < 1.57 ? FastSin::tail(reach).high : 1.0;
    return make_double2(reach < fast_turn_limit<double>() ? value : HUGE_VAL, 1.0);
  } else {
    const bool grows = std::is_same_v<Base, Relu2> || std::is_same_v<Base, Softplus>;
    return make_double2(base_value<Base>(reach), grows ? Base::slope(reach) : kSteepest<Base>);
  }
}

// |z_ik| <= |x_i| max |w_k|.
__global__ void __launch_bounds__(kThreads)
    bounds_kernel(const __grid_constant__ GramCall call, const __grid_constant__ Layout layout) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= layout.rows) return;
  const double reach = sqrt(as_double(layout.state->norm2)) * layout.norms[row];
  const double largest = sqrt(as_double(layout.state->square));
  double2 bounds{};
  with_base(call.base, [&](auto base) { bounds = bounds_for<decltype(base)>(reach); });
  const bool finite = reach < HUGE_VAL;  // NaN is not
  layout.value_bounds[row] = finite ? bounds.x : HUGE_VAL;
  layout.slope_bounds[row] = finite ? bounds.y * largest : HUGE_VAL;
}

// Where the words of an entry of the upper triangle are. Blocks of 32 by 8 samples, so that what lies mirrored is read
// by whole sectors too.
struct Words {
  long long *high, *low;
  int64_t planes, high_step, low_step;
};

__device__ __forceinline__ bool words_at(const Layout& layout, int64_t n, bool values, long long* product, int64_t& i,
                                         int64_t& j, Words& words) {
  i = int64_t(blockIdx.y) * 8 + threadIdx.x / 32, j = int64_t(blockIdx.x) * 32 + threadIdx.x % 32;
  if (i >= n || j >= n || i > j) return false;
  long long* all = layout.planes > 0 ? (values ? layout.value_planes : layout.slope_planes) : product;
  long long* diagonal = values ? layout.value_low : layout.slope_low;
  words.high = all + i * n + j, words.low = i < j ? all + j * n + i : diagonal + i;
  words.planes = layout.planes > 0 ? layout.planes : 1;
  words.high_step = n * n, words.low_step = i < j ? n * n : n;
  return true;
}

// What a low word has beyond its bits goes to the high one.
__global__ void __launch_bounds__(kThreads)
    carry_kernel(const __grid_constant__ Layout layout, int64_t n, bool values, int bits, long long* product) {
  int64_t i, j;
  Words words;
  if (!words_at(layout, n, values, product, i, j, words)) return;
  for (int64_t plane = 0; plane < words.planes; ++plane) {
    long long& low = words.low[plane * words.low_step];
    const long long carry = low >> bits;
    words.high[plane * words.high_step] += carry;
    low -= carry << bits;
  }
}

// product (n, n): words of all planes, in place or of the layout, to sums; zero below the diagonal. A step is that of
// the two samples' bounds, or of the largest a_k^2 for ReLU's slopes.
__global__ void __launch_bounds__(kThreads)
    words_kernel(const __grid_constant__ GramCall call, const __grid_constant__ Layout layout, bool values, int bits,
                 double unit, double* product) {
  int64_t i, j;
  Words words;
  if (!words_at(layout, call.n, values, reinterpret_cast<long long*>(product), i, j, words)) return;
  long long high = 0, low = 0;
  for (int64_t plane = 0; plane < words.planes; ++plane) {
    high += words.high[plane * words.high_step], low += words.low[plane * words.low_step];
  }
  const double* bounds = values ? layout.value_bounds : layout.slope_bounds;
  const bool square = !values && call.base == kRelu;
  const double step = square ? as_double(layout.state->square) * unit : (bounds[i] * unit) * bounds[j];
  if (i < j) product[j * call.n + i] = 0.0;
  product[i * call.n + j] = fma(double(high), double(1ll << bits), double(low)) * step;
}

dim3 grid_of(int64_t n) {
  return dim3(unsigned((n + 31) / 32), unsigned((n + 7) / 8));
}

}  // namespace

void launch_bounds(const GramCall& call, const Layout& layout, void* stream) {
  launch(bounds_kernel, dim3(unsigned((layout.rows + kThreads - 1) / kThreads)), kThreads, stream, call, layout);
}

void launch_carry(const GramCall& call, const Layout& layout, void* stream) {
  for (const bool values : {true, false}) {
    double* product = values ? call.sums.value_product : call.sums.slope_product;
    launch(carry_kernel, grid_of(call.n), kThreads, stream, layout, call.n, values, word_bits(call),
           reinterpret_cast<long long*>(product));
  }
}

void launch_words(const GramCall& call, const Layout& layout, void* stream) {
  // A product of two numbers of S digits is in units of 256^(2 (S - 1) - (L - 1)).
  const int S = digits_of(call), dropped = 2 * (S - 1) - (call.digits - 1);
  const double range = ldexp(kFill, 8 * S - 1), unit = ldexp(1.0, 8 * dropped) / (range * range);
  const double square_unit = ldexp(1.0, -8 * (call.digits - S)) / ldexp(kSquareFill, 8 * S);
  launch(words_kernel, grid_of(call.n), kThreads, stream, call, layout, true, word_bits(call), unit,
         call.sums.value_product);
  launch(words_kernel, grid_of(call.n), kThreads, stream, call, layout, false, word_bits(call),
         call.base == kRelu ? square_unit : unit, call.sums.slope_product);
}

}  // namespace digits
}  // namespace cuda
}  // namespace hrta
