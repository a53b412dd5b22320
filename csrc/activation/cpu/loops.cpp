// The activation's loops, compiled once per SIMD level (CMakeLists.txt sets HRTA_SIMD_LEVEL). Nothing here may call an
// inline function of the standard library: its one merged copy could be the wrong level's.
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "activation/cpu/loops.h"
#include "math/half.h"
#include "simd/half.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

constexpr int kLongBlock = 1 << 20;

// s for a block: one for all, or one per element of the block (repeated features).
template <typename T>
struct OneParameter {
  Homotopy<T> h;
  HRTA_INLINE Homotopy<T> at(int) const { return h; }
};

template <typename T>
struct ParameterPerElement {
  const double* s;
  HRTA_INLINE Homotopy<T> at(int i) const { return Homotopy<T>::from(s[i]); }
};

// y may be x: elements are independent, which is all that ivdep claims.
template <typename Base, Quantity kQuantity, typename T, typename Parameter>
void quantity_block(const T* x, T* y, T*, int n, const Parameter& parameter) {
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) y[i] = homotopy_quantity<Base, kQuantity>(x[i], parameter.at(i));
}

template <typename Base, typename T, typename Parameter>
void value_and_slope_block(const T* x, T* y, T* slope, int n, const Parameter& parameter) {
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    T z = x[i];
    y[i] = homotopy_value<Base>(z, parameter.at(i));
    slope[i] = homotopy_slope<Base>(z, parameter.at(i));
  }
}

template <typename T, typename Parameter>
using BlockKernel = void (*)(const T* x, T* y, T* slope, int n, const Parameter& parameter);

template <typename Base, typename T, typename Parameter>
BlockKernel<T, Parameter> kernel_of(Quantity quantity, bool with_slope) {
  switch (quantity) {
    case Quantity::kValue:
      if (with_slope) return value_and_slope_block<Base, T, Parameter>;
      return quantity_block<Base, Quantity::kValue, T, Parameter>;
    case Quantity::kSlope: return quantity_block<Base, Quantity::kSlope, T, Parameter>;
    case Quantity::kCurvature: return quantity_block<Base, Quantity::kCurvature, T, Parameter>;
    case Quantity::kParameterGradient: return quantity_block<Base, Quantity::kParameterGradient, T, Parameter>;
    case Quantity::kParameterGradient1: return quantity_block<Base, Quantity::kParameterGradient1, T, Parameter>;
  }
  return nullptr;
}

template <typename T, typename Parameter>
BlockKernel<T, Parameter> kernel_for(int base, Quantity quantity, bool with_slope) {
  return with_base(base, [=](auto tag) { return kernel_of<decltype(tag), T, Parameter>(quantity, with_slope); });
}

// Evaluates blocks of one call; chooses the loop once, and per block the fast sine where every |x| allows it.
template <typename T, typename Parameter>
struct Evaluator {
  BlockKernel<T, Parameter> kernel, fast_sin_kernel;

  Evaluator(const ActivationCall& call)
      : kernel(kernel_for<T, Parameter>(call.base, call.quantity, call.slope != nullptr)),
        fast_sin_kernel(call.base == kSin ? kernel_of<FastSin, T, Parameter>(call.quantity, call.slope != nullptr)
                                          : nullptr) {}

  void operator()(const T* x, T* y, T* slope, int n, const Parameter& parameter) const {
    bool fast = fast_sin_kernel != nullptr && all_within(x, n, fast_turn_limit<T>());
    (fast ? fast_sin_kernel : kernel)(x, y, slope, n, parameter);
  }
};

double uniform_parameter(const ActivationCall& call) {
  return call.n_features == 0 ? call.s : *call.s_values;
}

// s of elements [begin, begin + n), element i having feature i % n_features.
void repeat_parameter(const ActivationCall& call, int64_t begin, int n, double* s) {
  int64_t feature = begin % call.n_features;
  for (int i = 0; i < n; ++i) {
    s[i] = call.s_values[feature];
    feature = feature + 1 == call.n_features ? 0 : feature + 1;
  }
}

template <typename T>
void multiply(T* y, const T* grad, int n) {
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) y[i] *= grad[i];
}

template <typename Stored>
constexpr bool kIsHalf = sizeof(Stored) == 2;

// Half types are converted block by block; float and double loops work in the tensors' memory.
template <typename Stored>
const Computed<Stored>* load(const Stored* memory, Computed<Stored>* buffer, int n) {
  if constexpr (kIsHalf<Stored>) {
    widen_block(memory, buffer, n);
    return buffer;
  } else {
    return memory;
  }
}

template <typename Stored>
Computed<Stored>* target(Stored* memory, Computed<Stored>* buffer) {
  if constexpr (kIsHalf<Stored>) {
    return buffer;
  } else {
    return memory;
  }
}

