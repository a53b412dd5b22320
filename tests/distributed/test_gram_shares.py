"""Gram matrices whose neurons the ranks of a group share: the bits of one process, and no rank that waits for ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from distributed.ranks import on_ranks, said

import hrta_ext as hx
from hrta_ext import groups
from hrta_ext.groups import ranks_of
from hrta_ext.ntk import gram as gram_module
from hrta_ext.ntk import sharing
from hrta_ext.ntk.building import Building, Samples, builders_for

RANKS = 3
STEP, FEW = 2048, 64


def samples(n, features, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n + 100 * features)
    return torch.randn(n, features, generator=generator, dtype=torch.float64).to(dtype)


# Whole batches by turns, with ranks to spare; batches beyond a multiple of the ranks, cut by entries of symmetric and
# of crossed matrices (more rows, more columns, too few for all ranks), or by stretches of arcs; no samples at all.
DRAWN = {
    "few samples": ({"x": samples(20, 5)}, {"width": 5000}),
    "fewer neurons than ranks": ({"x": samples(5, 3)}, {"width": 2}),
    "one batch for all": ({"x": samples(9, 3, torch.float32)}, {"width": 3000, "batches": 1, "base": "tanh"}),
    "entries": ({"x": samples(330, 3)}, {"width": 1100, "batches": 1, "seed": 3, "first_neuron": 7}),
    "entries of the last batch": ({"x": samples(230, 20, torch.float32)}, {"width": 2500, "batches": 4}),
    "rows of a cross-kernel": ({"x": samples(100, 3), "x2": samples(40, 3)}, {"width": 1500, "batches": 1}),
    "columns": ({"x": samples(10, 3), "x2": samples(50, 3)}, {"width": 1500, "batches": 2, "base": "gelu"}),
    "arcs": ({"x": samples(30, 2)}, {"width": 5 * STEP + 5, "batches": 1}),
    "arcs of a cross-kernel": ({"x": samples(30, 2), "x2": samples(7, 2)}, {"width": 4 * STEP, "batches": 4}),
    "no samples": ({"x": samples(0, 3)}, {"width": 10}),
}
# Neurons of every rank; the bits are those of one process where all of them are multiples of a 16th of the width.
HELD = {
    "at edges": ((160, 480, 0), (), {}),
    "elsewhere": ((161, 477, 2), (), {}),
    "few": ((0, 3, 5), (), {"dtype": torch.float32}),
    "networks": ((320, 0, 320), (2,), {"base": "tanh"}),
    "cross-kernel": ((320, 320, 0), (), {"x2": samples(4, 3)}),
}


def sums_of(path):
    return [*(value.numpy() for value in path.sums), path.widths, path.drawn, str(path.dtype)]


def held(counts, networks):
    generator = torch.Generator().manual_seed(5)
    width = sum(counts)
    weight = torch.randn(*networks, width, 3, generator=generator, dtype=torch.float64)
    return samples(11, 3), weight, torch.randn(*networks, width, generator=generator, dtype=torch.float64)


def shorten(patch):
    """Stretches and parts of a test's width."""
    patch(gram_module, "_stretch", lambda *_: STEP)
    patch(gram_module, "_FEW", FEW)
    patch(groups, "_SECONDS_BETWEEN_MEETINGS", 0.0)


def work():
    shorten(setattr)
    ranks = ranks_of("world", "test")
    answers = {}
    for name, (tensors, options) in DRAWN.items():
        answers[name] = sums_of(hx.random_gram_path(**tensors, **options, group="world"))
    with hx.use_backend("torch"):
        tensors, options = DRAWN["few samples"]
        answers["torch"] = sums_of(hx.random_gram_path(**tensors, **options, group="world"))
    for name, (counts, networks, options) in HELD.items():
        x, weight, output_weight = held(counts, networks)
        at = slice(sum(counts[: ranks.rank]), sum(counts[: ranks.rank + 1]))
        mine = weight[..., at, :], output_weight[..., at]
        answers[name] = sums_of(hx.gram_path(x, *mine, group="world", **options))
        answers[f"{name} at s"] = [part.numpy() for part in hx.gram(x, *mine, [0.5, 1.5], group="world", **options)]
    answers["told"], answers["not served"] = told(), not_served(ranks)
    answers["errors"] = errors(ranks)
    return answers


