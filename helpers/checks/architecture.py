"""Checks of the exercises in lab 02_architecture.

Chapter: 02_architecture.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F

from helpers.checks import exercise, expect

__all__ = [
    "grouped_shape",
    "merged_classifier",
    "one_convolution",
    "saving_multiplier",
    "scaled_width",
]


def _draw(*shape: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _tensors(answer: Any, names: str, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    expect(
        isinstance(answer, (tuple, list)) and len(answer) == 2,
        f"return two tensors, {names}, got {type(answer).__name__}",
    )
    found = [torch.as_tensor(part, dtype=torch.float64).detach() for part in answer]
    sizes = [tuple(part.shape) for part in found]
    expect(sizes == shapes, f"the shapes of {names} must be {shapes}, got {sizes}")
    return found


@exercise
def grouped_shape(function: Callable[..., Any]) -> None:
    """`grouped_shape(in_channels, out_channels, kernel_size, groups)`: weight shape, or None."""
    for arguments, hint in (
        ((8, 12, 3, 1), "one group is an ordinary convolution"),
        ((8, 12, 3, 4), "each filter sees the channels of its own group only"),
        ((8, 8, 3, 8), "depthwise: one input channel for each filter"),
        ((8, 24, 5, 8), "depthwise with three filters for each input channel"),
        ((6, 4, 1, 2), "a grouped pointwise layer"),
    ):
        inputs, outputs, kernel_size, groups = arguments
        layer = torch.nn.Conv2d(inputs, outputs, kernel_size, groups=groups, device="meta")
        expected, answer = tuple(layer.weight.shape), function(*arguments)
        expect(
            answer is not None and tuple(answer) == expected,
            f"grouped_shape{arguments} gave {answer!r}, PyTorch has {expected}: {hint}",
        )
    for arguments, hint in (
        ((8, 12, 3, 8), "12 filters cannot be dealt out evenly to 8 groups"),
        ((8, 12, 3, 3), "8 input channels cannot be dealt out evenly to 3 groups"),
        ((4, 2, 3, 4), "with fewer filters than groups some input channel would have none"),
    ):
        answer = function(*arguments)
        expect(
            answer is None,
            f"grouped_shape{arguments} gave {answer!r}, but no such layer exists ({hint}): "
            "return None",
        )


@exercise
def one_convolution(function: Callable[..., Any]) -> None:
    """`one_convolution(depthwise, depthwise_bias, pointwise, pointwise_bias) -> (weight, bias)`."""
    for inputs, outputs, k in ((3, 5, 3), (4, 4, 3), (2, 6, 5)):
        depthwise, pointwise = _draw(inputs, 1, k, k), _draw(outputs, inputs, 1, 1, seed=3)
        biases = _draw(inputs, seed=4), _draw(outputs, seed=5)
        shapes = [(outputs, inputs, k, k), (outputs,)]
        answer = function(depthwise, biases[0], pointwise, biases[1])
        weight, bias = _tensors(answer, "weight and bias", shapes)
        for x, part, hint in (
            (_draw(2, inputs, 8, 8, seed=6), "weight", "W[o, c] = P[o, c] D[c], for every pair"),
            (
                torch.zeros(1, inputs, 8, 8, dtype=torch.float64),
                "bias",
                "the pointwise layer mixes the biases of the depthwise one too",
            ),
        ):
            middle = F.conv2d(x, depthwise, biases[0], groups=inputs, padding=k // 2)
            exact = F.conv2d(middle, pointwise, biases[1])
            mine = F.conv2d(x, weight, bias, padding=k // 2)
            if part == "weight":
                zero = x.new_zeros(x.shape)
                exact = exact - F.conv2d(
                    F.conv2d(zero, depthwise, biases[0], groups=inputs, padding=k // 2),
                    pointwise,
                    biases[1],
                )
                mine = mine - bias[:, None, None]
            worst = float((mine - exact).abs().max())
            expect(
                worst < 1e-5,  # float32 will do
                f"{inputs} -> {outputs} channels, {k} x {k}: the {part} is wrong, outputs differ by "
                f"up to {worst:.3g}; {hint}",
            )


@exercise
def saving_multiplier(function: Callable[..., Any]) -> None:
    """`saving_multiplier(out_channels, kernel_size)`: most depthwise filters that still save."""
    for outputs, k in ((64, 3), (32, 3), (9, 3), (72, 3), (8, 3), (256, 5), (1000, 3), (1, 3)):
        fits = [m for m in range(k * k + 1) if m * (k * k + outputs) < k * k * outputs]
        answer = function(outputs, k)
        expect(
            isinstance(answer, Integral),
            f"saving_multiplier({outputs}, {k}) gave {answer!r}: a number of filters is an int",
        )
        expect(
            answer == fits[-1],
            f"saving_multiplier({outputs}, {k}) gave {answer!r}, not {fits[-1]}: m depthwise filters "
            f"for each input channel cost m (K² + N) weights, the full convolution K² N; with m = "
            f"{fits[-1]} that is {fits[-1] * (k * k + outputs)} against {k * k * outputs}, and equal "
            "is no saving",
        )


@exercise
def merged_classifier(function: Callable[..., Any]) -> None:
    """`merged_classifier(mix, mix_bias, weight, bias) -> (weight, bias)`: two layers in one."""
    for inputs, middle, classes in ((6, 8, 3), (8, 5, 10), (4, 4, 4)):
        mix, mix_bias = _draw(middle, inputs, 1, 1), _draw(middle, seed=3)
        weight, bias = _draw(classes, middle, seed=4), _draw(classes, seed=5)
        shapes = [(classes, inputs), (classes,)]
        answer = function(mix, mix_bias, weight, bias)
        merged, merged_bias = _tensors(answer, "weight and bias", shapes)
        maps = _draw(3, inputs, 4, 4, seed=6)
        exact = F.linear(F.conv2d(maps, mix, mix_bias).mean((2, 3)), weight, bias)
        linear = float(
            (F.linear(maps.mean((2, 3)), merged) - exact + (weight @ mix_bias + bias)).abs().max()
        )
        expect(
            linear < 1e-5,  # float32 will do
            f"the weight is wrong: class scores differ by up to {linear:.3g}; first `mix`, then "
            "`weight` is the product weight @ mix, as (classes, channels) times (channels, inputs)",
        )
        constant = float((merged_bias - (weight @ mix_bias + bias)).abs().max())
        expect(
            constant < 1e-5,
            f"the bias is off by up to {constant:.3g}: the bias of the pointwise layer goes through "
            "the classifier's weight before the classifier's own is added",
        )


@exercise
def scaled_width(function: Callable[..., Any]) -> None:
    """`scaled_width(width, alpha, divisor)`: to a multiple of divisor, at most a tenth below."""
    for arguments, expected, hint in (
        ((32, 0.5, 8), 16, "a multiple already"),
        ((64, 0.75, 16), 48, "a multiple already"),
        ((32, 0.35, 8), 16, "11.2 is nearer to 8, but 8 is more than a tenth below 11.2"),
        ((17, 1.0, 8), 16, "16 is only 6 % below 17"),
        ((20, 1.0, 8), 24, "a half goes up"),
        ((24, 0.5, 8), 16, "a half goes up"),
        ((18, 1.0, 8), 24, "16 is more than a tenth below 18"),
        ((16, 0.1, 8), 8, "never less than the divisor"),
        ((100, 1.0, 8), 104, "100 / 8 = 12.5, a half goes up"),
        ((98, 1.0, 8), 96, "96 is nearest"),
        ((30, 1.0, 10), 30, "a multiple already"),
    ):
        answer = function(*arguments)
        expect(
            isinstance(answer, Integral),
            f"scaled_width{arguments} gave {answer!r}: a number of channels is an int",
        )
        expect(
            answer == expected,
            f"scaled_width{arguments} gave {answer!r}, not {expected}: {hint}",
        )
