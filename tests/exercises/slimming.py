"""Typical wrong answers to the exercises of lab 08_slimming."""

from typing import Any

import torch
from torch import Tensor, nn

Scores = dict[str, Tensor]


def by_threshold(scores: Scores, drop: int) -> Scores:
    """The value at the rank, and everything below it: ties and whole layers go."""
    limit = torch.cat(list(scores.values())).sort().values[drop]
    return {name: s >= limit for name, s in scores.items()}


def one_too_many(scores: Scores, drop: int) -> Scores:
    limit = torch.cat(list(scores.values())).sort().values[drop]
    return {name: (s > limit) | (s == s.max()) for name, s in scores.items()}


def without_minimum(scores: Scores, drop: int) -> Scores:
    joined = torch.cat(list(scores.values()))
    kept = torch.ones(len(joined), dtype=torch.bool)
    kept[joined.argsort(stable=True)[:drop]] = False
    return dict(zip(scores, kept.split([len(s) for s in scores.values()]), strict=True))


def minimum_afterwards(scores: Scores, drop: int) -> Scores:
    """Brings the best channel back, and so drops too few."""
    kept = without_minimum(scores, drop)
    for name, mask in kept.items():
        mask[scores[name].argmax()] = True
    return kept


def the_largest_go(scores: Scores, drop: int) -> Scores:
    return without_minimum({name: -s for name, s in scores.items()}, drop)


def same_share_everywhere(scores: Scores, drop: int) -> Scores:
    share = drop / sum(len(s) for s in scores.values())
    kept = {}
    for name, s in scores.items():
        kept[name] = torch.ones(len(s), dtype=torch.bool)
        kept[name][s.argsort()[: round(share * len(s))]] = False
    return kept


def bias_without_relu(weight: Tensor, beta: Tensor, dropped: Tensor) -> Tensor:
    return weight.sum((2, 3)) @ (beta * dropped)


def bias_of_all(weight: Tensor, beta: Tensor, dropped: Tensor) -> Tensor:
    return weight.sum((2, 3)) @ beta.relu()


def bias_of_kept(weight: Tensor, beta: Tensor, dropped: Tensor) -> Tensor:
    return weight.sum((2, 3)) @ (beta.relu() * ~dropped)


def bias_of_the_middle(weight: Tensor, beta: Tensor, dropped: Tensor) -> Tensor:
    middle = weight.shape[2] // 2
    return weight[:, :, middle, middle] @ (beta.relu() * dropped)


def bias_in_place(weight: Tensor, beta: Tensor, dropped: Tensor) -> Tensor:
    beta[~dropped] = 0.0
    return weight.sum((2, 3)) @ beta.relu()


def bias_of_inputs(weight: Tensor, beta: Tensor, dropped: Tensor) -> Tensor:
    return weight.sum((0, 2, 3)) * (beta.relu() * dropped)


def pair_masked(depthwise: Tensor, pointwise: Tensor, kept: Tensor) -> Any:
    return depthwise * kept[:, None, None, None], pointwise * kept[:, None, None]


def pair_outputs(depthwise: Tensor, pointwise: Tensor, kept: Tensor) -> Any:
    return depthwise[kept], pointwise[kept] if len(kept) == len(pointwise) else pointwise


def pair_depthwise_only(depthwise: Tensor, pointwise: Tensor, kept: Tensor) -> Any:
    return depthwise[kept], pointwise


def pair_first_channels(depthwise: Tensor, pointwise: Tensor, kept: Tensor) -> Any:
    return depthwise[: kept.sum()], pointwise[:, : kept.sum()]


def pair_other_order(depthwise: Tensor, pointwise: Tensor, kept: Tensor) -> Any:
    return depthwise[kept], pointwise[:, kept].flip(1)


def held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def stale_by_value(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    return [
        name
        for name, p in model.named_parameters()
        if not any(p.shape == q.shape and torch.equal(p, q) for q in held(optimizer))
    ]


def stale_first_group(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    first = {id(p) for p in optimizer.param_groups[0]["params"]}
    return [name for name, p in model.named_parameters() if id(p) not in first]


def stale_all_or_nothing(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    names = dict(model.named_parameters())
    return [] if any(p is held(optimizer)[0] for p in names.values()) else list(names)


def held_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    known = {id(p) for p in held(optimizer)}
    return [name for name, p in model.named_parameters() if id(p) in known]


WRONG_ANSWERS = {
    "rank_masks": [
        ("a threshold", by_threshold),
        ("one too many", one_too_many),
        ("a layer may vanish", without_minimum),
        ("the last channel comes back", minimum_afterwards),
        ("the largest go", the_largest_go),
        ("the same share of every layer", same_share_everywhere),
    ],
    "dead_bias": [
        ("no ReLU", bias_without_relu),
        ("all channels", bias_of_all),
        ("the kept channels", bias_of_kept),
        ("the kernel's middle only", bias_of_the_middle),
        ("one number per input", bias_of_inputs),
        ("changes its arguments", bias_in_place),
    ],
    "slim_pair": [
        ("zeroes instead of removing", pair_masked),
        ("cuts the pointwise outputs", pair_outputs),
        ("leaves the pointwise layer", pair_depthwise_only),
        ("keeps the first channels", pair_first_channels),
        ("another order", pair_other_order),
    ],
    "stale_parameters": [
        ("compares values", stale_by_value),
        ("first parameter group only", stale_first_group),
        ("all or nothing", stale_all_or_nothing),
        ("names what it holds", held_names),
    ],
}
