#include "two_layer_kernels.cuh"

namespace hrta {
namespace cuda {

template struct TwoLayerKernels<SmoothUnit, double>;

}  // namespace cuda
}  // namespace hrta
