"""Typical wrong answers, and unusual right ones, to the exercises of lab 10_edge_recipe."""

import math
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

Targets = tuple[int, ...]
Table = dict[tuple[str, float], tuple[float, int]]


def in_place(y: Tensor, targets: Targets) -> Tensor:
    old = y.clone()
    y[:] = len(targets)
    for place, c in enumerate(targets):
        y[old == c] = place
    return y


def replaced_twice(y: Tensor, targets: Targets) -> Tensor:
    new = y.clone()
    for place, c in enumerate(targets):
        new[new == c] = place
    new[~torch.isin(y, torch.tensor(targets))] = len(targets)
    return new


def by_order_of_class(y: Tensor, targets: Targets) -> Tensor:
    return by_place(y, tuple(sorted(targets)))


def by_place(y: Tensor, targets: Targets) -> Tensor:
    return torch.tensor([targets.index(c) if c in targets else len(targets) for c in y.tolist()])


def background_first(y: Tensor, targets: Targets) -> Tensor:
    return (by_place(y, targets) + 1) % (len(targets) + 1)


def background_kept(y: Tensor, targets: Targets) -> Tensor:
    places = by_place(y, targets)
    return torch.where(places == len(targets), y, places)


def dense(divide: Any) -> Any:
    def weights(size: int, strides: Targets, channels: int, classes: int, pooled: bool) -> int:
        side = divide(size, strides)
        return channels * classes * (1 if pooled else side * side)

    return weights


