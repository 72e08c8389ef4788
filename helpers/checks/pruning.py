"""Checks of the exercises in lab 04_pruning.

Chapter: 04_pruning.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from helpers.checks import Wrong, exercise, expect

__all__ = ["from_gaps", "gap_fields", "masked_step", "pair_subgradient", "ratio_mask"]


def _tensor(answer: Any, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """The answer as a tensor of `shape`; an array or a list of numbers is as good."""
    try:
        found = torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(
            f"return {what} as a tensor of shape {shape}, got {type(answer).__name__}"
        ) from None
    expect(
        tuple(found.shape) == shape,
        f"return {what} as a tensor of shape {shape}, got one of shape {tuple(found.shape)}",
    )
    return found


@exercise
def ratio_mask(function: Callable[..., Any]) -> None:
    """`ratio_mask(weight, density)`: a bool mask that keeps exactly round(density * n) weights."""
    cases = [
        (
            [[3.0, -4.0], [0.5, 1.0]],
            0.5,
            {(0, 0), (0, 1)},
            "the size of a weight counts, not its sign",
        ),
        ([[-1.0, -2.0, -3.0]], 1 / 3, {(0, 2)}, "all weights are negative here"),
        ([[5.0, 1.0]], 1.0, {(0, 0), (0, 1)}, "density 1 keeps everything"),
        ([[5.0, 1.0]], 0.0, set(), "density 0 keeps nothing"),
    ]
    for values, density, kept, hint in cases:
        weight = torch.tensor(values)
        before = weight.clone()
        mask = _tensor(function(weight, density), tuple(weight.shape), "the mask")
        expect(mask.dtype == torch.bool, f"the mask must be bool, got {mask.dtype}")
        expect(torch.equal(weight, before), "your function changed the weights: only return a mask")
        found = {tuple(place) for place in mask.nonzero().tolist()}
        expect(found == kept, f"ratio_mask({values}, {density:.3g}) gave {mask.tolist()}: {hint}")
    ties = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 9.0, 0.0, 0.0, 0.0, 0.0])
    for density in (0.1, 0.3, 0.5, 0.9):
        mask = _tensor(function(ties, density), (10,), "the mask")
        count = round(density * 10)
        expect(
            int(mask.sum()) == count,
            f"of {ties.tolist()} your mask keeps {int(mask.sum())} at density {density}, not {count}: "
            f"equal sizes at the limit must not all go, or all stay",
        )
        if 0 < count < 10:
            expect(
                bool(ties.abs()[mask].min() >= ties.abs()[~mask].max()),
                f"at density {density} a smaller weight stayed and a larger one went",
            )


@exercise
def masked_step(function: Callable[..., Any]) -> None:
    """`masked_step(weight, velocity, gradient, mask, lr, momentum, decay) -> (weight, velocity)`."""
    weight = torch.tensor([1.0, -2.0, 0.0, 0.0])
    velocity = torch.tensor([0.5, 0.0, 4.0, -4.0])
    gradient = torch.tensor([1.0, 2.0, 3.0, 0.0])
    mask = torch.tensor([True, True, False, False])
    before = [t.clone() for t in (weight, velocity, gradient)]
    answer = function(weight, velocity, gradient, mask, 0.1, 0.5, 0.2)
    expect(
        isinstance(answer, (tuple, list)) and len(answer) == 2,
        f"return (weight, velocity), got {type(answer).__name__}",
    )
    new_weight = _tensor(answer[0], (4,), "the weight").float()
    new_velocity = _tensor(answer[1], (4,), "the velocity").float()
    same = all(torch.equal(a, b) for a, b in zip(before, (weight, velocity, gradient), strict=True))
    expect(same, "your function changed its arguments: return new tensors")
    expect(
        not new_weight[2:].any(),
        f"the pruned weights became {new_weight[2:].tolist()}: the velocity from before the pruning "
        f"moves them, whatever the gradient is; mask what the step has made",
    )
    expect(
        torch.allclose(new_velocity[:2], torch.tensor([1.25, 2.0])),
        f"the kept velocities became {new_velocity[:2].tolist()}, not [1.25, 2.0]: "
        f"momentum * velocity + gradient",
    )
    expect(
        torch.allclose(new_weight[:2], torch.tensor([0.855, -2.16])),
        f"the kept weights became {new_weight[:2].tolist()}, not [0.855, -2.16]: "
        f"weight - lr * (new velocity + decay * weight)",
    )
    unpruned = function(
        torch.tensor([3.0]), torch.zeros(1), torch.zeros(1), mask[2:3], 0.1, 0.9, 0.0
    )
    expect(
        not _tensor(unpruned[0], (1,), "the weight").any(),
        "a weight that the mask drops must be zero after the step, also if it was not zero before",
    )


@exercise
def gap_fields(function: Callable[..., Any]) -> None:
    """`gap_fields(positions, bits)`: (gap, is_filler) in order, gaps in 1..2**bits from -1."""
    cases = [
        (
            [1, 4, 15],
            3,
            [(2, False), (3, False), (8, True), (3, False)],
            "count from -1; a filler steps 8",
        ),
        ([0], 3, [(1, False)], "position 0 is one step from the start at -1"),
        ([7], 3, [(8, False)], "a gap of exactly 2**bits still fits"),
        ([8], 3, [(8, True), (1, False)], "a gap of 9 is a filler of 8 and 1 more"),
        ([15], 3, [(8, True), (8, False)], "a gap of 16 is a filler of 8 and 8 more"),
        (
            [23, 24],
            3,
            [(8, True), (8, True), (8, False), (1, False)],
            "more than one filler may come",
        ),
        ([2, 3], 1, [(2, True), (1, False), (1, False)], "with 1 bit the gaps are 1 and 2"),
        ([], 4, [], "nothing is kept, nothing is stored"),
    ]
    for positions, bits, expected, hint in cases:
        answer = function(list(positions), bits)
        try:  # any sequence of pairs will do
            found = [(int(gap), bool(filler)) for gap, filler in answer]
        except (TypeError, ValueError):
            found = None
        given = answer if found is None else found
        text = f"gap_fields({positions}, {bits}) gave {given!r}, not {expected}: {hint}"
        expect(found == expected, text)


@exercise
def from_gaps(function: Callable[..., Any]) -> None:
    """`from_gaps(values, gaps, size)`: the dense list; fillers are entries with value 0."""
    cases = [
        (
            [3.4, 0.9, 0.0, 1.7],
            [2, 3, 8, 3],
            17,
            {1: 3.4, 4: 0.9, 15: 1.7},
            "gaps add up, from position -1",
        ),
        ([5.0], [1], 3, {0: 5.0}, "the first gap is 1 for position 0"),
        ([], [], 2, {}, "nothing is stored: all zeros"),
        ([0.0, 0.0, -1.0], [4, 4, 4], 12, {11: -1.0}, "fillers only step on"),
    ]
    for values, gaps, size, places, hint in cases:
        answer = function(list(values), list(gaps), size)
        expected = [places.get(i, 0.0) for i in range(size)]
        try:
            found = [float(x) for x in answer]
        except TypeError:
            found = []
        expect(
            len(found) == size
            and all(
                math.isclose(*pair, rel_tol=1e-6) for pair in zip(found, expected, strict=True)
            ),
            f"from_gaps({values}, {gaps}, {size}) gave {answer!r}, not {expected}: {hint}",
        )


@exercise
def pair_subgradient(function: Callable[..., Any]) -> None:
    """`pair_subgradient(values)`: per entry, how many are smaller minus how many are larger."""
    cases = [
        ([1.0, 2.0, 4.0], "three distinct values in order: 2i - n - 1"),
        ([4.0, 1.0, 2.0], "the answer belongs to the entry, not to its rank: undo the sorting"),
        ([5.0, 1.0, 1.0, 2.0], "between equal values the slope is 0"),
        ([0.5, 0.5, 0.5], "all equal: nothing pulls"),
        ([-3.0], "one value has no pair"),
    ]
    for values, hint in cases:
        answer = _tensor(function(torch.tensor(values)), (len(values),), "the subgradient")
        expected = [sum(math.copysign(1, a - b) for b in values if a != b) for a in values]
        expect(
            [float(x) for x in answer] == expected,
            f"pair_subgradient({values}) gave {answer.tolist()}, not {expected}: {hint}",
        )
    drawn = torch.randn(40, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    total = sum(abs(a - b) for a, b in itertools.combinations(drawn.tolist(), 2))
    found = float((_tensor(function(drawn), (40,), "the subgradient") * drawn).sum())
    expect(abs(found - total) < 1e-9, "coefficients times values must add up to the pair sum")