template <typename Stored>
void store(const Computed<Stored>* block, Stored* memory, int n) {
  if constexpr (kIsHalf<Stored>) {
    for (int i = 0; i < n; ++i) narrow(block[i], memory[i]);
  }
}

// Calls body(stored-type tag) for the call's dtype.
template <typename Body>
void with_stored_type(ScalarKind dtype, const Body& body) {
  switch (dtype) {
    case ScalarKind::kFloat16: body(Float16{}); break;
    case ScalarKind::kBFloat16: body(BFloat16{}); break;
    case ScalarKind::kFloat32: body(float{}); break;
    case ScalarKind::kFloat64: body(double{}); break;
  }
}

// Runs visit(first, n, block evaluator) over [begin, end), whichever way s is given. Blocks that need no buffer may be
// `longest` elements long, which saves a twentieth of the time on 1e5 elements.
template <typename T, typename Visit>
void over_parameter_blocks(const ActivationCall& call, int64_t begin, int64_t end, int longest, const Visit& visit) {
  if (call.n_features <= 1) {
    const Evaluator<T, OneParameter<T>> evaluate(call);
    const OneParameter<T> parameter{Homotopy<T>::from(uniform_parameter(call))};
    for (int64_t first = begin; first < end; first += longest) {
      int n = int(end - first < longest ? end - first : longest);
      visit(first, n, [&](const T* x, T* y, T* slope) { evaluate(x, y, slope, n, parameter); });
    }
    return;
  }
  const Evaluator<T, ParameterPerElement<T>> evaluate(call);
  double s[kBlock];
  const ParameterPerElement<T> parameter{s};
  for (int64_t first = begin; first < end; first += kBlock) {
    int n = int(end - first < kBlock ? end - first : kBlock);
    repeat_parameter(call, first, n, s);
    visit(first, n, [&](const T* x, T* y, T* slope) { evaluate(x, y, slope, n, parameter); });
  }
}

template <typename Stored>
void transform_range(const ActivationCall& call, int64_t begin, int64_t end) {
  using T = Computed<Stored>;
  const Stored* x = static_cast<const Stored*>(call.x);
  const Stored* grad = static_cast<const Stored*>(call.grad);
  Stored* y = static_cast<Stored*>(call.y);
  Stored* slope = static_cast<Stored*>(call.slope);
  T x_buffer[kBlock], grad_buffer[kBlock], y_buffer[kBlock], slope_buffer[kBlock];
  const int longest = kIsHalf<Stored> || grad != nullptr || call.base == kSin ? kBlock : kLongBlock;
  over_parameter_blocks<T>(call, begin, end, longest, [&](int64_t first, int n, const auto& evaluate) {
    T* y_block = target(y + first, y_buffer);
    T* slope_block = slope == nullptr ? nullptr : target(slope + first, slope_buffer);
    evaluate(load(x + first, x_buffer, n), y_block, slope_block);
    if (grad != nullptr) multiply(y_block, load(grad + first, grad_buffer, n), n);
    store(y_block, y + first, n);
    if (slope != nullptr) store(slope_block, slope + first, n);
  });
}

void transform(const ActivationCall& call, int64_t begin, int64_t end) {
  with_stored_type(call.dtype, [&](auto tag) { transform_range<decltype(tag)>(call, begin, end); });
}

