"""The residual add: two tensors with different scales summed on the scale of a third.

Chapter: 11_fpga_datapath.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.arithmetic import (
    Integers,
    Mode,
    decompose,
    decompose_power_of_two,
    requantize,
    saturate,
)
from helpers.fpga.integer_model import IntegerLayer, IntegerModel, factors

Block = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Addition:
    """The exact rule of one residual add.

    Hardware modes: clip(round(((a - Z_a) m_a + (b - Z_b) m_b) / 2**shift) + Z_y), with one common
    shift and one rounding. onnxruntime mode: both inputs dequantized, added and quantized again,
    each step in float32, as the exported file asks for.
    """

    mode: Mode
    multipliers: tuple[int, int]
    shift: int
    scales: tuple[np.float32, np.float32, np.float32]  # a, b, output
    zero_point: int
    low: int
    high: int

    def __call__(self, a: Block, b: Block) -> Block:
        """Centred output codes, float32, of centred input codes of any equal shape."""
        if self.mode == "onnxruntime":
            scale_a, scale_b, scale = self.scales
            total = a.astype(np.float32) * scale_a + b.astype(np.float32) * scale_b
            codes = saturate(np.rint(total / scale) + self.zero_point, self.low, self.high)
        else:
            products = a.astype(np.int64) * self.multipliers[0]
            products += b.astype(np.int64) * self.multipliers[1]
            rounding = "half_even" if self.mode == "half_even" else "half_up"
            codes = requantize(
                products, 1, self.shift, self.zero_point, self.low, self.high, rounding
            )
        return (codes - self.zero_point).astype(np.float32)


def addition(
    model: IntegerModel, layer: IntegerLayer, mode: Mode, multiplier_bits: int = 16
) -> Addition:
    """The rule of an add layer. The larger factor fills the multiplier, the smaller shares its shift."""
    both = factors(model, layer)
    multipliers: Integers
    if mode == "shift":
        multipliers, shifts = decompose_power_of_two(both, f"a factor of layer {layer.name!r}")
        shift = int(shifts.max())
        left = shift - shifts
        if left.max() > 31:
            raise ValueError(
                f"the factors {both} of layer {layer.name!r} differ by more than 2**31"
            )
        multipliers = multipliers << left
    else:
        _, shifts = decompose(both.max(), multiplier_bits)
        shift = int(shifts)
        multipliers = np.rint(np.ldexp(both, shift)).astype(np.int64)
    scales = (model.source(layer, 0).scale, model.source(layer, 1).scale, layer.scale)
    return Addition(
        mode,
        (int(multipliers[0]), int(multipliers[1])),
        shift,
        (np.float32(scales[0]), np.float32(scales[1]), np.float32(scales[2])),
        layer.zero_point,
        layer.low,
        layer.high,
    )
