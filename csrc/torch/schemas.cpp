// torch.ops.hrta_ext: every schema, for CPU and CUDA tensors, through the LibTorch stable ABI. hrta_ext/ops.py adds the
// fake kernel and autograd. The eager fast lane (module.cpp) skips the dispatcher and runs the same kernels.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "torch/runtime.h"

namespace hrta {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

ScalarKind kind_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Half: return ScalarKind::kFloat16;
    case ScalarType::BFloat16: return ScalarKind::kBFloat16;
    case ScalarType::Float: return ScalarKind::kFloat32;
    case ScalarType::Double: return ScalarKind::kFloat64;
    default: STD_TORCH_CHECK(false, "hrta_ext: x must be float16, bfloat16, float32 or float64");
  }
  return ScalarKind::kFloat32;
}

bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d) || a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// `tensor` in `like`'s memory order (`like` is dense): itself, or a copy.
Tensor in_layout_of(const Tensor& like, const Tensor& tensor) {
  if (same_layout(like, tensor)) return tensor;
  Tensor copy = torch::stable::empty_like(like);
  return torch::stable::copy_(copy, tensor);
}

int device_of(const Tensor& x) {
  return x.is_cuda() ? x.get_device_index() : kCpuDevice;
}

// One s per feature wants the features innermost in memory; any other dense order serves a single s.
Tensor working_copy(const Tensor& x, const Tensor& s) {
  if (s.numel() > 1) return torch::stable::contiguous(x);
  return in_layout_of(torch::stable::empty_like(x), x);
}

// The derivative of this order in x of sigma_s. x (...); s (), (1) or (F) with F = x.size(-1), float64, on x's device.
Tensor homotopy(const Tensor& x, const Tensor& s, int64_t base, int64_t order) {
  STD_TORCH_CHECK(base >= 0 && base < kBaseCount, "hrta_ext: base must be in [0, ", int(kBaseCount), "), got ", base);
  STD_TORCH_CHECK(s.scalar_type() == ScalarType::Double && s.dim() <= 1 && s.is_contiguous(),
                  "hrta_ext: s must be a contiguous float64 tensor of at most one dimension");
  STD_TORCH_CHECK(x.is_cuda() == s.is_cuda() && device_of(x) == device_of(s), "hrta_ext: s must be on x's device");
  STD_TORCH_CHECK(s.numel() == 1 || (x.dim() > 0 && s.numel() == x.size(x.dim() - 1)),
                  "hrta_ext: s must have one value, or one per feature of x's last dimension");
  STD_TORCH_CHECK(order >= 0 && order <= 2, "hrta_ext: order must be 0, 1 or 2, got ", order);
  Tensor input = working_copy(x, s);
  Tensor y = torch::stable::empty_like(input);
  ActivationCall call{};
  call.quantity = order == 0 ? Quantity::kValue : order == 1 ? Quantity::kSlope : Quantity::kCurvature;
  call.base = static_cast<int>(base);
  call.dtype = kind_of(x);
  call.n = x.numel();
  call.x = input.data_ptr();
  call.y = y.data_ptr();
  call.s_values = static_cast<const double*>(s.data_ptr());
  call.n_features = s.numel();
  run_transform(call, device_of(x));
  return in_layout_of(torch::stable::empty_like(x), y);
}

}  // namespace

STABLE_TORCH_LIBRARY(hrta_ext, m) {
  m.def("homotopy(Tensor x, Tensor s, int base, int order) -> Tensor");
}

// The adapter chooses the device itself, so both keys get the same function.
STABLE_TORCH_LIBRARY_IMPL(hrta_ext, CPU, m) {
  m.impl("homotopy", TORCH_BOX(&homotopy));
}

#if defined(HRTA_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(hrta_ext, CUDA, m) {
  m.impl("homotopy", TORCH_BOX(&homotopy));
}
#endif

}  // namespace hrta
