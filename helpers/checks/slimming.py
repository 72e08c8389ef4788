"""Checks of the exercises in lab 08_slimming.

Chapter: 08_slimming.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.checks import exercise, expect

__all__ = ["dead_bias", "rank_masks", "slim_pair", "stale_parameters"]


def _masks(answer: Any, scores: dict[str, Tensor]) -> dict[str, Tensor]:
    expect(isinstance(answer, dict), f"return a dict of masks, got {type(answer).__name__}")
    expect(set(answer) == set(scores), f"the keys must be {list(scores)}, got {list(answer)}")
    masks = {name: torch.as_tensor(answer[name]) for name in scores}
    for name, mask in masks.items():
        expect(
            mask.dtype == torch.bool and mask.shape == scores[name].shape,
            f"the mask of {name!r} must be bool, of shape {tuple(scores[name].shape)}, "
            f"got {answer[name]!r}",
        )
    return masks


@exercise
def rank_masks(function: Callable[..., Any]) -> None:
    """`rank_masks(scores, drop) -> {layer: bool mask}`: a global rank, one channel a layer kept."""
    cases: list[tuple[dict[str, list[float]], int, dict[str, list[bool]], str]] = [
        (
            {"a": [0.9, 0.1, 0.5], "b": [0.2, 0.8]},
            2,
            {"a": [True, False, True], "b": [False, True]},
            "the two least of all five channels go",
        ),
        (
            {"a": [0.9, 0.1, 0.5], "b": [0.2, 0.8]},
            0,
            {"a": [True] * 3, "b": [True] * 2},
            "nothing goes when drop is 0",
        ),
        (
            {"thin": [0.03, 0.01, 0.02], "wide": [0.7, 0.5, 0.9, 0.6]},
            4,
            {"thin": [True, False, False], "wide": [True, False, True, False]},
            "the best channel of each layer stays, and the next ones of other layers go instead",
        ),
        (
            {"a": [0.9, 0.8, 0.7], "b": [0.1, 0.6, 0.2, 0.3]},
            3,
            {"a": [True] * 3, "b": [False, True, False, False]},
            "one ranking over all layers: they need not lose the same share",
        ),
        (
            {"x": [1.0], "y": [3.0, 2.0]},
            1,
            {"x": [True], "y": [True, False]},
            "a layer with one channel keeps it",
        ),
    ]
    for lists, drop, expected, hint in cases:
        scores = {name: torch.tensor(values) for name, values in lists.items()}
        answer = _masks(function(dict(scores), drop), scores)
        found = {name: mask.tolist() for name, mask in answer.items()}
        expect(found == expected, f"rank_masks({lists}, {drop}) kept {found}: {hint}")
    scores = {"a": torch.full((6,), 0.5), "b": torch.full((4,), 0.5)}
    answer = _masks(function(dict(scores), 5), scores)
    dropped = sum(int((~mask).sum()) for mask in answer.values())
    expect(
        dropped == 5,
        f"of ten equal scores {dropped} were dropped, not 5: sort, and take a rank, because a "
        "threshold takes all equals or none",
    )


@exercise
def dead_bias(function: Callable[..., Any]) -> None:
    """`dead_bias(weight, beta, dropped) -> (C_o,)`: what constant channels add to the next layer."""
    generator = torch.Generator().manual_seed(8)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for kernel in (3, 1):
        weight, beta = draw(5, 4, kernel, kernel), torch.tensor([0.7, -0.9, 1.3, 0.4]).double()
        dropped = torch.tensor([True, True, False, True])
        before = [weight.clone(), beta.clone(), dropped.clone()]
        answer = torch.as_tensor(function(weight, beta, dropped))
        expect(
            all(torch.equal(a, b) for a, b in zip(before, (weight, beta, dropped), strict=True)),
            "your function changed its arguments: work on new tensors",
        )
        expect(
            tuple(answer.shape) == (5,),
            f"five output channels need five numbers, got shape {tuple(answer.shape)}",
        )
        x = draw(1, 4, 6, 6).relu()
        x[:, dropped] = beta[dropped].relu()[:, None, None]
        rest = F.conv2d(x * ~dropped[:, None, None], weight)
        worst = float((F.conv2d(x, weight) - rest - answer[:, None, None]).abs().max())
        expect(
            worst < 1e-4,  # float32 will do
            f"without the dropped channels and with your bias a {kernel}x{kernel} convolution is "
            f"off by up to {worst:.3g}. A dropped channel is max(0, beta) at every pixel, and an "
            "output sees it through every weight of its kernel",
        )
    none = torch.zeros(4, dtype=torch.bool)
    answer = torch.as_tensor(function(weight, beta, none))
    expect(not answer.any(), f"no channel was dropped, yet the bias is {answer.tolist()}")


@exercise
def slim_pair(function: Callable[..., Any]) -> None:
    """`slim_pair(depthwise, pointwise, kept) -> (depthwise, pointwise)`: weights of a smaller pair."""
    generator = torch.Generator().manual_seed(18)
    for channels, outputs, kept in ((4, 4, [1, 0, 1, 1]), (5, 3, [0, 1, 0, 0, 1])):
        depthwise = torch.randn(channels, 1, 3, 3, generator=generator)
        pointwise = torch.randn(outputs, channels, 1, 1, generator=generator)
        mask = torch.tensor(kept).bool()
        before = [depthwise.clone(), pointwise.clone()]
        answer = function(depthwise, pointwise, mask)
        expect(
            isinstance(answer, (tuple, list)) and len(answer) == 2,
            f"return two weights, got {type(answer).__name__}",
        )
        first, second = (torch.as_tensor(weight) for weight in answer)
        expect(
            torch.equal(depthwise, before[0]) and torch.equal(pointwise, before[1]),
            "your function changed its arguments: return new tensors",
        )
        count = int(mask.sum())
        expected = ((count, 1, 3, 3), (outputs, count, 1, 1))
        shapes = tuple(first.shape), tuple(second.shape)
        expect(
            shapes == expected,
            f"{channels} channels, {count} kept, {outputs} outputs: the weights must have shapes "
            f"{expected}, got {shapes}. A depthwise weight is (C, 1, K, K), and the pointwise layer "
            "reads the channels, so they are its second dimension",
        )
        x = torch.randn(1, channels, 6, 6, generator=generator)
        full = F.conv2d(x, depthwise, groups=channels) * mask[:, None, None]
        small = F.conv2d(x[:, mask], first, groups=count)
        difference = F.conv2d(full, pointwise) - F.conv2d(small, second)
        expect(
            float(difference.abs().max()) < 1e-4,
            "the shapes are right but the outputs differ from those of the masked layers: both "
            "weights must keep the same channels, in the same order",
        )


@exercise
def stale_parameters(function: Callable[..., Any]) -> None:
    """`stale_parameters(model, optimizer) -> names of parameters that the optimizer does not hold`."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    names = [name for name, _ in model.named_parameters()]
    other = copy.deepcopy(model)
    half = torch.optim.SGD(
        [{"params": [model[0].weight]}, {"params": [model[2].weight, model[2].bias]}], lr=0.1
    )
    cases = [
        (torch.optim.AdamW(model.parameters()), [], "it was made from this very network"),
        (
            torch.optim.AdamW(other.parameters()),
            names,
            "it holds a copy: equal numbers, other tensors",
        ),
        (half, ["0.bias"], "it has two parameter groups, and one bias is in neither"),
    ]
    for optimizer, expected, hint in cases:
        answer = function(model, optimizer)
        expect(
            isinstance(answer, Iterable) and not isinstance(answer, str),
            f"return a list of names, got {type(answer).__name__}",
        )
        answer = list(answer)  # a generator can be read once
        expect(
            sorted(answer) == sorted(expected),
            f"your function found {sorted(answer)}, not {sorted(expected)}: {hint}. Compare "
            "identities (`is`, `id`), not values",
        )
