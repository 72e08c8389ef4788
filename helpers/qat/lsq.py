"""LSQ: the step of the quantizer is a parameter, with a gradient of its own.

Source: Esser et al. 2020, "Learned step size quantization" (arXiv:1902.08153), sections 2.1 and 2.2.

Chapter: 09b_qat.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from helpers.quantization.grids import QuantizationParameters, fake_quantize, symmetric


class _LSQ(Function):
    @staticmethod
    def forward(
        ctx: Any, v: Tensor, step: Tensor, q_n: int, q_p: int, gradient_scale: float
    ) -> Tensor:
        ratio = v / step
        ctx.save_for_backward(ratio, step)
        ctx.bounds = (q_n, q_p, gradient_scale)
        return torch.round(ratio.clamp(-q_n, q_p)) * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        ratio, step = ctx.saved_tensors
        q_n, q_p, gradient_scale = ctx.bounds
        inside = (ratio > -q_n) & (ratio < q_p)
        codes = torch.round(ratio.clamp(-q_n, q_p))
        slope = torch.where(inside, codes - ratio, codes)  # -Q_N or Q_P outside
        shared = (gradient * slope).sum_to_size(step.shape)
        return gradient * inside, shared * gradient_scale, None, None, None


def lsq(
    v: Tensor, step: Tensor, q_n: int, q_p: int, *, gradient_scale: float | None = None
) -> Tensor:
    """round(clip(v / step, -q_n, q_p)) * step, with the gradients of the LSQ paper.

    d out / d step is round(v/s) - v/s inside, -q_n below and q_p above; summed over the values that
    share the step and multiplied by `gradient_scale`, 1 / sqrt(N q_p) unless given, N values to a
    step. d out / d v is 1 for -q_n < v/s < q_p, of the quotient *before* rounding: the outermost
    half steps, which `fake_quantize_ste` passes, are blocked. `step` is positive and broadcasts
    against `v`; 0 <= q_n, 1 <= q_p.
    """
    if q_n < 0 or q_p < 1:
        raise ValueError(f"q_n must be at least 0 and q_p at least 1, got {q_n} and {q_p}")
    if not (step > 0).all():
        raise ValueError(f"step must be positive, got {step.detach().flatten()[:5].tolist()}")
    if gradient_scale is None:
        gradient_scale = 1 / math.sqrt(v.numel() / step.numel() * q_p)
    result: Tensor = _LSQ.apply(v, step, q_n, q_p, gradient_scale)
    return result


def initial_step(v: Tensor, q_p: int, *, axis: int | None = None) -> Tensor:
    """The paper's first step, 2 mean|v| / sqrt(q_p), one or one per index of `axis`.

    A channel of zeros, whose mean gives no step, gets the largest of the others (1 without any).
    """
    v = v.detach().abs()
    other = [d for d in range(v.ndim) if axis is not None and d != axis % v.ndim]
    mean = v.mean() if axis is None else v.mean(other)
    step = 2 * mean / math.sqrt(q_p)
    largest = step.max()
    return torch.where(step > 0, step, largest if largest > 0 else torch.ones_like(largest))


def least_squares_step(v: Tensor, bits: int, *, axis: int | None = None) -> Tensor:
    """The step of least squared error among 5 % ... 100 % of max|v| / q_p, one or one per index.

    `bits` counts a restricted symmetric range (q_n = q_p). A network that was trained without the
    quantizer starts from here with far less lost than from `initial_step`, which suits layers
    of thousands of weights and long training. Indices with zeros only get step 1.
    """
    v, p = v.detach(), symmetric(v.detach(), bits, axis=axis)
    best = torch.full_like(p.scale, torch.inf)
    step = p.scale.clone()
    for percent in range(100, 4, -5):
        part = QuantizationParameters(p.scale * percent / 100, p.zero_point, p.qmin, p.qmax, axis)
        error = (fake_quantize(v, part) - v).double().square()
        error = error.sum() if axis is None else error.transpose(0, axis).flatten(1).sum(1)
        step = torch.where(error < best, part.scale, step)
        best = torch.minimum(error, best)
    return step.to(v.dtype)
