"""Penalty, scores, ranks, sensitivity and plans, and the arithmetic of the published table."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import cost, models
from helpers.slimming import (
    channel_groups,
    filter_norms,
    importance,
    keep_by_layer,
    keep_by_rank,
    keep_largest,
    largest_ratios,
    plan,
    published,
    scale_penalty,
    scales,
    sensitivity,
    slim,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")
SHAPE = (1, 28, 28)
groups_of_scores = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.1, 0.5, 2.0]) | st.floats(0, 10), min_size=1, max_size=8),
    min_size=1,
    max_size=5,
)


def named(lists: list[list[float]]) -> dict[str, Tensor]:
    return {f"layer{i}": torch.tensor(values) for i, values in enumerate(lists)}


def test_the_penalty_and_its_slope() -> None:
    model = models.small("SeparableCNN")
    values = torch.linspace(-1, 1, 16)
    values[8] = 0.0
    with torch.no_grad():
        model.features.bn1.weight.copy_(values)
    penalty = scale_penalty(0.25)(model)
    assert math.isclose(
        penalty.item(), 0.25 * (float(values.abs().sum()) + 16 + 32 + 64), rel_tol=1e-6
    )
    penalty.backward()
    assert torch.equal(model.features.bn1.weight.grad, 0.25 * torch.sign(values))
    assert model.features.bn1.bias.grad is None
    assert model.features.conv1.weight.grad is None
    assert math.isclose(float(scales(model).sum()), penalty.item() / 0.25, rel_tol=1e-6)


@pytest.mark.parametrize("strength", [-1e-4, math.nan, math.inf, True])
def test_bad_strengths_are_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength must be a number of 0 or more"):
        scale_penalty(strength)


def test_networks_without_batch_norm_are_refused() -> None:
    model = models.small("LeNet5")
    for call in (scale_penalty(1e-2), importance, scales):
        with pytest.raises(ValueError, match="LeNet5 has no batch norm"):
            call(model)
    assert list(filter_norms(model)) == ["conv1", "conv2", "fc1"]
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False), nn.Conv2d(2, 1, 1))
    with pytest.raises(ValueError, match="'1' has no scales"):
        importance(plain)


def test_joint_importance_of_a_group_with_two_batch_norms() -> None:
    model = models.SeparableCNN(1, 10, (3, 4), 0)
    with torch.no_grad():
        model.features.bn1.weight.copy_(torch.tensor([-3.0, 0.0, 1.0]))
        model.features.bn2.weight.copy_(torch.tensor([1.0, 5.0, -2.0]))
    assert importance(model)["features.conv1"].tolist() == [1, 0, 1]
    assert importance(model, "mean")["features.conv1"].tolist() == [2, 2.5, 1.5]
    assert importance(model, "max")["features.conv1"].tolist() == [3, 5, 2]
    assert list(importance(model)) == ["features.conv1"], "the last group has no batch norm"
    with pytest.raises(ValueError, match="joint must be"):
        importance(model, "product")  # type: ignore[arg-type]


def test_filter_norms_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.5], [3.0, 3.0]]))
    assert filter_norms(model)["0"].tolist() == [3, 0.5, 6]


@given(groups_of_scores, st.floats(0, 0.999), st.integers(1, 3))
def test_the_rank_drops_exactly_so_many_and_the_least(
    lists: list[list[float]], ratio: float, minimum: int
) -> None:
    scores = named(lists)
    total = sum(map(len, lists))
    spare = sum(max(0, len(v) - minimum) for v in lists)
    drop = round(ratio * total)
    if drop > spare:
        with pytest.raises(ValueError, match=rf"at most {spare} can go"):
            keep_by_rank(scores, ratio, minimum=minimum)
        return
    kept = keep_by_rank(scores, ratio, minimum=minimum)
    assert list(kept) == list(scores)
    assert sum(int((~mask).sum()) for mask in kept.values()) == drop
    worst_dropped = max(
        (float(scores[n][~m].max()) for n, m in kept.items() if (~m).any()), default=-1.0
    )
    for name, mask in kept.items():
        assert mask.dtype == torch.bool
        assert mask.sum() >= min(minimum, len(mask))
        if (~mask).any():  # inside a layer the least go
            assert scores[name][~mask].max() <= scores[name][mask].min()
        if mask.sum() > minimum:  # over layers too, where none is protected
            assert scores[name][mask].min() >= worst_dropped


@given(groups_of_scores, st.floats(0.001, 1000))
def test_the_rank_does_not_see_the_scale(lists: list[list[float]], factor: float) -> None:
    scores = {n: s.double() for n, s in named(lists).items()}
    scaled = {n: (s * 1024) for n, s in scores.items()}
    try:
        kept = keep_by_rank(scores, 0.4)
    except ValueError:
        return
    again = keep_by_rank(scaled, 0.4)
    assert all(torch.equal(kept[n], again[n]) for n in kept)


def test_a_threshold_by_value_would_empty_a_layer_and_the_rank_does_not() -> None:
    scores = {"a": torch.tensor([0.01, 0.02, 0.03]), "b": torch.tensor([1.0, 2.0, 3.0])}
    kept = keep_by_rank(scores, 0.5)
    assert kept["a"].tolist() == [False, False, True]
    assert kept["b"].tolist() == [False, True, True]
    assert keep_by_rank({"a": torch.ones(4)}, 0.5)["a"].sum() == 2, "ties do not go together"


@given(st.lists(st.floats(0, 5), min_size=1, max_size=12), st.data())
def test_keep_largest(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    scores = torch.tensor(values, dtype=torch.float64)
    kept = keep_largest(scores, count)
    assert int(kept.sum()) == count
    assert np.allclose(np.sort(scores[kept].numpy()), np.sort(values)[len(values) - count :])


def test_keep_by_layer() -> None:
    scores = named([[0.4, 0.1, 0.3, 0.2], [5.0, 1.0]])
    assert [m.tolist() for m in keep_by_layer(scores, 0.5).values()] == [
        [True, False, True, False],
        [True, False],
    ]
    one = keep_by_layer(scores, {"layer0": 0.99})
    assert one["layer0"].tolist() == [True, False, False, False], "one channel always stays"
    assert one["layer1"].all()


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, math.nan, True, "half"])
def test_ratios_out_of_range_are_refused(ratio: float) -> None:
    scores = named([[1.0, 2.0]])
    for call in (
        lambda: keep_by_rank(scores, ratio),
        lambda: keep_by_layer(scores, ratio),
        lambda: keep_by_layer(scores, {"layer0": ratio}),
    ):
        with pytest.raises(ValueError, match="must be a number from 0 to below 1"):
            call()


def test_bad_scores_and_counts_are_refused() -> None:
    scores = named([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"unknown layers \['layer9'\]; known are"):
        keep_by_layer(scores, {"layer9": 0.5})
    with pytest.raises(ValueError, match="would drop 4 of 4 channels"):
        keep_by_rank(named([[1.0] * 2, [2.0] * 2]), 0.9)
    with pytest.raises(ValueError, match="minimum must be"):
        keep_by_rank(scores, 0.5, minimum=0)
    with pytest.raises(ValueError, match="scores is empty"):
        keep_by_rank({}, 0.5)
    with pytest.raises(ValueError, match="one finite number a channel"):
        keep_by_rank({"a": torch.tensor([1.0, math.nan])}, 0.5)
    for count in (0, 3, True):
        with pytest.raises(ValueError, match="count must be from 1 to 2"):
            keep_largest(torch.ones(2), count)


def widths(model: nn.Module) -> list[int]:
    return [group.size for group in channel_groups(model).values()]


def test_sensitivity_cuts_one_layer_at_a_time_from_the_start() -> None:
    model = models.small("StandardCNN")
    scores = importance(model)
    seen: list[list[int]] = []
    trained: list[int] = []

    def measure(network: nn.Module) -> float:
        seen.append(widths(network))
        return sum(widths(network)) / 1000

    def retrain(network: nn.Module) -> nn.Module:
        trained.append(1)
        return network

    table = sensitivity(model, scores, [0.5, 0.25], measure, retrain=retrain)
    expected = [[8, 32, 64], [12, 32, 64], [16, 16, 64], [16, 24, 64], [16, 32, 32], [16, 32, 48]]
    assert seen == [[*row, 128] for row in expected]
    assert len(trained) == 6
    assert list(table) == list(scores)
    assert table["features.conv3"] == {0.5: 0.208, 0.25: 0.224}
    one = sensitivity(model, scores, [0.5], measure, layers=["features.conv2"])
    assert list(one) == ["features.conv2"]
    assert widths(model) == [16, 32, 64, 128]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["conv9"]}, r"unknown layers \['conv9'\]"),
        ({"layers": []}, "must not be empty"),
        ({"ratios": []}, "must not be empty"),
        ({"ratios": [1.0]}, "from 0 to below 1"),
    ],
)
def test_bad_sensitivity_arguments_are_refused(options: dict, message: str) -> None:
    model = models.small("StandardCNN")
    arguments = {"ratios": [0.5], **options}
    with pytest.raises(ValueError, match=message):
        sensitivity(model, importance(model), measure=lambda _: 0.0, **arguments)


TABLE = {
    "features.conv1": {0.25: 0.80, 0.5: 0.60},
    "features.conv2": {0.5: 0.85, 0.25: 0.895, 0.75: 0.89},  # in no order
    "features.conv3": {0.25: 0.92, 0.5: 0.89},
}


def test_largest_ratios_stop_at_the_first_loss() -> None:
    assert list(largest_ratios(TABLE, 0.9, 0.0).values()) == [0.0, 0.0, 0.25]
    assert list(largest_ratios(TABLE, 0.9, 0.0101).values()) == [0.0, 0.25, 0.5]
    assert list(largest_ratios(TABLE, 0.9, 0.5).values()) == [0.5, 0.75, 0.5]
    for tolerance in (-0.1, math.nan, True):
        with pytest.raises(ValueError, match="tolerance must be 0 or more"):
            largest_ratios(TABLE, 0.9, tolerance)


@pytest.mark.parametrize("budget", [{"macs": 1_200_000}, {"parameters": 60_000}])
def test_a_plan_meets_its_budget_at_the_least_tolerance(budget: dict[str, int]) -> None:
    model = models.small("StandardCNN")
    scores = importance(model)
    ratios, tolerance = plan(model, scores, TABLE, 0.9, SHAPE, **budget)

    def counted(r: dict[str, float]) -> cost.Cost:
        return cost.count(slim(model, keep_by_layer(scores, r)), SHAPE)

    (name, limit), *_ = budget.items()
    assert getattr(counted(ratios), name) <= limit
    assert ratios == largest_ratios(TABLE, 0.9, tolerance)
    if tolerance > 0:
        assert getattr(counted(largest_ratios(TABLE, 0.9, tolerance - 1e-6)), name) > limit


def test_a_generous_budget_costs_nothing_and_an_impossible_one_is_refused() -> None:
    model = models.small("StandardCNN")
    scores = importance(model)
    ratios, tolerance = plan(model, scores, TABLE, 0.9, SHAPE, macs=10**9)
    assert tolerance == 0
    assert ratios["features.conv1"] == 0
    with pytest.raises(ValueError, match=r"no plan meets .*: the largest ratios"):
        plan(model, scores, TABLE, 0.9, SHAPE, macs=1000)
    for bad in ({}, {"macs": 0}, {"parameters": -1}, {"macs": True}):
        with pytest.raises(ValueError, match="give macs or parameters"):
            plan(model, scores, TABLE, 0.9, SHAPE, **bad)


def test_the_published_slopes_are_flat() -> None:
    slopes = [published.slope(row) for row in published.TRAINING_ACCURACY]
    by_hand = [1e-5, 15e-5, -36e-5, 130e-5, 14e-5]
    assert np.allclose(slopes, by_hand, rtol=0, atol=1e-12)
    for row in published.TRAINING_ACCURACY:
        found = published.describe(row, published.TRAINING_IMAGES)
        assert math.isclose(found.slope, np.polyfit(range(5), row, 1)[0], abs_tol=1e-12)
        assert math.isclose(found.deviation, np.std(row, ddof=1), abs_tol=1e-12)
        assert found.deviation <= found.sampling
        assert 0.0045 < found.sampling < 0.0051
        assert math.isclose(found.slope_error, found.sampling / math.sqrt(10))
    assert np.allclose(published.RATES, 0.95 ** np.arange(1, 6), rtol=0, atol=5e-5)


def test_bad_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two numbers"):
        published.slope([0.5])
    with pytest.raises(ValueError, match="images must be"):
        published.describe([0.5, 0.6], 0)
    with pytest.raises(ValueError, match="accuracies from 0 to 1"):
        published.describe([0.5, 60.0], 100)
