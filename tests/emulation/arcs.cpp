// The arcs of csrc/circle/cuda and the network's passes by them, emulated, as C functions for ctypes: whatever the
// shapes, and not only where they are the faster way.
#include "circle/cuda/plan.cuh"
#include "cuda_runtime.h"
#include "network/cuda/ways.h"

using namespace hrta;

namespace {

template <typename T>
int64_t search(const int64_t* sizes, const void* x, const void* weight, int* arcs, int* begin, int* end, int* active,
               void* scratch) {
  const int64_t n = sizes[0], m = sizes[1];
  cuda::Memory memory(scratch);
  const auto plan = cuda::arcs::plan_in<T>(memory, x, n);
  if (scratch == nullptr) return memory.bytes();
  cuda::arcs::build_plan(plan, nullptr);
  for (int64_t k = 0; k < m; ++k) {
    const T w[2] = {static_cast<const T*>(weight)[2 * k], static_cast<const T*>(weight)[2 * k + 1]};
    int arc[1];
    cuda::arcs::arcs_of<1>(plan.search(), w, arc);
    arcs[k] = arc[0];
  }
  std::copy(plan.begin, plan.begin + n, begin);
  std::copy(plan.end, plan.end + n, end);
  std::copy(plan.active, plan.active + 2 * n + 2, active);
  return *plan.finite;
}

TwoLayerCall call_of(int dtype, const int64_t* sizes, const void* x, const void* weight, const void* output_weight,
                     const double* s) {
  return {static_cast<ScalarKind>(dtype), kRelu, sizes[0], sizes[1], 2, sizes[2], x, weight, output_weight, 0.0, s};
}

}  // namespace

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

// Bytes of shared memory that a block may have; 0: those of an H100.
void limit_shared(int bytes) {
  cuda::limit_devices({0, 0, bytes, 0});
}

// sizes: n, m. Bytes of scratch where there is none, else whether all samples are finite.
int64_t arcs_search(int dtype, const int64_t* sizes, const void* x, const void* weight, int* arcs, int* begin, int* end,
                    int* active, void* scratch) {
  return with_type(static_cast<ScalarKind>(dtype), [&](auto zero) {
    return search<decltype(zero)>(sizes, x, weight, arcs, begin, end, active, scratch);
  });
}

// sizes: networks, n, m, as below.
int arcs_serve(int dtype, int base, int64_t features, const int64_t* sizes) {
  TwoLayerCall call = call_of(dtype, sizes, nullptr, nullptr, nullptr, nullptr);
  call.base = base, call.features = features;
  return cuda::arcs::serves(call);
}

int64_t arcs_forward(int dtype, const int64_t* sizes, const void* x, const void* weight, const void* output_weight,
                     const double* s, void* f, void* df_dx, int in_double, int of_s, const int64_t* done,
                     void* scratch) {
  const TwoLayerCall call = call_of(dtype, sizes, x, weight, output_weight, s);
  const cuda::Outputs outputs{f, df_dx, in_double != 0, of_s != 0, done};
  if (scratch == nullptr) return cuda::arcs::forward_scratch(call, outputs, cuda::device_of(0));
  cuda::arcs::forward(call, outputs, scratch, cuda::device_of(0), nullptr);
  return 0;
}

// As arcs_forward, the other way.
int64_t lanes_forward(int dtype, const int64_t* sizes, const void* x, const void* weight, const void* output_weight,
                      const double* s, void* f, void* df_dx, int in_double, int of_s, const int64_t* done,
                      void* scratch) {
  const TwoLayerCall call = call_of(dtype, sizes, x, weight, output_weight, s);
  const cuda::Outputs outputs{f, df_dx, in_double != 0, of_s != 0, done};
  if (scratch == nullptr) return cuda::lanes::forward_scratch(call, outputs);
  cuda::lanes::forward(call, outputs, scratch, nullptr);
  return 0;
}

int64_t arcs_backward(int dtype, const int64_t* sizes, const void* x, const void* weight, const void* output_weight,
                      const double* s, const void* grad_f, const void* grad_df_dx, void* grad_weight,
                      void* grad_output_weight, void* scratch) {
  const TwoLayerCall call = call_of(dtype, sizes, x, weight, output_weight, s);
  if (scratch == nullptr) return cuda::arcs::backward_scratch(call);
  cuda::Targets targets;
  targets.gradients = {grad_f, grad_df_dx, grad_weight, grad_output_weight};
  cuda::arcs::backward(call, targets, scratch, cuda::device_of(0), nullptr);
  return 0;
}

// The same through the passes that choose their way.
int64_t chosen_forward(int dtype, const int64_t* sizes, const void* x, const void* weight, const void* output_weight,
                       const double* s, void* f, void* scratch) {
  const TwoLayerCall call = call_of(dtype, sizes, x, weight, output_weight, s);
  if (scratch == nullptr) return cuda::two_layer_scratch(call, cuda::TwoLayerPass::kForward, 0);
  cuda::two_layer_forward(call, f, nullptr, scratch, 0, nullptr);
  return 0;
}
}
