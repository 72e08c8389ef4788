"""Widths under a byte budget: sensitivity measured, the choice against brute force."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import training
from helpers.data import Split
from helpers.qat.bits import settle
from helpers.qat.budget import (
    Choice,
    choose_bits,
    frontier,
    sensitivity,
    weight_bytes,
    weight_counts,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")

tables = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.dictionaries(st.integers(1, 8), st.integers(-5, 50), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def brute_force(
    losses: dict[str, dict[int, float]], counts: dict[str, int]
) -> list[tuple[int, float]]:
    """Bytes and loss of every choice."""
    every = []
    for chosen in itertools.product(*losses.values()):
        size = sum(math.ceil(n * b / 8) for n, b in zip(counts.values(), chosen, strict=True))
        every.append((size, sum(row[b] for row, b in zip(losses.values(), chosen, strict=True))))
    return every


def named(table: list) -> tuple[dict[str, dict[int, float]], dict[str, int]]:  # type: ignore[type-arg]
    names = [f"layer{i}" for i in range(len(table))]
    return (
        {
            n: {b: float(v) for b, v in row.items()}
            for n, (_, row) in zip(names, table, strict=True)
        },
        {n: count for n, (count, _) in zip(names, table, strict=True)},
    )


@given(tables)
def test_every_budget_gets_the_optimum_of_brute_force(table: list) -> None:  # type: ignore[type-arg]
    losses, counts = named(table)
    every = brute_force(losses, counts)
    for budget in {size for size, _ in every} | {max(size for size, _ in every) + 5}:
        best = min(loss for size, loss in every if size <= budget)
        found = choose_bits(losses, counts, budget)
        assert found.loss == pytest.approx(best)
        assert found.bytes == weight_bytes(counts, found.bits) <= budget
        assert sum(losses[n][b] for n, b in found.bits.items()) == pytest.approx(found.loss)


@given(tables)
def test_nothing_on_the_frontier_is_beaten(table: list) -> None:  # type: ignore[type-arg]
    losses, counts = named(table)
    found, every = frontier(losses, counts), brute_force(losses, counts)
    assert [c.bytes for c in found] == sorted({c.bytes for c in found})
    assert all(a.loss > b.loss for a, b in itertools.pairwise(found))
    for choice in found:
        assert not any(
            size <= choice.bytes and loss < choice.loss - 1e-9 for size, loss in every
        ), choice
        assert (choice.bytes, choice.loss) in every


def test_golden_choice() -> None:
    losses = {"a": {2: 9.0, 3: 1.0, 4: 0.5}, "b": {2: 2.0, 4: 1.5}, "c": {2: 0.2, 8: 0.0}}
    counts = {"a": 16, "b": 64, "c": 8}
    assert choose_bits(losses, counts, 24) == Choice(24, 3.2, {"a": 3, "b": 2, "c": 2})
    assert choose_bits(losses, counts, 26).bits == {"a": 4, "b": 2, "c": 2}
    assert frontier(losses, counts)[0] == Choice(22, 11.2, {"a": 2, "b": 2, "c": 2})


def test_a_dip_in_the_losses_is_used() -> None:
    losses = {"a": {1: 0.1, 2: 0.3, 3: 0.2}}
    assert choose_bits(losses, {"a": 8}, 100).bits == {"a": 1}


def test_bytes_are_packed_layer_by_layer() -> None:
    counts = {"a": 9, "b": 9}
    assert weight_bytes(counts, 4) == 10
    assert weight_bytes(counts, {"a": 8, "b": 1}) == 9 + 2
    assert weight_counts(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Linear(5, 6))) == {
        "0": 72,
        "2": 30,
    }


def test_bad_input_is_refused() -> None:
    losses, counts = {"a": {2: 1.0}}, {"a": 8}
    with pytest.raises(ValueError, match="budget must be at least 2 bytes, got 1"):
        choose_bits(losses, counts, 1)
    for table, text in (
        ({}, "losses must name"),
        ({"b": {2: 1.0}}, "losses must name"),
        ({"a": {}}, "no width"),
        ({"a": {9: 1.0}}, "from 1 to 8"),
        ({"a": {0: 1.0}}, "from 1 to 8"),
        ({"a": {2: math.nan}}, "not finite"),
    ):
        with pytest.raises(ValueError, match=text):
            frontier(table, counts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits must name"):
        weight_bytes(counts, {"b": 2})
    with pytest.raises(ValueError, match="from 1 to 8"):
        weight_bytes(counts, 0)


def test_sensitivity_quantizes_one_layer_at_a_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(30, 1, 4, 4)
    images = Split(x, torch.arange(30) % 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    table = sensitivity(model, images, (1, 3, 8))
    assert {name: list(row) for name, row in table.items()} == {"1": [1, 3, 8], "3": [1, 3, 8]}

    def loss(network: nn.Module) -> float:
        return float(F.cross_entropy(training.logits(network, x), images.y))

    for name, row in table.items():
        for width, added in row.items():
            expected = loss(settle(model, {name: width})) - loss(model)
            assert added == pytest.approx(expected, abs=1e-6), (name, width)
        assert abs(row[8]) < abs(row[1])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="from 1 to 8"):
        sensitivity(model, images, (0, 4))
    with pytest.raises(ValueError, match="must not be empty"):
        sensitivity(model, images, ())
