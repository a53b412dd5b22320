"""Numbers that both languages keep: C++ names its own in order, and Python's must be the same."""

from __future__ import annotations

import pytest

import hrta_ext as hx
from hrta_ext import compiled
from hrta_ext.activation import native
from hrta_ext.bases import BASES

pytestmark = pytest.mark.skipif(not hx.backends()["cpp"], reason="needs the compiled kernels")


def test_scalar_kinds() -> None:
    names = {str(dtype).removeprefix("torch."): number for dtype, number in compiled.KINDS.items()}
    assert names == {name: number for number, name in enumerate(compiled._C.SCALAR_KINDS)}


def test_bases() -> None:
    numbers = {name: base.number for name, base in BASES.items() if base.number is not None}
    assert numbers == {name: number for number, name in enumerate(compiled._C.BASES)}


def test_quantities() -> None:
    """The three derivatives by their order, and the parameter gradients by theirs."""
    quantities = compiled._C.QUANTITIES
    assert quantities[native.VALUE : native.VALUE + 3] == ("value", "slope", "curvature")
    first = native.PARAMETER_GRADIENT
    assert quantities[first : first + 2] == ("parameter_gradient", "parameter_gradient_of_slope")
    assert len(quantities) == first + 2


def test_a_struct_refuses_a_name_that_it_does_not_have() -> None:
    """A wrong name must not leave a member at zero in silence."""
    with pytest.raises(TypeError, match="TwoLayerCall: wide is no member"):
        compiled._C.TwoLayerCall(wide=3)
    with pytest.raises(TypeError, match="TwoLayerCall: n has a value of the wrong type"):
        compiled._C.TwoLayerCall(n="3")
    call = compiled._C.GramCall(n=3, neurons=compiled._C.Neurons(seed=5))
    assert (call.n, call.D, call.x, call.neurons.seed) == (3, 0, 0, 5)


def test_a_pass_refuses_a_struct_without_memory() -> None:
    call = compiled._C.TwoLayerCall(dtype=2, networks=1, n=3, features=2, width=4)
    with pytest.raises(RuntimeError, match="no memory"):
        compiled._C.two_layer_forward(call, f=0, df_dx=0, scratch=0, device=-1)


def test_a_device_without_kernels_is_an_error() -> None:
    if compiled.cuda_architectures():
        pytest.skip("this binary has CUDA kernels")
    with pytest.raises(RuntimeError, match="hrta_ext: relu_mask_forward: CUDA error: hrta_ext was built without CUDA"):
        compiled._C.relu_mask_forward(*[2**40] * 3, 1, 2, 0.5, 0, 0)


def test_the_offset_of_a_view_is_no_memory() -> None:
    """Of a view of freed storage torch gives the offset as its address."""
    for address in (0, 4, 400, 4_000_000):
        with pytest.raises(RuntimeError, match="no memory"):
            compiled._C.value(address, 2**40, 0, 1, 2, 0, 0.5, -1)
        with pytest.raises(RuntimeError, match="no memory"):
            compiled._C.relu_mask_backward(2**40, address, 2**40, 1, 2, 0.5, 0, -1)
