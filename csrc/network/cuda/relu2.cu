#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct TwoLayerKernels<Relu2Unit, float>;
template struct TwoLayerKernels<Relu2Unit, double>;

}  // namespace cuda
}  // namespace hrta
