"""hx.two_layer_jet: every form against the Hessian written out, derivatives of every kind, compilers, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import BASES, SMOOTH_BASES, homotopy
from network.cases import dense, dense_gradient, jet_limits, problem
from torch import Tensor
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap

import hrta_ext as hx
from hrta_ext.bases import BASES as ALL_BASES
from hrta_ext.bases import Base, get_base
from hrta_ext.network import reference

FORMS = ("laplacian", "diagonal", "hessian")
S = 0.7


def dense_hessian(x: Tensor, weight: Tensor, output_weight: Tensor, s: float, base: str) -> Tensor:
    """(..., n, D, D) in float64, from the n x m matrix."""
    x, weight, output_weight = x.double(), weight.double(), output_weight.double()
    factor = homotopy(x @ weight.mT, s, base, 2) * output_weight.unsqueeze(-2)
    return torch.einsum("...nm,...mc,...md->...ncd", factor, weight, weight) / weight.shape[-2] ** 0.5


def picked(hessians: Tensor, form: str, columns: list[int]) -> Tensor:
    part = hessians[..., columns, :][..., columns]
    diagonal = part.diagonal(dim1=-2, dim2=-1)
    return {"laplacian": diagonal.sum(-1), "diagonal": diagonal, "hessian": part}[form]


def close(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Normwise: sums over neurons carry the rounding of their largest terms."""
    return bool((got.double() - expected).norm() <= tolerance * (expected.norm() + 1e-30))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_the_jet_is_the_dense_one(device: torch.device, base: str, dtype: torch.dtype, tolerance: float) -> None:
    """At ragged sizes, batched networks, columns out of order; the loops of few features and of many."""
    for networks, n, m, features in (((), 37, 70, 4), ((2,), 65, 515, 2), ((), 5, 3, 1), ((3, 2), 1, 33, 9)):
        given = problem(n, m, features, dtype, networks, seed=m)
        columns = list(range(features))[::-2]
        hessians = dense_hessian(*given, S, base)
        on_device = [t.to(device) for t in given]
        for form in FORMS:
            named: dict[str, Any] = {"base": base, "second": form, "columns": columns}
            jet = hx.two_layer_jet(*on_device, S, **named)
            assert jet.value.dtype is dtype
            assert close(jet.value.cpu(), dense(*given, S, base), tolerance)
            assert close(jet.gradient.cpu(), dense_gradient(*given, S, base)[..., columns], tolerance)
            expected = picked(hessians, form, columns)
            assert jet.second.shape == expected.shape
            assert close(jet.second.cpu(), expected, tolerance)
            again = hx.two_layer_jet(*on_device, S, **named)
            assert all(torch.equal(one, other) for one, other in zip(jet, again, strict=True))


@pytest.mark.parametrize("base", SMOOTH_BASES)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_in_the_weights(device: torch.device, base: str, form: str) -> None:
    """Against autograd through the dense formulas in float64; each part of the jet alone, and all together."""
    x, weight, output_weight = problem(130, 71, 3, networks=(2,), seed=3)
    leaves = [t.clone().requires_grad_() for t in (weight, output_weight)]

    def formulas(w: Tensor, a: Tensor) -> list[Tensor]:
        z, scale, s = x @ w.mT, w.shape[-2] ** -0.5, S
        parts = [(1 - s) * z + s * get_base(base).value(z), (1 - s) + s * get_base(base).slope(z)]
        of_second = s * get_base(base).curvature(z) * a.unsqueeze(-2)
        hessians = torch.einsum("...nm,...mc,...md->...ncd", of_second, w, w) * scale
        value, slope = (part * a.unsqueeze(-2) for part in parts)
        return [value.sum(-1) * scale, (slope @ w)[..., :2] * scale, picked(hessians, form, [0, 1])]

    exact = formulas(*leaves)
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in exact]
    for dtype, tolerance in ((torch.float32, 4e-6), (torch.float64, 1e-12)):
        mine = [t.to(device, dtype).requires_grad_() for t in (weight, output_weight)]
        for which in ((0, 1, 2), (0,), (1,), (2,)):
            jet = hx.two_layer_jet(x.to(device, dtype), *mine, S, base=base, second=form, columns=(0, 1))
            given = [factors[k].to(device, dtype) for k in which]
            found = torch.autograd.grad([jet[k] for k in which], mine, given)
            expected = torch.autograd.grad(
                [exact[k] for k in which], leaves, [factors[k] for k in which], retain_graph=True
            )
            for got, true in zip(found, expected, strict=True):
                assert close(got.cpu(), true, tolerance)


