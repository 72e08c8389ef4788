"""From accumulator to code: the exact rule of a layer, and a proved float version of it.

Every requantization is a monotone step function of the accumulator: it is known completely by the
255 accumulators at which the code goes up by one. `prove` finds these steps with the exact integer
rule and tests a cheap floating-point formula on both sides of each. Both functions are monotone, so
agreement there is agreement everywhere between the smallest and the largest accumulator.

Chapter: 11_fpga_datapath.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.arithmetic import (
    Integers,
    Mode,
    decompose,
    decompose_power_of_two,
    requantize,
    requantize_float32,
)
from helpers.fpga.integer_model import IntegerLayer, IntegerModel, accumulator_range, factors

FloatArray = npt.NDArray[Any]  # float32 or float64
NUDGES = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6)  # of the factor, in units of its last place


@dataclass(frozen=True, eq=False)
class Requantizer:
    """The exact rule of one layer. Parameters have shape (C,), or (1,) for average pools."""

    mode: Mode
    multiplier: Integers
    shift: Integers
    scale: npt.NDArray[np.float32]  # used by the onnxruntime mode only
    zero_point: int
    low: int
    high: int

    def __call__(self, accumulator: npt.ArrayLike, axis: int = 1) -> Integers:
        """int64 codes of integer accumulators whose channels lie along `axis`."""
        values = np.asarray(accumulator)
        shape = [1] * values.ndim
        shape[axis] = -1
        if self.mode == "onnxruntime":
            return requantize_float32(
                values, self.scale.reshape(shape), self.zero_point, self.low, self.high
            )
        return requantize(
            values,
            self.multiplier.reshape(shape),
            self.shift.reshape(shape),
            self.zero_point,
            self.low,
            self.high,
            "half_even" if self.mode == "half_even" else "half_up",
        )


def requantizer(
    model: IntegerModel, layer: IntegerLayer, mode: Mode, multiplier_bits: int = 16
) -> Requantizer:
    """The rule of a conv, linear or average pooling layer in one of the four modes.

    In the shift mode an average pool keeps a multiplier: 1 over the window's size is one constant
    for the whole layer, which synthesis turns into a few adders.
    """
    factor = factors(model, layer)
    if mode == "shift" and layer.weight is not None:
        multiplier, shift = decompose_power_of_two(factor, f"the factor of layer {layer.name!r}")
    else:
        multiplier, shift = decompose(factor, multiplier_bits)
    return Requantizer(
        mode,
        multiplier,
        shift,
        float32_scale(model, layer),
        layer.zero_point,
        layer.low,
        layer.high,
    )


def float32_scale(model: IntegerModel, layer: IntegerLayer) -> npt.NDArray[np.float32]:
    """(S_x * S_w) / S_y as ONNX Runtime computes it: every operand and result in float32."""
    source = np.float32(model.source(layer).scale)
    if layer.weight_scale is not None:
        weight = layer.weight_scale.astype(np.float32)
    else:
        weight = np.array([1.0 / layer.taps], dtype=np.float32)
    return (source * weight) / np.float32(layer.scale)


@dataclass(frozen=True, eq=False)
class FloatSteps:
    """clip(rint((x + bias) * factor + offset), low, high) on centred codes q - Z.

    `x` holds sums of products without the bias, which is in `bias` or, times the factor, in
    `offset`; parameters have shape (C,), None means zeros. The channels `rows` are computed again by
    `rest`, in float64, where float32 is too coarse.
    """

    bias: FloatArray | None
    factor: FloatArray
    offset: FloatArray | None
    low: float
    high: float
    rows: Integers | None = None
    rest: "FloatSteps | None" = None

    def __call__(self, x: FloatArray, out: FloatArray) -> FloatArray:
        """Centred codes of `x` (C, ...) into `out`, whose shape is that of `x`."""
        kept = x[self.rows].astype(np.float64) if self.rows is not None else None
        shape = (-1,) + (1,) * (x.ndim - 1)
        if self.bias is not None:
            x = np.add(x, self.bias.reshape(shape), out=out)
        np.multiply(x, self.factor.reshape(shape), out=out)
        if self.offset is not None:
            np.add(out, self.offset.reshape(shape), out=out)
        np.rint(out, out=out)
        np.clip(out, out.dtype.type(self.low), out.dtype.type(self.high), out=out)
        if self.rest is not None and kept is not None:
            out[self.rows] = self.rest(kept, kept)
        return out


def step_edges(rule: Requantizer, low: Integers, high: Integers) -> Integers:
    """For each channel the accumulators at which the code reaches each level, int64 (C, levels).

    Level k is rule.low + 1 + k. Bisection between `low` and `high` (C,); an edge that lies beyond
    is given as high + 1, one that lies before as low.
    """
    levels = np.arange(rule.low + 1, rule.high + 1)
    below = np.repeat(low[:, None] - 1, len(levels), axis=1)  # code < level, or outside
    above = np.repeat(high[:, None] + 1, len(levels), axis=1)  # code >= level, or outside
    while (above - below > 1).any():
        middle = (below + above) >> 1
        reached = rule(middle, axis=0) >= levels
        above = np.where(reached, middle, above)
        below = np.where(reached, below, middle)
    return above


def prove(
    model: IntegerModel, layer: IntegerLayer, rule: Requantizer, dtype: type[np.floating[Any]]
) -> FloatSteps | None:
    """A float formula that equals `rule` for every accumulator the layer can produce, or None.

    The formula works in `dtype`; channels for which no float32 formula passes use float64.
    """
    low, high = accumulator_range(model, layer.name)
    edges = step_edges(rule, low, high)
    points = np.concatenate([low[:, None], edges - 1, edges, high[:, None]], axis=1)
    points = np.clip(points, low[:, None], high[:, None])
    codes = rule(points, axis=0) - rule.zero_point
    steps, found = _fit(rule, layer.bias, points, codes, dtype)
    if found.all():
        return steps
    fine, found_fine = _fit(rule, layer.bias, points, codes, np.float64)
    if not found_fine[~found].all():
        return None
    if dtype is np.float64 or found.sum() == 0:
        return fine if found_fine.all() else None
    rest = replace(
        fine,
        bias=None if fine.bias is None else fine.bias[~found],
        factor=fine.factor[~found],
        offset=None if fine.offset is None else fine.offset[~found],
    )
    return replace(steps, rows=np.flatnonzero(~found), rest=rest)


def _fit(
    rule: Requantizer,
    bias: npt.NDArray[np.int32] | None,
    points: Integers,
    codes: Integers,
    dtype: type[np.floating[Any]],
) -> tuple[FloatSteps, npt.NDArray[np.bool_]]:
    """Factors and offsets in `dtype`, and for which channels they give `codes` at all `points`.

    The bias goes into the offset, bias * factor, which saves an addition for every value, unless
    more channels pass where it is added first.
    """
    exact = np.zeros(len(points), np.int64) if bias is None else bias.astype(np.int64)
    steps, found = _fit_offset(rule, exact, points, codes, dtype, None)
    if exact.any() and not found.all():
        first, found_first = _fit_offset(rule, exact, points, codes, dtype, exact.astype(dtype))
        if found_first.sum() > found.sum():
            return first, found_first
    return steps, found


def _fit_offset(
    rule: Requantizer,
    bias: Integers,
    points: Integers,
    codes: Integers,
    dtype: type[np.floating[Any]],
    added: FloatArray | None,
) -> tuple[FloatSteps, npt.NDArray[np.bool_]]:
    """One of the two formulas: with `added`, the bias, before the product, or with None.

    With v the float product, rint(v + offset) is the code k if k - 1/2 < v + offset < k + 1/2. Each
    point bounds the offset from one side; the exact one is tried, then the middle of what is left.
    Then the formula is evaluated, as it will run, at every point.
    """
    limits = rule.low - rule.zero_point, rule.high - rule.zero_point
    if rule.mode == "onnxruntime":
        exact = rule.scale.astype(np.float64)
    else:
        exact = np.ldexp(rule.multiplier.astype(np.float64), -rule.shift)
    sums = points - bias[:, None]
    largest = np.maximum(np.abs(points), np.abs(sums)).max(axis=1)
    fits = largest <= 2 ** (np.finfo(dtype).nmant + 1)
    x, scratch = sums.astype(dtype), np.empty(sums.shape, dtype)
    middle = np.zeros(len(points)) if added is not None else bias * exact
    factor, offset = exact.astype(dtype), np.zeros(len(points), dtype)
    found = np.zeros(len(points), bool)
    steps = FloatSteps(added, factor, None, float(limits[0]), float(limits[1]))
    for nudge in NUDGES:
        trial = exact.astype(dtype) + dtype(nudge) * np.spacing(exact.astype(dtype))
        v = (points if added is not None else sums).astype(dtype) * trial[:, None]
        v64, around = v.astype(np.float64), middle[:, None]
        lowest = np.where(codes > limits[0], codes - 0.5 - v64, around - 1).max(axis=1)
        highest = np.where(codes < limits[1], codes + 0.5 - v64, around + 1).min(axis=1)
        for shifted in (middle, (lowest + highest) / 2):
            steps = replace(steps, factor=trial, offset=shifted.astype(dtype))
            good = (steps(x, scratch) == codes).all(axis=1) & fits & ~found
            factor[good], offset[good] = trial[good], shifted.astype(dtype)[good]
            found |= good
        if found.all():
            break
    return replace(steps, factor=factor, offset=offset if offset.any() else None), found
