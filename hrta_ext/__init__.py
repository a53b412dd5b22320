"""Homotopy relaxation training for wide two-layer networks: the activation, the networks, the training."""

import sys as _sys
from types import ModuleType as _ModuleType

from hrta_ext.activation import ops as ops  # registers torch.ops.hrta_ext
from hrta_ext.activation.autograd import HomotopyFunction
from hrta_ext.activation.functions import homotopy, homotopy_, homotopy_value_and_slope
from hrta_ext.activation.modules import HomotopyActivation, set_homotopy
from hrta_ext.backends import backends, build_info, use_backend
from hrta_ext.bases import register_base
from hrta_ext.inputs import with_bias
from hrta_ext.network.functions import two_layer, two_layer_with_gradient
from hrta_ext.network.jets import Jet, two_layer_jet
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.ntk.draws import random_weights
from hrta_ext.ntk.gram import gram, gram_path, random_gram_path
from hrta_ext.ntk.infinite import infinite_gram, infinite_gram_error
from hrta_ext.ntk.path import GramPath
from hrta_ext.ntk.regression import KernelRegression
from hrta_ext.ntk.spectra import SquareLaw, decay_rate, eigenvalues, lambda_min, square_law
from hrta_ext.ntk.types import Gram
from hrta_ext.ntk.types import GramSums as _GramSums
from hrta_ext.physics.balls import Ball
from hrta_ext.physics.boxes import Box, Interval
from hrta_ext.physics.losses import DeepRitz, Residual, periodic
from hrta_ext.physics.polygons import Polygon
from hrta_ext.physics.samplers import Sampler
from hrta_ext.training.adaptive import AdaptiveHomotopy
from hrta_ext.training.ensemble import fit_ensemble
from hrta_ext.training.fit import fit
from hrta_ext.training.ramps import ramp
from hrta_ext.training.results import FitResult
from hrta_ext.training.schedules import HomotopyScheduler, PlateauHomotopyScheduler
from hrta_ext.training.terms import Term

__version__ = "0.2.0"  # pyproject.toml takes it from here

__all__ = [
    "AdaptiveHomotopy",
    "Ball",
    "Box",
    "DeepRitz",
    "FitResult",
    "Gram",
    "GramPath",
    "HomotopyActivation",
    "HomotopyFunction",
    "HomotopyScheduler",
    "Interval",
    "Jet",
    "KernelRegression",
    "PlateauHomotopyScheduler",
    "Polygon",
    "Residual",
    "Sampler",
    "SquareLaw",
    "Term",
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
    "periodic",
    "ramp",
    "random_gram_path",
    "random_weights",
    "register_base",
    "set_homotopy",
    "square_law",
    "two_layer",
    "two_layer_jet",
    "two_layer_with_gradient",
    "use_backend",
    "with_bias",
]

# Public classes are pickled under the names that users write, wherever their files go.
for _class in [value for name in __all__ if isinstance(value := globals()[name], type)]:
    _class.__module__ = "hrta_ext"

# Whole-object pickles of 0.1.0 name these modules; hrta_ext.training is there anyway.
_MODULES_OF_0_1_0: dict[str, tuple[type, ...]] = {
    "homotopy_path": (GramPath,),
    "kernel_regression": (KernelRegression,),
    "kernels": (Gram, _GramSums),
    "layers": (HomotopyActivation,),
    "schedules": (HomotopyScheduler, PlateauHomotopyScheduler),
    "two_layer": (TwoLayerNet,),
}
for _name, _classes in _MODULES_OF_0_1_0.items():
    _module = _sys.modules[f"hrta_ext.{_name}"] = _ModuleType(f"hrta_ext.{_name}", "Names in pickles of 0.1.0.")
    vars(_module).update({_class.__name__: _class for _class in _classes})
