"""Whole networks: replacement, counts, and the choice of ranks against an exhaustive search."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import cost, models, quantization, training
from helpers.low_rank import (
    choose_ranks,
    energy,
    energy_losses,
    factorizable,
    factorize,
    measured_losses,
    rank_for_energy,
    spectrum,
    uniform_energy,
)
from helpers.low_rank.ranks import costs, matrix

SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.small("StandardCNN").eval()


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 12),
            nn.Linear(12, 5),
        ).eval()


TINY = (1, 8, 8)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def test_full_ranks_change_nothing(network: nn.Module) -> None:
    ranks = {name: min(matrix(layer).shape) for name, layer in factorizable(network).items()}
    x = images(3, 1, 28, 28)
    before = copy.deepcopy(network.state_dict())
    changed = factorize(network, ranks)
    assert (training.logits(changed, x) - training.logits(network, x)).abs().max() < 1e-4
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_only_the_named_layers_are_replaced(network: nn.Module) -> None:
    changed = factorize(network, {"features.conv2": 5, "classifier.fc1": 7})
    assert isinstance(changed.get_submodule("features.conv2"), nn.Sequential)
    assert changed.get_submodule("classifier.fc1.first").out_features == 7
    assert changed.get_submodule("features.conv2.vertical").out_channels == 5
    kept = ("features.conv1", "features.conv3", "classifier.fc2", "features.bn2")
    assert all(type(changed.get_submodule(n)) is type(network.get_submodule(n)) for n in kept)
    assert [n for n, _ in changed.features.named_children()] == [
        n for n, _ in network.features.named_children()
    ]


def test_nothing_to_do_and_a_bare_layer() -> None:
    layer = nn.Linear(4, 3)
    assert torch.equal(factorize(layer, {}).weight, layer.weight)
    assert list(dict(factorize(layer, {"": 2}).named_children())) == ["first", "second"]


def test_depthwise_layers_are_not_offered() -> None:
    names = factorizable(models.small("SeparableCNN"))
    assert names
    assert not any("depthwise" in name for name in names)
    with pytest.raises(ValueError, match=r"'features.depthwise2' \(Conv2d\) cannot be factored"):
        factorize(models.small("SeparableCNN"), {"features.depthwise2": 1})


def test_bad_names_and_ranks_name_the_layer(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"'fc9' \(not there\) cannot be factored"):
        factorize(network, {"fc9": 1})
    with pytest.raises(ValueError, match=r"'features.bn1' \(BatchNorm2d\)"):
        factorize(network, {"features.bn1": 1})
    for rank in (0, 4):
        with pytest.raises(ValueError, match=r"'features.conv1': channels must be .* from 1 to 3"):
            factorize(network, {"features.conv1": rank})
    shared = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="several places"):
        factorize(nn.Sequential(shared, nn.ReLU(), shared), {"0": 1})
    with pytest.raises(ValueError, match="groups=1"):
        matrix(nn.ReLU())


def test_a_factored_network_can_be_quantized(network: nn.Module) -> None:
    changed = factorize(network, {"features.conv2": 12, "classifier.fc1": 20})
    x = images(20, 1, 28, 28)
    integers = quantization.quantize_network(changed, x)
    names = [node.name for node in integers.nodes]
    assert "features.conv2.vertical" in names
    assert "classifier.fc1.first" in names
    gap = (training.logits(integers, x) - training.logits(changed, x)).abs().max()
    assert gap < 0.1 * training.logits(changed, x).abs().max()


# Costs and losses


@pytest.mark.parametrize("unit", ["parameters", "macs"])
def test_costs_are_those_of_the_factored_network(network: nn.Module, unit: Any) -> None:
    total, table = costs(network, SHAPE, unit)
    assert total == getattr(cost.count(network, SHAPE), unit)
    for name, (whole, each) in table.items():
        for rank in (1, 2):
            changed = cost.count(factorize(network, {name: rank}), SHAPE)
            assert getattr(changed, unit) == total - whole + rank * each


def test_costs_without_padding_and_with_stride(tiny: nn.Module) -> None:
    total, table = costs(tiny, TINY, "macs")
    for name, (whole, each) in table.items():
        changed = cost.count(factorize(tiny, {name: 2}), TINY)
        assert changed.macs == total - whole + 2 * each


def test_energy_losses(tiny: nn.Module) -> None:
    losses = energy_losses(tiny)
    assert set(losses) == {"0", "3", "4"}
    for name, layer in factorizable(tiny).items():
        assert len(losses[name]) == min(matrix(layer).shape)
        assert losses[name][1] == pytest.approx(1 - float(energy(spectrum(layer))[0]))
        assert list(losses[name].values())[-1] == 0


def test_measured_losses(tiny: nn.Module) -> None:
    x = images(9, *TINY)
    losses = measured_losses(tiny, x, {"3": [1, 4, 12], "0": [2]})
    assert list(losses["3"]) == [1, 4, 12]
    assert losses["3"][12] < 1e-9
    for name, rank in (("0", 2), ("3", 1), ("3", 4)):
        with torch.no_grad():
            change = factorize(tiny, {name: rank})(x) - tiny(x)
        assert losses[name][rank] == pytest.approx(float(change.square().mean()))


# Choosing


def total_loss(losses: dict[str, dict[int, float]], ranks: dict[str, int]) -> float:
    return sum(losses[name][rank] for name, rank in ranks.items())


@pytest.mark.parametrize("unit", ["parameters", "macs"])
@pytest.mark.parametrize("share", [0.95, 0.7, 0.5, 0.35])
def test_the_budget_holds_and_greedy_is_close_to_the_best(
    tiny: nn.Module, unit: Any, share: float
) -> None:
    total, table = costs(tiny, TINY, unit)
    budget, losses = int(share * total), energy_losses(tiny)
    ranks = choose_ranks(tiny, budget, losses, input_shape=TINY, unit=unit)
    spent = getattr(cost.count(factorize(tiny, ranks), TINY), unit)
    assert spent <= budget
    fixed = total - sum(whole for whole, _ in table.values())
    best = float("inf")  # over every combination
    options = [
        [(table[n][0], 0.0), *((r * table[n][1], loss) for r, loss in losses[n].items())]
        for n in table
    ]
    for combination in itertools.product(*options):
        if fixed + sum(price for price, _ in combination) <= budget:
            best = min(best, sum(loss for _, loss in combination))
    found = total_loss(losses, ranks)
    assert best - 1e-12 <= found <= best + 0.15
    _, uniform = uniform_energy(tiny, budget, input_shape=TINY, unit=unit)
    assert found <= total_loss(losses, uniform) + 0.05


def test_a_big_budget_changes_nothing_and_a_small_one_is_refused(tiny: nn.Module) -> None:
    total, table = costs(tiny, TINY)
    losses = energy_losses(tiny)
    assert choose_ranks(tiny, total, losses, input_shape=TINY) == {}
    assert uniform_energy(tiny, total, input_shape=TINY) == (1.0, {})
    least = total - sum(whole - each for whole, each in table.values() if each < whole)
    ranks = choose_ranks(tiny, least, losses, input_shape=TINY)
    assert set(ranks.values()) == {1}
    for chooser in (
        lambda budget: choose_ranks(tiny, budget, losses, input_shape=TINY),
        lambda budget: uniform_energy(tiny, budget, input_shape=TINY),
    ):
        chooser(least)
        with pytest.raises(ValueError, match=f"at least {least:,} parameters .* got {least - 1:,}"):
            chooser(least - 1)


def test_what_saves_nothing_is_never_chosen() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 30), nn.Linear(30, 1))
    _, table = costs(model, (1, 5, 6))
    for budget in range(1000, 100, -50):
        ranks = choose_ranks(model, budget, energy_losses(model), input_shape=(1, 5, 6))
        assert "2" not in ranks  # 30 inputs, one output: a pair is larger
        assert all(rank * table[name][1] < table[name][0] for name, rank in ranks.items())


def test_the_dearer_layer_goes_first_only_if_it_loses_less(tiny: nn.Module) -> None:
    total, table = costs(tiny, TINY)
    losses = {"3": {4: 1.0}, "4": {2: 1e-3}}
    saved = {n: table[n][0] - r * table[n][1] for n, r in (("3", 4), ("4", 2))}
    assert saved["3"] > saved["4"] > 0
    assert choose_ranks(tiny, total - 1, losses, input_shape=TINY) == {"4": 2}
    assert choose_ranks(tiny, total - saved["4"] - 1, losses, input_shape=TINY) == {"3": 4}


def test_a_step_leaps_over_ranks_that_lose_much_and_save_little(tiny: nn.Module) -> None:
    total, table = costs(tiny, TINY)
    assert [table[n][0] - r * table[n][1] for n, r in (("3", 8), ("3", 2), ("4", 1), ("0", 1))] == [
        48,
        336,
        43,
        21,
    ]
    losses = {"3": {8: 0.5, 2: 0.51}, "4": {1: 0.3}, "0": {1: 0.3}}
    assert choose_ranks(tiny, total - 60, losses, input_shape=TINY) == {"3": 2}
    assert choose_ranks(tiny, total - 45, losses, input_shape=TINY) == {"3": 8}  # given back


def test_what_loses_most_for_its_cost_is_given_back_first(tiny: nn.Module) -> None:
    total, _ = costs(tiny, TINY)
    losses = {"3": {2: 0.51}, "4": {1: 0.02}, "0": {1: 0.03}}  # they save 336, 43 and 21
    for needed, expected in (
        (380, {"3": 2, "4": 1, "0": 1}),
        (357, {"3": 2, "4": 1}),
        (336, {"3": 2}),
    ):
        assert choose_ranks(tiny, total - needed, losses, input_shape=TINY) == expected


@pytest.mark.parametrize("part", [0.97, 0.8, 0.5])
def test_uniform_energy_keeps_one_share(tiny: nn.Module, part: float) -> None:
    total, table = costs(tiny, TINY)
    share, ranks = uniform_energy(tiny, int(part * total), input_shape=TINY)
    assert cost.count(factorize(tiny, ranks), TINY).parameters <= part * total
    for name, layer in factorizable(tiny).items():
        needed = rank_for_energy(spectrum(layer), share)
        if needed * table[name][1] < table[name][0]:
            assert ranks[name] == needed
        else:
            assert name not in ranks
    if part == 0.97:
        assert len(ranks) < len(table), "some layer must stay whole here"


@pytest.mark.parametrize(
    ("losses", "match"),
    [
        ({"9": {1: 0.0}}, "losses for unknown layers"),
        ({"3": {0: 0.0}}, "rank of '3' must be a whole number from 1 to 12, got 0"),
        ({"3": {13: 0.0}}, "rank of '3' must be a whole number from 1 to 12, got 13"),
        ({"3": {2: float("nan")}}, "must be finite"),
    ],
)
def test_bad_losses_are_refused(tiny: nn.Module, losses: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        choose_ranks(tiny, 10**6, losses, input_shape=TINY)


def test_unknown_units_are_refused(tiny: nn.Module) -> None:
    with pytest.raises(ValueError, match="unit must be 'parameters' or 'macs', got 'bytes'"):
        choose_ranks(tiny, 100, {}, input_shape=TINY, unit="bytes")  # type: ignore[arg-type]
