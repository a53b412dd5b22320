#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct TwoLayerKernels<ReluUnit, float>;
template struct TwoLayerKernels<ReluUnit, double>;

}  // namespace cuda
}  // namespace hrta
