#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct LaneKernels<OneBase<Relu2>, float>;
template struct LaneKernels<OneBase<Relu2>, double>;

}  // namespace cuda
}  // namespace hrta