def told():
    calls = []
    hx.random_gram_path(samples(8, 3), 50_000, progress=lambda done, width: calls.append((done, width)), group="world")
    return calls


def not_served(ranks):
    """The builder in charge refuses one piece on one rank: all go over to whole batches."""
    add_by, refusals = Building.add_by, [ranks.rank == 1]

    def refuse(self, builder, sums, *rest):
        if refusals and refusals.pop():
            return False
        return add_by(self, builder, sums, *rest)

    Building.add_by = refuse
    tensors, options = DRAWN["arcs"]
    try:
        return sums_of(hx.random_gram_path(**tensors, **options, group="world"))
    finally:
        Building.add_by = add_by


def errors(ranks):
    x, weight, output_weight = held((3, 3, 3), ())
    at = slice(3 * ranks.rank, 3 * ranks.rank + 3)
    mine, last = (weight[at], output_weight[at]), ranks.rank == 2

    def drawn(x=x, width=4000, **options):
        return said(hx.random_gram_path, x, width, group="world", **options)

    def interrupted(*_):
        raise InterruptedError("no more")

    add = Building.add
    found = {
        "width": drawn(width=4001 if last else 4000),
        "x": drawn(x=x + 1.0 if last else x),
        "refused": drawn(x=x[:, :0] if last else x),
        "progress": drawn(progress=interrupted),
        "dtype": said(
            hx.gram_path, x, weight[at], output_weight[at], dtype=torch.float32 if last else None, group="world"
        ),
        "s": said(hx.gram, x, weight[at], output_weight[at], 0.5 + last, group="world"),
        "no neurons": said(hx.gram, x, weight[:0], output_weight[:0], group="world"),
    }
    if last:
        Building.add = interrupted
    found["while others work"] = drawn()
    found["of a share"] = said(hx.gram_path, x, *mine, group="world")
    Building.add = add
    return {**found, "again": drawn()}


@pytest.fixture(scope="module")
def answers():
    return on_ranks(RANKS, work)


