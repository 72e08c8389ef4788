"""Checks of the exercises in lab 11: requantization, accumulator width, padding, a faulty neuron.

Chapter: 11_fpga_datapath.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.checks import exercise, expect


@exercise
def requantize_half_up(function: Callable[..., Any]) -> None:
    """Multiplier, rounding half up, shift, zero-point, saturation."""
    cases = [
        ((100, 1, 2, 0, -128, 127), 25, "100 / 4 needs no rounding"),
        ((5, 1, 1, 0, -128, 127), 3, "5 / 2 is a tie, and ties go up"),
        ((-5, 1, 1, 0, -128, 127), -2, "-5 / 2 is a tie, and up from -2.5 is -2"),
        ((7, 3, 2, 0, -128, 127), 5, "7 * 3 / 4 = 5.25"),
        ((-7, 3, 2, 0, -128, 127), -5, "-5.25 is nearest to -5; a bare shift gives -6"),
        ((3, 1, 1, 5, -128, 127), 7, "round 1.5 to 2 first, then add the zero-point 5"),
        ((1000, 1, 2, 0, -128, 127), 127, "250 saturates at 127"),
        ((-1000, 1, 2, 0, -128, 127), -128, "-250 saturates at -128"),
        ((-40, 1, 2, -3, -3, 100), -3, "low and high are the clip limits, not -128 and 127"),
        ((9, 1, 0, 1, -128, 127), 10, "a shift of 0 has no half to add"),
        (
            (80_000, 60_000, 32, 0, -128, 127),
            1,
            "80,000 * 60,000 / 2^32 = 1.118; the product is wide",
        ),
    ]
    for arguments, code, why in cases:
        got = function(*arguments)
        expect(
            np.ndim(got) == 0 and got == code,
            f"requantize_half_up{arguments} gives {got!r}, expected {code}: {why}.",
        )
    accumulators = np.arange(-3000, 3001, 7, dtype=np.int64)
    got = np.asarray(function(accumulators, 4097, 18, -4, -100, 90))
    doubled = 2 * accumulators * 4097 + (
        1 << 18
    )  # half up of p / 2^s is floor((2p + 2^s) / 2^(s+1))
    rounded = np.floor_divide(doubled, 1 << 19)
    expect(
        got.shape == accumulators.shape and bool((got == np.clip(rounded - 4, -100, 90)).all()),
        "For an array of accumulators the codes are wrong somewhere; it works on single numbers.",
    )


@exercise
def accumulator_width(function: Callable[..., Any]) -> None:
    """The exact width from weights, bias and code range."""
    cases = [
        (([1], 0, -128, 127), 8, "one weight of 1 passes the codes on"),
        (([1], 1, -128, 127), 9, "with a bias of 1 the largest value is 128"),
        (([-1], 0, -128, 127), 9, "a weight of -1 turns -128 into 128"),
        (([127] * 9, 0, 0, 255), 20, "nine products of 127 and 255 reach 291,465"),
        (([127] * 9, 0, -127, 127), 19, "nine products of 127 and 127 reach 145,161"),
        (([5, -5], 0, 0, 255), 12, "the worst input is not the same code everywhere"),
        (([0, 0], -128, -128, 127), 8, "zero weights leave the bias, and -128 fits 8 bits"),
        (([0, 0], -129, -128, 127), 9, "-129 needs 9 bits"),
        (([3, -2, 7], 1000, -100, 155), 13, "the bias moves the whole range"),
    ]
    for arguments, bits, why in cases:
        got = function(*arguments)
        expect(got == bits, f"accumulator_width{arguments} gives {got!r}, expected {bits}: {why}.")


@exercise
def padded_convolution(function: Callable[..., Any]) -> None:
    """Padding with the code of the real number 0."""
    codes = np.array([[100, -128, 5], [7, 127, -3]], np.int8)
    identity = np.zeros((3, 3), np.int8)
    identity[1, 1] = 1
    got = np.asarray(function(codes, identity, 10, -128))
    expected = codes.astype(np.int64) + 138
    expect(
        got.shape == codes.shape,
        f"The result has shape {got.shape}, expected {codes.shape}: padding K // 2 keeps the size.",
    )
    expect(
        bool((got == expected).all()),
        f"A kernel with a single 1 in the middle must give q - Z + bias = {expected.tolist()}, "
        f"yours gives {got.tolist()}.",
    )
    ones = np.ones((3, 3), np.int8)
    quiet = np.full((4, 5), -55, np.int8)
    got = np.asarray(function(quiet, ones, 3, -55))
    expect(
        bool((got == 3).all()),
        "A map of zero-points stands for an image of zeros: every output is the bias, 3, also at "
        f"the border. Yours gives {got.tolist()}. What do you pad with?",
    )
    bright = np.full((1, 1), 127, np.int8)
    got = np.asarray(function(bright, 100 * ones, 0, -128))
    expect(
        bool((got == 25_500).all()),
        f"One code 127 with zero-point -128 and weight 100 gives 255 * 100 = 25,500, yours {got}. "
        "An int8 product wraps around.",
    )
    weight = np.arange(-3, 22, dtype=np.int8).reshape(5, 5)
    one = np.full((5, 5), 4, np.int8)
    one[2, 2] = 5
    got = np.asarray(function(one, weight, 0, 4))
    expect(
        bool((got == weight[::-1, ::-1]).all()),
        "A single bright code must paint the kernel, turned by half a turn, into the result; yours "
        f"gives {got.tolist()}.",
    )


@exercise
def repaired_neuron(function: Callable[..., Any]) -> None:
    """Signed and aligned bias, a wide sum, rounding and saturation."""
    cases = [
        (([64], [64], 0), 32, "0.5 * 0.5 = 0.25, which is code 32"),
        (([0], [0], -20), -20, "with zero weights the bias comes out unchanged, sign included"),
        (([0], [0], 100), 100, "the bias has 7 fraction bits, the products have 14: align it"),
        (([1, 1], [64, 0], 0), 1, "64 / 128 is a tie and goes up to 1"),
        (([1, 1], [-64, 0], 0), 0, "-64 / 128 is a tie and goes up to 0"),
        (([1], [-65], 0), -1, "-65 / 128 is nearest to -1"),
        (([1], [63], 0), 0, "63 / 128 is nearest to 0"),
        (([127] * 3, [127] * 3, 0), 127, "three large products pass 16 bits and must saturate"),
        (([127] * 3, [-127] * 3, 0), -128, "and so must three negative ones"),
        (
            ([127] * 75, [127] * 37 + [-127] * 38, 127),
            1,
            "a large sum that comes back to 127 - 126",
        ),
    ]
    for arguments, code, why in cases:
        got = function(*arguments)
        shown = arguments if len(arguments[0]) < 4 else f"75 inputs, bias {arguments[2]}"
        expect(got == code, f"For {shown} you return {got!r}, expected {code}: {why}.")
