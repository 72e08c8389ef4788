"""Typical wrong answers, and unusual right ones, to the exercises of lab 09_quantization."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Any, Any]


def affine_without_zero(low: float, high: float, bits: int) -> Pair:
    scale = (high - low) / (2**bits - 1) or 1.0
    return scale, max(
        -(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, round(-(2 ** (bits - 1)) - low / scale))
    )


def affine_unsigned(low: float, high: float, bits: int) -> Pair:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1) or 1.0
    return scale, round(-low / scale)


def affine_levels(low: float, high: float, bits: int) -> Pair:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 2**bits or 1.0
    return scale, round(-(2 ** (bits - 1)) - low / scale)


def affine_sign(low: float, high: float, bits: int) -> Pair:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1) or 1.0
    return scale, round(-(2 ** (bits - 1)) + low / scale)


def affine_float(low: float, high: float, bits: int) -> Pair:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1) or 1.0
    return scale, -(2 ** (bits - 1)) - low / scale


def affine_floor(low: float, high: float, bits: int) -> Pair:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1) or 1.0
    return scale, int((-(2 ** (bits - 1)) - low / scale) // 1)


def affine_zero_width(low: float, high: float, bits: int) -> Pair:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, round(-(2 ** (bits - 1)) - low / scale)


def shift_up_without_guard(accumulator: int, shift: int) -> int:
    return (accumulator + (1 << (shift - 1))) >> shift


def shift_half_away(accumulator: int, shift: int) -> int:
    size = (abs(accumulator) + ((1 << shift) >> 1)) >> shift
    return size if accumulator >= 0 else -size


def fold(
    w: Tensor, b: Tensor, g: Tensor, beta: Tensor, mean: Tensor, v: Tensor, eps: float
) -> Pair:
    factor = (g / torch.sqrt(v + eps)).reshape(-1, *[1] * (w.ndim - 1))
    return w * factor, beta + factor.flatten() * (b - mean)


def fold_forgets_bias(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    return fold(w, torch.zeros_like(b), g, beta, mean, v, eps)


def fold_keeps_bias(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    return fold(w, b, g, beta, mean, v, eps)[0], b + beta - g * mean / torch.sqrt(v + eps)


def fold_without_eps(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    return fold(w, b, g, beta, mean, v, 0.0)


def fold_without_root(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    return fold(w, b, g, beta, mean, (v + eps) ** 2, 0.0)


def fold_last_axis(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    factor = g / torch.sqrt(v + eps)
    shape = (1, -1, 1, 1) if w.shape[1] == len(factor) else (-1, 1, 1, 1)
    return w * factor.reshape(shape), beta + factor * (b - mean)


def fold_in_place(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    new_weight, new_bias = fold(w, b, g, beta, mean, v, eps)
    return w.copy_(new_weight), b.copy_(new_bias)


def largest(weight: Tensor) -> Tensor:
    return weight.abs().flatten(1).amax(1)


WRONG_ANSWERS = {
    "affine_parameters": [
        ("range without zero", affine_without_zero),
        ("unsigned codes", affine_unsigned),
        ("2**bits steps", affine_levels),
        ("zero-point with the wrong sign", affine_sign),
        ("zero-point not rounded", affine_float),
        ("zero-point rounded down", affine_floor),
        ("divides by a zero scale", affine_zero_width),
    ],
    "rounding_shift": [
        ("plain shift", lambda accumulator, shift: accumulator >> shift),
        ("half to even", lambda accumulator, shift: round(accumulator / 2**shift)),
        ("truncates", lambda accumulator, shift: int(accumulator / 2**shift)),
        ("half away from zero", shift_half_away),
        ("shift 0 not handled", shift_up_without_guard),
        ("in floats", lambda accumulator, shift: int((accumulator / 2**shift + 0.5) // 1)),
    ],
    "fold_convolution": [
        ("convolution bias forgotten", fold_forgets_bias),
        ("convolution bias not scaled", fold_keeps_bias),
        ("eps forgotten", fold_without_eps),
        ("no square root", fold_without_root),
        ("scales the input channels", fold_last_axis),
        ("changes its arguments", fold_in_place),
    ],
    "channel_scales": [
        ("one scale for all", lambda w, bits: w.abs().max() / (2 ** (bits - 1) - 1)),
        (
            "the same scale repeated",
            lambda w, bits: w.abs().max().repeat(len(w)) / (2 ** (bits - 1) - 1),
        ),
        (
            "input channels",
            lambda w, bits: w.abs().transpose(0, 1).flatten(1).amax(1) / (2 ** (bits - 1) - 1),
        ),
        ("maximum without sign", lambda w, bits: w.flatten(1).amax(1) / (2 ** (bits - 1) - 1)),
        ("full range", lambda w, bits: 2 * largest(w) / (2**bits - 1)),
        ("scale 0 for a zero channel", lambda w, bits: largest(w) / (2 ** (bits - 1) - 1)),
    ],
}


def affine_in_numpy(low: float, high: float, bits: int) -> Any:
    ends = np.array([min(low, 0), max(high, 0)])
    scale = np.ptp(ends) / (2**bits - 1) or np.float64(1)
    return np.array([scale, np.rint(-(2 ** (bits - 1)) - ends[0] / scale)]).tolist()


def affine_in_torch(low: float, high: float, bits: int) -> Any:
    ends = torch.tensor([low, high, 0.0], dtype=torch.float64)
    scale = ((ends.max() - ends.min()) / (2**bits - 1)).clamp(min=1e-12)
    return scale, torch.round(-(2 ** (bits - 1)) - ends.min() / scale).int()


def shift_by_remainder(accumulator: int, shift: int) -> int:
    quotient, rest = divmod(accumulator, 2**shift)
    return quotient + (2 * rest >= 2**shift)


def fold_in_numpy(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    f = g.numpy() / np.sqrt(v.numpy() + eps)
    return [np.einsum("oikl,o->oikl", w.numpy(), f), beta.numpy() + f * (b - mean).numpy()]


def fold_in_float32(w, b, g, beta, mean, v, eps):  # type: ignore[no-untyped-def]
    w, b, g, beta, mean, v = (t.float() for t in (w, b, g, beta, mean, v))
    factor = g * torch.rsqrt(v + eps)
    return (w.transpose(0, -1) * factor).transpose(0, -1), torch.addcmul(beta, factor, b - mean)


RIGHT_ANSWERS = {
    "affine_parameters": [("NumPy, a list", affine_in_numpy), ("tensors", affine_in_torch)],
    "rounding_shift": [
        ("by the remainder", shift_by_remainder),
        ("NumPy", lambda a, s: (np.int64(a) + (np.int64(1) << s) // 2) >> s),
        ("the bit below the cut", lambda a, s: (a >> s) + (a >> s - 1 & 1 if s else 0)),
    ],
    "fold_convolution": [("NumPy, a list", fold_in_numpy), ("float32", fold_in_float32)],
    "channel_scales": [
        (
            "a list",
            lambda w, bits: [(float(c.abs().max()) or 1) / (2 ** (bits - 1) - 1) for c in w],
        ),
        (
            "NumPy",
            lambda w, bits: (
                np.fmax(np.abs(w.numpy()).reshape(len(w), -1).max(1), 1e-9) / (2 ** (bits - 1) - 1)
            ),
        ),
    ],
}
