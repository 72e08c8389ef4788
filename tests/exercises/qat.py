"""Typical wrong answers, and unusual right ones, to the exercises of lab 09b_qat."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
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


Rows = list[dict[int, float]]


def packed(counts: list[int], widths: Any) -> int:
    return sum(-(-n * b // 8) for n, b in zip(counts, widths, strict=True))


def total(losses: Rows, widths: Any) -> float:
    return sum(row[b] for row, b in zip(losses, widths, strict=True))


def best_of(losses: Rows, choices: list[Any]) -> list[int]:
    if not choices:
        raise ValueError("nothing fits")
    return list(min(choices, key=lambda widths: total(losses, widths)))


def uniform_width(losses: Rows, counts: list[int], limit: int) -> list[int]:
    shared = set.intersection(*(set(row) for row in losses))
    return best_of(
        losses,
        [[b] * len(losses) for b in shared if packed(counts, [b] * len(losses)) <= limit],
    )


def greedy_widths(losses: Rows, counts: list[int], limit: int) -> list[int]:
    widths = [max(row) for row in losses]
    while packed(counts, widths) > limit:
        steps = []
        for i, row in enumerate(losses):
            lower = [b for b in row if b < widths[i]]
            if lower:
                steps.append((row[max(lower)] - row[widths[i]], i, max(lower)))
        if not steps:
            raise ValueError("nothing fits")
        _, place, width = min(steps)
        widths[place] = width
    return widths


def widths_without_rounding(losses: Rows, counts: list[int], limit: int) -> list[int]:
    every = itertools.product(*losses)
    fitting = [w for w in every if sum(n * b for n, b in zip(counts, w, strict=True)) / 8 <= limit]
    return best_of(losses, fitting)


def widths_strictly_below(losses: Rows, counts: list[int], limit: int) -> list[int]:
    return best_of(losses, [w for w in itertools.product(*losses) if packed(counts, w) < limit])


def widths_most_bits(losses: Rows, counts: list[int], limit: int) -> list[int]:
    fitting = [w for w in itertools.product(*losses) if packed(counts, w) <= limit]
    if not fitting:
        raise ValueError("nothing fits")
    return list(max(fitting, key=lambda w: packed(counts, w)))


def widths_worst_layer(losses: Rows, counts: list[int], limit: int) -> list[int]:
    fitting = [w for w in itertools.product(*losses) if packed(counts, w) <= limit]
    if not fitting:
        raise ValueError("nothing fits")
    return list(min(fitting, key=lambda w: max(row[b] for row, b in zip(losses, w, strict=True))))


def widths_never_refused(losses: Rows, counts: list[int], limit: int) -> list[int]:
    try:
        return best_of(
            losses, [w for w in itertools.product(*losses) if packed(counts, w) <= limit]
        )
    except ValueError:
        return [min(row) for row in losses]


def claim(backbone: int, head: int, times: float) -> float | None:
    bits = 32 / backbone * ((backbone + head) / times - head)
    return bits if bits > 0 else None


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
    "widths_in_budget": [
        ("one width for all", uniform_width),
        ("greedy, one step at a time", greedy_widths),
        ("bytes not rounded up", widths_without_rounding),
        ("the limit itself refused", widths_strictly_below),
        ("the most bits that fit", widths_most_bits),
        ("the worst layer only", widths_worst_layer),
        ("returns what does not fit", widths_never_refused),
    ],
    "bits_for_claim": [
        ("the head forgotten", lambda backbone, head, times: 32 / times),
        (
            "negative bits",
            lambda backbone, head, times: 32 / backbone * ((backbone + head) / times - head),
        ),
        ("zero bits allowed", lambda b, h, t: max(0.0, claim(b, h, t) or 0.0)),
        (
            "bytes for bits",
            lambda b, h, t: None if claim(b, h, t) is None else (claim(b, h, t) or 0) / 8,
        ),
        ("refused below one bit", lambda b, h, t: x if (x := claim(b, h, t)) and x >= 1 else None),
    ],
}


def mask_by_autograd(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    x = x.clone().requires_grad_()
    torch.fake_quantize_per_tensor_affine(x, scale, zero_point, qmin, qmax).backward(upstream)
    return x.grad


def mask_in_python(x, scale, zero_point, qmin, qmax, upstream):  # type: ignore[no-untyped-def]
    codes = [round(v / scale) + zero_point for v in x.tolist()]
    return [u * (qmin <= c <= qmax) for c, u in zip(codes, upstream.tolist(), strict=True)]


def step_in_numpy(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    r = np.asarray(v, dtype=float) / step
    slope = np.select([r <= -q_n, r >= q_p], [-q_n, q_p], np.rint(r) - r)
    return (np.asarray(upstream) * slope).sum() / np.sqrt(r.size * q_p)


def step_by_autograd(v, step, q_n, q_p, upstream):  # type: ignore[no-untyped-def]
    s = torch.tensor(float(step), requires_grad=True)
    ratio = (v / s).clamp(-q_n, q_p)
    ((ratio + (ratio.round() - ratio).detach()) * s * upstream).sum().backward()
    assert s.grad is not None
    return s.grad / (v.numel() * q_p) ** 0.5


def weight_in_numpy(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    f = (gamma.numpy() / np.sqrt(variance.numpy() + eps))[:, None, None, None]
    scale = np.abs(f * weight.numpy()).max() / (2 ** (bits - 1) - 1)
    return (np.floor(f * weight.numpy() / scale + 0.5) * scale / f).tolist()  # half up will do


def weight_of_a_parameter(weight, gamma, variance, eps, bits):  # type: ignore[no-untyped-def]
    folded = torch.nn.Parameter(weight).double() * (f := factor(gamma, variance, eps))
    step = folded.abs().max() / (2 ** (bits - 1) - 1)
    return torch.round(folded / step) * step / f


def widths_in_numpy(losses: Rows, counts: list[int], limit: int) -> Any:
    every = np.array(list(itertools.product(*losses)))
    every = every[np.ceil(every * np.array(counts) / 8).sum(1) <= limit]
    return every[
        np.argmin([total(losses, widths) for widths in every])
    ]  # argmin of none: ValueError


RIGHT_ANSWERS = {
    "straight_through": [("autograd", mask_by_autograd), ("a list", mask_in_python)],
    "step_gradient": [("NumPy", step_in_numpy), ("autograd", step_by_autograd)],
    "training_weight": [
        ("NumPy, a list", weight_in_numpy),
        ("float64 with a graph", weight_of_a_parameter),
    ],
    "widths_in_budget": [
        ("NumPy", widths_in_numpy),
        ("a tuple", lambda rows, counts, limit: tuple(widths_in_numpy(rows, counts, limit))),
    ],
    "bits_for_claim": [
        (
            "a fraction",
            lambda b, h, t: (
                x if (x := Fraction(32 * (b + h), t * b) - Fraction(32 * h, b)) > 0 else None
            ),
        ),
        ("float32", lambda b, h, t: None if (x := claim(b, h, t)) is None else np.float32(x)),
    ],
}
