// The two-layer network's CUDA kernels on raw addresses; hrta_ext/native_two_layer.py and fused_engine.py check the
// tensors and give the scratch memory.
#include <pybind11/stl.h>

#include <vector>

#include "torch/addresses.h"
#include "torch/runtime.h"
#include "training/training.h"

namespace py = pybind11;

namespace hrta {

void bind_two_layer_cuda(py::module_& m) {
  using Problem = TwoLayerProblem;
  m.attr("two_layer_cuda_features") = cuda::kMostFeatures;
  py::enum_<cuda::TwoLayerPass>(m, "TwoLayerPass")
      .value("forward", cuda::TwoLayerPass::kForward)
      .value("forward_with_gradient", cuda::TwoLayerPass::kForwardWithGradient)
      .value("input_gradient", cuda::TwoLayerPass::kInputGradient)
      .value("parameter_gradient", cuda::TwoLayerPass::kParameterGradient)
      .value("backward", cuda::TwoLayerPass::kBackward);
  m.def("two_layer_cuda_scratch",
        [](const Problem& problem, cuda::TwoLayerPass pass) { return cuda::two_layer_scratch(problem.call(), pass); });
  m.def("two_layer_cuda_forward", [](const Problem& problem, Address f, Address df_dx, Address scratch, int device) {
    check_cuda("two_layer", cuda::two_layer_forward(problem.call(), pointer(f), pointer(df_dx), pointer(scratch),
                                                    device, current_cuda_stream(device)));
  });
  m.def("two_layer_cuda_input_gradient", [](const Problem& problem, Address grad_f, Address grad_x, Address scratch,
                                            int device) {
    check_cuda("two_layer", cuda::two_layer_input_gradient(problem.call(), pointer(grad_f), pointer(grad_x),
                                                           pointer(scratch), device, current_cuda_stream(device)));
  });
  m.def("two_layer_cuda_parameter_gradient",
        [](const Problem& problem, Address grad_f, Address grad_s, Address scratch, int device) {
          check_cuda("two_layer", cuda::two_layer_parameter_gradient(
                                      problem.call(), pointer(grad_f), static_cast<double*>(pointer(grad_s)),
                                      pointer(scratch), device, current_cuda_stream(device)));
        });
  m.def("two_layer_cuda_backward", [](const Problem& problem, Address grad_f, Address grad_df_dx, Address grad_weight,
                                      Address grad_output_weight, Address scratch, int device) {
    const TwoLayerGradients gradients{pointer(grad_f), pointer(grad_df_dx), pointer(grad_weight),
                                      pointer(grad_output_weight)};
    check_cuda("two_layer", cuda::two_layer_backward(problem.call(), gradients, pointer(scratch), device,
                                                     current_cuda_stream(device)));
  });

  m.def("two_layer_cuda_training_scratch", &cuda::two_layer_training_scratch);
  // lr on the host, one for each step; loss (steps) and done () on the device. Queues the steps and returns.
  m.def("two_layer_cuda_train",
        [](const TwoLayerTraining& training, const std::vector<double>& lr, Address loss, Address done,
           bool outputs_on_entry, bool outputs_on_return, Address scratch, int device) {
          void* stream = current_cuda_stream(device);
          py::gil_scoped_release release;
          check_cuda("two_layer_train",
                     cuda::two_layer_train(training, static_cast<int64_t>(lr.size()), lr.data(),
                                           static_cast<double*>(pointer(loss)), static_cast<int64_t*>(pointer(done)),
                                           outputs_on_entry, outputs_on_return, pointer(scratch), device, stream));
        });
}

}  // namespace hrta
