"""The quantizers of a network in training: one for each layer's weights, one for its outputs.

Each knows its grid at any moment (`grid`, a `QuantizationParameters`) and quantizes with a gradient
(`forward`). The grid follows the values ("min_max": the weights' largest magnitude, a moving
average of the outputs' extremes) or is learned ("lsq": the logarithm of the step is a parameter).

Sources: Jacob et al. 2018 (arXiv:1712.05877) section 3.1; Esser et al. 2020 (arXiv:1902.08153).

Chapter: 09b_qat.
"""

import torch
from torch import Tensor, nn

from helpers.qat.fake import fake_quantize_ste, sign_ste
from helpers.qat.lsq import initial_step, lsq
from helpers.quantization.calibration import Summary
from helpers.quantization.grids import (
    QuantizationParameters,
    affine,
    integer_range,
    quantize,
    symmetric,
)
from helpers.quantization.network import room_for_bias

STEPS = ("min_max", "lsq")
MOMENTUM = 0.1  # of the moving average of ranges, per training batch; batch norm's default


class WeightQuantizer(nn.Module):
    """Weights of `bits` bits (1 to 8) on a symmetric grid, per output channel or per tensor.

    One bit is scale * sign(w) with scale = mean|w|. "lsq" holds log(step) instead of the step: it
    stays positive whatever the optimizer does, and a rate of 0.001 changes it by about 0.1 %, large
    or small (AdamW divides gradients by their size, so steps in absolute terms would not do).
    """

    def __init__(self, bits: int, weight: Tensor, *, per_channel: bool, step: str) -> None:
        super().__init__()
        self.bits, self.axis = bits, 0 if per_channel else None
        self.log_step: nn.Parameter | None = None
        if step == "lsq":
            if bits < 2:
                raise ValueError(
                    f"step='lsq' needs at least 2 bits (one bit has no step), got {bits}"
                )
            start = initial_step(weight, integer_range(bits, narrow=True)[1], axis=self.axis)
            self.log_step = nn.Parameter(start.log())

    def grid(
        self, weight: Tensor, bias: Tensor | None = None, input_scale: Tensor | None = None
    ) -> QuantizationParameters:
        """The grid for this folded weight; with a bias and its input's scale, with room for it."""
        weight = weight.detach()
        if self.bits == 1:
            size = weight.double().abs()
            mean = size.mean() if self.axis is None else size.flatten(1).mean(1)
            mean = torch.where(mean > 0, mean, torch.ones_like(mean))
            p = QuantizationParameters(mean, torch.tensor(0), -1, 1, self.axis)
        elif self.log_step is None:
            p = symmetric(weight, self.bits, axis=self.axis)
        else:
            qmin, qmax = integer_range(self.bits, narrow=True)
            step = self.log_step.detach().exp()
            p = QuantizationParameters(step, torch.tensor(0), qmin, qmax, self.axis)
        if bias is None or input_scale is None:
            return p
        return room_for_bias(weight, bias.detach(), p, input_scale)

    def codes(self, weight: Tensor, p: QuantizationParameters) -> Tensor:
        """int32 codes of the weight on its grid."""
        if self.bits == 1:
            return torch.where(weight.detach() >= 0, 1, -1).to(torch.int32)
        return quantize(weight.detach(), p)

    def forward(self, weight: Tensor, p: QuantizationParameters, dtype: torch.dtype) -> Tensor:
        """The weight on its grid `p`, as `dtype`, with a gradient for weight (and step)."""
        scale, zero_point = p.like(weight)
        if self.bits == 1:
            return sign_ste(weight, scale, dtype=dtype)
        if self.log_step is not None and torch.is_grad_enabled():
            step = self.log_step.exp().reshape(scale.shape)
            step = step + (scale - step).detach()  # the room for a bias, where it was needed
            return lsq(weight, step, -p.qmin, p.qmax).to(dtype)
        return fake_quantize_ste(weight, scale, zero_point, p.qmin, p.qmax, dtype=dtype)


class ActivationQuantizer(nn.Module):
    """Outputs of one layer on an affine grid per tensor, 2 to 8 bits, 0.0 a code exactly.

    "min_max": in training mode the range [low, high] moves by `MOMENTUM` towards each batch's, until
    `frozen`. "lsq": the zero-point stays as calibrated and the step is learned. A `fixed` quantizer
    (the input's) keeps its calibrated range for good.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, bits: int, summary: Summary, low: float, high: float, *, step: str, fixed: bool
    ) -> None:
        super().__init__()
        self.bits, self.fixed, self.frozen = bits, fixed, fixed
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64))
        self.log_step: nn.Parameter | None = None
        if step == "lsq" and not fixed:
            p = affine(low, high, bits)
            self.zero_point = int(p.zero_point)
            largest = max(p.qmax - self.zero_point, self.zero_point - p.qmin)
            counted = summary.counts / summary.counts.sum()
            mean = (counted * summary.centres().abs()).sum()
            self.log_step = nn.Parameter((2 * mean / largest**0.5).log().float())

    @property
    def grid(self) -> QuantizationParameters:
        """The grid as it stands."""
        if self.log_step is None:
            return affine(self.low, self.high, self.bits)
        qmin, qmax = integer_range(self.bits)
        step = self.log_step.detach().exp()
        return QuantizationParameters(step, torch.tensor(self.zero_point), qmin, qmax)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; in training mode the range first takes in this batch."""
        if self.training and not self.frozen and self.log_step is None:
            with torch.no_grad():
                low, high = torch.aminmax(x)
                self.low += MOMENTUM * (low.clamp(max=0) - self.low)
                self.high += MOMENTUM * (high.clamp(min=0) - self.high)
        p = self.grid
        if self.log_step is not None and torch.is_grad_enabled():
            q_n, q_p = p.zero_point - p.qmin, p.qmax - p.zero_point
            features = x[0].numel()  # the paper's N for activations: not multiplied by the batch
            scale = 1 / (features * max(int(q_p), 1)) ** 0.5
            step = self.log_step.exp().to(x.dtype)
            return lsq(x, step, int(q_n), max(int(q_p), 1), gradient_scale=scale)
        scale, zero_point = p.like(x)
        return fake_quantize_ste(x, scale, zero_point, p.qmin, p.qmax)
