"""From the trained network to bits and thresholds, and to a file and back.

A batch norm followed by a step asks on which side of a number the weighted sum lies. The sum is a
whole number, so the question has a whole answer: a threshold. It is found in exact rational
arithmetic, so that no rounding can put it one off.

Source: Umuroglu et al. 2017 (arXiv:1612.07119), batch norm and activation as a threshold.

Chapter: 03_binaryconnect.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from helpers.binaryconnect.integer import IntegerNetwork, Integers, pack, rank_bits, unpack
from helpers.binaryconnect.network import BinaryMLP, Codes, Sign
from helpers.binaryconnect.weights import BinaryLinear
from helpers.files import write_whole

FORMAT = "binary network 1"
Terms = tuple[Fraction, Fraction, Fraction, Fraction]


def first_reached(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest of `low` ... `high` where a rising condition holds, or high + 1 if none."""
    high += 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def reaches(
    x: Fraction, edge: Fraction, gamma: Fraction, beta: Fraction, mean: Fraction, variance: Fraction
) -> bool:
    """Whether gamma (x - mean) / sqrt(variance) + beta >= edge, decided without taking the root.

    `variance` is positive; it includes the batch norm's epsilon.
    """
    left, right = gamma * (x - mean), edge - beta  # is left >= right * sqrt(variance)?
    if (left >= 0) != (right >= 0):
        return left >= 0
    squares = left * left - right * right * variance
    return squares >= 0 if left >= 0 else squares <= 0


