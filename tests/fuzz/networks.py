"""Calls of the two-layer network, of Gram matrices and of the training at random."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import homotopy
from fuzz.draws import FLOATS, HALVES, Draw
from fuzz.judge import Finding, attempt, same
from torch import Tensor

import hrta_ext as hx

# Of the largest term: kernels that mix up numbers, or read what is not theirs, are off by the terms themselves.
_ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


def _problem(draw: Draw, dtype: torch.dtype, most_samples: int = 129) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, D), weight (..., m, D) and output_weight (..., m), which do not fit each other now and then."""
    n, features = draw.size(most_samples), draw.one_of([1, 2, 2, 3, 4, 5, 8, 13, 17, 33])
    lead = [draw.one_of([0, 1, 2, 3]) for _ in range(draw.one_of([0, 0, 1, 2]))]
    width = draw.size(1025 if not lead else 65)
    if width == 0:
        draw.fair = False
    x = draw.tensor([n, features], dtype, wild=0.05)
    weight, output_weight = draw.tensor([*lead, width, features], dtype), draw.tensor([*lead, width], dtype)
    if draw.chance(0.05):
        draw.fair = False
        kind = draw.random.randrange(6)
        if kind == 0:
            weight = weight[..., :-1]
        elif kind == 1:
            weight = weight.to(torch.float16 if dtype != torch.float16 else torch.float32)
        elif kind == 2:
            output_weight = output_weight[..., None]
        elif kind == 3:
            x = x.reshape(-1)
        elif kind == 4:
            output_weight = output_weight.to(torch.complex64)
        else:
            weight = weight[0] if weight.shape[0] else weight.to_sparse()
    return x, weight, output_weight


def _dense(x: Tensor, weight: Tensor, output_weight: Tensor, s: Tensor | float, base: str) -> list[Tensor]:
    z, scale = x @ weight.mT, weight.shape[-2] ** -0.5
    f = (homotopy(z, s, base) * output_weight.unsqueeze(-2)).sum(-1)
    return [scale * f, scale * (homotopy(z, s, base, 1) * output_weight.unsqueeze(-2)) @ weight]


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().double().abs().max()) if tensor.numel() else 0.0


def _near_a_kink(x: Tensor, weight: Tensor) -> bool:
    """A pre-activation whose sign rounding may change."""
    z, size = x.double() @ weight.double().mT, x.double().abs() @ weight.double().abs().mT
    return bool(((z.abs() < 1e-5 * size) & (size > 0)).any())


def two_layer(draw: Draw) -> None:
    dtype = draw.one_of([*FLOATS, *FLOATS, *HALVES])
    tensors = _problem(draw, dtype, draw.one_of([33, 257]))
    s, base = draw.s(), "relu" if draw.chance(0.3) else draw.base()
    both, backward, op = draw.chance(0.5), draw.chance(0.5), draw.chance(0.2)
    if isinstance(s, Tensor) and s.numel() != 1:
        draw.fair = False
    if op:
        draw.fair, backward = False, False  # half types are refused
        base = base if isinstance(base, str) and base in hx.bases.BASES else "sin"
        s = s if isinstance(s, Tensor) else torch.tensor(0.5, dtype=torch.float64)
        s = s.double() if draw.chance(0.9) else s
    leaves = [tensor.detach().requires_grad_(backward and tensor.is_floating_point()) for tensor in tensors]
    learned = backward and isinstance(s, Tensor) and s.is_floating_point()
    parameter = s.detach().requires_grad_() if learned else s
    wanted = [*leaves, parameter] if learned else leaves

    def run() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[Tensor]]:
        if op:
            ops, number = torch.ops.hrta_ext, hx.bases.BASES[base].number
            got = ops.two_layer_with_gradient(*leaves, s, number) if both else (ops.two_layer(*leaves, s, number),)
        elif both:
            got = hx.two_layer_with_gradient(*leaves, parameter, base=base)
        else:
            got = (hx.two_layer(*leaves, parameter, base=base),)
        grads = [draw.tensor(part.shape, part.dtype, wild=0.0) for part in got] if backward else []
        return got, torch.autograd.grad(got, wanted, grads) if backward else (), grads

    found = attempt(draw, run)
    if found is None or not draw.tame:
        return
    got, gradients, grads = found
    if base == "relu" and (both or backward) and _near_a_kink(leaves[0], leaves[1]):
        return
    exact = [tensor.detach().to(torch.float64, copy=True).requires_grad_() for tensor in wanted]
    exact_s = exact[3] if learned else s.double() if isinstance(s, Tensor) else float(s)
    exact_s = exact_s.reshape(()) if isinstance(exact_s, Tensor) else exact_s
    outputs = _dense(*exact[:3], exact_s, base)[: 1 + both]
    z = 1.0 + _largest(exact[0]) * _largest(exact[1]) * exact[0].shape[1]
    terms = (2.0 + 2.0 * abs(float(s))) * _largest(exact[2]) * z * z
    limit = torch.finfo(dtype).max / 8

    def check(what: str, mine: Tensor, right: Tensor, size: float) -> None:
        size = size if _largest(right) < limit else float("inf")
        same(what, mine, right, max(_ROUNDING[dtype], _ROUNDING[mine.dtype]) * (size + _largest(right)), mine.dtype)

    for name, mine, right in zip(("f", "df/dx"), got, outputs, strict=False):
        check(f"two_layer, {name}", mine, right, terms * (1.0 + _largest(exact[1])))
    if backward:
        rights = torch.autograd.grad(outputs, exact, [grad.double() for grad in grads], allow_unused=True)
        size = terms * (1.0 + _largest(exact[0])) * (1.0 + _largest(exact[1])) ** 2
        size *= sum(_largest(grad) for grad in grads) * max(1, exact[0].shape[0]) ** 0.5
        for name, mine, right in zip(("x", "weight", "output_weight", "s"), gradients, rights, strict=False):
            if right is not None:
                check(f"two_layer, gradient in {name}", mine, right, size)


