// The activation's loops, compiled once per SIMD level (CMakeLists.txt sets HRTA_SIMD_LEVEL). Nothing here may call an
// inline function of the standard library: its one merged copy could be the wrong level's.
#include "activation/cpu/loops.h"

#include <type_traits>

#include "activation/cpu/relu_mask.h"
#include "math/half.h"
#include "simd/half.h"
#include "simd/lanes.h"

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

// What a block kernel works on: x (n) in, y (n) out, perhaps x itself; grad (n) multiplies y, and slope (n) gets
// sigma_s'(x), each where it is not null.
template <typename T>
struct Block {
  const T* x;
  const T* grad;
  T* y;
  T* slope;
  int n;
};

// Elements are independent, which is all that ivdep claims.
template <typename Base, Quantity kQuantity, bool kWithSlope, typename T, typename Parameter>
void scalar_block(const Block<T>& block, const Parameter& parameter) {
  const T *x = block.x, *grad = block.grad;
  T *y = block.y, *slope = block.slope;
  const int n = block.n;
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    const T z = x[i];
    y[i] = homotopy_quantity<Base, kQuantity>(z, parameter.at(i));
    if constexpr (kWithSlope) slope[i] = homotopy_slope<Base>(z, parameter.at(i));
  }
  if (grad == nullptr) return;
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) y[i] *= grad[i];
}

#if defined(__AVX2__)
// In lanes, what is left over at the end in a copy that fills them. `kUnit`: s = 1, which takes less arithmetic.
template <typename Base, Quantity kQuantity, bool kWithSlope, bool kUnit, typename T>
void lanes_block(const Block<T>& block, const OneParameter<T>& parameter) {
  constexpr int kRegisters = 2, kStep = kRegisters * kLanes<T>;
  const Homotopy<T> h = parameter.h;
  const auto step = [h](const Block<T>& at, int i) __attribute__((always_inline)) {
    const auto z = load_lanes<kRegisters>(at.x + i);
    auto y = z;
    if constexpr (kUnit) {
      y = base_value<Base>(z);
      if constexpr (std::is_same_v<Base, Tanh> && !kTablesOf<T>) y = with_sign(y, z);  // -0, which the others keep
    } else {
      y = homotopy_quantity<Base, kQuantity>(z, h);
    }
    if (at.grad != nullptr) y = y * load_lanes<kRegisters>(at.grad + i);
    if constexpr (kWithSlope) store(at.slope + i, homotopy_slope<Base>(z, h));
    store(at.y + i, y);
  };
  int i = 0;
  for (; i + kStep <= block.n; i += kStep) step(block, i);
  const size_t rest = size_t(block.n - i) * sizeof(T);
  if (rest == 0) return;
  T x[kStep] = {}, grad[kStep] = {}, y[kStep], slope[kStep];
  memcpy(x, block.x + i, rest);
  if (block.grad != nullptr) memcpy(grad, block.grad + i, rest);
  step({x, block.grad == nullptr ? nullptr : grad, y, slope, kStep}, 0);
  memcpy(block.y + i, y, rest);
  if constexpr (kWithSlope) memcpy(block.slope + i, slope, rest);
}
#endif

template <typename T, typename Parameter>
using BlockKernel = void (*)(const Block<T>& block, const Parameter& parameter);

template <typename Base, Quantity kQuantity, bool kWithSlope, typename T, typename Parameter>
BlockKernel<T, Parameter> kernel_at([[maybe_unused]] bool unit) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<Parameter, OneParameter<T>> && kInLanes<Base>) {
    if constexpr (kQuantity == Quantity::kValue &&
                  (Base::kGrowth == Growth::kRectifier || Base::kGrowth == Growth::kBounded)) {
      if (unit) return lanes_block<Base, kQuantity, kWithSlope, true, T>;
    }
    return lanes_block<Base, kQuantity, kWithSlope, false, T>;
  }
#endif
  return scalar_block<Base, kQuantity, kWithSlope, T, Parameter>;
}

template <typename Base, typename T, typename Parameter>
BlockKernel<T, Parameter> kernel_of(Quantity quantity, bool with_slope, bool unit) {
  switch (quantity) {
    case Quantity::kValue:
      if (with_slope) return kernel_at<Base, Quantity::kValue, true, T, Parameter>(unit);
      return kernel_at<Base, Quantity::kValue, false, T, Parameter>(unit);
    case Quantity::kSlope: return kernel_at<Base, Quantity::kSlope, false, T, Parameter>(unit);
    case Quantity::kCurvature: return kernel_at<Base, Quantity::kCurvature, false, T, Parameter>(unit);
    case Quantity::kParameterGradient: return kernel_at<Base, Quantity::kParameterGradient, false, T, Parameter>(unit);
    case Quantity::kParameterGradient1:
      return kernel_at<Base, Quantity::kParameterGradient1, false, T, Parameter>(unit);
  }
  return nullptr;
}

// Evaluates blocks of one call; chooses the loop once, and per block the fast sine where every |x| allows it. `unit`:
// s = 1 for all.
template <typename T, typename Parameter>
struct Evaluator {
  BlockKernel<T, Parameter> kernel, fast_sin_kernel;

  Evaluator(const ActivationCall& call, bool unit)
      : kernel(with_base(call.base,
                         [&](auto tag) {
                           return kernel_of<decltype(tag), T, Parameter>(call.quantity, call.slope != nullptr, unit);
                         })),
        fast_sin_kernel(call.base == kSin ? kernel_of<FastSin, T, Parameter>(call.quantity, call.slope != nullptr, unit)
                                          : nullptr) {}

  void operator()(const Block<T>& block, const Parameter& parameter) const {
    bool fast = fast_sin_kernel != nullptr && all_within(block.x, block.n, fast_turn_limit<T>());
    (fast ? fast_sin_kernel : kernel)(block, parameter);
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
    const double s = uniform_parameter(call);
    const Evaluator<T, OneParameter<T>> evaluate(call, s == 1.0);
    const OneParameter<T> parameter{Homotopy<T>::from(s)};
    for (int64_t first = begin; first < end; first += longest) {
      int n = int(end - first < longest ? end - first : longest);
      visit(first, n, [&](const Block<T>& block) { evaluate(block, parameter); });
    }
    return;
  }
  const Evaluator<T, ParameterPerElement<T>> evaluate(call, false);
  double s[kBlock];
  const ParameterPerElement<T> parameter{s};
  for (int64_t first = begin; first < end; first += kBlock) {
    int n = int(end - first < kBlock ? end - first : kBlock);
    repeat_parameter(call, first, n, s);
    visit(first, n, [&](const Block<T>& block) { evaluate(block, parameter); });
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
    const T* grad_block = grad == nullptr ? nullptr : load(grad + first, grad_buffer, n);
    evaluate(Block<T>{load(x + first, x_buffer, n), grad_block, y_block, slope_block, n});
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
  const Evaluator<T, OneParameter<T>> evaluate(call, true);
  const OneParameter<T> parameter{Homotopy<T>::from(1.0)};
  for (int64_t first = begin; first < end; first += kBlock) {
    int n = int(end - first < kBlock ? end - first : kBlock);
    evaluate(Block<T>{load(x + first, x_buffer, n), nullptr, quantity, nullptr, n}, parameter);
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
