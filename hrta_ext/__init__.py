"""Homotopy relaxation training for wide two-layer networks: the activation, the networks, the training."""

from hrta_ext import ops as ops  # registers torch.ops.hrta_ext
from hrta_ext.activation import HomotopyFunction, homotopy, homotopy_, homotopy_value_and_slope
from hrta_ext.backends import backends, build_info, use_backend
from hrta_ext.bases import register_base
from hrta_ext.ensembles import fit_ensemble
from hrta_ext.gram_builder import gram, gram_path, random_gram_path, random_weights
from hrta_ext.homotopy_path import GramPath
from hrta_ext.infinite import infinite_gram, infinite_gram_error
from hrta_ext.kernel_regression import KernelRegression
from hrta_ext.kernels import Gram
from hrta_ext.layers import HomotopyActivation, set_homotopy
from hrta_ext.schedules import HomotopyScheduler, PlateauHomotopyScheduler
from hrta_ext.spectra import SquareLaw, decay_rate, eigenvalues, lambda_min, square_law
from hrta_ext.training import FitResult, fit
from hrta_ext.two_layer import TwoLayerNet, two_layer, two_layer_with_gradient, with_bias

__version__ = "0.1.0"

__all__ = [
    "FitResult",
    "Gram",
    "GramPath",
    "HomotopyActivation",
    "HomotopyFunction",
    "HomotopyScheduler",
    "KernelRegression",
    "PlateauHomotopyScheduler",
    "SquareLaw",
    "TwoLayerNet",
    "backends",
    "build_info",
    "decay_rate",
    "eigenvalues",
    "fit",
    "fit_ensemble",
    "gram",
    "gram_path",
    "homotopy",
    "homotopy_",
    "homotopy_value_and_slope",
    "infinite_gram",
    "infinite_gram_error",
    "lambda_min",
    "random_gram_path",
    "random_weights",
    "register_base",
    "set_homotopy",
    "square_law",
    "two_layer",
    "two_layer_with_gradient",
    "use_backend",
    "with_bias",
]
