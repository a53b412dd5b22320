"""Homotopy relaxation training."""

# Where pickles of 0.1.0 look for them.
from hrta_ext.training.results import FitResult, StepInfo

__all__ = ["FitResult", "StepInfo"]
