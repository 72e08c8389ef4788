"""Fake quantization with a gradient: the straight-through estimator, written out.

Rounding is flat almost everywhere, so its true gradient is zero and nothing would train. The
straight-through estimator passes the gradient as if rounding were the identity, and stops it where
the value was clipped.

Sources: Bengio et al. 2013 (arXiv:1308.3432) for the estimator; Jacob et al. 2018
(arXiv:1712.05877) section 3 for its use on grids.

Chapter: 09b_qat.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _FakeQuantize(Function):
    """Round to the grid forward; pass the gradient where the rounded code was not clipped."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        qmin: int,
        qmax: int,
        dtype: torch.dtype,
    ) -> Tensor:
        code = (x / scale.to(x)).round_().add_(zero_point.to(x))
        ctx.save_for_backward((code >= qmin) & (code <= qmax))
        ctx.dtype = x.dtype
        code.clamp_(qmin, qmax).sub_(zero_point.to(x))
        return code.to(dtype).mul_(scale.to(x.device, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (passes,) = ctx.saved_tensors
        return (gradients[0] * passes).to(ctx.dtype), None, None, None, None, None


def fake_quantize_ste(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """scale * (clip(round(x / scale) + zero_point, qmin, qmax) - zero_point), with a gradient.

    `scale` and `zero_point` broadcast against `x` (`QuantizationParameters.like` shapes them) and
    get no gradient. d out / d x is 1 where the *rounded* code lies in qmin..qmax and 0 elsewhere,
    as in `torch.fake_quantize_per_tensor_affine`: with codes -128..127 and scale 1, -128.5 still
    passes (it rounds to -128), 127.5 does not (it rounds to 128). Ties round to even, before the
    zero-point is added. Codes are found in the dtype of `x`; the result has `dtype`, that of `x`
    unless given (float64 keeps code times scale exact).

    >>> x = torch.tensor([0.4, 3.0], requires_grad=True)
    >>> fake_quantize_ste(x, torch.tensor(1.0), torch.tensor(0), -2, 1).sum().backward()
    >>> x.grad.tolist()
    [1.0, 0.0]
    """
    if qmin >= qmax:
        raise ValueError(f"qmin must be below qmax, got {qmin} and {qmax}")
    if not (scale > 0).all():
        raise ValueError(f"scale must be positive, got {scale.detach().flatten()[:5].tolist()}")
    result: Tensor = _FakeQuantize.apply(
        x, scale.detach(), zero_point.detach(), qmin, qmax, dtype or x.dtype
    )
    return result


class _Round(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def round_ste(x: Tensor) -> Tensor:
    """Round half to even forward, the identity backward; any shape and float dtype."""
    result: Tensor = _Round.apply(x)
    return result


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = x.dtype
        return torch.where(x >= 0, 1.0, -1.0).to(dtype) * scale.to(x.device, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0].to(ctx.dtype), None, None


def sign_ste(x: Tensor, scale: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """One bit: +scale where x >= 0 and -scale elsewhere; the gradient passes everywhere.

    A signed symmetric range of one bit would hold the code 0 alone, so one bit means a sign (as in
    chapter 03_binaryconnect), times a scale: mean |x|, which has the least squared error.
    """
    result: Tensor = _Sign.apply(x, scale.detach(), dtype or x.dtype)
    return result
