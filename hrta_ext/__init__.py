"""Homotopy relaxation training for wide two-layer networks: the activation, the networks, the training."""

from hrta_ext import ops as ops  # registers torch.ops.hrta_ext
from hrta_ext.activation import HomotopyFunction, homotopy, homotopy_, homotopy_value_and_slope
from hrta_ext.backends import backends, build_info, use_backend
from hrta_ext.bases import register_base
from hrta_ext.ensembles import fit_ensemble
from hrta_ext.layers import HomotopyActivation, set_homotopy
from hrta_ext.schedules import HomotopyScheduler, PlateauHomotopyScheduler
from hrta_ext.training import FitResult, fit
from hrta_ext.two_layer import TwoLayerNet, two_layer, two_layer_with_gradient, with_bias

__version__ = "0.1.0"

__all__ = [
    "FitResult",
    "HomotopyActivation",
    "HomotopyFunction",
    "HomotopyScheduler",
    "PlateauHomotopyScheduler",
    "TwoLayerNet",
    "backends",
    "build_info",
    "fit",
    "fit_ensemble",
    "homotopy",
    "homotopy_",
    "homotopy_value_and_slope",
    "register_base",
    "set_homotopy",
    "two_layer",
    "two_layer_with_gradient",
    "use_backend",
    "with_bias",
]