@pytest.mark.parametrize("base", SMOOTH_BASES)
def test_gradients_in_the_samples_and_in_s(device: torch.device, base: str) -> None:
    """Against the chunks of torch in float64, which gradcheck covers: two networks share the samples; parts alone."""
    x, weight, output_weight = problem(130, 71, 3, networks=(2,), seed=5)
    s = torch.tensor(S, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for dtype, tolerance in ((torch.float32, 4e-6), (torch.float64, 1e-12)):
        rounded = [t.to(dtype) for t in (x, weight, output_weight)]
        for form, which in (("laplacian", (0, 1, 2)), ("hessian", (2,)), ("diagonal", (1, 2))):
            found = []
            for kind, name in ((dtype, "native" if hx.backends()["cpp"] else "torch"), (torch.float64, "torch")):
                leaves = [t.to(device, kind).requires_grad_() for t in (*rounded, s)]
                with hx.use_backend(name):
                    jet = hx.two_layer_jet(*leaves[:3], leaves[3].double(), base=base, second=form, columns=(0, 1))
                generator.manual_seed(1)
                factors = [torch.randn(jet[k].shape, generator=generator).to(device, kind) for k in which]
                found.append(torch.autograd.grad([jet[k] for k in which], (leaves[0], leaves[3]), factors))
            for got, exact, terms in zip(*found, (1, 20), strict=True):  # that in s is a small sum of large terms
                assert close(got.cpu(), exact.cpu(), terms * tolerance)


def test_bits_do_not_depend_on_threads() -> None:
    """Neither those of the jet nor of any gradient, of several networks and of a single one."""
    before = torch.get_num_threads()
    for networks, n, m, features in (((3,), 300, 700, 3), ((), 2100, 600, 5)):
        tensors = [*problem(n, m, features, torch.float32, networks), torch.tensor(S)]
        found = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                leaves = [t.clone().requires_grad_() for t in tensors]
                jet = hx.two_layer_jet(*leaves, second="hessian")
                grads = torch.autograd.grad(sum(part.square().sum() for part in jet), leaves)  # type: ignore[arg-type]
                found.append([*jet, *grads])
        finally:
            torch.set_num_threads(before)
        for other in found[1:]:
            assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", ["tanh", "cosine"])
def test_derivatives_in_everything(device: torch.device, monkeypatch: pytest.MonkeyPatch, base: str, form: str) -> None:
    """First and second, reverse and forward; a registered base, whose third derivative is autograd's; chunks."""
    if base == "cosine":
        if device.type == "cpu" and hx.backends()["cpp"]:
            pytest.skip("registered bases are the torch backend's")
        cosine = Base(torch.cos, lambda x: -torch.sin(x), lambda x: -torch.cos(x))
        monkeypatch.setitem(ALL_BASES, "cosine", cosine)
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 16)
    tensors = [*problem(4, 5, 3, seed=4), torch.tensor(1.3, dtype=torch.float64)]
    inputs = [t.to(device).requires_grad_() for t in tensors]

    def jet(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(hx.two_layer_jet(*given, base=base, second=form, second_columns=(2, 0)))

    assert torch.autograd.gradcheck(jet, inputs, check_forward_ad=True, check_batched_grad=True)
    if form == "hessian":
        assert torch.autograd.gradgradcheck(jet, inputs)


def test_torch_func(device: torch.device) -> None:
    """Per-network gradients by vmap, the Laplacian as the trace of torch.func's Hessian, forward mode."""
    x, weight, output_weight = (t.to(device) for t in problem(6, 9, 3, seed=1))

    def of_one(sample: Tensor) -> Tensor:
        return hx.two_layer(sample[None], weight, output_weight, S, base="tanh")[0]

    jet = hx.two_layer_jet(x, weight, output_weight, S, second="hessian")
    torch.testing.assert_close(vmap(hessian(of_one))(x), jet.second)

    def loss(w: Tensor) -> Tensor:
        return hx.two_layer_jet(x, w, output_weight, S).second.square().sum()

    several = torch.stack([weight, 2 * weight])
    one_by_one = torch.stack([grad(loss)(w) for w in several])
    torch.testing.assert_close(vmap(grad(loss))(several), one_by_one)
    leaf = weight.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(loss(leaf), leaf)[0], one_by_one[0])
    direction = torch.randn_like(weight)
    torch.testing.assert_close(jvp(loss, (weight,), (direction,))[1], (one_by_one[0] * direction).sum())


