"""Schedules of s, of the learning rate and of the batches: when they change, how they resume, what they refuse."""

import copy
import math

import pytest
import torch
from torch import nn

import hrta_ext as hx
from hrta_ext.activation.modules import HomotopyActivation
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.adaptive import AdaptiveScheduler
from hrta_ext.training.data import Batches, Samples
from hrta_ext.training.optimizers import LearningRate
from hrta_ext.training.schedules import HomotopyScheduler, PlateauHomotopyScheduler


def two_layers() -> nn.Sequential:
    """Two homotopy layers, so that a schedule must reach both."""
    return nn.Sequential(HomotopyActivation(), nn.Linear(2, 2), nn.Sequential(HomotopyActivation(base="tanh")))


def values_of(module: nn.Module) -> set[float]:
    return {layer.s.item() for layer in module.modules() if isinstance(layer, HomotopyActivation)}


def test_construction_sets_the_first_value_on_every_layer() -> None:
    net = two_layers()
    scheduler = HomotopyScheduler(net, [0.25, 1.0], [3])
    assert values_of(net) == {0.25}
    assert scheduler.get_last_s() == 0.25


def test_each_value_applies_from_its_milestone_on() -> None:
    net = two_layers()
    scheduler = HomotopyScheduler(net, [0.5, 1.0, 1.5], [2, 5])
    seen = []
    for _ in range(8):
        assert values_of(net) == {scheduler.get_last_s()}
        seen.append(scheduler.get_last_s())
        scheduler.step()
    assert seen == [0.5, 0.5, 1.0, 1.0, 1.0, 1.5, 1.5, 1.5]


def test_one_value_without_milestones_stays() -> None:
    scheduler = HomotopyScheduler(two_layers(), [1.5], [])
    scheduler.step()
    assert scheduler.get_last_s() == 1.5


def test_a_learned_s_is_left_alone_within_a_stage() -> None:
    layer = HomotopyActivation(learnable=True)
    scheduler = HomotopyScheduler(layer, [0.5, 1.0], [2])
    with torch.no_grad():
        layer.s.fill_(0.7)
    scheduler.step()
    assert layer.s.item() == pytest.approx(0.7)
    scheduler.step()
    assert layer.s.item() == 1.0


@pytest.mark.parametrize("at", [0, 1, 2, 3, 6])
def test_homotopy_state_dict_resumes_exactly(at: int) -> None:
    first = HomotopyScheduler(two_layers(), [0.5, 1.0, 1.5], [2, 5])
    for _ in range(at):
        first.step()
    net = two_layers()
    second = HomotopyScheduler(net, [9.0], [])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(6):
        assert values_of(net) == {first.get_last_s()} == {second.get_last_s()}
        assert first.state_dict() == second.state_dict()
        first.step()
        second.step()


