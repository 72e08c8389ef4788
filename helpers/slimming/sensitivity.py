"""How much each layer bears, and a plan of ratios from a budget.

Sources: layer sensitivity as in Li et al. 2017 (arXiv:1608.08710), section 3.2, and in the GW2A
accelerator paper (Meng et al. 2024), section 2.2, which retrains after each cut.

Chapter: 08_slimming.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from joblib import Parallel, delayed
from torch import Tensor, nn

from helpers import cost
from helpers.slimming.rebuild import slim
from helpers.slimming.selection import keep_by_layer

Table = dict[str, dict[float, float]]  # accuracy by layer and ratio


def sensitivity(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    ratios: Sequence[float],
    measure: Callable[[nn.Module], float],
    *,
    retrain: Callable[[nn.Module], nn.Module] | None = None,
    layers: Iterable[str] | None = None,
) -> Table:
    """Prune one layer by one ratio, all others whole, and measure: accuracy by layer and ratio.

    Every cut starts from `model` again. `scores` gives each channel's importance by group name,
    `layers` picks groups (default: all). `measure(network)` should look at validation images, never
    at the test set: the plan is chosen by it. `retrain(network)` returns a network trained a little.
    The cuts run through joblib: one after the other, or where `joblib.parallel_config` says.

    Raises ValueError for unknown layers, no ratios, and ratios outside 0 to below 1.
    """
    names = list(scores if layers is None else layers)
    unknown = sorted(set(names) - set(scores))
    if unknown:
        raise ValueError(f"unknown layers {unknown}; known are {list(scores)}")
    if not ratios or not names:
        raise ValueError(f"ratios and layers must not be empty, got {list(ratios)} and {names}")

    def cut(name: str, ratio: float) -> float:
        network = slim(model, keep_by_layer(scores, {name: ratio}))
        return measure(network if retrain is None else retrain(network))

    cuts = [(name, ratio) for name in names for ratio in ratios]
    measured = Parallel()(delayed(cut)(*pair) for pair in cuts)  # one by one if nobody asks
    table: Table = {name: {} for name in names}
    for (name, ratio), accuracy in zip(cuts, measured, strict=True):
        table[name][ratio] = accuracy
    return table


def largest_ratios(table: Table, baseline: float, tolerance: float) -> dict[str, float]:
    """For each layer the largest ratio that, like all smaller ones, loses at most `tolerance`.

    The loss is `baseline` minus the accuracy of `table`; a layer that bears no ratio gets 0.0.
    """
    if isinstance(tolerance, bool) or not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance!r}")
    chosen = {}
    for name, row in table.items():
        chosen[name] = 0.0
        for ratio in sorted(row):
            if baseline - row[ratio] > tolerance:
                break
            chosen[name] = ratio
    return chosen


def plan(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    table: Table,
    baseline: float,
    input_shape: tuple[int, ...],
    *,
    macs: int | None = None,
    parameters: int | None = None,
) -> tuple[dict[str, float], float]:
    """Ratios by layer that meet a budget at the smallest tolerance, and that tolerance.

    The tolerance rises through the losses in `table`; at each one every layer is cut by its
    `largest_ratios`, and the first network within all given budgets (counted on the really smaller
    network, multiply-accumulates only) is taken. Layers are taken to be independent, which they are
    not: measure the planned network.

    Raises ValueError without a budget, and for one that even the largest ratios do not meet.
    """
    limits = {"macs": macs, "parameters": parameters}
    given = {name: value for name, value in limits.items() if value is not None}
    if not given or any(isinstance(v, bool) or v <= 0 for v in given.values()):
        raise ValueError(f"give macs or parameters, each above 0, got {limits}")
    losses = {baseline - accuracy for row in table.values() for accuracy in row.values()}
    smallest: dict[str, int] = {}
    for tolerance in sorted({0.0, *(loss for loss in losses if loss > 0)}):
        ratios = largest_ratios(table, baseline, tolerance)
        counted = cost.count(slim(model, keep_by_layer(scores, ratios)), input_shape)
        smallest = {"macs": counted.macs, "parameters": counted.parameters}
        if all(smallest[name] <= value for name, value in given.items()):
            return ratios, tolerance
    raise ValueError(f"no plan meets {given}: the largest ratios of the table leave {smallest}")
