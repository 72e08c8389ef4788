"""Uniform quantization: real numbers on an integer grid, r = scale * (q - zero_point).

Every scale is a float64 tensor whose value float32 can hold exactly. An exported file with float32
scales, a float32 runtime and the integer datapath then speak of the same numbers.

Sources: Jacob et al. 2018 (arXiv:1712.05877) section 2.1; Krishnamoorthi 2018 (arXiv:1806.08342)
sections 2 and 3.

Chapter: 09_quantization.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from helpers.models import weight_layers

Rounding = Literal["half_even", "half_up", "half_away", "floor", "truncate"]


def integer_range(bits: int, *, signed: bool = True, narrow: bool = False) -> tuple[int, int]:
    """Smallest and largest code of a `bits` wide integer, 2 to 32 bits.

    `narrow` leaves out the most negative code of a signed range: -127..127 instead of -128..127.
    One bit is refused: a signed symmetric range would hold the code 0 alone, and {-1, +1} is
    another method (chapter 03_binaryconnect).
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 32:
        raise ValueError(f"bits must be a whole number from 2 to 32, got {bits!r}")
    if not signed:
        if narrow:
            raise ValueError("narrow=True is for signed ranges, got signed=False")
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)) + int(narrow), 2 ** (bits - 1) - 1


