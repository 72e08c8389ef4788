"""The density-diversity penalty against all pairs, one by one."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.pruning import (
    DensityDiversity,
    density_diversity,
    pair_coefficients,
    pair_sum,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")
# Sixteenths, so that every sum is exact; small enough a range for many ties.
sixteenths = st.lists(st.integers(-40, 40).map(lambda n: n / 16), max_size=12)


def brute(values: list[float]) -> float:
    return sum(abs(a - b) for a, b in itertools.combinations(values, 2))


@given(sixteenths)
def test_pair_sum_equals_all_pairs(values: list[float]) -> None:
    assert pair_sum(torch.tensor(values, dtype=torch.float64)).item() == brute(values)


@given(sixteenths.filter(len))
def test_the_subgradient_is_the_mean_of_the_one_sided_slopes(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    pair_sum(x).backward()
    h = 2.0**-10  # less than the distance of two different values, so both slopes are exact
    for i in range(len(values)):
        up, down = ([*values[:i], values[i] + s * h, *values[i + 1 :]] for s in (1, -1))
        assert x.grad is not None
        assert x.grad[i].item() == (brute(up) - brute(down)) / (2 * h)


@given(sixteenths.filter(lambda values: len(set(values)) == len(values) > 0))
def test_distinct_values_get_2i_minus_n_minus_1(values: list[float]) -> None:
    found = pair_coefficients(torch.tensor(values))
    n = len(values)
    for i, place in enumerate(np.argsort(values), 1):
        assert found[place] == 2 * i - n - 1


def test_golden_values_and_shapes() -> None:
    x = torch.tensor([[5.0, 1.0], [1.0, 2.0]], requires_grad=True)
    assert pair_sum(x).item() == 4 + 4 + 3 + 0 + 1 + 1
    pair_sum(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[3, -2], [-2, 1]]
    assert pair_sum(torch.zeros(0)).item() == 0
    assert pair_sum(torch.tensor([7.0])).item() == 0
    assert pair_coefficients(torch.full((4,), 0.5)).tolist() == [0.0] * 4
    assert pair_coefficients(torch.tensor([0.0, -0.0])).tolist() == [0.0, 0.0]


def test_gradcheck() -> None:
    x = torch.randperm(12, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(pair_sum, x)


@pytest.mark.parametrize(
    "values", [torch.tensor([1, 2]), torch.tensor([1.0, float("nan")]), torch.tensor([np.inf])]
)
def test_values_must_be_finite_floats(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="finite floating-point"):
        pair_sum(values)


def test_the_penalty_sums_over_layers_without_biases() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[5.0, 1.0], [1.0, 2.0]]))
        model[2].weight.copy_(torch.tensor([[-1.0, 3.0]]))
    found = density_diversity(model, density=10.0, diversity=1.0)
    assert found.item() == pytest.approx(10 * (9 + 4) + 13 / 4 + 4 / 2)
    found.backward()
    assert model[0].weight.grad[0, 0].item() == pytest.approx(10 + 3 / 4)
    assert model[2].weight.grad[0, 0].item() == pytest.approx(-10 - 1 / 2)
    assert model[0].bias.grad is None
    one = density_diversity(model, density=10.0, diversity=1.0, layers=["2"])
    assert one.item() == pytest.approx(10 * 4 + 4 / 2)
    nothing = density_diversity(model, density=0, diversity=0)
    assert nothing.item() == 0


def test_ranks_are_kept_between_sorts() -> None:
    model = nn.Linear(3, 1, bias=False)
    weights = torch.tensor([[1.0, 2.0, 4.0]])
    penalty = DensityDiversity(0.0, 1.0, every=2)
    found = []
    for flip in (1, -1, -1):
        with torch.no_grad():
            model.weight.copy_(flip * weights)
        found.append(penalty(model).item() * 3)
    assert found == pytest.approx([6, -6, 6])  # stale ranks in the second call, fresh in the third


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DensityDiversity(-1, 0), "density must be a number of 0 or more"),
        (lambda: DensityDiversity(0, float("nan")), "diversity must be"),
        (lambda: DensityDiversity(0, 0, every=0), "every must be"),
        (lambda: density_diversity(nn.Linear(1, 1), density=1, diversity=1, layers=["x"]), "'x'"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_layers_with_one_weight_and_of_zeros() -> None:
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    density_diversity(model, density=1, diversity=1).backward()
    assert model.weight.grad.tolist() == [[0.0]]
