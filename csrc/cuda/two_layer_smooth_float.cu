#include "two_layer_kernels.cuh"

namespace hrta {
namespace cuda {

template struct TwoLayerKernels<SmoothUnit, float>;

}  // namespace cuda
}  // namespace hrta
