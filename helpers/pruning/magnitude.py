"""Magnitude pruning: which weights go, and how they stay away while the others are retrained.

A mask is a bool tensor of the weight's shape, True where the weight is kept. Masks cover the weights
of convolutions and dense layers, never a bias or a batch norm.

Source: Han et al. 2015 (arXiv:1506.02626), sections 3 and 3.4.

Chapter: 04_pruning.
"""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from helpers import training
from helpers.data import Split
from helpers.models import weight_layers


def magnitude_mask(
    weight: Tensor,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    deviations: float | None = None,
) -> Tensor:
    """The mask (bool, shape of `weight`, True = kept) by exactly one criterion.

    `sparsity` (0 to 1) drops exactly round(sparsity * n) weights of least magnitude; of equal
    magnitudes the one stored first goes first, so ties at the limit are never over-pruned.
    `threshold` keeps |w| >= threshold; `deviations` keeps |w| >= deviations * std(w), where std is
    over the whole tensor and divides by n. Both keep everything at 0.

    Raises ValueError for no or more than one criterion, one out of its range, and weights that are
    not finite.

    >>> magnitude_mask(torch.tensor([3.0, -1.0, 1.0, 0.5]), sparsity=0.5).tolist()
    [True, False, True, False]
    """
    given = {"sparsity": sparsity, "threshold": threshold, "deviations": deviations}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise ValueError(f"give exactly one of {', '.join(given)}, got {chosen}")
    ((name, value),) = chosen.items()
    weight = weight.detach()
    if not torch.isfinite(weight).all():
        raise ValueError("weight holds values that are NaN or infinite")
    if name == "sparsity":
        _fraction("sparsity", value)
        return _keep(weight.abs(), weight.numel() - round(value * weight.numel()))
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of 0 or more, got {value!r}")
    limit = torch.tensor(value, dtype=torch.float64)
    if name == "deviations":
        limit = limit * (weight.double().std(correction=0) if weight.numel() else 0.0)
    return weight.abs().double() >= limit


def masks(model: nn.Module, densities: float | Mapping[str, float]) -> dict[str, Tensor]:
    """One mask per layer, each keeping its own share of the layer's largest weights.

    `densities` is the share kept, 0 to 1: one number for every layer, or a number by layer name;
    layers it leaves out get no mask. The same counts as `magnitude_mask(sparsity=1 - density)`.
    """
    layers = weight_layers(model)
    if not isinstance(densities, Mapping):
        densities = dict.fromkeys(layers, densities)
    unknown = sorted(set(densities) - set(layers))
    if unknown:
        raise ValueError(f"densities for unknown layers {unknown}; the layers are {list(layers)}")
    for name, value in densities.items():
        _fraction(f"density of {name!r}", value)
    return {
        name: magnitude_mask(layers[name].weight, sparsity=1 - value)
        for name, value in densities.items()
    }


