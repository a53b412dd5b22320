// The neurons of a call: copied from memory, or drawn.
#include <algorithm>

#include "ntk/cpu/builder.h"

namespace hrta {
namespace cpu {

namespace {

template <typename T>
void copy(const GramCall& call, int64_t begin, int count, double* weight, double* a) {
  const T* from = static_cast<const T*>(call.neurons.weight) + begin * call.D;
  const T* output = static_cast<const T*>(call.neurons.output_weight) + begin;
  std::copy(from, from + count * call.D, weight);
  std::copy(output, output + count, a);
}

}  // namespace

bool fetch_neurons(const GramCall& call, int64_t begin, int count, double* weight, double* a) {
  const int64_t entries = count * call.D;
  if (call.neurons.weight == nullptr) {
    Buffer<float> drawn(entries + count);
    gram_loops().random_neurons(call.neurons.seed, call.neurons.first + uint64_t(begin), count, call.D, drawn.at(0),
                                drawn.at(entries));
    std::copy(drawn.at(0), drawn.at(entries), weight);
    std::copy(drawn.at(entries), drawn.at(entries + count), a);
    return true;
  }
  if (call.neurons.dtype == ScalarKind::kFloat32) {
    copy<float>(call, begin, count, weight, a);
  } else {
    copy<double>(call, begin, count, weight, a);
  }
  double probe = 0.0;  // becomes NaN if anything is not finite
  for (int64_t i = 0; i < entries; ++i) probe += weight[i] * 0.0;
  for (int k = 0; k < count; ++k) probe += a[k] * 0.0;
  return probe == 0.0;
}

void random_weights(uint64_t seed, uint64_t first, int64_t count, int64_t D, float* weight, float* output_weight,
                    ParallelFor parallel_for) {
  constexpr int64_t kNeurons = 4096;
  for_each_task(ceil_div(count, kNeurons), parallel_for, [&](int64_t task) {
    const int64_t begin = task * kNeurons;
    gram_loops().random_neurons(seed, first + uint64_t(begin), std::min(kNeurons, count - begin), D, weight + begin * D,
                                output_weight + begin);
  });
}

}  // namespace cpu
}  // namespace hrta
