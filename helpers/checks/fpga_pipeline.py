"""Checks of the exercises of lab 12: windows, FIFOs, foldings, and what a design costs.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.checks import exercise, expect


@exercise
def pixels_needed(function: Callable[..., Any]) -> None:
    """How many pixels must have arrived before a window can be computed."""
    cases = [
        ((0, 0, 5, 7, 3, 1, 0), 17, "without padding the window ends at row 2, column 2"),
        ((0, 0, 5, 7, 3, 1, 1), 9, "with padding 1 the window starts one row and column outside"),
        ((2, 3, 5, 7, 3, 1, 1), 26, "the window ends at row 3, column 4"),
        ((2, 6, 5, 7, 3, 1, 1), 28, "the right edge of the window is padding, which never arrives"),
        ((4, 6, 5, 7, 3, 1, 1), 35, "the last window needs the whole frame and no more"),
        ((4, 2, 5, 7, 3, 1, 1), 32, "the bottom edge of the window is padding"),
        ((1, 2, 9, 8, 3, 2, 1), 30, "with stride 2 the window ends at row 3, column 5"),
        ((3, 4, 6, 6, 1, 1, 0), 23, "a 1 x 1 window needs its own pixel"),
        ((0, 0, 4, 4, 5, 1, 2), 11, "a 5 x 5 window with padding 2"),
        ((0, 0, 3, 3, 3, 3, 0), 9, "a window over the whole map"),
    ]
    for arguments, pixels, why in cases:
        got = function(*arguments)
        expect(
            got == pixels,
            f"pixels_needed{arguments} gives {got!r}, expected {pixels}: {why}.",
        )


@exercise
def fifo_occupancy(function: Callable[..., Any]) -> None:
    """Words in a FIFO after every clock edge, with registered valid and ready."""
    cases = [
        ((2, [1], [1]), [1], "a word needs a cycle to get through: nothing to take yet"),
        ((2, [1, 1, 1], [0, 0, 0]), [1, 2, 2], "two words are all that fit"),
        ((2, [1, 0, 0], [0, 1, 1]), [1, 0, 0], "an empty FIFO gives nothing"),
        ((2, [1] * 4, [1] * 4), [1, 1, 1, 1], "at full speed one word is always inside"),
        (
            (1, [1] * 6, [1] * 6),
            [1, 0, 1, 0, 1, 0],
            "a full FIFO refuses, even if a word leaves in the same cycle",
        ),
        ((3, [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]), [1, 2, 3, 2, 3], "full, one out, one in"),
        ((1, [], []), [], "no cycles"),
    ]
    for (depth, gives, takes), expected, why in cases:
        wishes = [bool(g) for g in gives], [bool(t) for t in takes]
        got = [int(n) for n in function(depth, *wishes)]
        expect(
            got == expected,
            f"With depth {depth}, giving {gives} and taking {takes}, the occupancy is {expected}: "
            f"{why}. You return {got}.",
        )
    gives, takes = (np.random.default_rng(0).random((2, 400)) < 0.6).tolist()
    inside, expected = 0, []
    for give, take in zip(gives, takes, strict=True):
        inside += (give and inside < 4) - (take and inside > 0)
        expected.append(inside)
    got = [int(n) for n in function(4, gives, takes)]
    expect(got == expected, "Under random traffic of 400 cycles with depth 4 the numbers differ.")


@exercise
def fewest_multipliers(function: Callable[..., Any]) -> None:
    """The cheapest folding that is fast enough and divides evenly."""
    cases = [
        ((100, 8, 9, 100), 72, "one position per cycle needs them all"),
        ((100, 8, 9, 7200), 1, "with time for every product one multiplier is enough"),
        ((100, 8, 9, 3600), 2, "half the time, two multipliers"),
        ((100, 8, 9, 2000), 4, "3.6 are not enough and 4 can be had: 4 outputs"),
        ((100, 7, 9, 1250), 7, "5.04 are asked for; 6 cannot be had from divisors of 7 and 9"),
        ((49, 32, 9, 1568), 9, "14,112 / 1,568 = 9"),
        ((49, 32, 9, 1567), 12, "one cycle less, and 9 are too slow; 10 and 11 cannot be had"),
        ((100, 11, 13, 14299), 11, "no divisor lies between 1 and 11"),
        ((100, 8, 9, 99), None, "no folding does more than a position per cycle"),
    ]
    for arguments, number, why in cases:
        got = function(*arguments)
        expect(
            got == number,
            f"fewest_multipliers{arguments} gives {got!r}, expected {number}: {why}.",
        )


@exercise
def blocks_needed(function: Callable[..., Any]) -> None:
    """Whole blocks of one mode, side by side and on top of each other."""
    gowin = [(1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024), (36, 512)]
    cases = [
        ((8, 2048, gowin), 1, "2048 words of 9 bits hold it"),
        ((8, 2049, gowin), 2, "one word more than a block has takes a second block"),
        ((36, 512, gowin), 1, "512 words of 36 bits"),
        ((37, 512, gowin), 2, "37 bits are two columns, whatever is left of the second"),
        ((96, 3072, gowin), 18, "6 columns of 18 bits, 3 rows; the bits alone would fit into 16"),
        ((1, 1, gowin), 1, "a single bit still takes a block"),
        ((1, 16385, gowin), 2, "one bit wide, one word too deep"),
        ((8, 4096, gowin), 2, "two columns of 4 bits, or two rows of 9 bits"),
        ((16, 300, [(2, 2048), (4, 1024), (8, 512), (16, 256)]), 2, "another part's modes"),
        ((5, 7, [(4, 4)]), 4, "two columns and two rows, both rounded up"),
    ]
    for arguments, blocks, why in cases:
        got = function(*arguments)
        shown = (
            f"{arguments[0]}, {arguments[1]}, {'...' if arguments[2] is gowin else arguments[2]}"
        )
        expect(got == blocks, f"blocks_needed({shown}) gives {got!r}, expected {blocks}: {why}.")
