"""The integer model computed as the equations stand, in int64, layer by layer.

No trick of `helpers.fpga.datapath` is used here: padding writes the zero-point, sums run over the
taps of the kernel, and the requantization is integer arithmetic. A few hundred images per second.

Chapter: 11_fpga_datapath.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.arithmetic import Integers, check_mode
from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.requantizer import requantizer
from helpers.fpga.residual import addition


def run(
    model: IntegerModel,
    codes: npt.NDArray[np.int8],
    rounding: str = "half_up",
    multiplier_bits: int = 16,
) -> dict[str, npt.NDArray[np.int8]]:
    """The codes of every layer, (N, C, H, W) or (N, F), int8."""
    model.check_input(codes)
    blocks: list[dict[str, npt.NDArray[np.int8]]] = []
    for start in range(0, len(codes), 100) or [0]:
        values = {model.input.name: codes[start : start + 100]}
        for layer in model.layers[1:]:
            inputs = [values[name] for name in layer.inputs]
            values[layer.name] = compute(model, layer, inputs, rounding, multiplier_bits)
        blocks.append(values)
    return {layer.name: np.concatenate([b[layer.name] for b in blocks]) for layer in model}


def compute(
    model: IntegerModel,
    layer: IntegerLayer,
    inputs: list[npt.NDArray[np.int8]],
    rounding: str = "half_up",
    multiplier_bits: int = 16,
) -> npt.NDArray[np.int8]:
    """The codes of one layer, int8 (N, C, H, W) or (N, F), from the codes of its inputs.

    `rounding` and `multiplier_bits` are those of `Datapath`; here every sum is formed in int64.
    """
    mode = check_mode(rounding)
    if layer.op == "flatten":
        return inputs[0].reshape(len(inputs[0]), -1)
    if layer.op == "max_pool":
        windows = [tap for _, _, tap in _taps(inputs[0], layer, -128)]
        return np.ascontiguousarray(np.moveaxis(np.max(windows, axis=0), -1, 1)).astype(np.int8)
    if layer.op == "add":
        a, b = (
            x.astype(np.int64) - model.source(layer, i).zero_point for i, x in enumerate(inputs)
        )
        both = addition(model, layer, mode, multiplier_bits)
        return (both(a, b) + layer.zero_point).astype(np.int8)
    rule = requantizer(model, layer, mode, multiplier_bits)
    return rule(accumulate(model, layer, inputs[0])).astype(np.int8)


def accumulate(model: IntegerModel, layer: IntegerLayer, codes: npt.NDArray[Any]) -> Integers:
    """sum of w (q - Z) + bias for every output, int64, from the input codes (N, ...)."""
    zero_point = model.source(layer).zero_point
    weight = np.empty(0, np.int64) if layer.weight is None else layer.weight.astype(np.int64)
    bias = 0 if layer.bias is None else layer.bias.astype(np.int64)
    if layer.op == "linear":
        return (codes.astype(np.int64) - zero_point) @ weight.T + bias
    channels, height, width = layer.shape
    total = np.zeros((len(codes), height, width, channels), np.int64)
    for i, j, tap in _taps(codes, layer, zero_point):
        centred = tap - zero_point  # (N, H_out, W_out, C_in)
        if layer.op != "conv":
            total += centred
        elif layer.depthwise:
            total += centred * weight[:, 0, i, j]
        else:
            size, inputs = channels // layer.groups, weight.shape[1]
            for g in range(layer.groups):
                out, take = slice(g * size, (g + 1) * size), slice(g * inputs, (g + 1) * inputs)
                total[..., out] += centred[..., take] @ weight[out, :, i, j].T
    return np.ascontiguousarray(np.moveaxis(total + bias, -1, 1))


def _taps(
    codes: npt.NDArray[Any], layer: IntegerLayer, fill: int
) -> Iterator[tuple[int, int, Integers]]:
    """For each kernel position the codes it meets, int64 (N, H_out, W_out, C), padded by `fill`."""
    (ph, pw), (sh, sw), (_, height, width) = layer.padding, layer.stride, layer.shape
    last = np.moveaxis(codes.astype(np.int64), 1, -1)
    padded = np.pad(last, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=fill)
    padded = np.ascontiguousarray(padded)
    for i in range(layer.kernel[0]):
        for j in range(layer.kernel[1]):
            rows = slice(i, i + (height - 1) * sh + 1, sh)
            yield i, j, padded[:, rows, j : j + (width - 1) * sw + 1 : sw]
