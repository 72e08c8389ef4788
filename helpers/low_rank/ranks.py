"""Whole networks: replace layers by pairs of layers, and choose each rank under a budget.

Chapter: 06_low_rank.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from joblib import Parallel, delayed
from torch import Tensor, nn

from helpers import cost, training
from helpers.low_rank.convolution import as_matrix, separable_conv
from helpers.low_rank.dense import check_rank, energy, rank_for_energy, svd_linear
from helpers.models import replace_module_

Unit = Literal["parameters", "macs"]
Losses = Mapping[str, Mapping[int, float]]


def factorizable(model: nn.Module) -> dict[str, nn.Module]:
    """The dense layers and the convolutions without groups, by name, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }


def matrix(layer: nn.Module) -> Tensor:
    """The matrix that is factored: (N_o, N_i) of a dense layer, `as_matrix` of a convolution."""
    if isinstance(layer, nn.Linear):
        return layer.weight.detach()
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return as_matrix(layer.weight.detach())
    raise ValueError(
        f"layer must be an nn.Linear or an nn.Conv2d with groups=1, got {type(layer).__name__}"
    )


def spectrum(layer: nn.Module) -> Tensor:
    """The singular values of the layer's matrix in falling order, float64, (largest rank,)."""
    return torch.linalg.svdvals(matrix(layer).to(torch.float64))


def factorize(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """A copy of `model` with the named layers replaced: `svd_linear` or `separable_conv`.

    A rank is the middle width of a dense layer and the number of middle channels D of a
    convolution. What saves nothing is replaced too if it is named. Raises ValueError that names the
    layer for unknown names, layers that cannot be factored, shared layers, and ranks out of range.
    """
    model = copy.deepcopy(model)
    places = dict(model.named_modules(remove_duplicate=False))
    known = factorizable(model)
    for name, rank in ranks.items():
        if name not in known:
            kind = type(places[name]).__name__ if name in places else "not there"
            raise ValueError(
                f"layer {name!r} ({kind}) cannot be factored; the layers that can are "
                f"{', '.join(known) or 'none'}"
            )
        layer = known[name]
        if sum(place is layer for place in places.values()) > 1:
            raise ValueError(f"layer {name!r} stands in several places: its rank is ambiguous")
        try:
            pair = (
                svd_linear(layer, rank)
                if isinstance(layer, nn.Linear)
                else separable_conv(layer, rank)  # type: ignore[arg-type]
            )
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        if not name:
            return pair
        replace_module_(model, name, pair)
    return model


def energy_losses(model: nn.Module) -> dict[str, dict[int, float]]:
    """For each layer and rank the share of the layer's energy that is dropped."""
    losses = {}
    for name, layer in factorizable(model).items():
        held = energy(spectrum(layer)).tolist()
        losses[name] = {rank: 1 - share for rank, share in enumerate(held, 1)}
    return losses


def measured_losses(
    model: nn.Module, x: Tensor, ranks: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, float]]:
    """For each layer and rank the mean squared change of the logits when it alone is factored.

    `x` (N, C, H, W) are images to measure on, training or validation images; no label is needed.
    The measurements run through joblib: one after the other, or where `joblib.parallel_config` says.
    """
    before = training.logits(model, x)

    def change(name: str, rank: int) -> float:
        after = training.logits(factorize(model, {name: rank}), x)
        return float((after - before).square().mean())

    pairs = [(name, rank) for name, choices in ranks.items() for rank in choices]
    measured = Parallel()(delayed(change)(*pair) for pair in pairs)  # one by one if nobody asks
    losses: dict[str, dict[int, float]] = {name: {} for name in ranks}
    for (name, rank), loss in zip(pairs, measured, strict=True):
        losses[name][rank] = loss
    return losses


def costs(
    model: nn.Module, input_shape: tuple[int, ...], unit: Unit = "parameters"
) -> tuple[int, dict[str, tuple[int, int]]]:
    """The model's total, and for each factorizable layer (cost as it is, cost of one rank).

    Counted on an image of `input_shape` (C, H, W); biases belong to the total and to no layer.
    """
    if unit not in ("parameters", "macs"):
        raise ValueError(f"unit must be 'parameters' or 'macs', got {unit!r}")
    counted = cost.count(model, input_shape)
    table: dict[str, tuple[int, int]] = {}
    for name, layer in factorizable(model).items():
        whole = each = 0
        for call in (c for c in counted.layers if c.name == name):
            first, second = matrix(layer).shape
            if unit == "parameters":
                whole, each = first * second, first + second
            elif isinstance(layer, nn.Linear):
                places = math.prod(call.input_shape[:-1])
                whole, each = whole + call.macs, each + places * (first + second)
            else:
                _, rows, columns = call.output_shape
                whole += call.macs
                each += rows * (first * call.input_shape[-1] + second * columns)
        if whole:
            table[name] = whole, each
    return (counted.parameters if unit == "parameters" else counted.macs), table


