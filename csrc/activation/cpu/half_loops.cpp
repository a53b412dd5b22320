// float16 and bfloat16: value, slope, both, and slope times gradient from memory to memory in one pass, two registers
// at a time. A remainder goes through the same code on a copy, so an element's bits do not depend on where it stands.
// Compiled once per SIMD level.
#include "activation/cpu/half_loops.h"

#include "activation/cpu/half_bases.h"
#include "activation/cpu/loops.h"
#include "activation/cpu/relu_mask.h"
#include "math/homotopy.h"

namespace hrta {
namespace cpu {
inline namespace HRTA_SIMD_LEVEL {

namespace {

using cpu_half::Functions;
using cpu_half::Parameter;
using cpu_half::V;

constexpr int kStep = kHalfStep;

enum class Output { kValue, kSlope, kSlopeTimesGrad, kBoth };

// Where a stretch of elements is read and written; what an output does not need is null.
template <typename Stored>
struct Places {
  const Stored *x, *grad;
  Stored *y, *slope;

  HRTA_INLINE Places at(int64_t i) const {
    return {x + i, grad == nullptr ? nullptr : grad + i, y + i, slope == nullptr ? nullptr : slope + i};
  }
};

struct OneParameter {
  Parameter h;
  HRTA_INLINE Parameter at(int64_t) const { return {h.s, h.linear, h.limit}; }  // a copy of h would go through memory
};

// Of a block whose features have values of their own.
struct ParameterPerElement {
  const float *s, *linear;
  HRTA_INLINE Parameter at(int64_t i) const { return Parameter::of(load(s + i), load(linear + i)); }
};

template <typename Base, Output kOutput, typename Stored, typename Parameters>
HRTA_INLINE void step(Places<Stored> at, const Parameters& parameters, int64_t i) {
  using F = Functions<Base>;
  const Parameter a = parameters.at(i), b = parameters.at(i + kLanes<float>);
  const Two x = load_two(at.x);
  if constexpr (kOutput == Output::kValue || kOutput == Output::kBoth) {
    store_two(at.y, {F::value(x.a, a), F::value(x.b, b)});
  }
  if constexpr (kOutput != Output::kValue) {
    Two slope = {F::slope(x.a, a), F::slope(x.b, b)};
    if constexpr (kOutput == Output::kSlopeTimesGrad) {
      const Two grad = load_two(at.grad);
      slope = {slope.a * grad.a, slope.b * grad.b};
    }
    store_two(kOutput == Output::kBoth ? at.slope : at.y, slope);
  }
}

template <typename Stored>
HRTA_INLINE void copy(Stored* to, const Stored* from, int64_t n) {
  __builtin_memcpy(to, from, size_t(n) * sizeof(Stored));
}

// Arguments are values, so that no store can be taken for a change of them.
template <typename Base, Output kOutput, typename Stored, typename Parameters>
void stretch(Places<Stored> places, int64_t n, Parameters parameters) {
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) step<Base, kOutput>(places.at(i), parameters, i);
  if (i == n) return;
  Stored x[kStep] = {}, grad[kStep] = {}, y[kStep], slope[kStep];
  const Places<Stored> rest = places.at(i);
  copy(x, rest.x, n - i);
  if constexpr (kOutput == Output::kSlopeTimesGrad) copy(grad, rest.grad, n - i);
  step<Base, kOutput>(Places<Stored>{x, grad, y, slope}, parameters, i);
  copy(rest.y, y, n - i);
  if constexpr (kOutput == Output::kBoth) copy(rest.slope, slope, n - i);
}

template <typename Stored, typename Parameters>
using Stretch = void (*)(Places<Stored> places, int64_t n, Parameters parameters);

template <typename Stored, typename Parameters>
Stretch<Stored, Parameters> stretch_for(int base, Output output) {
  return with_base(base, [=](auto tag) -> Stretch<Stored, Parameters> {
    using Base = decltype(tag);
    if constexpr (Functions<Base>::kServes) {
      switch (output) {
        case Output::kValue: return stretch<Base, Output::kValue, Stored, Parameters>;
        case Output::kSlope: return stretch<Base, Output::kSlope, Stored, Parameters>;
        case Output::kSlopeTimesGrad: return stretch<Base, Output::kSlopeTimesGrad, Stored, Parameters>;
        case Output::kBoth: return stretch<Base, Output::kBoth, Stored, Parameters>;
      }
    }
    return nullptr;
  });
}

// sin beyond the reach of the vectors, infinity too: those elements of a block again, one by one.
template <typename Stored>
struct FarTurns {
  Stored x[kBlock];
  bool any = false;

  HRTA_INLINE void keep(const Places<Stored>& places, int n) {
    uint16_t largest = 0;  // among the magnitudes' bits, which are ordered as they are
    for (int i = 0; i < n; ++i) {
      const uint16_t bits = places.x[i].bits & 0x7fffu;
      largest = bits > largest ? bits : largest;
    }
    any = !(widen(Stored{largest}) <= cpu_half::kFarTurn);
    if (any) copy(x, places.x, n);
  }
  template <typename Number>
  void repair(const Places<Stored>& places, int n, Output output, const Number& s_of) const {
    for (int i = 0; i < n; ++i) {
      const float z = widen(x[i]);
      if (!(absolute(z) > cpu_half::kFarTurn)) continue;
      const Homotopy<float> h = Homotopy<float>::from(s_of(i));
      const float slope =
          homotopy_slope<Sin>(z, h) * (output == Output::kSlopeTimesGrad ? widen(places.grad[i]) : 1.0f);
      const bool with_value = output == Output::kValue || output == Output::kBoth;
      narrow(with_value ? homotopy_value<Sin>(z, h) : slope, places.y[i]);
      if (output == Output::kBoth) narrow(slope, places.slope[i]);
    }
  }
};

template <typename Stored, typename Parameters, typename Number>
void block(Stretch<Stored, Parameters> run, const Places<Stored>& places, int n, int base, Output output,
           const Parameters& parameters, const Number& s_of) {
  FarTurns<Stored> far;
  if (base == kSin) far.keep(places, n);
  run(places, n, parameters);
  if (far.any) far.repair(places, n, output, s_of);
}

// NaN without payload: the rounding to bfloat16 wants none in the low bits.
double quiet(double s) {
  return s == s ? s : double(__builtin_nanf(""));
}

template <typename Stored>
bool transform_range(const ActivationCall& call, Output output, int64_t begin, int64_t end) {
  const Places<Stored> places = {static_cast<const Stored*>(call.x), static_cast<const Stored*>(call.grad),
                                 static_cast<Stored*>(call.y), static_cast<Stored*>(call.slope)};
  if (call.n_features <= 1) {
    const auto run = stretch_for<Stored, OneParameter>(call.base, output);
    if (run == nullptr) return false;
    const double s = quiet(call.n_features == 0 ? call.s : *call.s_values);
    const OneParameter parameters{Parameter::of(broadcast(float(s)), broadcast(float(1.0 - s)))};
    const int64_t longest = call.base == kSin ? kBlock : 1 << 20;
    for (int64_t first = begin; first < end; first += longest) {
      const int n = int(end - first < longest ? end - first : longest);
      block(run, places.at(first), n, call.base, output, parameters, [&](int) { return s; });
    }
    return true;
  }
  const auto run = stretch_for<Stored, ParameterPerElement>(call.base, output);
  if (run == nullptr) return false;
  float s[kBlock] = {}, linear[kBlock] = {};
  int64_t feature = begin % call.n_features;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int n = int(end - first < kBlock ? end - first : kBlock);
    const int64_t of_first = feature;
    for (int i = 0; i < n; ++i) {
      const double value = quiet(call.s_values[feature]);
      s[i] = float(value);
      linear[i] = float(1.0 - value);
      feature = feature + 1 == call.n_features ? 0 : feature + 1;
    }
    block(run, places.at(first), n, call.base, output, ParameterPerElement{s, linear},
          [&](int i) { return call.s_values[(of_first + i) % call.n_features]; });
  }
  return true;
}

bool transform(const ActivationCall& call, int64_t begin, int64_t end) {
  Output output = Output::kValue;
  if (call.quantity == Quantity::kSlope && call.slope == nullptr) {
    output = call.grad != nullptr ? Output::kSlopeTimesGrad : Output::kSlope;
  } else if (call.quantity == Quantity::kValue && call.grad == nullptr) {
    output = call.slope != nullptr ? Output::kBoth : Output::kValue;
  } else {
    return false;
  }
  if (call.dtype == ScalarKind::kFloat16) return transform_range<Float16>(call, output, begin, end);
  return transform_range<BFloat16>(call, output, begin, end);
}

// Of a step's elements, element i has bit i.
using LaneBits = Vector<uint32_t>;

#if defined(__AVX512F__)
HRTA_INLINE uint32_t positive_bits(V x) {
  return _cvtmask16_u32(_mm512_cmp_ps_mask(__m512(x), _mm512_setzero_ps(), _CMP_GT_OQ));
}
#elif defined(__AVX__)
HRTA_INLINE uint32_t positive_bits(V x) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(__m256(x), _mm256_setzero_ps(), _CMP_GT_OQ)));
}
#else
HRTA_INLINE uint32_t positive_bits(V x) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes<float>; ++i) bits |= x[i] > 0.0f ? 1u << i : 0u;
  return bits;
}
#endif