def test_state_dict_survives_torch_save_with_weights_only(tmp_path) -> None:
    scheduler = PlateauHomotopyScheduler(two_layers(), [1.0, 1.5], patience=2)
    scheduler.step(3.0)
    torch.save(scheduler.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == scheduler.state_dict()


def test_loading_a_state_keeps_what_a_learned_s_has_learned() -> None:
    layer = HomotopyActivation(learnable=True)
    scheduler = HomotopyScheduler(layer, [0.5, 1.0], [2])
    state = scheduler.state_dict()
    with torch.no_grad():
        layer.s.fill_(0.75)
    scheduler.load_state_dict(state)
    assert layer.s.item() == 0.75


def test_plateau_moves_on_after_patience_steps_without_improvement() -> None:
    net = two_layers()
    scheduler = PlateauHomotopyScheduler(net, [0.5, 1.0], patience=3, threshold=0.1)
    for loss in (1.0, 0.95, 0.92):  # within 10 % of the best: two bad steps
        scheduler.step(loss)
    assert scheduler.get_last_s() == 0.5
    scheduler.step(torch.tensor([0.5]))  # improves: the count starts again
    for loss in (0.5, 0.6):
        scheduler.step(loss)
    assert scheduler.get_last_s() == 0.5
    scheduler.step(0.46)
    assert values_of(net) == {scheduler.get_last_s()} == {1.0}


def test_plateau_measures_small_gains_from_the_best_that_counted() -> None:
    # 0.6 % a step is below the threshold of 1 %, but two of them together are not.
    scheduler = PlateauHomotopyScheduler(two_layers(), [1.0, 1.5], patience=2, threshold=0.01)
    for step in range(50):
        scheduler.step(0.994**step)
    assert scheduler.get_last_s() == 1.0


def test_plateau_starts_the_next_stage_with_a_new_best_and_keeps_the_last_value() -> None:
    scheduler = PlateauHomotopyScheduler(two_layers(), [0.5, 1.0], patience=1)
    scheduler.step(1.0)
    scheduler.step(1.0)
    assert scheduler.get_last_s() == 1.0
    assert scheduler.best == math.inf
    for _ in range(5):
        scheduler.step(7.0)
    assert scheduler.get_last_s() == 1.0


def test_plateau_counts_a_falling_negative_loss_as_improvement() -> None:
    scheduler = PlateauHomotopyScheduler(two_layers(), [1.0, 1.5], patience=1, threshold=0.1)
    for loss in (-1.0, -2.0, -3.0):
        scheduler.step(loss)
    assert scheduler.get_last_s() == 1.0
    scheduler.step(-3.1)
    assert scheduler.get_last_s() == 1.5


def test_plateau_state_dict_resumes_exactly() -> None:
    losses = torch.rand(60, generator=torch.Generator().manual_seed(0)).tolist()
    first = PlateauHomotopyScheduler(two_layers(), [0.5, 1.0, 1.5], patience=9)
    for loss in losses[:20]:
        first.step(loss)
    second = PlateauHomotopyScheduler(two_layers(), [9.0], patience=1)
    second.load_state_dict(first.state_dict())
    for loss in losses[20:]:
        first.step(loss)
        second.step(loss)
        assert first.state_dict() == second.state_dict()
    assert first.get_last_s() == 1.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], []), ValueError, "values must hold at least one s, got none"),
        ((0.5, []), TypeError, "values must be a sequence of numbers, got 0.5"),
        (("ab", [1]), TypeError, "values must be a sequence of numbers, got 'ab'"),
        (([0.5, math.nan], [1]), ValueError, r"values\[1\] must be finite, got nan"),
        (([0.5, "1"], [1]), TypeError, r"values\[1\] must be a real number, got str"),
        (([0.5, 1.0], 3), TypeError, "milestones must be a sequence of ints, got 3"),
        (([0.5, 1.0], []), ValueError, "2 values need 1 milestones, got 0"),
        (([0.5, 1.0], [2.0]), TypeError, r"milestones\[0\] must be an int, got 2.0"),
        (([0.5, 1.0], [True]), TypeError, r"milestones\[0\] must be an int, got True"),
        (([0.5, 1.0], [0]), ValueError, r"milestones\[0\] must be at least 1, got 0"),
        (([0.5, 1.0, 1.5], [4, 4]), ValueError, r"milestones must increase strictly, got \[4, 4\]"),
    ],
)
def test_homotopy_scheduler_refuses(arguments, error, message: str) -> None:
    with pytest.raises(error, match=f"^HomotopyScheduler: {message}$"):
        HomotopyScheduler(two_layers(), *arguments)


def test_schedulers_refuse_a_module_without_homotopy_layers() -> None:
    with pytest.raises(ValueError, match="Linear has no homotopy layer"):
        HomotopyScheduler(nn.Linear(1, 1), [1.0], [])
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got int"):
        PlateauHomotopyScheduler(3, [1.0], patience=1)  # type: ignore[arg-type]


def test_a_refused_schedule_leaves_s_as_it_was() -> None:
    net = TwoLayerNet(1, 2, s=1.25)
    with pytest.raises(ValueError):
        HomotopyScheduler(net, [0.5, math.inf], [1])
    assert net.s.item() == 1.25


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"patience": 1.5}, TypeError, "patience must be an int, got 1.5"),
        ({"patience": 1, "threshold": 1.0}, ValueError, "threshold must be at least 0 and below 1, got 1.0"),
        ({"patience": 1, "threshold": math.nan}, ValueError, "threshold must be at least 0 and below 1, got nan"),
        ({"patience": 1, "threshold": "a"}, TypeError, "threshold must be a number, got 'a'"),
    ],
)
def test_plateau_scheduler_refuses(arguments, error, message: str) -> None:
    with pytest.raises(error, match=f"^PlateauHomotopyScheduler: {message}$"):
        PlateauHomotopyScheduler(two_layers(), [1.0], **arguments)


def test_plateau_step_refuses_what_is_no_loss() -> None:
    scheduler = PlateauHomotopyScheduler(two_layers(), [1.0], patience=1)
    with pytest.raises(ValueError, match="loss is NaN, so the training has diverged"):
        scheduler.step(math.nan)
    with pytest.raises(TypeError, match="loss must be one number"):
        scheduler.step(torch.ones(2))


def test_a_state_of_the_other_scheduler_is_refused() -> None:
    state = PlateauHomotopyScheduler(two_layers(), [1.0], patience=1).state_dict()
    with pytest.raises(
        ValueError, match=r"^HomotopyScheduler.load_state_dict: state must have the keys last_step, mile"
    ):
        HomotopyScheduler(two_layers(), [1.0], []).load_state_dict(state)


def adaptive() -> AdaptiveScheduler:
    x = torch.linspace(0, 1, 5)[:, None]
    rule = hx.AdaptiveHomotopy(1.0, 1.5, tolerance=0.01, patience=1)
    return AdaptiveScheduler(hx.TwoLayerNet(1, 8, seed=0), rule, Samples(x, x[:, 0], None, None))