def global_masks(model: nn.Module, density: float) -> dict[str, Tensor]:
    """One limit for all layers together: the masks keep exactly n - round((1 - density) * n) of n.

    Each layer keeps what it has above the limit, which can be all or nothing.
    """
    _fraction("density", density)
    weights = {name: layer.weight for name, layer in weight_layers(model).items()}
    if not weights:
        return {}
    joined = torch.cat([weight.flatten() for weight in weights.values()])
    kept = magnitude_mask(joined, sparsity=1 - density)
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {
        name: part.reshape(weight.shape).clone()
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def apply_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights that the masks drop to zero, in place: made for `training.fit`'s `after_step`.

    Raises ValueError for a mask of an unknown layer, another shape or another dtype than bool.
    """
    layers = weight_layers(model)
    for name, mask in masks.items():
        if name not in layers:
            raise ValueError(f"masks for an unknown layer {name!r}; the layers are {list(layers)}")
        weight = layers[name].weight.detach()  # shares its memory with the parameter
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"the mask of {name!r} must be bool of shape {tuple(weight.shape)}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        with torch.no_grad():  # fill, not multiply: -1 * 0 is -0.0, and NaN * 0 stays NaN
            weight.masked_fill_(~mask.to(weight.device), 0.0)


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` whose dropped weights are zero."""
    model = copy.deepcopy(model)
    apply_masks_(model, masks)
    return model


def layer_densities(model: nn.Module) -> dict[str, float]:
    """Share of weights that are not zero, by layer; 0 for a layer without weights."""
    return {
        name: int(layer.weight.count_nonzero()) / max(layer.weight.numel(), 1)
        for name, layer in weight_layers(model).items()
    }


def density(model: nn.Module) -> float:
    """Share of the weights of all convolutions and dense layers that are not zero."""
    weights = [layer.weight for layer in weight_layers(model).values()]
    total = sum(weight.numel() for weight in weights)
    return sum(int(weight.count_nonzero()) for weight in weights) / max(total, 1)


def iterative(
    model: nn.Module,
    train: Split,
    validation: Split,
    schedule: Sequence[float | Mapping[str, float]],
    *,
    epochs: int,
    lr: float,
    scope: Literal["layer", "global"] = "layer",
    **options: Any,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Prune and retrain in rounds, one for each entry of `schedule`; one entry is one-shot pruning.

    A round takes the masks for its densities (as `masks`, or `global_masks` with scope="global"),
    zeroes the weights, and trains `epochs` epochs with `training.fit`, zeroing again after each
    optimizer step. `options` go to `fit` (seed, weight_decay, progress ...). Returns a new model and
    the epochs' dicts, each with round (from 1), density and validation_before (after the mask,
    before the training) of its round.

    Raises ValueError for an empty schedule or one whose densities rise: zeros would come back.
    """
    if not schedule:
        raise ValueError("schedule is empty: it needs a density for each round")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', got {scope!r}")
    if "after_step" in options:
        raise ValueError("after_step holds the masks here, so it cannot be given")
    rounds = [_by_layer(model, entry, scope) for entry in schedule]
    for earlier, later in itertools.pairwise(rounds):
        risen = [name for name, value in earlier.items() if later.get(name, 1.0) > value]
        if risen:
            raise ValueError(f"schedule: the densities of {risen} rise from one round to the next")
    history: list[dict[str, float]] = []
    for number, entry in enumerate(schedule, 1):
        if scope == "global":
            assert not isinstance(entry, Mapping)
            kept = global_masks(model, entry)
        else:
            kept = masks(model, entry)
        model = apply_masks(model, kept)
        before, share = training.evaluate(model, validation), density(model)

        def hold(trained: nn.Module, kept: dict[str, Tensor] = kept) -> None:
            apply_masks_(trained, kept)

        model, epochs_of_round = training.fit(
            model, train, validation, epochs=epochs, lr=lr, after_step=hold, **options
        )
        extra = {"round": number, "density": share, "validation_before": before}
        history += [{**epoch, **extra} for epoch in epochs_of_round]
    return model, history


def _by_layer(
    model: nn.Module, entry: float | Mapping[str, float], scope: str
) -> Mapping[str, float]:
    """The densities of one round by layer name; under "all" for a global limit."""
    if isinstance(entry, Mapping):
        if scope == "global":
            raise ValueError(f"schedule must hold numbers with scope='global', got {entry!r}")
        masks(model, entry)  # refuses unknown layers and values before any training
        return entry
    _fraction("schedule", entry)
    return {"all": entry} if scope == "global" else dict.fromkeys(weight_layers(model), entry)


def _keep(sizes: Tensor, count: int) -> Tensor:
    """True for the `count` largest of `sizes`; of equals the later ones."""
    order = torch.argsort(sizes.flatten(), stable=True)
    kept = torch.zeros(sizes.numel(), dtype=torch.bool, device=sizes.device)
    kept[order[sizes.numel() - count :]] = True
    return kept.reshape(sizes.shape)


def _fraction(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
