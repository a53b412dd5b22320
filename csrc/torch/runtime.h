// What the adapters need of the running torch: its thread pool and its current CUDA stream, through the stable ABI.
#pragma once

#include <cstdint>

#include "activation/activation.h"

namespace hrta {

// torch's own pool, so that torch.set_num_threads rules and no second OpenMP runtime is loaded.
void torch_pool_parallel_for(int64_t count, int64_t grain, cpu::RangeBody body, void* context);

// The caller's current CUDA stream on `device`.
void* current_cuda_stream(int device);

// Throws what a CUDA launcher reported, if anything.
void check_cuda(const char* kernel, const char* error);

// Comma-separated names of the CUDA targets in this binary; empty in a build without CUDA.
const char* cuda_architectures();

// The four kernels on `device`: a CUDA device index, or kCpuDevice.
constexpr int kCpuDevice = -1;
void run_transform(const ActivationCall& call, int device);
void run_relu_mask_forward(const ReluMaskCall& call, int device);
void run_relu_mask_backward(const ReluMaskCall& call, int device);
// `partial`: scratch on the device, unused on the CPU. grad_s lies on the device.
void run_parameter_gradient(const ActivationCall& call, double* partial, double* grad_s, int device);
int64_t parameter_gradient_scratch(int64_t n, int64_t n_features, int device);

}  // namespace hrta
