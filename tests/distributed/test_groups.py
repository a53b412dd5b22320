"""The group itself: shares, sums in the order of the ranks, errors of one rank that reach all, differences found."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import on_ranks, said

from hrta_ext import groups
from hrta_ext.groups import RankError, ranks_of


def sums(size):
    ranks = ranks_of("world", "test")
    values = torch.tensor([1e16, 1.0, -1e16], dtype=torch.float64)[ranks.rank] * torch.ones(5, dtype=torch.float64)
    groups._GATHERED = 2  # several blocks
    return {
        "place": (ranks.rank, ranks.size),
        "sum": ranks.sum(values).tolist(),
        "total": ranks.total(2**53 + ranks.rank),
        "texts": ranks.texts("ä" * ranks.rank),
        "first": ranks.from_first(torch.tensor([ranks.rank])).tolist(),
        "shares": [ranks.share(count) for count in (7, 2, 0)],
    }


def test_sums_go_in_the_order_of_the_ranks():
    """(1e16 + 1) - 1e16 is 0 in float64, where other orders give 1; integers are exact; every rank has the same."""
    answers = on_ranks(3, sums, 3)
    for rank, answer in enumerate(answers):
        assert answer["place"] == (rank, 3)
        assert answer["sum"] == [(1e16 + 1.0) - 1e16] * 5
        assert answer["total"] == 3 * 2**53 + 3
        assert answer["texts"] == ["", "ä", "ää"]
        assert answer["first"] == [0]
    shares = [answer["shares"] for answer in answers]
    assert shares == [[(0, 3), (0, 1), (0, 0)], [(3, 3), (1, 1), (0, 0)], [(6, 1), (2, 0), (0, 0)]]


def test_shares_are_those_of_dtensor():
    """The cut of torch's own Shard(0), whose checkpoints are read on other numbers of ranks."""
    for size in (1, 2, 3, 5):
        for count in (0, 1, 4, 5, 11):
            place = object.__new__(groups.Ranks)
            place.size = size
            lengths = [place.share(count, rank)[1] for rank in range(size)]
            chunks = [chunk.numel() for chunk in torch.empty(count).chunk(size)] if count else []
            assert lengths == chunks + [0] * (size - len(chunks))


def stages(_size):
    ranks = ranks_of(dist.group.WORLD, "test")

    def fails():
        with ranks.together("hx.call"):
            if ranks.rank == 1:
                raise KeyError("gone")

    def differs():
        with ranks.together("hx.call") as facts:
            facts["base"] = "relu"
            facts["s"] = 0.5 if ranks.rank == 0 else 1.5

    def lacks():
        with ranks.together("hx.call") as facts:
            if ranks.rank:
                facts["x2"] = "3 rows"

    def agrees():
        with ranks.together("hx.call") as facts:
            facts["x"] = groups.digest(torch.ones(3))

    return said(fails), said(differs), said(lacks), said(agrees)


def test_an_error_or_a_difference_reaches_every_rank():
    """No rank goes on, or waits, when another raised or was given something else; all may call again afterwards."""
    answers = on_ranks(2, stages, 2)
    assert answers[0][0] == "RankError: hx.call: rank 1 stopped with KeyError: 'gone'"
    assert answers[1][0] == "KeyError: 'gone'"
    for answer in answers:
        assert answer[1] == (
            "ValueError: hx.call: s must be the same on every rank, got 0.5 on rank 0 and 1.5 on rank 1"
        )
        assert answer[2] == (
            "ValueError: hx.call: x2 must be the same on every rank, got None on rank 0 and 3 rows on rank 1"
        )
        assert answer[3] is None


def outside(_size):
    ranks = dist.new_group([0])
    return said(ranks_of, ranks, "hx.call")


def test_a_rank_outside_the_group_is_told():
    """torch gives such a rank a number in place of a group."""
    inside, other = on_ranks(2, outside, 2)
    assert inside is None
    assert other == "ValueError: hx.call: this process is not in group; only the ranks in it may call"


def test_groups_that_are_none(monkeypatch):
    """Without a group a call is of this process; "world" and other things are refused before any work."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks_of(None, "hx.call") is None
    with pytest.raises(ValueError, match=r'hx\.call: group "world" needs torch\.distributed\.init'):
        ranks_of("world", "hx.call")
    with pytest.raises(TypeError, match=r'group must be a torch\.distributed process group, "world" or None, got int'):
        ranks_of(3, "hx.call")
    with pytest.raises(TypeError, match=r'"world" or None, got \'word\''):
        ranks_of("word", "hx.call")


def test_torchrun_without_a_group_warns_once(monkeypatch):
    """dist.group.WORLD is None before init_process_group: the whole work on every process must not be silent."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(groups, "_warned", False)
    with pytest.warns(UserWarning, match="one of 2 processes"):
        ranks_of(None, "hx.call")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ranks_of(None, "hx.call") is None


def test_rank_error_is_a_runtime_error():
    """Code that catches torch.distributed's own errors, RuntimeErrors, catches this one."""
    assert issubclass(RankError, RuntimeError)
