"""The quantizers of a network in training: one for each layer's weights, one for its outputs.

Each knows its grid at any moment (`grid`, a `QuantizationParameters`) and quantizes with a gradient
(`forward`). The grid follows the values ("min_max": the weights' largest magnitude, a moving
average of the outputs' extremes) or is learned ("lsq").

Sources: Jacob et al. 2018 (arXiv:1712.05877) section 3.1; Esser et al. 2020 (arXiv:1902.08153).

Chapter: 09b_qat.
"""

import torch
from torch import Tensor, nn

from helpers.qat.fake import fake_quantize_ste, sign_ste
from helpers.qat.lsq import least_squares_step, lsq
from helpers.quantization.grids import (
    QuantizationParameters,
    affine,
    integer_range,
    quantize,
    symmetric,
)
from helpers.quantization.network import room_for_bias

STEPS = ("min_max", "lsq")
SMALLEST_FACTOR = (
    1e-10  # stands in for the folding factor of a channel that batch norm switched off
)
MOMENTUM = 0.1  # of the moving average of ranges, per training batch; batch norm's default


class LearnedStep(nn.Module):
    """A positive step, start * exp(change), whose parameter `change` begins at 0.

    Positive whatever the optimizer does, and moved in proportion to its size: AdamW divides every
    gradient by its typical size (the factor 1/sqrt(N q_p) of LSQ with it), so that a rate of 0.001
    moves a parameter by about 0.001, here 0.1 % of the step, whether the step is large or small.
    """

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().to(torch.float32).clone())
        self.change = nn.Parameter(torch.zeros_like(self.start))

    def forward(self) -> Tensor:
        """The step, float32, of the shape of `start`."""
        return self.start * torch.exp(self.change)


class WeightQuantizer(nn.Module):
    """Weights of `bits` bits (1 to 8) on a symmetric grid, per output channel or per tensor.

    One bit is scale * sign(w) with scale = mean|w|. "lsq" starts from the step of least squared error.
    Weights come folded, that is, multiplied by batch norm's `factor` (C,). A learned step per channel
    belongs to the weights before folding: it must not stay behind when the statistics move.
    """

    def __init__(
        self, bits: int, weight: Tensor, factor: Tensor | None, *, per_channel: bool, step: str
    ) -> None:
        super().__init__()
        self.bits, self.axis = bits, 0 if per_channel else None
        self.step: LearnedStep | None = None
        if step == "lsq":
            if bits < 2:
                raise ValueError(
                    f"step='lsq' needs at least 2 bits (one bit has no step), got {bits}"
                )
            start = least_squares_step(weight, bits, axis=self.axis)
            self.step = LearnedStep(start / self._unit(factor))

    def _unit(self, factor: Tensor | None) -> Tensor:
        """What a learned step is multiplied by to fit folded weights."""
        if factor is None or self.axis is None:
            return torch.ones(())
        return factor.detach().abs().clamp(min=SMALLEST_FACTOR).float()

    def grid(
        self,
        weight: Tensor,
        factor: Tensor | None = None,
        bias: Tensor | None = None,
        input_scale: Tensor | None = None,
    ) -> QuantizationParameters:
        """The grid for this folded weight; with a bias and its input's scale, with room for it."""
        weight = weight.detach()
        if self.bits == 1:
            size = weight.double().abs()
            mean = size.mean() if self.axis is None else size.flatten(1).mean(1)
            mean = torch.where(mean > 0, mean, torch.ones_like(mean))
            p = QuantizationParameters(mean, torch.tensor(0), -1, 1, self.axis)
        elif self.step is None:
            p = symmetric(weight, self.bits, axis=self.axis)
        else:
            qmin, qmax = integer_range(self.bits, narrow=True)
            step = self.step().detach() * self._unit(factor)
            p = QuantizationParameters(step, torch.tensor(0), qmin, qmax, self.axis)
        if bias is None or input_scale is None:
            return p
        return room_for_bias(weight, bias.detach(), p, input_scale)

    def _alive(self, weight: Tensor) -> Tensor:
        """1.0 for channels (or the tensor) with a weight other than 0: a sign bit cannot say 0."""
        size = weight.detach().abs()
        size = size.amax() if self.axis is None else size.flatten(1).amax(1)
        return (size > 0).to(weight.dtype).reshape((-1,) + (1,) * (weight.ndim - 1))

    def codes(self, weight: Tensor, p: QuantizationParameters) -> Tensor:
        """int32 codes of the weight on its grid."""
        if self.bits == 1:
            return (torch.where(weight.detach() >= 0, 1, -1) * self._alive(weight)).to(torch.int32)
        return quantize(weight.detach(), p)

    def forward(self, weight: Tensor, p: QuantizationParameters, dtype: torch.dtype) -> Tensor:
        """The folded weight on its grid `p`, as `dtype`, with a gradient for weight (and step)."""
        scale, zero_point = p.like(weight)
        if self.bits == 1:
            return sign_ste(weight, scale * self._alive(weight), dtype=dtype)
        if self.step is not None and torch.is_grad_enabled():
            change = self.step.change.reshape(scale.shape)
            step = scale * torch.exp(change - change.detach())  # the scale, with a gradient
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

    def __init__(self, bits: int, low: float, high: float, *, step: str, fixed: bool) -> None:
        super().__init__()
        self.bits, self.frozen = bits, fixed
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64))
        self.step: LearnedStep | None = None
        if step == "lsq" and not fixed:
            p = affine(low, high, bits)
            self.zero_point = int(p.zero_point)
            self.step = LearnedStep(p.scale)

    @property
    def grid(self) -> QuantizationParameters:
        """The grid as it stands."""
        if self.step is None:
            return affine(self.low, self.high, self.bits)
        qmin, qmax = integer_range(self.bits)
        return QuantizationParameters(
            self.step().detach(), torch.tensor(self.zero_point), qmin, qmax
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; in training mode the range first takes in this batch."""
        if self.training and not self.frozen and self.step is None:
            with torch.no_grad():
                low, high = torch.aminmax(x)
                self.low += MOMENTUM * (low.clamp(max=0) - self.low)
                self.high += MOMENTUM * (high.clamp(min=0) - self.high)
        p = self.grid
        if self.step is not None and torch.is_grad_enabled():
            q_n, q_p = self.zero_point - p.qmin, max(p.qmax - self.zero_point, 1)
            features = x[0].numel()  # the paper's N for activations: the batch does not count
            step = self.step().to(x.dtype)
            return lsq(x, step, q_n, q_p, gradient_scale=(features * q_p) ** -0.5)
        scale, zero_point = p.like(x)
        return fake_quantize_ste(x, scale, zero_point, p.qmin, p.qmax)
