#include "network/cuda/launches.cuh"

namespace hrta {
namespace cuda {

template struct LaneKernels<OneBase<Gelu>, float>;
template struct LaneKernels<OneBase<Silu>, float>;
template struct LaneKernels<OneBase<Softplus>, float>;

}  // namespace cuda
}  // namespace hrta
