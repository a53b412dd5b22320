#include "network/cuda/tiles.cuh"

namespace hrta {
namespace cuda {

template struct TileKernels<float>;

}  // namespace cuda
}  // namespace hrta
