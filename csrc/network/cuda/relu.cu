#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct LaneKernels<OneBase<Relu>, float>;
template struct LaneKernels<OneBase<Relu>, double>;

}  // namespace cuda
}  // namespace hrta