def test_compiled_losses_have_the_eager_gradients() -> None:
    torch._dynamo.reset()
    x, weight, output_weight = problem(7, 11, 3, seed=2)

    def loss(w: Tensor, a: Tensor) -> Tensor:
        jet = hx.two_layer_jet(x, w, a, S, second="hessian", columns=(0, 1))
        return jet.value.sum() + jet.gradient.square().sum() + jet.second.sin().sum()

    found = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in (weight, output_weight)]
        found.append(torch.autograd.grad(function(*leaves), leaves))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_module_differentiates_its_inputs_alone(device: torch.device) -> None:
    """A Poisson loss through net.jet; the bias column is nobody's coordinate; a skip is in value and gradient."""
    net = hx.TwoLayerNet(2, 50, base="tanh", seed=0).double().to(device)
    x = torch.rand(9, 2, dtype=torch.float64, device=device)

    def of_one(sample: Tensor) -> Tensor:
        return net(sample[None])[0]

    for _ in range(2):
        jet = net.jet(x, second="hessian")
        torch.testing.assert_close(jet.value, net(x))
        torch.testing.assert_close(jet.gradient, vmap(grad(of_one))(x))
        torch.testing.assert_close(jet.second, vmap(hessian(of_one))(x))
        torch.testing.assert_close(net.jet(x, second_columns=[1]).second, jet.second[:, 1, 1])
        net.set_s(1.7, keep_function=True)
    with pytest.raises(ValueError, match=r"TwoLayerNet: x must have shape \(n, 2\), got \(9, 3\)"):
        net.jet(hx.with_bias(x))


def test_ensembles_share_the_points() -> None:
    nets = [hx.TwoLayerNet(2, 20, base="gelu", seed=seed) for seed in range(3)]
    x = torch.rand(5, 2)
    parameters, buffers = stack_module_state(nets)  # type: ignore[arg-type]

    class Laplacian(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets[0]

        def forward(self, points: Tensor) -> Tensor:
            return self.net.jet(points).second

    def of_one(of_net: Any, state: Any) -> Tensor:
        named = {f"net.{name}": tensor for name, tensor in {**of_net, **state}.items()}
        result: Tensor = functional_call(Laplacian(), named, (x,))
        return result

    together = vmap(of_one)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([net.jet(x).second for net in nets]))


def test_half_types_and_no_samples() -> None:
    x, weight, output_weight = problem(6, 40, 3, torch.float32)
    exact = hx.two_layer_jet(x.bfloat16().float(), weight.bfloat16().float(), output_weight.bfloat16().float())
    jet = hx.two_layer_jet(x.bfloat16(), weight.bfloat16(), output_weight.bfloat16())
    for part, whole in zip(jet, exact, strict=True):
        assert torch.equal(part, whole.bfloat16())
    empty = hx.two_layer_jet(x[:0], weight, output_weight, second="hessian")
    assert [tuple(part.shape) for part in empty] == [(0,), (0, 3), (0, 3, 3)]


