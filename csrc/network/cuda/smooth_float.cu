#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct TwoLayerKernels<SmoothUnit, float>;

}  // namespace cuda
}  // namespace hrta
