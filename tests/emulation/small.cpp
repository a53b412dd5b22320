// The trainings of csrc/training/cuda/small.cuh, emulated, as C functions for ctypes.
#include "training/cuda/small.cuh"

#include "cuda_runtime.h"
#include "training/cuda/ways.h"

using namespace hrta;

namespace {

TwoLayerTraining training_of(int dtype, int base, int adam, const int64_t* sizes, void** memory, const double* numbers,
                             int64_t updates, double* f) {
  TwoLayerTraining training{};
  training.dtype = static_cast<ScalarKind>(dtype);
  training.base = base;
  training.n = sizes[0], training.features = sizes[1], training.width = sizes[2];
  training.x = memory[0], training.y = memory[1], training.sample_weight = memory[2];
  training.gradient_target = memory[3], training.gradient_features = memory[3] == nullptr ? 0 : sizes[1];
  training.weight = memory[4], training.output_weight = memory[5];
  training.weight_first = memory[6], training.output_first = memory[7];
  training.weight_second = memory[8], training.output_second = memory[9];
  training.rule = adam != 0 ? UpdateRule::kAdam : UpdateRule::kDescent;
  training.beta1 = numbers[0], training.beta2 = numbers[1], training.epsilon = numbers[2];
  training.updates = updates;
  training.f = f;
  return training;
}

std::vector<TwoLayerTraining> trainings;
std::vector<TwoLayerMember> members;

cuda::Device device() {
  return cuda::device_of(0);
}

}  // namespace

extern "C" {

void run_backwards(int on) {
  emulation::backwards = on != 0;
}

void limit_devices(int capability, int multiprocessors, int shared, int cluster) {
  cuda::limit_devices({capability, multiprocessors, shared, cluster});
}

// How `networks` of a shape would be spread: the blocks of each, negative in a resident grid, or 0 where not at all.
int spread(int dtype, int base, int adam, const int64_t* sizes, void** memory, int64_t networks) {
  const double none[4] = {};
  const TwoLayerTraining training = training_of(dtype, base, adam, sizes, memory, none, 0, nullptr);
  if (!cuda::small::serves(training, device())) return 0;
  const cuda::small::Spread spread = cuda::small::chosen(training, networks, device());
  return spread.resident ? -spread.blocks : spread.blocks;
}

void begin() {
  trainings.clear(), members.clear();
  trainings.reserve(64);
}

// memory: x, y, sample_weight, gradient_target, weight, output_weight, and the moments, first of weight and
// output_weight, then second. numbers: beta1, beta2, epsilon. s (steps + 1).
void add(int dtype, int base, int adam, const int64_t* sizes, void** memory, const double* numbers, int64_t updates,
         double* f, const double* lr, const double* s, double* loss, int64_t* done, int on_return) {
  trainings.push_back(training_of(dtype, base, adam, sizes, memory, numbers, updates, f));
  members.push_back({&trainings.back(), lr, s, loss, {false, on_return != 0}, done});
}

int64_t scratch(int64_t steps) {
  return cuda::two_layer_training_scratch(members.data(), int64_t(members.size()), steps, 0);
}

void train(int64_t steps, void* scratch) {
  cuda::two_layer_train_ensemble(members.data(), int64_t(members.size()), steps, scratch, 0, nullptr);
}

}  // extern "C"
