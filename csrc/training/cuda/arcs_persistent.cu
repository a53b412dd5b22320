#include "training/cuda/arcs.h"
#include "training/cuda/arcs_persistent.cuh"

namespace hrta {
namespace cuda {
namespace arcs {
namespace training {
namespace persistent {

namespace {

constexpr int64_t kMostBlocks = 132;  // multiprocessors of an H100; on cards with fewer, fits() has the last word

template <typename F>
bool holds(const TwoLayerTraining& t) {
  return 2 * t.n + 2 <= F::kThreads * F::kArcs && t.width <= kMostBlocks * F::kThreads * F::kNeurons;
}

// Calls body(Form) with the first one that holds the training: few blocks, for their meeting costs about as much as
// what they do in between, and few threads, for the scans. False where none does or the body says so.
template <typename Body>
bool with_form(const TwoLayerTraining& t, const Body& body) {
  if (t.dtype == ScalarKind::kFloat32) {
    if (holds<Form<float, 512, 2, 2>>(t)) return body(Form<float, 512, 2, 2>{});
    if (holds<Form<float, 512, 4, 2>>(t)) return body(Form<float, 512, 4, 2>{});
    if (holds<Form<float, 1024, 1, 2>>(t)) return body(Form<float, 1024, 1, 2>{});
    return holds<Form<float, 512, 4, 4>>(t) && body(Form<float, 512, 4, 4>{});
  }
  if (holds<Form<double, 512, 2, 2>>(t)) return body(Form<double, 512, 2, 2>{});
  return holds<Form<double, 512, 2, 4>>(t) && body(Form<double, 512, 2, 4>{});
}

}  // namespace

bool serves(const TwoLayerTraining& training, const Device& device) {
  return with_form(training, [&](auto form) {
    using F = decltype(form);
    return fits(persistent_kernel<F>, shape_of<F>(training), device);
  });
}

int64_t scratch(const TwoLayerTraining& training, int64_t steps) {
  return with_type(training.dtype, [&](auto zero) { return Layout<decltype(zero)>(training, steps, nullptr).bytes; });
}

// The outputs on entry are not looked at: those of the weights are the same bits.
void train(const TwoLayerMember& member, int64_t steps, void* scratch, void* stream) {
  with_form(*member.training, [&](auto form) {
    train_in<decltype(form)>(member, steps, scratch, stream);
    return true;
  });
}

}  // namespace persistent
}  // namespace training
}  // namespace arcs
}  // namespace cuda
}  // namespace hrta