def floored(size: int, strides: Targets) -> int:
    for stride in strides:
        size = max(1, size // stride)
    return size


def without_padding(size: int, strides: Targets) -> int:
    for stride in strides:
        size = max(1, (size - 3) // stride + 1)
    return size


def first_stride_only(size: int, strides: Targets) -> int:
    return -(-size // strides[0]) if strides else size


def pool_ignored(size: int, strides: Targets, channels: int, classes: int, pooled: bool) -> int:
    return channels * classes * rounded_up(size, strides) ** 2


def side_not_squared(size: int, strides: Targets, channels: int, classes: int, pooled: bool) -> int:
    return channels * classes * (1 if pooled else rounded_up(size, strides))


def pool_swapped(size: int, strides: Targets, channels: int, classes: int, pooled: bool) -> int:
    return channels * classes * (rounded_up(size, strides) ** 2 if pooled else 1)


def rounded_up(size: int, strides: Targets) -> int:
    for stride in strides:
        size = -(-size // stride)
    return size


def ends(text: str) -> tuple[float, float]:
    half = 0.5 * 10 ** -len(text.partition(".")[2])
    return float(text) - half, float(text) + half


def as_printed(printed: str, numerator: str, denominator: str) -> bool:
    digits = len(printed.partition(".")[2])
    return f"{float(numerator) / float(denominator):.{digits}f}" == printed


def inputs_exact(printed: str, numerator: str, denominator: str) -> bool:
    low, high = ends(printed)
    return low <= float(numerator) / float(denominator) <= high


def result_exact(printed: str, numerator: str, denominator: str) -> bool:
    top, bottom = ends(numerator), ends(denominator)
    return top[0] / bottom[1] <= float(printed) <= top[1] / bottom[0]


def ends_paired(printed: str, numerator: str, denominator: str) -> bool:
    """Low over low and high over high: the interval comes out too narrow."""
    (low, high), top, bottom = (ends(t) for t in (printed, numerator, denominator))
    found = sorted((top[0] / bottom[0], top[1] / bottom[1]))
    return low <= found[1] and found[0] <= high


def whole_units(printed: str, numerator: str, denominator: str) -> bool:
    """Half a unit of the last place taken for a whole one."""
    (low, high), top, bottom = (ends(t) for t in (printed, numerator, denominator))
    wide = [(2 * a - (a + b) / 2, 2 * b - (a + b) / 2) for a, b in (top, bottom)]
    return low <= wide[0][1] / wide[1][0] and wide[0][0] / wide[1][1] <= high


def one_per_cent(printed: str, numerator: str, denominator: str) -> bool:
    value = float(numerator) / float(denominator)
    return abs(value - float(printed)) <= 0.01 * value


def allowed_cuts(table: Table, baseline: float, allowed: float) -> Table:
    return {k: v for k, v in table.items() if baseline - v[0] <= allowed and v[1] > 0}


def least_loss(table: Table, baseline: float, allowed: float) -> Any:
    fair = allowed_cuts(table, baseline, allowed)
    return max(fair, key=lambda k: fair[k][0], default=None)


def most_saved(table: Table, baseline: float, allowed: float) -> Any:
    fair = allowed_cuts(table, baseline, allowed)
    return max(fair, key=lambda k: fair[k][1], default=None)


def limit_ignored(table: Table, baseline: float, allowed: float) -> Any:
    fair = allowed_cuts(table, baseline, 1.0)
    return per_mac(fair, baseline)


def stops_when_empty(table: Table, baseline: float, allowed: float) -> Any:
    fair = allowed_cuts(table, baseline, allowed)
    return min(fair, key=lambda k: (baseline - fair[k][0]) / fair[k][1])


def gains_cut_off(table: Table, baseline: float, allowed: float) -> Any:
    """A gain counts as no loss, so the cut that saves more wins."""
    fair = allowed_cuts(table, baseline, allowed)
    return min(
        fair, key=lambda k: (max(0, baseline - fair[k][0]) / fair[k][1], -fair[k][1]), default=None
    )


def first_of_equals(table: Table, baseline: float, allowed: float) -> Any:
    fair = allowed_cuts(table, baseline, allowed)
    return min(fair, key=lambda k: (baseline - fair[k][0]) / fair[k][1], default=None)


def divides_by_nothing(table: Table, baseline: float, allowed: float) -> Any:
    fair = {k: v for k, v in table.items() if baseline - v[0] <= allowed}
    return per_mac(fair, baseline)


def per_mac(fair: Table, baseline: float) -> Any:
    return min(
        fair, key=lambda k: ((baseline - fair[k][0]) / fair[k][1], -fair[k][1]), default=None
    )


WRONG_ANSWERS = {
    "background_labels": [
        ("changes y", in_place),
        ("replaces twice", replaced_twice),
        ("in the order of the classes", by_order_of_class),
        ("background first", background_first),
        ("background keeps its old label", background_kept),
    ],
    "dense_weights": [
        ("rounds down", dense(floored)),
        ("no padding", dense(without_padding)),
        ("the first stride only", dense(first_stride_only)),
        ("ignores the pool", pool_ignored),
        ("side not squared", side_not_squared),
        ("pool and flatten swapped", pool_swapped),
    ],
    "quotient_follows": [
        ("rounds the quotient as it stands", as_printed),
        ("takes the inputs as exact", inputs_exact),
        ("takes the printed quotient as exact", result_exact),
        ("pairs the wrong ends", ends_paired),
        ("whole units of the last place", whole_units),
        ("one per cent", one_per_cent),
    ],
    "cheapest_cut": [
        ("least loss", least_loss),
        ("most MACs", most_saved),
        ("ignores the limit", limit_ignored),
        ("stops where there is none", stops_when_empty),
        ("a gain is no gain", gains_cut_off),
        ("first of equals", first_of_equals),
        ("divides by zero MACs", divides_by_nothing),
    ],
}


def by_table(y: Tensor, targets: Targets) -> Tensor:
    places = torch.full((10,), len(targets))
    places[list(targets)] = torch.arange(len(targets))
    return places[y]


def dense_by_layers(size: int, strides: Targets, channels: int, classes: int, pooled: bool) -> int:
    x = torch.zeros(1, 1, size, size)
    for stride in strides:
        x = torch.nn.Conv2d(1, 1, 3, stride=stride, padding=1)(x)
    x = x.expand(-1, channels, -1, -1)
    x = x.mean((2, 3)) if pooled else x.flatten(1)
    return torch.nn.Linear(x.shape[1], classes).weight.numel()


def dense_in_floats(
    size: float, strides: Targets, channels: int, classes: int, pooled: bool
) -> Any:
    for stride in strides:
        size = np.ceil(size / stride)
    return channels * classes * (1 if pooled else size**2)


def decimal_ends(text: str) -> tuple[Decimal, Decimal]:
    value = Decimal(text)
    half = Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2
    return value - half, value + half


def in_decimals(printed: str, numerator: str, denominator: str) -> bool:
    (low, high), top, bottom = (decimal_ends(t) for t in (printed, numerator, denominator))
    return max(low, top[0] / bottom[1]) < min(high, top[1] / bottom[0])  # open intervals


def sorted_cuts(table: Table, baseline: float, allowed: float) -> Any:
    """Gains, largest first, as a list."""
    fair = allowed_cuts(table, baseline, allowed)
    order = sorted(fair, key=lambda k: ((fair[k][0] - baseline) / fair[k][1], fair[k][1]))
    return list(order[-1]) if order else None


RIGHT_ANSWERS = {
    "background_labels": [
        ("a table", by_table),
        ("a list", lambda y, targets: by_place(y, targets).tolist()),
        ("NumPy", lambda y, targets: by_place(y, targets).numpy()),
    ],
    "dense_weights": [
        ("real layers", dense_by_layers),
        ("floats", dense_in_floats),
        (
            "one rounding",
            lambda w, s, c, n, pooled: c * n * (-(-w // math.prod(s))) ** (0 if pooled else 2),
        ),
    ],
    "quotient_follows": [
        ("decimals, open intervals", in_decimals),
        ("NumPy's bool", lambda p, n, d: np.bool_(in_decimals(p, n, d))),
    ],
    "cheapest_cut": [("sorted, a list", sorted_cuts)],
}
