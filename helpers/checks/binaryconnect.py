"""Checks of the exercises in lab 03_binaryconnect.

Chapter: 03_binaryconnect.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from helpers.checks import exercise, expect

__all__ = ["integer_threshold", "latent_step", "stochastic_sign", "xnor_sum"]


def _tensor(answer: Any, shape: tuple[int, ...]) -> torch.Tensor:
    expect(answer is not None, "return a tensor, got None")
    found = torch.as_tensor(answer).detach().double()  # an array or a list will do
    expect(tuple(found.shape) == shape, f"the shape must stay {shape}, got {tuple(found.shape)}")
    return found


@exercise
def stochastic_sign(function: Callable[..., Any]) -> None:
    """`stochastic_sign(w, u)`: +1 where u is below the hard sigmoid of w, else -1."""
    w = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    cases = [
        (0.0, [-1, -1, 1, 1, 1, 1, 1], "at u = 0 only a probability of 0 gives -1"),
        (0.3, [-1, -1, -1, 1, 1, 1, 1], "w = -0.5 has the probability 0.25"),
        (0.5, [-1, -1, -1, -1, 1, 1, 1], "w = 0 has the probability 0.5, and 0.5 is not below it"),
        (0.74, [-1, -1, -1, -1, 1, 1, 1], "w = 0.5 has the probability 0.75"),
        (0.76, [-1, -1, -1, -1, -1, 1, 1], "w = 0.5 has the probability 0.75"),
    ]
    for u, expected, hint in cases:
        answer = _tensor(function(w, torch.full_like(w, u)), (7,))
        expect(
            answer.tolist() == expected,
            f"for w = {w.tolist()} and u = {u} everywhere you return {answer.tolist()}: {hint}",
        )
    spread = (torch.arange(1000) + 0.5) / 1000
    for value in (-0.9, -0.3, 0.2, 0.8):
        mean = float(_tensor(function(torch.full((1000,), value), spread), (1000,)).mean())
        expect(
            abs(mean - value) < 1.5e-3,
            f"over evenly spread u the mean for w = {value} is {mean:.3f}: it must be w itself",
        )


@exercise
def latent_step(function: Callable[..., Any]) -> None:
    """`latent_step(w, gradient, lr)`: the new latent weights, in [-1, 1]."""
    w = torch.tensor([0.25, -0.5, 1.0, -1.0, 1.0, 0.0])
    gradient = torch.tensor([1.0, 2.0, -4.0, 8.0, 1.0, -0.5])
    before = w.clone(), gradient.clone()
    answer = _tensor(function(w, gradient, 0.25), (6,)).tolist()
    expect(
        torch.equal(w, before[0]) and torch.equal(gradient, before[1]),
        "your function changed its arguments: return a new tensor",
    )
    hints = [
        "step from the latent weight, against the gradient, and keep the result real",
        "step against the gradient",
        "clip to [-1, 1] after the step",
        "clip to [-1, 1] after the step",
        "a weight on the bound may come back: the gradient is not masked",
        "a latent weight stays real: binarizing belongs to the forward pass",
    ]
    for place, (got, right) in enumerate(
        zip(answer, [0.0, -1.0, 1.0, -1.0, 0.75, 0.125], strict=True)
    ):
        expect(
            abs(got - right) < 1e-6,
            f"w = {before[0][place]:g} with gradient {before[1][place]:g} and lr 0.25 gave {got:g}, "
            f"not {right:g}: {hints[place]}",
        )


@exercise
def integer_threshold(function: Callable[..., Any]) -> None:
    """`integer_threshold(gamma, beta, mean, deviation) -> (turn, threshold)`."""
    cases = [
        (2.0, 0.0, 4.5, 2.0, "a sum between two whole numbers: the next one up is the first"),
        (1.0, 0.0, 5.0, 1.0, "the sum 5 gives exactly 0, and 0 is on"),
        (0.5, -1.0, -7.25, 4.0, "beta moves the threshold by -beta * deviation / gamma"),
        (4.0, 2.0, -3.0, 0.5, "beta moves the threshold by -beta * deviation / gamma"),
        (-2.0, 0.0, 4.5, 2.0, "gamma < 0: on when the sum is small, so turn it"),
        (-1.0, 0.0, 5.0, 1.0, "gamma < 0: the sum 5 gives exactly 0, and 0 is on"),
        (-0.5, 1.5, -7.25, 4.0, "gamma < 0: turn the sum, then round up what it is compared with"),
        (-4.0, -2.0, 3.0, 0.5, "gamma < 0: turn the sum, then round up what it is compared with"),
    ]
    for *numbers, hint in cases:
        answer = function(*numbers)
        text = f"integer_threshold{tuple(numbers)} gave {answer!r}: {hint}"
        expect(np.shape(answer) == (2,), f"{text}; return two values")
        turn, threshold = answer
        expect(turn in (-1, 1), f"{text}; turn is +1 or -1")
        expect(int(threshold) == threshold, f"{text}; the threshold is a whole number")
        gamma, beta, mean, deviation = numbers
        for s in range(-60, 61):
            on = gamma * (s - mean) / deviation + beta >= 0
            expect(
                (turn * s >= threshold) == on,
                f"{text}. The sum {s} must be {'on' if on else 'off'}",
            )


@exercise
def xnor_sum(function: Callable[..., Any]) -> None:
    """`xnor_sum(a, b, count)`: the sum of products of `count` signs packed into bytes."""
    generator = np.random.default_rng(3)
    for count in (8, 16, 3, 13, 1, 256, 1000):
        for same in (0.5, 0.9, 0.0):
            x = generator.choice((-1, 1), count)
            y = np.where(generator.random(count) < same, x, -x)
            expected = int((x * y).sum())
            answer = function(np.packbits(x > 0), np.packbits(y > 0), count)
            hint = "count the bits that differ (XOR): each takes 2 from the sum"
            if count % 8:
                hint += "; the unused bits of the last byte are 0 on both sides and must not count"
            expect(
                answer is not None and float(answer) == expected,
                f"for {count} signs you return {answer!r}, not {expected}: {hint}",
            )
