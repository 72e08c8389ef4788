"""A perceptron with binary weights whose activations are real, small codes, or signs.

Chapter: 03_binaryconnect.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from helpers.binaryconnect.weights import BinaryLinear, sign, straight_through


class Codes(nn.Module):
    """A ReLU in steps: `step` times a code from 0 to `levels`, rounded half up; any shape.

    Code j is reached at (j - 1/2) * step. Gradients pass where 0 < x < levels * step.
    """

    def __init__(self, levels: int = 3, step: float = 0.5) -> None:
        super().__init__()
        if not isinstance(levels, int) or levels < 1:
            raise ValueError(f"levels must be a whole number of 1 or more, got {levels!r}")
        if not step > 0 or math.frexp(step)[0] != 0.5:
            raise ValueError(f"step must be a power of two, got {step!r}")
        self.levels, self.step = levels, step

    @property
    def edges(self) -> list[float]:
        """Where the code grows by one."""
        return [(j - 0.5) * self.step for j in range(1, self.levels + 1)]

    def forward(self, x: Tensor) -> Tensor:
        code = torch.floor(x / self.step + 0.5).clamp(0, self.levels)
        return straight_through(x.clamp(0, self.levels * self.step), code * self.step)


class Sign(nn.Module):
    """+1 where x >= 0, else -1; any shape. Gradients pass where |x| < 1.

    Source: Courbariaux et al. 2016 (arXiv:1602.02830).
    """

    edges = (0.0,)

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x.clamp(-1, 1), sign(x))


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "codes": Codes, "sign": Sign}


class BinaryMLP(nn.Module):
    """Dense layers with binary weights: (N, ...) with sizes[0] numbers an image -> (N, sizes[-1]).

    Each hidden layer is `fc`, a batch norm and an activation ("relu", "codes" or "sign"). The
    output layer has a bias for each class and one power-of-two divisor for all of them, near
    sqrt(inputs), instead of the paper's batch norm: a scale for each class would have to be
    multiplied with its sum before the sums can be compared. `bound` as in `BinaryLinear`.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (784, 256, 256, 10),
        *,
        activation: str = "relu",
        rule: str = "deterministic",
        bound: float | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or not all(type(n) is int and n >= 1 for n in sizes):
            raise ValueError(f"sizes must be two or more positive integers, got {sizes!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        self.sizes = tuple(sizes)
        self.hidden = nn.Sequential(nn.Flatten())
        for i, (before, after) in enumerate(pairwise(sizes[:-1]), 1):
            self.hidden.add_module(f"fc{i}", BinaryLinear(before, after, rule=rule, bound=bound))
            self.hidden.add_module(f"bn{i}", nn.BatchNorm1d(after))
            self.hidden.add_module(f"act{i}", ACTIVATIONS[activation]())
        divisor = 2.0 ** round(math.log2(sizes[-2]) / 2)
        self.output = BinaryLinear(
            sizes[-2], sizes[-1], rule=rule, bound=bound, bias=True, divisor=divisor
        )

    def forward(self, x: Tensor) -> Tensor:  # (1, 28, 28)
        return self.output(self.hidden(x))  # (10,)