SCHEDULERS = {
    "homotopy": lambda: HomotopyScheduler(two_layers(), [0.5, hx.ramp(1.0, 2.0, 4)], [2]),
    "plateau": lambda: PlateauHomotopyScheduler(two_layers(), [1.0, 1.5], patience=2),
    "adaptive": adaptive,
}
DAMAGED = [
    ("homotopy", "values", None),
    ("homotopy", "values", []),
    ("homotopy", "values", [0.5, "1"]),
    ("homotopy", "values", [0.5, math.nan]),
    ("homotopy", "values", [0.5, ["ramp", 1.0, 2.0, 0, "linear"]]),
    ("homotopy", "values", [0.5, ["function", "f"]]),
    ("homotopy", "values", [0.5, ["curve", "f", []]]),
    ("homotopy", "stage", 1.0),
    ("homotopy", "stage", 1),
    ("homotopy", "milestones", 2),
    ("homotopy", "milestones", [2, 2]),
    ("homotopy", "milestones", [2, 5]),
    ("homotopy", "last_step", True),
    ("homotopy", "last_step", -1),
    ("plateau", "values", [1.0, ["ramp", 1.0, 2.0, 3, "linear"]]),
    ("plateau", "stage", 2),
    ("plateau", "patience", 0),
    ("plateau", "threshold", 1.0),
    ("plateau", "threshold", "0"),
    ("plateau", "best", math.nan),
    ("plateau", "num_bad_steps", None),
    ("adaptive", "changes", (1,)),
    ("adaptive", "changes", (0, 1)),
    ("adaptive", "values", (math.inf,)),
    ("adaptive", "stage", 1),
    ("adaptive", "last_step", "3"),
]


@pytest.mark.parametrize(("kind", "key", "value"), DAMAGED)
def test_a_damaged_state_names_the_key_and_changes_nothing(kind: str, key: str, value: object) -> None:
    scheduler = SCHEDULERS[kind]()
    state, s = scheduler.state_dict(), scheduler.get_last_s()
    with pytest.raises(ValueError, match=rf"Scheduler\.load_state_dict: {key} must be "):
        scheduler.load_state_dict({**state, key: value})
    with pytest.raises(ValueError, match=rf"Scheduler\.load_state_dict: state must have the keys .*{key}"):
        scheduler.load_state_dict({name: kept for name, kept in state.items() if name != key})
    assert scheduler.state_dict() == state
    assert scheduler.get_last_s() == s
    scheduler.load_state_dict(state)
    assert scheduler.state_dict() == state


def test_a_state_is_a_dict() -> None:
    with pytest.raises(TypeError, match=r"load_state_dict: state must be a dict, got list"):
        SCHEDULERS["plateau"]().load_state_dict([1])


def test_a_function_of_the_step_is_called_once_for_a_step() -> None:
    """A function that draws or counts says one s a step; asking for the last one asks nobody."""
    called: list[int] = []

    def s(step: int) -> float:
        called.append(step)
        return 1.0 + step

    scheduler = HomotopyScheduler(two_layers(), [0.5, s, 3.0], [2, 5])
    called.clear()
    for _ in range(6):
        scheduler.step()
        assert scheduler.get_last_s() == scheduler.get_last_s()
    assert called == [0, 1, 2]


def test_cosine_learning_rate_is_that_of_torch() -> None:
    parameter = [nn.Parameter(torch.zeros(1))]
    ours, theirs = torch.optim.SGD(parameter, lr=0.3), torch.optim.SGD(parameter, lr=0.3)
    rates = LearningRate("cosine", ours, 17)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=17)
    for step in range(17):
        rates.apply(step)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        theirs.step()
        scheduler.step()


def test_a_factor_multiplies_the_rate_of_every_group() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.4)]
    optimizer = torch.optim.SGD(groups)
    LearningRate(lambda step: 0.5**step, optimizer, 9).apply(2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.1])


def test_batches_cover_every_sample_once_an_epoch_in_a_new_order() -> None:
    x = torch.arange(7.0)[:, None]
    batches = Batches(Samples(x, x[:, 0] * 10), 3)
    epochs = []
    for epoch in range(2):
        drawn = [batches.get(3 * epoch + i) for i in range(3)]
        assert [len(batch.x) for batch in drawn] == [3, 3, 1]
        assert all(torch.equal(batch.x[:, 0] * 10, batch.y) for batch in drawn)
        epochs.append(torch.cat([batch.x[:, 0] for batch in drawn]))
        assert torch.equal(epochs[-1].sort().values, x[:, 0])
    assert not torch.equal(*epochs)


def test_batches_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    x = torch.arange(50.0)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        orders.append(Batches(Samples(x, x), 50).get(0).x)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("done", range(8))
def test_batches_resume_in_the_middle_of_an_epoch_and_between_two(done: int) -> None:
    x = torch.arange(7.0)
    first = Batches(Samples(x, x), 3)
    for step in range(done):
        first.get(step)
    state = first.state()
    torch.manual_seed(12345)  # another seed: only the state may matter
    second = Batches(Samples(x, x), 3)
    second.restore(state, done)
    for step in range(done, 12):
        assert torch.equal(first.get(step).x, second.get(step).x)
