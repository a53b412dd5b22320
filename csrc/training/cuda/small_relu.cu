#include "training/cuda/small_kernel.cuh"

namespace hrta {
namespace cuda {
namespace small {

template Kernel* kernel_for<Relu>(int, int);
template Kernel* kernel_for<Relu2>(int, int);

}  // namespace small
}  // namespace cuda
}  // namespace hrta
