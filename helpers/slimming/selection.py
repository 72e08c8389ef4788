"""Which channels go: batch-norm scales pushed towards zero, joint scores, and a rank over all layers.

Sources: Liu et al. 2017 (arXiv:1708.06519), section 3 (scales); Li et al. 2017 (arXiv:1608.08710),
section 3.1 (norms of filters).

Chapter: 08_slimming.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from helpers.slimming.groups import NORMS, channel_groups


def scale_penalty(strength: float) -> Callable[[nn.Module], Tensor]:
    """strength * sum |gamma| over all batch norms: made for `training.fit`'s `penalty`.

    autograd takes 0 as the slope of |gamma| at 0, as the papers' sign(gamma) does. Called on a
    network without batch norm it raises ValueError.
    """
    if isinstance(strength, bool) or not 0 <= strength < math.inf:
        raise ValueError(f"strength must be a number of 0 or more, got {strength!r}")

    def penalty(model: nn.Module) -> Tensor:
        sizes = [m.weight.abs().sum() for m in model.modules() if isinstance(m, NORMS) and m.affine]
        if not sizes:
            raise ValueError(f"{type(model).__name__} has no batch norm with scales to penalize")
        return strength * torch.stack(sizes).sum()

    return penalty


def scales(model: nn.Module) -> Tensor:
    """|gamma| of every batch norm of `model`, one after the other, (channels,)."""
    found = [m.weight.detach().abs() for m in model.modules() if isinstance(m, NORMS) and m.affine]
    if not found:
        raise ValueError(f"{type(model).__name__} has no batch norm with scales")
    return torch.cat(found)


def importance(model: nn.Module, joint: Literal["min", "mean", "max"] = "min") -> dict[str, Tensor]:
    """|gamma| of each channel, (size,), for every group that has a batch norm, by group name.

    A group with several batch norms joins them channel by channel: "min", because one scale of 0
    makes the channel a constant whatever the others are; "mean" as Torch-Pruning does; "max".
    Groups without a batch norm have no entry. Raises ValueError if no group has one.
    """
    if joint not in ("min", "mean", "max"):
        raise ValueError(f"joint must be 'min', 'mean' or 'max', got {joint!r}")
    scores: dict[str, Tensor] = {}
    for name, group in channel_groups(model).items():
        sizes = []
        for norm in group.norms:
            gamma = model.get_submodule(norm).weight
            if gamma is None:
                raise ValueError(f"batch norm {norm!r} has no scales (affine=False)")
            assert isinstance(gamma, Tensor)
            sizes.append(gamma.detach().abs())
        if sizes:
            stack = torch.stack(sizes)
            if joint == "mean":
                scores[name] = stack.mean(0)
            else:
                scores[name] = stack.amin(0) if joint == "min" else stack.amax(0)
    if not scores:
        raise ValueError(
            f"{type(model).__name__} has no batch norm between two layers: there are no scales to "
            "rank its channels by (filter_norms needs none)"
        )
    return scores


def filter_norms(model: nn.Module) -> dict[str, Tensor]:
    """Sum of |w| of the filter that makes each channel, (size,), for every group, by group name."""
    return {
        name: model.get_submodule(name).weight.detach().abs().flatten(1).sum(1)  # type: ignore[operator]
        for name in channel_groups(model)
    }


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """The mask (bool, True = kept) of the `count` largest scores; of equals the later ones stay."""
    if isinstance(count, bool) or not 1 <= count <= scores.numel():
        raise ValueError(f"count must be from 1 to {scores.numel()} channels, got {count!r}")
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[torch.argsort(_finite("scores", scores), stable=True)[scores.numel() - count :]] = True
    return kept


def keep_by_layer(
    scores: Mapping[str, Tensor], ratios: float | Mapping[str, float]
) -> dict[str, Tensor]:
    """Masks that drop round(ratio * size) channels of least score in each group, never the last one.

    `ratios` (0 to below 1) is one number for all groups or a number by group name; groups that it
    leaves out keep everything. Raises ValueError for unknown groups and ratios out of range.
    """
    if not isinstance(ratios, Mapping):
        ratios = dict.fromkeys(scores, ratios)
    unknown = sorted(set(ratios) - set(scores))
    if unknown:
        raise ValueError(f"ratios for unknown layers {unknown}; known are {list(scores)}")
    for name, ratio in ratios.items():
        _ratio(f"ratio of {name!r}", ratio)
    counts = {
        name: s.numel() - round(ratios.get(name, 0) * s.numel()) for name, s in scores.items()
    }
    return {name: keep_largest(s, max(1, counts[name])) for name, s in scores.items()}


def keep_by_rank(
    scores: Mapping[str, Tensor], ratio: float, *, minimum: int = 1
) -> dict[str, Tensor]:
    """Masks that drop exactly round(ratio * total) channels, the least over all groups together.

    The limit is a rank, not a value, so equal scores cannot drop too many or too few. Each group
    keeps its best `minimum` channels whatever their rank; the next ones of other groups go instead.

    >>> keep = keep_by_rank({"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([0.3, 0.9])}, 0.5)
    >>> keep["a"].tolist(), keep["b"].tolist()
    ([False, True], [False, True])

    Raises ValueError where no such masks exist: a ratio outside 0 to below 1, or one that would leave
    less than `minimum` channels in some group.
    """
    _ratio("ratio", ratio)
    if isinstance(minimum, bool) or not isinstance(minimum, int) or minimum < 1:
        raise ValueError(f"minimum must be a whole number of 1 or more, got {minimum!r}")
    if not scores:
        raise ValueError("scores is empty: there are no channels to rank")
    sizes = {name: s.numel() for name, s in scores.items()}
    safe = {name: min(minimum, size) for name, size in sizes.items()}
    total, spare = sum(sizes.values()), sum(sizes.values()) - sum(safe.values())
    drop = round(ratio * total)
    if drop > spare:
        raise ValueError(
            f"ratio {ratio!r} would drop {drop} of {total} channels; with {minimum} kept in every "
            f"layer at most {spare} can go"
        )
    protected = torch.cat([keep_largest(s, safe[name]) for name, s in scores.items()])
    joined = torch.cat([_finite(name, s) for name, s in scores.items()])
    order = torch.argsort(torch.where(protected, math.inf, joined), stable=True)
    kept = torch.ones(total, dtype=torch.bool)
    kept[order[:drop]] = False
    return dict(zip(sizes, kept.split(list(sizes.values())), strict=True))


def _finite(name: str, scores: Tensor) -> Tensor:
    scores = scores.detach().double().cpu()
    if scores.ndim != 1 or not torch.isfinite(scores).all():
        raise ValueError(f"{name}: scores must be one finite number a channel, got {scores}")
    return scores


def _ratio(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number from 0 to below 1, got {value!r}")
