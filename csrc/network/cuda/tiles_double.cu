#include "network/cuda/tiles.cuh"

namespace hrta {
namespace cuda {

template struct TileKernels<double>;

}  // namespace cuda
}  // namespace hrta
