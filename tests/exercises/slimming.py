"""Typical wrong answers, and unusual right ones, to the exercises of lab 08_slimming."""

from collections.abc import Iterator
from typing import Any

import numpy as np
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


def rank_one_by_one(scores: Scores, drop: int) -> Any:
    """NumPy masks, in the other order of layers."""
    kept = {name: np.ones(len(s), dtype=bool) for name, s in reversed(scores.items())}
    for _ in range(drop):
        free = [
            (float(s[i]), name, i)
            for name, s in scores.items()
            for i in range(len(s))
            if kept[name][i] and kept[name].sum() > 1
        ]
        _, name, i = min(free)
        kept[name][i] = False
    return kept


def rank_by_lists(scores: Scores, drop: int) -> Any:
    best = {(name, int(s.argmax())) for name, s in scores.items()}
    order = sorted((float(v), name, i) for name, s in scores.items() for i, v in enumerate(s))
    gone = [(name, i) for _, name, i in order if (name, i) not in best][:drop]
    return {name: [(name, i) not in gone for i in range(len(s))] for name, s in scores.items()}


def bias_of_constant_maps(weight: Tensor, beta: Tensor, dropped: Tensor) -> Tensor:
    size = weight.shape[2]
    maps = torch.where(dropped, beta, 0).relu()[None, :, None, None].expand(-1, -1, size, size)
    return nn.functional.conv2d(maps, weight).flatten()


def bias_as_a_list(weight: Tensor, beta: Tensor, dropped: Tensor) -> list[float]:
    channels = [c for c in range(len(beta)) if dropped[c] and beta[c] > 0]
    return [sum(float(beta[c] * row[c].sum()) for c in channels) for row in weight]


def pair_of_lists(depthwise: Tensor, pointwise: Tensor, kept: Tensor) -> Any:
    rows = kept.nonzero().flatten()
    return [depthwise.index_select(0, rows), pointwise.index_select(1, rows)]


def pair_in_numpy(depthwise: Tensor, pointwise: Tensor, kept: Tensor) -> Any:
    chosen = kept.numpy()
    return depthwise.numpy()[chosen], np.compress(chosen, pointwise.numpy(), axis=1)


def stale_generator(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if not any(parameter is p for p in held(optimizer)):
            yield name


def stale_by_hash(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """A tensor's hash is its identity, so a dict of tensors will do."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: p for p in names.keys() - set(held(optimizer))}.keys()


RIGHT_ANSWERS = {
    "rank_masks": [("one by one, NumPy", rank_one_by_one), ("lists", rank_by_lists)],
    "dead_bias": [("a convolution", bias_of_constant_maps), ("a list", bias_as_a_list)],
    "slim_pair": [("a list", pair_of_lists), ("NumPy", pair_in_numpy)],
    "stale_parameters": [("a generator", stale_generator), ("keys of a dict", stale_by_hash)],
}
