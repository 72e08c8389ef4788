"""Typical wrong answers to the exercises of lab 09b_qat."""

import torch
from torch import Tensor


def mask_before_rounding(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    ratio = x / scale + zero_point
    return upstream * ((ratio >= qmin) & (ratio <= qmax))


def mask_without_zero_point(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    code = torch.round(x / scale)
    return upstream * ((code >= qmin) & (code <= qmax))


def mask_after_clipping(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    code = (torch.round(x / scale) + zero_point).clamp(qmin, qmax)
    return upstream * ((code >= qmin) & (code <= qmax))


def mask_strict(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    code = torch.round(x / scale) + zero_point
    return upstream * ((code > qmin) & (code < qmax))


def mask_times_scale(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    code = torch.round(x / scale) + zero_point
    return upstream * scale * ((code >= qmin) & (code <= qmax))


def mask_multiplies(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    code = torch.round(x * scale) + zero_point
    return upstream * ((code >= qmin) & (code <= qmax))


def slope(v: Tensor, step: float, q_n: int, q_p: int) -> Tensor:
    ratio = v / step
    codes = torch.round(ratio.clamp(-q_n, q_p))
    return torch.where((ratio > -q_n) & (ratio < q_p), codes - ratio, codes)


def step_without_scale(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    return (upstream * slope(v, step, q_n, q_p)).sum()


def step_per_value(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    return upstream * slope(v, step, q_n, q_p) / (v.numel() * q_p) ** 0.5


def step_ignores_upstream(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    return slope(v, step, q_n, q_p).sum() / (v.numel() * q_p) ** 0.5


def step_of_codes(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    codes = torch.round((v / step).clamp(-q_n, q_p))
    return (upstream * codes).sum() / (v.numel() * q_p) ** 0.5


def step_masked(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    ratio = v / step
    inside = (ratio > -q_n) & (ratio < q_p)
    return (upstream * inside * (torch.round(ratio) - ratio)).sum() / (v.numel() * q_p) ** 0.5


def step_rounded_mask(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    ratio = v / step
    codes = torch.round(ratio)
    inside = (codes >= -q_n) & (codes <= q_p)
    wanted = torch.where(inside, codes - ratio, ratio.clamp(-q_n, q_p))
    return (upstream * wanted).sum() / (v.numel() * q_p) ** 0.5


def step_sign(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    return -(upstream * slope(v, step, q_n, q_p)).sum() / (v.numel() * q_p) ** 0.5


def factor(gamma: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (gamma / torch.sqrt(variance + eps)).reshape(-1, 1, 1, 1)


def rounded(weight: Tensor, bits: int, scale: Tensor | None = None) -> Tensor:
    scale = weight.abs().max() / (2 ** (bits - 1) - 1) if scale is None else scale
    return scale * torch.round(weight / scale)


def weight_quantized_first(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    return rounded(weight, bits)


def weight_left_folded(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    return rounded(factor(gamma, variance, eps) * weight, bits)


def weight_per_channel(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    f = factor(gamma, variance, eps)
    scale = (f * weight).abs().amax((1, 2, 3), keepdim=True) / (2 ** (bits - 1) - 1)
    return rounded(f * weight, bits, scale) / f


def weight_without_eps(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    f = factor(gamma, variance, 0.0)
    return rounded(f * weight, bits) / f


def weight_without_root(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    f = (gamma / (variance + eps)).reshape(-1, 1, 1, 1)
    return rounded(f * weight, bits) / f


def weight_not_quantized(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    return weight.clone()


def weight_full_range(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    f = factor(gamma, variance, eps)
    return rounded(f * weight, bits, 2 * (f * weight).abs().max() / (2**bits - 1)) / f


WRONG_ANSWERS = {
    "straight_through": [
        ("mask before rounding", mask_before_rounding),
        ("zero-point forgotten", mask_without_zero_point),
        ("mask after clipping", mask_after_clipping),
        ("last codes left out", mask_strict),
        ("gradient times scale", mask_times_scale),
        ("scale multiplied", mask_multiplies),
        ("no mask", lambda x, scale, zero_point, qmin, qmax, upstream: upstream),
    ],
    "step_gradient": [
        ("no gradient scale", step_without_scale),
        ("not summed", step_per_value),
        ("upstream forgotten", step_ignores_upstream),
        ("v/s treated as constant", step_of_codes),
        ("nothing outside", step_masked),
        ("mask on the rounded code", step_rounded_mask),
        ("wrong sign", step_sign),
    ],
    "training_weight": [
        ("quantized before folding", weight_quantized_first),
        ("left folded", weight_left_folded),
        ("a scale for each channel", weight_per_channel),
        ("eps forgotten", weight_without_eps),
        ("no square root", weight_without_root),
        ("not quantized", weight_not_quantized),
        ("full range", weight_full_range),
    ],
}
