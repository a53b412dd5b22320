// The numbers of an update (math/update.h) from a training and its step; the scale of gradients.
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

// What takes the gradients that a network of `width` neurons has to those of its neurons as a share.
inline double share_scale(const TwoLayerTraining& training) {
  return training.is_share() ? std::sqrt(double(training.width) / double(training.total_width)) : 1.0;
}

}  // namespace hrta