def same(found, right):
    assert len(found) == len(right)
    for one, other in zip(found, right, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


@pytest.fixture
def short(monkeypatch):
    shorten(monkeypatch.setattr)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_neurons_have_the_bits_of_one_process(answers, short, name):
    """Every sum, and with them error bars, batches and spectra, on every rank."""
    tensors, options = DRAWN[name]
    right = sums_of(hx.random_gram_path(**tensors, **options))
    for answer in answers:
        same(answer[name], right)


def test_the_torch_backend_too(answers, short):
    tensors, options = DRAWN["few samples"]
    with hx.use_backend("torch"):
        right = sums_of(hx.random_gram_path(**tensors, **options))
    for answer in answers:
        same(answer["torch"], right)


def test_pieces_that_the_kernels_do_not_serve_become_whole_batches(answers, short):
    """A GPU's kernels say afterwards whether their sums are of the class; all ranks must hear of it."""
    tensors, options = DRAWN["arcs"]
    right = sums_of(hx.random_gram_path(**tensors, **options))
    for answer in answers:
        same(answer["not served"], right)


@pytest.mark.parametrize("name", HELD)
def test_neurons_in_memory_have_the_bits_of_one_process_at_edges_and_else_are_near(answers, short, name):
    """Also at several s; with empty shares, batches of networks, and columns of their own."""
    counts, networks, options = HELD[name]
    arguments = held(counts, networks)
    path = hx.gram_path(*arguments, **options)
    right, at_s = sums_of(path), [part.numpy() for part in hx.gram(*arguments, [0.5, 1.5], **options)]
    for answer in answers:
        if name not in ("elsewhere", "few"):
            same(answer[name], right)
            same(answer[f"{name} at s"], at_s)
        for one, other in zip(answer[name][:6], right[:6], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * np.abs(other).max())
        same(answer[name], answers[0][name])


def test_many_neurons_in_memory_are_added_up_in_parts(short):
    """What ranks can take is what one process does: 16 sums, one after the other."""
    x, weight, output_weight = held((640,), ())
    parts = [hx.gram_path(x, weight[at : at + 40], output_weight[at : at + 40]) for at in range(0, 640, 40)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    same(sums_of(hx.gram_path(x, weight, output_weight))[:6], sums_of(total)[:6])


def test_progress_counts_the_neurons_of_all_ranks_on_rank_0(answers):
    done = [done for done, width in answers[0]["told"] if width == 50_000]
    assert len(done) > 5
    assert done == sorted(done)
    assert done[-1] == 50_000
    assert answers[1]["told"] == answers[2]["told"] == []


def test_what_differs_and_who_fails_is_named_on_every_rank(answers):
    """Before work or in the middle of it; nobody waits for ever, and the group is as good as before."""
    alike = "must be the same on every rank, got"
    everywhere = {
        "width": f"random_gram_path: width {alike} 4000 on rank 0 and 4001 on rank 2",
        "x": f"random_gram_path: x {alike} float64 of shape (11, 3) with hash ",
        "dtype": f"gram_path: dtype {alike} torch.float64 on rank 0 and torch.float32 on rank 2",
        "s": f"gram: s {alike} 0.5 on rank 0 and 1.5 on rank 2",
        "no neurons": "gram: weight must hold at least one neuron on one of the 3 ranks",
    }
    for answer in answers:
        for key, words in everywhere.items():
            assert answer["errors"][key].startswith(f"ValueError: {words}")
        assert answer["errors"]["again"] is None
    for key, rank, function, words in (
        ("refused", 2, "random_gram_path", "ValueError: random_gram_path: x must have shape (n, D)"),
        ("progress", 0, "random_gram_path", "InterruptedError: no more"),
        ("while others work", 2, "random_gram_path", "InterruptedError: no more"),
        ("of a share", 2, "gram_path", "InterruptedError: no more"),
    ):
        for other, answer in enumerate(answers):
            expected = words if other == rank else f"RankError: {function}: rank {rank} stopped with {words}"
            assert answer["errors"][key].startswith(expected), key


@pytest.mark.parametrize("size", [1, 2, 3, 8, 50])
@pytest.mark.parametrize(("n", "n2"), [(193, 0), (500, 0), (1000, 0), (70, 300), (300, 70)])
def test_rectangles_hold_every_entry_once_and_cost_about_the_same(n, n2, size):
    """Each sum of every sample too; of a symmetric matrix the upper triangle, by strips that take as long."""
    x, x2 = samples(n, 3), samples(n2, 3) if n2 else None
    whole = Building(Samples(x, x2), "relu", True, builders_for(x, "relu"), 0)
    counts, cost = whole.samples.zero_sums(), []
    for of_rank in sharing.rectangles(whole, size):
        cost.append(0.0)
        for part in of_rank:
            h, w = part.samples.x.shape[0], part.samples.n2
            cost[-1] += (h * w or h * h / 2) + sharing._RESPONSE * (h + w)
            one = part.samples.zero_sums()
            for value in one:
                value += 1.0
            for k in (4, 5) if x2 is None and part.begins_on_diagonal else ():
                one[k].triu_()
            for k, to, own in part.places:
                counts[k][to] += one[k][own]
    for value in counts[:4]:
        assert bool((value == 1.0).all())
    for value in counts[4:]:
        assert torch.equal(value, torch.ones_like(value) if n2 else torch.ones_like(value).triu())
    if size <= 8 and n == 1000:
        assert max(cost) <= 1.35 * sum(cost) / size


def test_the_kernels_keep_the_promise_of_entries_that_stand_alone():
    """Up to 192 samples the kernels add by blocks of neurons, in another order; beyond, entry by entry."""
    for n, alone in ((192, False), (193, True)):
        x = samples(n, 3)
        native = builders_for(x, "relu")[0]
        if not hasattr(native, "sessions"):
            pytest.skip("no compiled kernels")
        assert native.entries_stand_alone(x, "relu", False) is alone
        whole, part = (hx.random_gram_path(x, 17 * 512, batches=1, x2=x2).sums for x2 in (None, x))
        assert torch.equal(whole.value_product.triu(), part.value_product.triu()) is alone