def choose_ranks(
    model: nn.Module,
    budget: int,
    losses: Losses,
    *,
    input_shape: tuple[int, ...],
    unit: Unit = "parameters",
) -> dict[str, int]:
    """Ranks that bring the whole model to at most `budget` parameters or MACs, greedily.

    `losses` says what each rank of each layer costs in quality (`energy_losses`,
    `measured_losses`, or your own); a layer kept whole loses 0, and the losses are taken to add up.
    For each layer only the choices on the lower convex hull of (cost, loss) compete. From the whole
    network, the step with the least loss for each parameter (MAC) saved is taken until the budget
    is met; what the last step saved too much is given back where it helps most.

    Returns the layers to factor, for `factorize`. Raises ValueError for an unknown layer or rank and
    for a budget that cannot be reached, naming the smallest that can.
    """
    total, table = costs(model, input_shape, unit)
    unknown = sorted(set(losses) - set(table))
    if unknown:
        raise ValueError(f"losses for unknown layers {unknown}; the layers are {list(table)}")
    for name, choices in losses.items():
        for rank in choices:
            check_rank(rank, min(matrix(factorizable(model)[name]).shape), f"rank of {name!r}")
    hulls = {name: _hull(*table[name], choices) for name, choices in losses.items()}
    at = dict.fromkeys(hulls, 0)  # the place of each layer on its hull; 0 is the whole layer
    spent = total
    least = total - sum(hull[0][0] - hull[-1][0] for hull in hulls.values())
    if budget < least:
        raise ValueError(f"budget must be at least {least:,} {unit} for this model, got {budget:,}")
    while spent > budget:
        name = min(
            (n for n in hulls if at[n] + 1 < len(hulls[n])),
            key=lambda n: _slope(hulls[n][at[n]], hulls[n][at[n] + 1]),
        )
        at[name] += 1
        spent += hulls[name][at[name]][0] - hulls[name][at[name] - 1][0]
    chosen = {name: hulls[name][place] for name, place in at.items()}
    options = {name: _options(*table[name], choices) for name, choices in losses.items()}
    while True:  # give back: any dearer choice that still fits, the most loss avoided first
        steps = [
            (_slope(option, chosen[n]), n, option)
            for n in chosen
            for option in options[n]
            if 0 < option[0] - chosen[n][0] <= budget - spent and option[1] < chosen[n][1]
        ]
        if not steps:
            return {n: rank for n, (_, _, rank) in chosen.items() if rank is not None}
        _, name, option = max(steps, key=lambda step: step[:2])
        spent += option[0] - chosen[name][0]
        chosen[name] = option


Choice = tuple[int, float, int | None]  # cost, loss, rank; the whole layer has rank None


def _options(whole: int, each: int, choices: Mapping[int, float]) -> list[Choice]:
    """The whole layer and each rank that is cheaper, dearest first."""
    for rank, loss in choices.items():
        if not math.isfinite(loss):
            raise ValueError(f"the loss of rank {rank} is {loss!r}: it must be finite")
    ranks = [rank for rank in sorted(choices, reverse=True) if rank * each < whole]
    return [(whole, 0.0, None), *((rank * each, max(choices[rank], 0.0), rank) for rank in ranks)]


def _hull(whole: int, each: int, choices: Mapping[int, float]) -> list[Choice]:
    """The options on the lower convex hull of (cost, loss), dearest first."""
    points: list[Choice] = []
    for option in _options(whole, each, choices):
        while len(points) > 1 and points[-1][1] >= option[1]:
            points.pop()  # dearer and not better
        while len(points) > 1 and _slope(points[-2], points[-1]) >= _slope(points[-1], option):
            points.pop()
        points.append(option)
    return points


def _slope(dear: Choice, cheap: Choice) -> float:
    """Loss for each unit saved by going from one choice to a cheaper one."""
    return (cheap[1] - dear[1]) / (dear[0] - cheap[0])


def uniform_energy(
    model: nn.Module,
    budget: int,
    *,
    input_shape: tuple[int, ...],
    unit: Unit = "parameters",
) -> tuple[float, dict[str, int]]:
    """The largest share of energy kept in *every* layer that meets the budget, and the ranks.

    A layer whose rank for that share saves nothing stays whole. The rule that `choose_ranks` is
    compared with. Raises ValueError for a budget that cannot be reached so.
    """
    total, table = costs(model, input_shape, unit)
    spectra = {n: spectrum(layer) for n, layer in factorizable(model).items() if n in table}
    shares = sorted({float(e) for s in spectra.values() for e in energy(s)}, reverse=True)

    def at(share: float) -> tuple[int, dict[str, int]]:
        ranks = {n: rank_for_energy(s, share) for n, s in spectra.items()}
        ranks = {n: r for n, r in ranks.items() if r * table[n][1] < table[n][0]}
        return total - sum(table[n][0] - r * table[n][1] for n, r in ranks.items()), ranks

    if budget >= total:
        return 1.0, {}
    for share in shares:
        spent, ranks = at(share)
        if spent <= budget:
            return share, ranks
    raise ValueError(
        f"budget must be at least {at(shares[-1])[0]:,} {unit} for this model, got {budget:,}"
    )