HRTA_INLINE LaneBits bit_of_lane() {
  LaneBits bits;
  for (int i = 0; i < kLanes<float>; ++i) bits[i] = 1u << i;
  return bits;
}

// As relu_and_word of relu_mask.h.
template <typename Stored>
HRTA_INLINE uint64_t mask_word(const Stored* x, Stored* y, const Parameter& h) {
  uint64_t word = 0;
  for (int i = 0; i < kMaskWord; i += kStep) {
    const Two z = load_two(x + i);
    word |= uint64_t(positive_bits(z.a) | positive_bits(z.b) << kLanes<float>) << i;
    store_two(y + i, {cpu_half::rectifier_line(z.a, h), cpu_half::rectifier_line(z.b, h)});
  }
  return word;
}

template <typename Stored>
void mask_forward_range(const ReluMaskCall& call, int64_t begin, int64_t end) {
  const double s = quiet(call.s_value != nullptr ? *call.s_value : call.s);
  const Parameter h = Parameter::of(broadcast(float(s)), broadcast(float(1.0 - s)));
  const Stored* x = static_cast<const Stored*>(call.input);
  Stored* y = static_cast<Stored*>(call.output);
  int64_t i = begin;
  for (; i + kMaskWord <= end; i += kMaskWord) {
    const uint64_t word = mask_word(x + i, y + i, h);
    __builtin_memcpy(call.mask + i / 8, &word, sizeof(word));
  }
  if (i == end) return;
  Stored rest[kMaskWord] = {};
  copy(rest, x + i, end - i);
  const uint64_t word = mask_word(rest, rest, h);
  copy(y + i, rest, end - i);
  __builtin_memcpy(call.mask + i / 8, &word, size_t(end - i + 7) / 8);
}

