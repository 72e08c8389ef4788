"""Checks of the exercises in lab 09b_qat.

Chapter: 09b_qat.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from helpers.checks import exercise, expect

__all__ = [
    "bits_for_claim",
    "step_gradient",
    "straight_through",
    "training_weight",
    "widths_in_budget",
]


@exercise
def straight_through(function: Callable[..., Any]) -> None:
    """`straight_through(x, scale, zero_point, qmin, qmax, upstream)`: the gradient for x."""
    cases = [
        (
            [-2.6, -2.4, 0.2, 1.4, 1.6],
            1.0,
            0,
            -2,
            1,
            [0, 2, 3, 4, 0],
            "a value clipped passes nothing",
        ),
        ([-2.5, -2.51, 1.5, 1.49], 1.0, 0, -2, 1, [1, 0, 0, 4], "look at the rounded code"),
        ([-1.4, 0.0, 1.9, 2.9], 0.5, -2, -4, 3, [0, 2, 3, 0], "the zero-point moves the window"),
        ([-1.2, 2.2, 2.9], 0.5, 0, -4, 3, [1, 0, 0], "the scale divides"),
    ]
    for values, scale, zero_point, qmin, qmax, expected, hint in cases:
        x = torch.tensor(values)
        upstream = torch.arange(1.0, len(values) + 1)
        answer = torch.as_tensor(function(x, scale, zero_point, qmin, qmax, upstream)).detach()
        expect(
            tuple(answer.shape) == tuple(x.shape),
            f"the gradient has the shape of x, {tuple(x.shape)}, got {tuple(answer.shape)}",
        )
        expect(
            torch.allclose(answer.float(), torch.tensor(expected, dtype=torch.float32)),
            f"x={values}, scale={scale}, zero_point={zero_point}, codes {qmin}..{qmax}, "
            f"upstream={upstream.tolist()}: got {answer.tolist()}, not {expected}; {hint}",
        )


@exercise
def step_gradient(function: Callable[..., Any]) -> None:
    """`step_gradient(v, step, q_n, q_p, upstream)`: LSQ's gradient of one shared step."""
    singles = [
        (0.3, -0.3, "inside it is round(v/s) - v/s"),
        (1.8, 0.2, "inside it is round(v/s) - v/s"),
        (-1.2, 0.2, "inside it is round(v/s) - v/s"),
        (9.0, 3.0, "above the grid the output is q_p * step"),
        (-9.0, -4.0, "below the grid the output is -q_n * step"),
        (3.25, 3.0, "3.25 lies outside q_p = 3, though it rounds to 3: the mask is on v/s"),
    ]
    for value, slope, hint in singles:
        v = torch.tensor([2.0 * value])  # step 2
        answer = float(function(v, 2.0, 4, 3, torch.ones(1)))
        expect(
            abs(answer - slope / math.sqrt(3)) < 1e-4,
            f"one value of {value} steps with q_n=4, q_p=3: got {answer:.4f}, not {slope} / sqrt(3) "
            f"= {slope / math.sqrt(3):.4f}; {hint}",
        )
    v = torch.tensor([[0.3, 1.8], [-9.0, 9.0], [-1.2, 0.4]])
    upstream = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, -2.0]])
    total = -0.3 + 0.4 - 2.0 - 3.0 + 0.6 + 0.8
    summed = torch.as_tensor(function(v, 1.0, 4, 3, upstream)).detach()
    expect(summed.numel() == 1, f"one step has one gradient, got shape {tuple(summed.shape)}")
    expect(
        abs(float(summed) - total / math.sqrt(18)) < 1e-4,
        f"6 values share the step: got {float(summed):.4f}; the products with upstream add up to "
        f"{total:g}, divided by sqrt(N q_p) = sqrt(18) that is {total / math.sqrt(18):.4f}",
    )


@exercise
def training_weight(function: Callable[..., Any]) -> None:
    """`training_weight(weight, gamma, variance, eps, bits)`: quantized folded, then unfolded."""
    weight = torch.tensor([[[[1.0, -0.4]]], [[[0.3, 0.05]]]])  # (2, 1, 1, 2)
    gamma, variance, eps = torch.tensor([1.0, -2.0]), torch.tensor([3.5, 0.5]), 0.5
    before = weight.clone()
    answer = torch.as_tensor(function(weight, gamma, variance, eps, 3)).detach()
    expect(torch.equal(weight, before), "your function changed its argument: return a new tensor")
    expect(
        tuple(answer.shape) == tuple(weight.shape),
        f"the shape must stay {tuple(weight.shape)}, got {tuple(answer.shape)}",
    )
    factors = [0.5, -2.0]  # gamma / sqrt(variance + eps)
    folded = [[0.5, -0.2], [-0.6, -0.1]]  # steps of 0.6 / 3 = 0.2
    grid = [[0.4, -0.2], [-0.6, 0.0]]  # 2.5 rounds to even
    expected = torch.tensor([[g / f for g in row] for row, f in zip(grid, factors, strict=True)])
    worst = (answer.flatten(1).float() - expected).abs()
    tie = worst.flatten()[[1, 2, 3]]  # the first entry sits on a tie: either side will do
    expect(
        float(tie.max()) < 1e-4 and float(worst[0, 0]) < 0.4 + 1e-4,
        f"folded weights {folded} on the 3-bit grid of step 0.2 are {grid}, and divided by f = "
        f"{factors} again {expected.tolist()}; got {answer.flatten(1).tolist()}. Fold first, take "
        "one scale for the whole folded tensor, divide at the end",
    )
    many = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(5))
    gamma, variance = torch.tensor([1.0, 0.5, 2.0, -1.0]), torch.tensor([1.0, 2.0, 0.3, 0.7])
    f = gamma / torch.sqrt(variance + 0.001)
    answer = torch.as_tensor(function(many, gamma, variance, 0.001, 4)).detach()
    answer = answer * f.reshape(-1, 1, 1, 1)
    step = float((many * f.reshape(-1, 1, 1, 1)).abs().max()) / 7
    codes = answer / step
    expect(
        float((codes - codes.round()).abs().max()) < 1e-3,
        "folded again, the result must lie on one grid with step max|f w| / 7 at 4 bits",
    )
    expect(
        float((answer - many * f.reshape(-1, 1, 1, 1)).abs().max()) <= step * 0.501,
        "some folded weight moved by more than half a step",
    )


