// One of four, so that they compile side by side.
#include "activation/cuda/per_feature.cuh"
#include "activation/cuda/pointwise.cuh"

namespace hrta {
namespace cuda {

template void pointwise<float>(const ActivationCall& call, void* stream);
template void per_feature<float>(const ActivationCall& call, void* stream);

}  // namespace cuda
}  // namespace hrta