template <typename Stored>
HRTA_INLINE void masked_step(const Stored* grad, const uint8_t* mask, Stored* result, V linear, LaneBits lane) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, mask, kStep / 8);
  const LaneBits word = bits - LaneBits{};
  const V one = broadcast(1.0f);
  const Two g = load_two(grad);
  store_two(result, {g.a * ((word & lane) != 0u ? one : linear),
                     g.b * ((word & (lane << kLanes<float>)) != 0u ? one : linear)});
}

// grad_x = grad_y where the bit is set, (1 - s) grad_y elsewhere.
template <typename Stored>
void mask_backward_range(const ReluMaskCall& call, int64_t begin, int64_t end) {
  const V linear = broadcast(float(1.0 - quiet(call.s_value != nullptr ? *call.s_value : call.s)));
  const LaneBits lane = bit_of_lane();
  const Stored* grad = static_cast<const Stored*>(call.input);
  Stored* result = static_cast<Stored*>(call.output);
  int64_t i = begin;
  for (; i + kStep <= end; i += kStep) masked_step(grad + i, call.mask + i / 8, result + i, linear, lane);
  if (i == end) return;
  Stored rest[kStep] = {};
  uint8_t mask[kStep / 8] = {};
  copy(rest, grad + i, end - i);
  copy(mask, call.mask + i / 8, (end - i + 7) / 8);
  masked_step(rest, mask, rest, linear, lane);
  copy(result + i, rest, end - i);
}

void relu_mask_forward(const ReluMaskCall& call, int64_t begin, int64_t end) {
  (call.dtype == ScalarKind::kFloat16 ? mask_forward_range<Float16> : mask_forward_range<BFloat16>)(call, begin, end);
}

void relu_mask_backward(const ReluMaskCall& call, int64_t begin, int64_t end) {
  (call.dtype == ScalarKind::kFloat16 ? mask_backward_range<Float16> : mask_backward_range<BFloat16>)(call, begin, end);
}

}  // namespace

extern const HalfLoops kHalfLoops;
const HalfLoops kHalfLoops = {transform, relu_mask_forward, relu_mask_backward};

}  // namespace HRTA_SIMD_LEVEL
}  // namespace cpu
}  // namespace hrta
