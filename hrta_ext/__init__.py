"""Homotopy relaxation training for wide two-layer networks: the activation, the networks, the training."""

from hrta_ext.activation import homotopy
from hrta_ext.bases import register_base
from hrta_ext.layers import HomotopyActivation, set_homotopy
from hrta_ext.two_layer import TwoLayerNet, with_bias

__version__ = "0.1.0"
