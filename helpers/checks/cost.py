"""Checks of the exercises in lab 01: counting, packing and the roofline.

Chapter: 01_cost.
"""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

from helpers.checks import exercise, expect


@exercise
def grouped_macs(function: Callable[..., Any]) -> None:
    """MACs of a convolution with groups."""
    cases = [
        ((1, 20, 5, 24, 24), 288_000, "the first convolution of LeNet5"),
        ((20, 50, 5, 8, 8), 1_600_000, "the second convolution of LeNet5"),
        ((3, 16, 3, 128, 64), 3_538_944, "a map that is not square"),
    ]
    for arguments, macs, what in cases:
        got = function(*arguments)
        expect(
            got == macs,
            f"For {what} {arguments} you return {got!r}, expected {macs:,}. Every output element "
            "costs one MAC per weight that reaches it.",
        )
    got = function(16, 16, 3, 8, 8, 16)
    expect(
        got == 9_216,
        f"Depthwise, 16 channels in 16 groups on 8 x 8: you return {got!r}, expected 9,216. An "
        "output channel sees only the input channels of its own group.",
    )
    got = function(8, 24, 3, 5, 7, groups=4)
    expect(got == 15_120, f"8 to 24 channels in 4 groups on 5 x 7: you return {got!r}, not 15,120.")
    for groups in (1, 2, 3, 6):
        whole, split = function(6, 6, 3, 4, 4), function(6, 6, 3, 4, 4, groups)
        expect(split * groups == whole, f"{groups} groups must divide the MACs by {groups}.")


@exercise
def separable_parameters(function: Callable[..., Any]) -> None:
    """Learned parameters of depthwise convolution, batch norm and pointwise convolution."""
    got = function(1, 1, 1)
    expect(
        got == 6,
        f"One channel, 1 x 1 kernels: you return {got!r}, expected 6: two weights, two biases, and "
        "the batch norm's scale and shift.",
    )
    got = function(16, 32)
    expect(
        got == 736,
        f"16 to 32 channels, 3 x 3: you return {got!r}, expected 736 = 160 (depthwise with bias) + "
        "32 (batch norm) + 544 (pointwise with bias).",
    )
    got = function(256, 256, 3)
    expect(got == 68_864, f"256 to 256 channels, 3 x 3: you return {got!r}, not 68,864.")
    got = function(10, 7, 5)
    expect(got == 357, f"10 to 7 channels, 5 x 5: you return {got!r}, not 357.")


@exercise
def layer_bytes(function: Callable[..., Any]) -> None:
    """Bytes of packed weights and 32-bit biases."""
    got = function(784, 300, 8)
    expect(
        got == 236_400,
        f"784 x 300 at 8 bits: you return {got!r}, expected 236,400 = 235,200 bytes of weights and "
        "300 biases of 4 bytes.",
    )
    got = function(3, 3, 1)
    expect(
        got == 14,
        f"3 x 3 at 1 bit: you return {got!r}, expected 14: nine bits need two bytes, and three "
        "biases twelve.",
    )
    got = function(3, 5, 5)
    expect(
        got == 30,
        f"3 x 5 at 5 bits: you return {got!r}, expected 30: 75 bits need ten bytes. Round up once "
        "for the layer, not for each weight or row.",
    )
    expect(
        isinstance(got := function(3, 3, 1), Integral),
        f"Bytes are a whole number (an int), you return {got!r}: divide with //.",
    )
    for bits in range(1, 33):
        expected = math.ceil(70 * bits / 8) + 40
        got = function(7, 10, bits)
        expect(got == expected, f"7 x 10 at {bits} bits: you return {got!r}, not {expected}.")


@exercise
def shortest_time(function: Callable[..., Any]) -> None:
    """Seconds of a layer by the roofline."""

    def near(got: Any, expected: float) -> bool:  # float32 will do, and so will a tensor
        return got is not None and math.isclose(float(got), expected, rel_tol=1e-6)

    got = function(1e9, 1.0, 1e10, 1e9)
    expect(
        near(got, 0.2),
        f"1e9 MACs that move almost nothing at 1e10 operations per second: you return {got!r}, "
        "expected 0.2 s. A MAC is two operations.",
    )
    got = function(1.0, 5e8, 1e10, 1e9)
    expect(
        near(got, 0.5),
        f"5e8 bytes with almost no arithmetic at 1e9 bytes per second: you return {got!r}, expected "
        "0.5 s.",
    )
    got = function(1e9, 1.5e8, 1e10, 1e9)
    expect(
        near(got, 0.2),
        f"Arithmetic alone takes 0.2 s, transfers alone 0.15 s, and they overlap: you return "
        f"{got!r}. The slower of the two decides.",
    )
    for macs, moved in ((3e6, 7e5), (1e4, 9e6), (5e8, 5e5)):
        rate = 2 * macs / function(macs, moved, 5e10, 2e10)
        roof = min(5e10, 2 * macs / moved * 2e10)
        expect(near(rate, roof), f"{macs:.0f} MACs, {moved:.0f} bytes: not the roof min(P, I B).")
