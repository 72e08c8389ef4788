"""Checks of the exercises in lab 09_quantization.

Chapter: 09_quantization.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from helpers.checks import exercise, expect

__all__ = ["affine_parameters", "channel_scales", "fold_convolution", "rounding_shift"]


def _whole(answer: Any) -> bool:
    """Whether `answer` is an integer, of Python, of NumPy or of PyTorch."""
    try:
        operator.index(answer)
    except TypeError:
        return False
    return True


def _pair(answer: Any) -> tuple[Any, Any]:
    expect(
        isinstance(answer, (tuple, list)) and len(answer) == 2,
        f"return two values, got {type(answer).__name__}",
    )
    return answer[0], answer[1]


@exercise
def affine_parameters(function: Callable[..., Any]) -> None:
    """`affine_parameters(low, high, bits) -> (scale, zero_point)` for signed codes."""
    cases = [
        ((-1.0, 2.0, 8), 3 / 255, -43, "the grid from -128 to 127 spans [low, high]"),
        ((0.0, 6.0, 8), 6 / 255, -128, "after a ReLU the smallest code stands for 0"),
        ((-1.0, 2.0, 4), 0.2, -3, "4 bits have the codes -8 to 7"),
        ((-0.5, 0.1, 3), 0.6 / 7, 2, "round the zero-point to the nearest code"),
        ((1.0, 2.0, 8), 2 / 255, -128, "extend the range to contain 0 before anything else"),
        ((-2.0, -1.0, 8), 2 / 255, 127, "extend the range to contain 0 before anything else"),
    ]
    for arguments, scale, zero_point, hint in cases:
        answer = _pair(function(*arguments))
        text = f"affine_parameters{arguments} gave {answer}: {hint}"
        expect(abs(float(answer[0]) - scale) < 1e-6, text)
        expect(int(answer[1]) == answer[1], f"{text}; the zero-point is a whole number")
        expect(int(answer[1]) == zero_point, text)
    try:
        scale, zero_point = _pair(function(0.0, 0.0, 8))
    except ZeroDivisionError:
        scale = 0.0
    expect(float(scale) > 0, "a range of zero width must still give a positive scale, any will do")
    expect(-128 <= int(zero_point) <= 127, f"the zero-point {zero_point} is not a code")


@exercise
def rounding_shift(function: Callable[..., Any]) -> None:
    """`rounding_shift(accumulator, shift)`: divide by 2**shift, half up, in integers."""
    cases = [(8, 2, 2), (7, 0, 7), (5, 1, 3), (-5, 1, -2), (6, 2, 2), (-6, 2, -1), (-7, 2, -2)]
    for accumulator, shift, expected in cases:
        answer = function(accumulator, shift)
        expect(
            _whole(answer) and answer == expected,
            f"rounding_shift({accumulator}, {shift}) gave {answer!r}, not {expected}: the exact "
            f"quotient is {accumulator / 2**shift}, and a half goes up",
        )
    big = 2**62 + 2**9
    expect(
        function(big, 10) == 2**52 + 1,
        "for a 63-bit accumulator the answer is off: stay in integers, floats round",
    )


@exercise
def fold_convolution(function: Callable[..., Any]) -> None:
    """`fold_convolution(weight, bias, gamma, beta, mean, variance, eps) -> (weight, bias)`."""
    generator = torch.Generator().manual_seed(9)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for channels, groups in ((4, 1), (4, 4)):
        weight, bias = draw(channels, 4 // groups, 3, 3), draw(channels)
        gamma, beta, mean, variance = (draw(channels) for _ in range(4))
        variance, eps = variance.square(), 0.1
        before = [t.clone() for t in (weight, bias)]
        pair = _pair(function(weight, bias, gamma, beta, mean, variance, eps))
        new_weight, new_bias = (torch.as_tensor(part, dtype=torch.float64) for part in pair)
        expect(
            torch.equal(weight, before[0]) and torch.equal(bias, before[1]),
            "your function changed its arguments: return new tensors",
        )
        expect(
            tuple(new_weight.shape) == tuple(weight.shape) and tuple(new_bias.shape) == (channels,),
            f"the shapes must stay {tuple(weight.shape)} and ({channels},), got "
            f"{tuple(new_weight.shape)} and {tuple(new_bias.shape)}: one factor per output channel",
        )
        zeros = torch.zeros(1, 4, 3, 3, dtype=torch.float64)
        x = draw(2, 4, 5, 5)
        for image, part in ((zeros, "bias"), (x, "weight")):
            expected = F.batch_norm(
                F.conv2d(image, weight, bias, groups=groups), mean, variance, gamma, beta, eps=eps
            )
            answer = F.conv2d(image, new_weight, new_bias, groups=groups)
            worst = float((answer - expected).abs().max())
            expect(
                worst < 1e-4,  # float32 will do
                f"the folded {part} is not right: outputs differ from convolution and batch norm "
                f"by up to {worst:.3g} (groups={groups}, eps={eps})",
            )


@exercise
def channel_scales(function: Callable[..., Any]) -> None:
    """`channel_scales(weight, bits)`: restricted symmetric scales, one per output channel."""
    weight = torch.tensor([[[[1.0, -2.0]], [[0.5, 0.0]]], [[[0.1, 0.2]], [[0.3, -0.6]]]])
    for bits, levels in ((8, 127), (4, 7)):
        answer = torch.as_tensor(function(weight, bits))
        expect(
            tuple(answer.shape) == (2,),
            f"a weight of shape (2, 2, 1, 2) has 2 output channels (dimension 0), got scales of "
            f"shape {tuple(answer.shape)}",
        )
        expected = torch.tensor([2.0 / levels, 0.6 / levels])
        expect(
            torch.allclose(answer.float(), expected),
            f"at {bits} bits channel_scales gave {answer.tolist()}; the largest |w| of each output "
            f"channel must get the largest code of the restricted range, {levels}",
        )
    dense = torch.tensor([[0.0, 0.0, 0.0], [-7.0, 3.0, 1.0]])
    answer = torch.as_tensor(function(dense, 4))
    expect(tuple(answer.shape) == (2,), "a dense weight (outputs, inputs) has one scale per output")
    expect(abs(float(answer[1]) - 1.0) < 1e-6, f"channel [-7, 3, 1] gave {float(answer[1])}, not 1")
    expect(float(answer[0]) > 0, "a channel of zeros must still get a positive scale, any will do")