@exercise
def widths_in_budget(function: Callable[..., Any]) -> None:
    """`widths_in_budget(losses, counts, limit)`: the best widths that fit, or ValueError."""
    cases: list[tuple[list[dict[int, float]], list[int], int, list[int], str]] = [
        ([{2: 0.5, 4: 0.1, 8: 0.0}], [10], 5, [4], "10 weights of 4 bits take 5 bytes, and fit"),
        (
            [{2: 0.5, 4: 0.1}, {2: 0.5, 4: 0.2}],
            [9, 9],
            9,
            [4, 2],
            "9 weights of 4 bits take 4.5 bytes, so 5 in a layer of their own",
        ),
        (
            [{2: 1.0, 4: 0.9, 8: 0.0}, {2: 1.0, 4: 0.4, 8: 0.3}],
            [8, 8],
            10,
            [8, 2],
            "the sum of both losses counts: 8 and 2 bits give 1.0, 4 and 4 give 1.3",
        ),
        ([{1: 0.2, 2: 0.3}, {3: 0.1}], [16, 8], 100, [1, 3], "here one bit loses less than two"),
        (
            [{2: 9.0, 3: 1.0, 4: 0.5}, {2: 2.0, 4: 1.5}, {2: 0.2, 8: 0.0}],
            [16, 64, 8],
            24,
            [3, 2, 2],
            "6 + 16 + 2 bytes; the large layer cannot have 4 bits",
        ),
    ]
    for losses, counts, limit, expected, hint in cases:
        answer = function([dict(row) for row in losses], list(counts), limit)
        text = f"widths_in_budget({losses}, {counts}, {limit}) gave {answer!r}"
        expect(np.shape(answer) == (len(losses),), f"{text}: return one width per layer")
        answer = np.asarray(answer).tolist()  # a tuple or an array will do
        for width, row in zip(answer, losses, strict=True):
            expect(width in row, f"{text}: {width} is not one of the layer's widths {list(row)}")
        size = sum(-(-n * b // 8) for n, b in zip(counts, answer, strict=True))
        expect(size <= limit, f"{text}, which takes {size} bytes: {hint}")
        expect(answer == expected, f"{text}; {expected} loses less: {hint}")
    try:
        answer = function([{2: 0.1, 4: 0.0}], [100], 24)
    except ValueError:
        return
    expect(False, f"100 weights take 25 bytes at 2 bits, yet for 24 bytes you return {answer!r}")


@exercise
def bits_for_claim(function: Callable[..., Any]) -> None:
    """`bits_for_claim(backbone, head, times)`: bits per backbone parameter, or None."""
    cases = [
        (1000, 0, 4, 8.0, "without a head, 4 times smaller is 8 of 32 bits"),
        (1000, 0, 64, 0.5, "without a head, 64 times takes half a bit"),
        (3000, 1000, 2, 32 / 3, "half of 4,000 x 32 bits, less the head's 32,000"),
        (1000, 1000, 1, 32.0, "once as small is float32"),
        (900, 100, 8, 32 * 25 / 900, "the head keeps its 32 bits"),
    ]
    for backbone, head, times, expected, hint in cases:
        answer = function(backbone, head, times)
        text = f"bits_for_claim({backbone}, {head}, {times}) gave {answer!r}"
        expect(answer is not None, f"{text}, but {expected:.4g} bits do it: {hint}")
        close = math.isclose(float(answer), expected, rel_tol=1e-6)  # float32 will do
        expect(close, f"{text}, not {expected:.4g}: {hint}")
    for backbone, head, times in ((1000, 1000, 2), (1000, 1000, 3), (14714688, 123642856, 81)):
        answer = function(backbone, head, times)
        expect(
            answer is None,
            f"bits_for_claim({backbone}, {head}, {times}) gave {answer!r}: the float head alone "
            f"limits the ratio to {(backbone + head) / head:.3f}, so return None",
        )