@pytest.mark.parametrize("features", [64, 65])
def test_more_features_than_the_kernels_take(features: int) -> None:
    given = problem(5, 30, features)
    jet = hx.two_layer_jet(*given, S, second="diagonal")
    assert close(jet.second, picked(dense_hessian(*given, S, "tanh"), "diagonal", list(range(features))), 1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("base", BASES)
def test_derivatives_of_the_bases_are_the_slopes_of_those_below(base: str, order: int) -> None:
    """Third ones too, by central differences in float64 away from kinks: (1e-5)^2 and a rounding of 1e-16 / 1e-5."""
    x = torch.cat([torch.linspace(-6, -0.01, 200), torch.linspace(0.01, 6, 200)]).double()
    functions = get_base(base)
    of = [functions.value, functions.slope, functions.curvature, functions.third_derivative]
    differences = (of[order - 1](x + 1e-5) - of[order - 1](x - 1e-5)) / 2e-5
    torch.testing.assert_close(of[order](x), differences, rtol=1e-8, atol=1e-9)


X, WEIGHT, OUTPUT = torch.ones(4, 3), torch.ones(5, 3), torch.ones(5)


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ({"second": "laplace"}, ValueError, "second must be one of laplacian, diagonal, hessian, got 'laplace'"),
        ({"second": None}, ValueError, "second must be one of"),
        ({"columns": [0, 3]}, ValueError, r"columns must be different columns in \[0, 3\), got \[0, 3\]"),
        ({"columns": [-1]}, ValueError, "columns must be different columns"),
        ({"columns": [1, 1]}, ValueError, "columns must be different columns"),
        ({"columns": []}, ValueError, r"columns must name at least one column, got \[\]"),
        ({"columns": 1}, TypeError, "columns must be a sequence of integers, got 1"),
        ({"columns": "01"}, TypeError, "columns must be a sequence of integers, got '01'"),
        ({"second_columns": [0.5]}, TypeError, r"second_columns must be a sequence of integers, got \[0.5\]"),
        ({"second_columns": [True]}, TypeError, "second_columns must be a sequence of integers"),
        ({"base": "quartic"}, ValueError, "base must be one of"),
    ],
)
def test_bad_arguments(named: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hx.two_layer_jet(X, WEIGHT, OUTPUT, **named)


def test_bad_tensors_are_named() -> None:
    with pytest.raises(ValueError, match=r"two_layer_jet: x must have shape \(n, D\)"):
        hx.two_layer_jet(X[0], WEIGHT, OUTPUT)
    with pytest.raises(TypeError, match="two_layer_jet: "):
        hx.two_layer_jet(X, WEIGHT.double(), OUTPUT)


def test_nan_shows_where_it_belongs(device: torch.device) -> None:
    """In its sample of the jet, in every gradient of the weights."""
    x, weight, output_weight = (t.to(device) for t in problem(40, 33, 3))
    x[7, 1] = torch.nan
    leaf = weight.clone().requires_grad_()
    jet = hx.two_layer_jet(x, leaf, output_weight)
    for part in jet:
        bad = part.isnan().reshape(40, -1).any(1)
        assert bad[7]
        assert bad.sum() == 1
    assert torch.autograd.grad(jet.second.sum(), leaf)[0].isnan().all()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_infinity_gives_the_limit_or_no_number(device: torch.device, base: str, infinity: float) -> None:
    """Of a sample: the limit of the dense formula where there is one, whatever pads a tile of neurons, on every
    backend. Of a weight: no finite number that is not the limit. Other samples know nothing of it."""
    for s, form, width in ((0.5, "laplacian", 37), (1.0, "diagonal", 64), (1.5, "diagonal", 37), (1.0, "laplacian", 5)):
        for place in range(3):
            given = problem(6, width, 3, seed=width)
            given[place].view(-1)[4] = infinity  # of sample 1, neuron 1 or 4
            expected = jet_limits(*given, s, base, form)
            for backend in ("native", "torch") if hx.backends()["cpp"] else ("torch",):
                with hx.use_backend(backend):
                    jet = hx.two_layer_jet(*(t.to(device) for t in given), s, base=base, second=form)
                for part, limit in zip(jet, expected, strict=True):
                    got, limit = part.cpu().reshape(6, -1), limit.reshape(6, -1)
                    finite = got.isfinite()
                    assert (
                        torch.equal(finite, limit.isfinite())
                        if place == 0
                        else bool((finite <= limit.isfinite()).all())
                    )
                    assert close(got[finite], limit[finite], 1e-9)