@dataclass(frozen=True, eq=False)
class QuantizationParameters:
    """One grid: r = scale * (q - zero_point) with qmin <= q <= qmax.

    `scale` (float64, rounded to a float32 value on construction) and `zero_point` (int32) are
    scalars, shape (), or hold one entry per channel, shape (C,), along dimension `axis`.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int
    axis: int | None = None

    def __post_init__(self) -> None:
        scale = torch.as_tensor(self.scale, dtype=torch.float64).to(torch.float32)
        if not (torch.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"scale must be positive and finite in float32, got {self.scale}")
        zero_point = torch.as_tensor(self.zero_point, dtype=torch.int32).expand(scale.shape)
        if scale.ndim != (0 if self.axis is None else 1):
            raise ValueError(
                f"scale has shape {tuple(scale.shape)}: a scalar goes with axis=None, "
                f"shape (C,) with an axis; got axis={self.axis}"
            )
        if ((zero_point < self.qmin) | (zero_point > self.qmax)).any():
            raise ValueError(
                f"zero_point must lie in {self.qmin}..{self.qmax}, got {self.zero_point}"
            )
        object.__setattr__(self, "scale", scale.to(torch.float64))
        object.__setattr__(self, "zero_point", zero_point.clone())

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest real number on the grid, float64."""
        return self.scale * (self.qmin - self.zero_point), self.scale * (
            self.qmax - self.zero_point
        )

    def like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero-point in the dtype of `x`, shaped to broadcast against it."""
        scale, zero_point = self.scale.to(x), self.zero_point.to(x)
        if self.axis is None:
            return scale, zero_point
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return scale.reshape(shape), zero_point.reshape(shape)


def numbers(x: Tensor, name: str = "x") -> Tensor:
    """`x` as a float32 or float64 tensor; NaN, infinity and emptiness are refused."""
    x = torch.as_tensor(x).detach()
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: a range needs at least one value")
    x = x if x.dtype == torch.float64 else x.to(torch.float32)
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite")
    return x


def finish_scale(scale: Tensor, power_of_two: bool) -> Tensor:
    """A float32 scale; degenerate (zero) ranges get 1; `power_of_two` rounds up to 2**k."""
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    if power_of_two:
        mantissa, exponent = torch.frexp(scale)  # scale = mantissa * 2**exponent, 0.5 <= mantissa
        scale = torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).to(torch.int32))
    return scale.to(torch.float32).to(torch.float64)


def symmetric(
    x: Tensor,
    bits: int,
    *,
    axis: int | None = None,
    narrow: bool = True,
    power_of_two: bool = False,
) -> QuantizationParameters:
    """The grid with zero-point 0 that spans [-max|x|, +max|x|].

    `axis` asks for one scale per index of that dimension (per channel). The restricted range
    (`narrow`) has scale max|x| / (2**(bits-1) - 1), so both ends are codes; the full range has
    2 max|x| / (2**bits - 1), so +max|x| falls half a step outside and is clipped.
    A tensor (or channel) of zeros gets scale 1.
    """
    qmin, qmax = integer_range(bits, narrow=narrow)
    x = numbers(x).abs().to(torch.float64)
    largest = x.amax() if axis is None else x.amax([d for d in range(x.ndim) if d != axis % x.ndim])
    scale = finish_scale(2 * largest / (qmax - qmin), power_of_two)
    return QuantizationParameters(
        scale, torch.zeros_like(scale, dtype=torch.int32), qmin, qmax, axis
    )


def affine(
    low: float | Tensor,
    high: float | Tensor,
    bits: int,
    *,
    signed: bool = True,
    power_of_two: bool = False,
    axis: int | None = None,
) -> QuantizationParameters:
    """The grid that spans [low, high], extended to contain 0 so that 0.0 is a code exactly.

    scale = (high - low) / (qmax - qmin), zero_point = round(qmin - low / scale), half to even.
    Tensors of shape (C,) with `axis` give one grid per channel. A range of zero width at 0 gets
    scale 1. After a ReLU low is 0, so the signed zero-point is qmin (-128 for 8 bits).
    """
    qmin, qmax = integer_range(bits, signed=signed)
    low = numbers(torch.as_tensor(low, dtype=torch.float64), "low")
    high = numbers(torch.as_tensor(high, dtype=torch.float64), "high")
    if (low > high).any():
        raise ValueError(f"low must not exceed high, got low={low.tolist()}, high={high.tolist()}")
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = finish_scale((high - low) / (qmax - qmin), power_of_two)
    zero_point = torch.round(qmin - low / scale).clamp(qmin, qmax).to(torch.int32)
    return QuantizationParameters(scale, zero_point, qmin, qmax, axis)


def _half_up(x: Tensor) -> Tensor:
    below = torch.floor(x)
    return below + (x - below >= 0.5).to(x.dtype)


ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "half_even": torch.round,  # IEEE 754's default, NumPy, PyTorch, ONNX
    "half_up": _half_up,  # hardware: add one half, then drop the fraction bits
    "half_away": lambda x: torch.sign(x) * _half_up(x.abs()),  # C's round(), TFLite
    "floor": torch.floor,  # an arithmetic right shift
    "truncate": torch.trunc,  # a C cast, Verilog's signed division
}


def _codes(x: Tensor, p: QuantizationParameters, rounding: str) -> Tensor:
    """Codes as whole numbers in a float tensor, in the dtype of `x`."""
    if rounding not in ROUNDING:
        raise ValueError(f"rounding must be one of {sorted(ROUNDING)}, got {rounding!r}")
    if torch.isnan(x).any():
        raise ValueError(f"x holds {int(torch.isnan(x).sum())} NaN: no code stands for it")
    scale, zero_point = p.like(x)
    return ROUNDING[rounding](x / scale).add_(zero_point).clamp_(p.qmin, p.qmax)


def quantize(x: Tensor, p: QuantizationParameters, rounding: Rounding = "half_even") -> Tensor:
    """Codes clip(round(x / scale) + zero_point, qmin, qmax) of the same shape, int32.

    The quotient is taken in the dtype of `x` (float16 in float32), as ONNX's QuantizeLinear does,
    and rounded before the zero-point is added. Infinities saturate; NaN is refused.
    """
    x = x if x.dtype == torch.float64 else x.to(torch.float32)
    return _codes(x, p, rounding).to(torch.int32)


def dequantize(q: Tensor, p: QuantizationParameters, dtype: torch.dtype = torch.float32) -> Tensor:
    """The real numbers scale * (q - zero_point) of the codes, rounded once to `dtype`."""
    scale, zero_point = p.like(q.to(torch.float64))
    return ((q.to(torch.float64) - zero_point) * scale).to(dtype)


def fake_quantize(x: Tensor, p: QuantizationParameters, rounding: Rounding = "half_even") -> Tensor:
    """`x` moved to the nearest grid point and kept as float: dequantize(quantize(x)), same dtype."""
    if x.dtype not in (torch.float32, torch.float64):
        return fake_quantize(x.to(torch.float32), p, rounding).to(x.dtype)
    codes = _codes(x, p, rounding)
    scale, zero_point = p.like(x)
    return codes.sub_(zero_point).mul_(scale)


def weight_bits_of(
    bits: int | Mapping[str, int | None] | None,
    layers: list[str],
    default: int | None,
    lowest: int = 2,
) -> dict[str, int | None]:
    """Bits per layer name from one number or a mapping; unknown names are refused.

    `lowest` to 8 bits are allowed; None leaves a layer's weights float.
    """
    if isinstance(bits, Mapping):
        unknown = sorted(set(bits) - set(layers))
        if unknown:
            raise ValueError(f"weight bits for unknown layers {unknown}; the layers are {layers}")
    table = {n: bits.get(n, default) if isinstance(bits, Mapping) else bits for n in layers}
    for name, value in table.items():
        if value is not None and (type(value) is not int or not lowest <= value <= 8):
            raise ValueError(
                f"weight bits of {name!r} must be a whole number from {lowest} to 8, got {value!r}"
            )
    return table


def weight_only(
    model: nn.Module,
    bits: int | Mapping[str, int],
    *,
    per_channel: bool = True,
    scheme: Literal["symmetric", "affine"] = "symmetric",
) -> nn.Module:
    """A copy of `model` whose convolution and linear weights lie on a `bits` wide grid.

    Biases and activations stay float. `bits` may map layer names to widths; the layers it leaves
    out stay float. Fold batch norm first (`fold_batch_norm`), or the
    grid is not the one that the hardware multiplies with.
    """
    model = copy.deepcopy(model)
    layers = weight_layers(model)
    axis = 0 if per_channel else None
    for name, width in weight_bits_of(bits, list(layers), None).items():
        if width is None:
            continue
        weight = layers[name].weight
        rows = numbers(weight, f"the weight of {name!r}").flatten(1)
        rows = rows if per_channel else rows.reshape(1, -1)
        if scheme == "symmetric":
            p = symmetric(weight, width, axis=axis)
        elif scheme == "affine":
            low, high = rows.amin(1), rows.amax(1)
            p = affine(
                low if per_channel else low[0], high if per_channel else high[0], width, axis=axis
            )
        else:
            raise ValueError(f"scheme must be 'symmetric' or 'affine', got {scheme!r}")
        with torch.no_grad():
            weight.copy_(fake_quantize(weight.detach(), p))
    return model
