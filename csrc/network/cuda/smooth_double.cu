#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct TwoLayerKernels<SmoothUnit, double>;

}  // namespace cuda
}  // namespace hrta