// Eight fixed lanes: the same sum at every SIMD level.
template <typename T>
double dot(const T* grad, const T* quantity, int n) {
  constexpr int kLanes = 8;
  double lanes[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += double(grad[i + j]) * double(quantity[i + j]);
  }
  for (int j = 0; i < n; ++i, ++j) lanes[j] += double(grad[i]) * double(quantity[i]);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

template <typename T>
void add_by_feature(const T* grad, const T* quantity, int n, int64_t feature, int64_t n_features, double* sums) {
  for (int i = 0; i < n;) {
    int run = int(n_features - feature < n - i ? n_features - feature : n - i);
    double* row = sums + feature;
#pragma GCC ivdep
    for (int j = 0; j < run; ++j) row[j] += double(grad[i + j]) * double(quantity[i + j]);
    i += run;
    feature = 0;
  }
}

template <typename Stored>
void parameter_gradient_range(const ActivationCall& call, int64_t begin, int64_t end, double* sums) {
  using T = Computed<Stored>;
  const Stored* x = static_cast<const Stored*>(call.x);
  const Stored* grad = static_cast<const Stored*>(call.grad);
  T x_buffer[kBlock], grad_buffer[kBlock], quantity[kBlock];
  // These quantities do not contain s, so one loop serves one s and many.
  const Evaluator<T, OneParameter<T>> evaluate(call);
  const OneParameter<T> parameter{Homotopy<T>::from(1.0)};
  for (int64_t first = begin; first < end; first += kBlock) {
    int n = int(end - first < kBlock ? end - first : kBlock);
    evaluate(load(x + first, x_buffer, n), quantity, nullptr, n, parameter);
    const T* grad_block = load(grad + first, grad_buffer, n);
    if (call.n_features <= 1) {
      sums[0] += dot(grad_block, quantity, n);
    } else {
      add_by_feature(grad_block, quantity, n, first % call.n_features, call.n_features, sums);
    }
  }
}

void parameter_gradient(const ActivationCall& call, int64_t begin, int64_t end, double* sums) {
  with_stored_type(call.dtype, [&](auto tag) { parameter_gradient_range<decltype(tag)>(call, begin, end, sums); });
}

// Byte k gets the bits x > 0 of elements 8k..8k+7. Flags are bytes first, a loop that vectorises; the product then
// moves the lowest bit of each byte to the top one.
template <typename T>
void pack_signs(const T* x, uint8_t* mask, int n) {
  uint8_t flags[kBlock + 8];
  for (int i = 0; i < n; ++i) flags[i] = x[i] > T(0) ? 1 : 0;
  for (int i = n; i < ((n + 7) & ~7); ++i) flags[i] = 0;
  for (int k = 0; k < (n + 7) / 8; ++k) {
    uint64_t eight;
    __builtin_memcpy(&eight, flags + 8 * k, 8);
    mask[k] = uint8_t((eight * 0x0102040810204080ull) >> 56);
  }
}

template <typename T>
void relu_mask_block(const T* x, T* y, uint8_t* mask, int n, Homotopy<T> h) {
  pack_signs(x, mask, n);
  quantity_block<Relu, Quantity::kValue, T>(x, y, nullptr, n, OneParameter<T>{h});
}

#if defined(__AVX512F__)
// The compare leaves the mask's bits in a register already: one pass over x instead of two, a quarter off at 1e5.
void relu_mask_block(const float* x, float* y, uint8_t* mask, int n, Homotopy<float> h) {
  const __m512 linear = _mm512_set1_ps(h.linear);
  const __m512 lowest = _mm512_set1_ps(h.linear == 0.0f ? -FloatTraits<float>::kLargest : -INFINITY);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 value = _mm512_loadu_ps(x + i);
    const __mmask16 positive = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 below = _mm512_mul_ps(linear, _mm512_max_ps(lowest, value));  // max keeps the NaN of its second
    _mm512_storeu_ps(y + i, _mm512_mask_blend_ps(positive, below, value));
    const uint16_t bits = _cvtmask16_u32(positive);
    __builtin_memcpy(mask + i / 8, &bits, 2);
  }
  if (i < n) relu_mask_block<float>(x + i, y + i, mask + i / 8, n - i, h);
}
#endif

template <typename T>
void relu_mask_forward_range(const ReluMaskCall& call, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(call.input);
  T* y = static_cast<T*>(call.output);
  const Homotopy<T> h = Homotopy<T>::from(call.s_value != nullptr ? *call.s_value : call.s);
  for (int64_t first = begin; first < end; first += kBlock) {
    int n = int(end - first < kBlock ? end - first : kBlock);
    relu_mask_block(x + first, y + first, call.mask + first / 8, n, h);
  }
}

void relu_mask_forward(const ReluMaskCall& call, int64_t begin, int64_t end) {
  (call.dtype == ScalarKind::kFloat64 ? relu_mask_forward_range<double> : relu_mask_forward_range<float>)(call, begin,
                                                                                                          end);
}

// grad_x = grad_y where the bit is set, (1 - s) grad_y elsewhere.
template <typename T>
void masked_scale(const T* grad, const uint8_t* mask, T* result, int n, T linear) {
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    uint32_t bits;
    __builtin_memcpy(&bits, mask + i / 8, 4);
#pragma GCC ivdep
    for (int j = 0; j < 32; ++j) {
      T g = grad[i + j];
      result[i + j] = (bits & (1u << j)) != 0 ? g : linear * g;
    }
  }
  for (; i < n; ++i) {
    T g = grad[i];
    result[i] = ((mask[i / 8] >> (i % 8)) & 1) != 0 ? g : linear * g;
  }
}

template <typename T>
void relu_mask_backward_range(const ReluMaskCall& call, int64_t begin, int64_t end) {
  const T* grad = static_cast<const T*>(call.input);
  T* result = static_cast<T*>(call.output);
  const T linear = T(1.0 - (call.s_value != nullptr ? *call.s_value : call.s));
  for (int64_t first = begin; first < end; first += kBlock) {
    int n = int(end - first < kBlock ? end - first : kBlock);
    masked_scale(grad + first, call.mask + first / 8, result + first, n, linear);
  }
}

void relu_mask_backward(const ReluMaskCall& call, int64_t begin, int64_t end) {
  (call.dtype == ScalarKind::kFloat64 ? relu_mask_backward_range<double> : relu_mask_backward_range<float>)(call, begin,
                                                                                                            end);
}

}  // namespace

extern const ActivationLoops kActivationLoops;
const ActivationLoops kActivationLoops = {transform, relu_mask_forward, relu_mask_backward, parameter_gradient};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