def fold(model: BinaryMLP, zero: int = 73, scale: int = 90) -> IntegerNetwork:
    """The integer network that decides as `model` does for inputs (pixel - zero) / scale.

    Hidden layers: where a whole-number sum s of codes comes in, the batch norm's input is
    x = unit (s - zero sum(w)). The threshold of an edge is the smallest s whose batch norm reaches
    it. A negative gamma turns the question round: that row's signs are turned instead, so that every
    comparison stays ">=". With gamma 0 the code is constant, and the threshold lies at the low end
    of the range or beyond its high end.

    Output: the largest y = unit (s - zero sum(w)) / divisor + bias is the largest s + o, with
    o = bias divisor / unit - zero sum(w). The whole part of o is added to s; its fraction can only
    decide between equal whole numbers, so its rank among the classes does. Both share one integer:
    key = (s << r) + offset, the rank in the low r bits. Of equal outputs the first class wins.

    Raises ValueError for a network whose activations are not steps or whose weights are not +-1.
    """
    layers = [m for m in model.hidden if isinstance(m, BinaryLinear)]
    norms = [m for m in model.hidden if isinstance(m, nn.BatchNorm1d)]
    steps = [m for m in model.hidden if isinstance(m, Codes | Sign)]
    kinds = {type(m) for m in steps}
    if len(steps) != len(layers) or len(norms) != len(layers) or len(kinds) > 1:
        raise ValueError(
            "the activations must be 'codes' or 'sign': behind a ReLU each unit keeps a real scale, "
            "which has to be multiplied"
        )
    if type(zero) is not int or type(scale) is not int or scale < 1:
        raise ValueError(
            f"zero and scale must be whole numbers, scale > 0, got {zero!r}, {scale!r}"
        )
    bits, thresholds = [], []
    unit, largest = Fraction(1, scale), 255
    for layer, norm, step in zip(layers, norms, steps, strict=True):
        weight = _signs(layer)
        middles = [zero * sum(row) for row in weight.tolist()]
        turns, table = _thresholds(norm, step, unit, middles, layer.in_features * largest)
        bits.append(pack(weight * np.array(turns)[:, None]))
        thresholds.append(_narrow(table))
        unit, zero = (Fraction(step.step), 0) if isinstance(step, Codes) else (Fraction(1), 0)
        largest = step.levels if isinstance(step, Codes) else 1
    weight = _signs(model.output)
    bits.append(pack(weight))
    factor = Fraction(model.output.divisor) / unit
    biases = _fractions(model.output.bias)
    exact = [
        bias * factor - zero * sum(row) for bias, row in zip(biases, weight.tolist(), strict=True)
    ]
    order = sorted(range(len(exact)), key=lambda k: (exact[k] % 1, -k))
    offsets = [((o // 1) << rank_bits(len(exact))) + order.index(k) for k, o in enumerate(exact)]
    name = "codes" if kinds == {Codes} else "sign"
    return IntegerNetwork(model.sizes, name, tuple(bits), tuple(thresholds), _narrow(offsets))


def _thresholds(
    norm: nn.BatchNorm1d, step: Codes | Sign, unit: Fraction, middles: list[int], reach: int
) -> tuple[list[int], list[list[int]]]:
    """For each unit whether its row is turned (-1 or +1), and its threshold at each edge."""
    turns, table = [], []
    for terms, middle in zip(_terms(norm), middles, strict=True):
        turn = -1 if terms[0] < 0 else 1

        def reached(
            s: int, edge: float, turn: int = turn, middle: int = middle, terms: Terms = terms
        ) -> bool:
            return reaches(unit * (turn * s - middle), Fraction(edge), *terms)

        turns.append(turn)
        table.append([first_reached(partial(reached, edge=e), -reach, reach) for e in step.edges])
    return turns, table


def _signs(layer: BinaryLinear) -> NDArray[np.int64]:
    """The weights of eval mode as whole numbers, (N_o, N_i); ValueError unless all are +-1."""
    mode = layer.training
    try:
        used = layer.eval().used().detach()
    finally:
        layer.train(mode)
    if not ((used == 1) | (used == -1)).all():
        raise ValueError(
            f"the weights used at test time are not all +1 or -1 (test_rule={layer.test_rule!r}): "
            "only the deterministic rule gives a binary network"
        )
    return used.to(torch.int64).numpy()


def _fractions(numbers: Tensor | None) -> list[Fraction]:
    if numbers is None or not torch.isfinite(numbers).all():
        raise ValueError(f"a batch norm or bias is missing or not finite: {numbers}")
    return [Fraction(number) for number in numbers.detach().double().tolist()]


def _terms(norm: nn.BatchNorm1d) -> list[Terms]:
    """gamma, beta, mean and variance + eps of each unit."""
    columns = map(_fractions, (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    eps = Fraction(norm.eps)
    return [(g, b, m, v + eps) for g, b, m, v in zip(*columns, strict=True)]


def _narrow(numbers: list[int] | list[list[int]]) -> Integers:
    """int16 where that is wide enough, else int32; ValueError beyond."""
    values = np.array(numbers, dtype=object)
    for dtype in (np.int16, np.int32):
        limits = np.iinfo(dtype)
        if ((values >= limits.min) & (values <= limits.max)).all():
            return values.astype(dtype)
    raise ValueError(f"a number needs more than 32 bits: {max(abs(v) for v in values.flat)}")


def write(path: str | Path, network: IntegerNetwork) -> None:
    """Write the network as one safetensors file: whole, or not at all."""
    path = Path(path)
    sizes = " ".join(map(str, network.sizes))
    header = {"format": FORMAT, "activation": network.activation, "sizes": sizes}
    arrays = {name: np.ascontiguousarray(array) for name, array in network.arrays().items()}
    write_whole(path.parent, {path.name: save(arrays, header)})


def read(path: str | Path) -> IntegerNetwork:
    """Read what `write` wrote; ValueError that names the file and what is wrong with it."""
    try:
        with safe_open(str(path), framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
    if header.get("format") != FORMAT or header.get("activation") not in ("codes", "sign"):
        raise ValueError(f"{path}: expected the format {FORMAT!r}, got {header}")
    if not re.fullmatch(r"[1-9]\d*( [1-9]\d*)+", header.get("sizes", "")):
        raise ValueError(f"{path}: expected the units of two or more layers, got {header}")
    sizes = tuple(int(n) for n in header["sizes"].split())
    pairs = list(pairwise(sizes))
    bits = tuple(_stored(path, arrays, f"bits{i}") for i in range(1, len(pairs) + 1))
    thresholds = tuple(_stored(path, arrays, f"thresholds{i}") for i in range(1, len(pairs)))
    offsets = _stored(path, arrays, "offsets")
    for (before, after), rows in zip(pairs, bits, strict=True):
        fits = rows.dtype == np.uint8 and rows.shape == (after, -(-before // 8))
        if not fits or not np.array_equal(np.packbits(unpack(rows, before), axis=1), rows):
            raise ValueError(f"{path}: bits of shape {rows.shape} do not fit {before} to {after}")
    for after, edges in zip(sizes[1:-1], thresholds, strict=True):
        if edges.ndim != 2 or len(edges) != after or (np.diff(edges.astype(np.int64)) < 0).any():
            raise ValueError(f"{path}: thresholds must rise along {after} rows, got {edges.shape}")
    if offsets.shape != sizes[-1:]:
        raise ValueError(f"{path}: expected {sizes[-1]} offsets, got {offsets.shape}")
    return IntegerNetwork(sizes, header["activation"], bits, thresholds, offsets)


def _stored(path: str | Path, arrays: dict[str, Integers], name: str) -> Integers:
    if name not in arrays or arrays[name].dtype.kind not in "iu":
        raise ValueError(f"{path}: expected whole numbers called {name!r}, got {sorted(arrays)}")
    return arrays[name]