def two_layer_jet(draw: Draw) -> None:
    """Beside the torch backend in float64: its own tests compare that with the Hessian."""
    dtype = draw.one_of(FLOATS)
    x, weight, output_weight = _problem(draw, dtype, 65)
    s, base, form = draw.s(), draw.base(), draw.one_of(["laplacian", "diagonal", "hessian"])
    features = x.shape[-1]
    columns = draw.one_of([None, [0], list(range(min(features, 7)))[::-1]])
    if isinstance(s, Tensor) and s.numel() != 1:
        draw.fair = False
    if draw.chance(0.05):
        columns, draw.fair = draw.one_of([[0, 0], [-1], [], [features], [2**70], [0.5], 1, "0"]), False
    keywords = {"base": base, "second": form, "columns": columns}

    def run(tensors: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        leaves = [tensors[0].detach(), *(tensor.detach().requires_grad_() for tensor in tensors[1:])]
        jet = hx.two_layer_jet(*leaves, s.detach() if isinstance(s, Tensor) else s, **keywords)
        grads = [torch.ones_like(part) for part in jet]
        return tuple(jet), torch.autograd.grad(tuple(jet), leaves[1:], grads)

    found = attempt(draw, lambda: run([x, weight, output_weight]))
    if found is None or not draw.tame or (base in ("relu", "relu2") and _near_a_kink(x, weight)):
        return
    with hx.use_backend("torch"):
        exact = run([tensor.double() for tensor in (x, weight, output_weight)])
    z = 1.0 + _largest(x) * _largest(weight) * features
    size = (2.0 + 2.0 * abs(float(s))) * _largest(output_weight) * z * z * (1.0 + _largest(weight)) ** 2 * features
    for name, mine, right in zip(("value", "gradient", "second"), found[0], exact[0], strict=True):
        same(f"two_layer_jet, {name}", mine, right, _ROUNDING[dtype] * (size + _largest(right)), dtype)
    size = (size + z * z * (1.0 + _largest(weight)) ** 2) * (1.0 + _largest(x)) * (1.0 + _largest(weight))
    size *= max(1, x.shape[0]) * (1 + features)
    for name, mine, right in zip(("weight", "output_weight"), found[1], exact[1], strict=True):
        same(f"two_layer_jet, gradient in {name}", mine, right, _ROUNDING[dtype] * (size + _largest(right)), dtype)


def op_backward(draw: Draw) -> None:
    """``torch.ops.hrta_ext.two_layer*_backward``: whatever comes, no memory is read that is not the tensors'."""
    dtype = draw.one_of(FLOATS)
    x, weight, output_weight = _problem(draw, dtype)
    draw.fair = False
    lead, n = list(output_weight.shape[:-1]), x.shape[0]
    grad = draw.tensor([*lead, n], dtype) if draw.chance(0.7) else draw.tensor([draw.size(33)], draw.one_of(FLOATS))
    s = torch.tensor(0.5, dtype=torch.float64) if draw.chance(0.9) else draw.tensor([draw.size(3)], dtype)
    needs = [draw.chance(0.7) for _ in range(4)]
    number, ops = draw.random.randrange(-1, 9), torch.ops.hrta_ext
    if draw.chance(0.5):
        attempt(draw, lambda: ops.two_layer_backward(grad, x, weight, output_weight, s, number, *needs))
        return
    shape = [*lead, *x.shape] if draw.chance(0.7) else [draw.size(9), draw.size(9)]
    second = draw.tensor(shape, dtype)
    attempt(
        draw, lambda: ops.two_layer_with_gradient_backward(grad, second, x, weight, output_weight, s, number, *needs)
    )


def gram(draw: Draw) -> None:
    dtype = draw.one_of(FLOATS)
    x, weight, output_weight = _problem(draw, dtype)
    base, name = draw.base(), draw.one_of(["gram", "gram_path", "random_gram_path"])
    s = draw.one_of([[0.0, 0.5, 1.5], (1.0,), torch.tensor([0.5, 2.0])]) if draw.chance(0.5) else draw.s()
    if isinstance(s, Tensor) and s.dim() > 1:
        draw.fair = False
    result = draw.one_of([None, None, *FLOATS])
    keywords = {"base": base, "dtype": result}
    if draw.chance(0.1):
        keywords["memory_budget"] = draw.one_of([0, -1, 1000, 2**40, 2**70, 1.5, True])
        draw.fair = False
    x2 = None
    if x.dim() == 2 and draw.chance(0.3):
        keywords["x2"] = x2 = draw.tensor([draw.size(257), x.shape[1]], dtype)
    if not all(bool(torch.isfinite(samples.double()).all()) for samples in (x, x2) if samples is not None):
        draw.fair = False  # refused by the row's number
    run: Callable[[], hx.Gram]
    if name == "random_gram_path":
        width, seed, first = (draw.one_of(c) for c in ([1, 7, 1000, 0, -3], [0, 5, 2**64 - 1], [0, 2**40, 2**48]))
        draw.fair = False
        run = lambda: hx.random_gram_path(x, width, seed=seed, first_neuron=first, **keywords)(s)  # noqa: E731
    elif name == "gram":
        run = lambda: hx.gram(x, weight, output_weight, s, **keywords)  # noqa: E731
    else:
        run = lambda: hx.gram_path(x, weight, output_weight, **keywords)(s)  # noqa: E731
    got = attempt(draw, run)
    if got is None:
        return
    for part in got if x2 is None else ():
        if not bool(((part == part.mT) | part.isnan()).all()):
            raise Finding(f"{name}: not symmetric")
    every = x if x2 is None else torch.cat([x, x2])
    if not draw.tame or every.shape[0] == 0:
        return
    if name == "random_gram_path":
        weight, output_weight = hx.random_weights(first, width, x.shape[1], seed=seed)
    if base == "relu" and _near_a_kink(every, weight):
        return
    values = torch.as_tensor(s, dtype=torch.float64).reshape(-1, *[1] * weight.dim())
    z = every.double() @ weight.double().mT
    value, slope = (homotopy(z, values, base, order) for order in (0, 1))
    rise = slope * output_weight.double().unsqueeze(-2)
    inner, width = every.double() @ every.double().mT, weight.shape[-2]
    exact = (value @ value.mT / width, inner * (rise @ rise.mT) / width)
    sizes = (1.0 + values.abs().max() ** 2) if values.numel() else torch.tensor(1.0)
    for letter, mine, right in zip("aw", got, exact, strict=True):
        right = right if torch.as_tensor(s).dim() else right[0]
        if x2 is not None:
            right = right[..., : x.shape[0], x.shape[0] :]
        top = float(sizes) * (_largest(right) + _largest(z) ** 2 * (1.0 + _largest(output_weight)) ** 2)
        same(f"{name}, {letter}", mine, right, _ROUNDING[mine.dtype] * top, result or dtype)


def training(draw: Draw) -> None:
    dtype, base = draw.one_of(FLOATS), draw.base()
    n, features, width = max(1, draw.size(257)), draw.one_of([1, 1, 2, 3, 7]), max(1, draw.size(1025))
    x = draw.tensor([n, features], dtype, wild=0.0).clamp(-3.0, 3.0)
    y = draw.tensor([n] if draw.chance(0.7) else [n, 1], dtype, wild=0.0).clamp(-3.0, 3.0)
    x, y = draw.odd(x), draw.odd(y)
    keywords = {"optimizer": draw.one_of(["adam", "sgd", "gd"]), "lr": draw.one_of([1e-3, 1e-4])}
    keywords |= draw.one_of([{"s": (0.5, 1.0), "steps": (2, 3)}, {"s": 1.5, "steps": 4}])
    if draw.chance(0.3):
        keywords["sample_weight"] = draw.odd(torch.rand(n, generator=draw.generator, dtype=dtype) + 0.1)
    if draw.chance(0.3) and base != "relu":
        keywords["target_gradient"] = draw.tensor([n, features], dtype, wild=0.0)
    bias = draw.chance(0.8)

    def run(engine: str) -> tuple[hx.TwoLayerNet, hx.FitResult]:
        net = hx.TwoLayerNet(features, width, base=base, bias=bias, seed=1).to(dtype)
        return net, hx.fit(net, x, y, engine=engine, **keywords)

    got = attempt(draw, lambda: run("fused" if hx.backends()["cpp"] else "torch"))
    if got is None:
        return
    _, result = run("torch")
    if got[1].stop_reason != result.stop_reason:
        raise Finding(f"fit: {got[1].stop_reason} in place of {result.stop_reason}")
    if result.stop_reason == "finished":
        allowed = (1e-3 if dtype == torch.float32 else 1e-8) * (1.0 + _largest(result.loss))
        same("fit, loss", got[1].loss, result.loss.double(), allowed, result.loss.dtype)
