// The numbers of an update (math/update.h) from a training and its step.
#pragma once

#include <cmath>

#include "training/training.h"

namespace hrta {

// The step that follows `taken` others of this training, at rate lr.
inline UpdateNumbers update_numbers(const TwoLayerTraining& training, int64_t taken, double lr) {
  UpdateNumbers numbers{training.rule, lr, 1.0, training.beta1, training.beta2, training.epsilon};
  if (training.rule == UpdateRule::kAdam) {
    const double count = double(training.updates + taken + 1);
    numbers.rate = lr / (1.0 - std::pow(training.beta1, count));
    numbers.root = std::sqrt(1.0 - std::pow(training.beta2, count));
  }
  return numbers;
}

}  // namespace hrta
