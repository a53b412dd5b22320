#include "training/cuda/small_kernel.cuh"

namespace hrta {
namespace cuda {
namespace small {

template Kernel* kernel_for<Gelu>(int, int);
template Kernel* kernel_for<Silu>(int, int);
template Kernel* kernel_for<Softplus>(int, int);

}  // namespace small
}  // namespace cuda
}  // namespace hrta
