"""two_layer, its gradient and its jet with the neurons divided among ranks: those of one process, to all orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from distributed.ranks import on_ranks, said

import hrta_ext as hx
from hrta_ext.groups import ranks_of
from hrta_ext.network.shares import copies

WIDTH = 7


def arrays(*tensors):
    return [None if tensor is None else tensor.detach().numpy() for tensor in tensors]


def problem(width=WIDTH, n=5, networks=(), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, weight, output_weight = (
        torch.randn(*shape, generator=generator, dtype=dtype)
        for shape in ((n, 3), (*networks, width, 3), (*networks, width))
    )
    s = torch.tensor(0.7, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, weight, output_weight, s)]


CALLS = {
    "value": lambda *tensors, **group: [hx.two_layer(*tensors, base="tanh", **group)],
    "pair": lambda *tensors, **group: list(hx.two_layer_with_gradient(*tensors, base="gelu", **group)),
    "jet": lambda *tensors, **group: list(
        hx.two_layer_jet(*tensors, base="sin", second="hessian", columns=[0, 2], **group)
    ),
}


def scalar(parts):
    """A number in which every output has a part that is not linear."""
    return sum(
        (part * torch.arange(1.0, part.numel() + 1).to(part).view(part.shape).cos()).square().sum() for part in parts
    )


def derivatives(call, x, weight, output_weight, s, **group):
    """Outputs, first derivatives of a number made of them, and derivatives of the norm of those in x and s."""
    inputs = (x, weight, output_weight, s)
    parts = call(*inputs, **group)
    first = torch.autograd.grad(scalar(parts), inputs, create_graph=True)
    # Of gradients in x and s, which all ranks have alike; a number made of the weights' would differ.
    second = torch.autograd.grad(first[0].square().sum() + first[3] ** 2, inputs)
    return parts, first, second


def share_of(ranks, weight, output_weight):
    first, count = ranks.share(weight.shape[-2])
    at = slice(first, first + count)
    return weight[..., at, :].detach().requires_grad_(), output_weight[..., at].detach().requires_grad_()


def work():
    ranks = ranks_of("world", "test")
    answers = {}
    for name, call in CALLS.items():
        for networks, width in (((), WIDTH), ((2,), WIDTH), ((), 1)):
            x, weight, output_weight, s = problem(width, networks=networks)
            mine = share_of(ranks, weight, output_weight)
            found = derivatives(call, x, *mine, s, group="world")
            answers[name, networks, width] = [arrays(*part) for part in found]
    answers["gradcheck"] = gradchecks(ranks)
    answers["float32"] = arrays(*(call_in(ranks, dtype) for dtype in (torch.float32, torch.bfloat16)))
    answers["part"] = only_a_part(ranks)
    answers["errors"] = errors(ranks)
    return answers


def gradchecks(ranks):
    """Both numerical checks, of weights that are whole on every rank, of which each takes its share."""
    found = []
    for name, check in (("value", "gradgradcheck"), ("pair", "gradgradcheck"), ("jet", "gradcheck")):
        call = CALLS[name]
        x, weight, output_weight, s = problem(3, n=2)

        def of_whole(x, weight, output_weight, s, call=call):
            weight, output_weight = copies(ranks, weight, output_weight)
            first, count = ranks.share(3)
            at = slice(first, first + count)
            return tuple(call(x, weight[at], output_weight[at], s, group="world"))

        found.append(getattr(torch.autograd, check)(of_whole, (x, weight, output_weight, s)))
    return found


def call_in(ranks, dtype):
    x, weight, output_weight, _ = problem(1000, dtype=dtype)
    return hx.two_layer(x, *share_of(ranks, weight, output_weight), 0.5, group="world").float()


def only_a_part(ranks):
    """A loss of the gradient alone: nobody sends gradients of f, which are none."""
    x, weight, output_weight, s = problem()
    _, df_dx = hx.two_layer_with_gradient(x, *share_of(ranks, weight, output_weight), s, base="tanh", group="world")
    return arrays(*torch.autograd.grad(df_dx.square().sum(), (x, s)))


def errors(ranks):
    x, weight, output_weight, _ = (tensor.detach() for tensor in problem())
    mine = [tensor.detach() for tensor in share_of(ranks, weight, output_weight)]
    second = ranks.rank == 1

    def call(x=x, weight=mine[0], output_weight=mine[1], s=0.5, **options):
        return said(hx.two_layer, x, weight, output_weight, s, group="world", **options)

    leaf = x.clone().requires_grad_()
    f = hx.two_layer(leaf, *mine, 0.5, group="world")
    batch = torch.eye(5, dtype=torch.float64)
    compiled = torch.compile(lambda x: hx.two_layer(x, *mine, 0.5, group="world"), backend="eager", fullgraph=True)
    return {
        "s": call(s=1.5 if second else 0.5),
        "base": call(base="tanh" if second else "gelu"),
        "dtype": call(*(t.float() for t in (x, *mine))) if second else call(),
        "samples": call(x[1:] if second else x),
        "requires_grad": call(leaf if second else x),
        "shape": call(weight=mine[0][:, :2] if second else mine[0]),
        "no neurons": call(weight=mine[0][:0], output_weight=mine[1][:0]),
        "batched": said(torch.autograd.grad, f, leaf, batch, is_grads_batched=True),
        "vmap": said(torch.vmap(lambda x: hx.two_layer(x[None], *mine, 0.5, group="world")), x),
        "grad": said(torch.func.grad(lambda x: hx.two_layer(x, *mine, 0.5, group="world").sum()), x),
        "compile": said(compiled, x),
        "again": call(),
    }


@pytest.fixture(scope="module")
def answers():
    return on_ranks(2, work)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("networks", "width"), [((), WIDTH), ((2,), WIDTH), ((), 1)])
def test_values_and_derivatives_are_those_of_one_process(answers, name, networks, width):
    """With batches of networks too, and with a rank that has no neuron: outputs, gradients, derivatives of those."""
    x, weight, output_weight, s = problem(width, networks=networks)
    parts, first, second = derivatives(CALLS[name], x, weight, output_weight, s)
    cut = -(-width // 2)
    shares = [slice(0, cut), slice(cut, width)]
    for at, answer in zip(shares, answers, strict=True):
        got_parts, got_first, got_second = answer[name, networks, width]
        for part, got in zip(parts, got_parts, strict=True):
            np.testing.assert_allclose(got, part.detach(), rtol=1e-12, atol=1e-13)
        for right, got in ((first, got_first), (second, got_second)):
            expected = right[0], right[1][..., at, :], right[2][..., at], right[3]
            for part, number in zip(expected, got, strict=True):
                np.testing.assert_allclose(number, part.detach(), rtol=1e-11, atol=1e-11)


def test_every_rank_has_the_same_bits(answers):
    """What all ranks have is the same to the last bit, or their copies would drift apart in a training."""
    for key in [key for key in answers[0] if isinstance(key, tuple)]:
        for part, other in zip(answers[0][key][0], answers[1][key][0], strict=True):
            assert np.array_equal(part, other)
        for order in (1, 2):
            for place in (0, 3):
                assert np.array_equal(answers[0][key][order][place], answers[1][key][order][place])


def test_gradcheck_and_gradgradcheck_of_both_ranks(answers):
    """Against differences: a neuron's gradient that counted twice, or one in x of one rank's neurons, would show."""
    assert answers[0]["gradcheck"] == answers[1]["gradcheck"] == [True] * 3


def test_half_types_are_not_rounded_before_they_are_added(answers):
    """bfloat16 has 8 bits: a rounded part of the sum would cost one of them."""
    for dtype, got in zip((torch.float32, torch.bfloat16), answers[0]["float32"], strict=True):
        x, weight, output_weight, _ = problem(1000, dtype=dtype)
        right = hx.two_layer(x.double(), weight.double(), output_weight.double(), 0.5).detach()
        error = np.abs(got - right.numpy()).max()
        assert error <= 0.51 * torch.finfo(dtype).eps * float(right.abs().max()) + 1e-6


def test_outputs_that_are_not_used_have_no_gradients(answers):
    x, weight, output_weight, s = problem()
    _, df_dx = hx.two_layer_with_gradient(x, weight, output_weight, s, base="tanh")
    right = torch.autograd.grad(df_dx.square().sum(), (x, s))
    for answer in answers:
        for part, got in zip(right, answer["part"], strict=True):
            np.testing.assert_allclose(got, part, rtol=1e-12, atol=1e-13)


def test_what_differs_or_cannot_be_is_said_on_every_rank(answers):
    """Before any work, in one line, and the group goes on: the last call is a good one."""
    for key, part in {
        "s": "two_layer: s must be the same on every rank, got 0.5 on rank 0 and 1.5 on rank 1",
        "base": "two_layer: base must be the same on every rank, got gelu on rank 0 and tanh on rank 1",
        "dtype": "two_layer: x must be the same on every rank, got float64 of shape (5, 3)",
        "samples": "two_layer: x must be the same on every rank, got float64 of shape (5, 3)",
        "requires_grad": "two_layer: requires_grad of x and s must be the same on every rank",
        "no neurons": "two_layer: weight must hold at least one neuron on one of the 2 ranks",
        "batched": "not in batches",
        "vmap": "not within torch.func",
        "grad": "not within torch.func",
        "compile": "a compiler or a tracer sees no other rank",
    }.items():
        for answer in answers:
            assert part in answer["errors"][key], key
    assert answers[0]["errors"]["shape"].startswith(
        "RankError: two_layer: rank 1 stopped with ValueError: two_layer: we"
    )
    assert answers[1]["errors"]["shape"].startswith("ValueError: two_layer: weight must have shape (..., width, 3)")
    assert answers[0]["errors"]["again"] is answers[1]["errors"]["again"] is None
