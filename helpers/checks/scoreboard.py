"""Checks of the exercises in lab 13_scoreboard.

Chapter: 13_scoreboard.
"""

import copy
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from helpers.checks import exercise, expect

__all__ = ["best_under", "codebook_bytes", "interaction"]


def _number(answer: Any) -> float:
    try:
        return float(answer)
    except (TypeError, ValueError):
        expect(False, f"return one number, got {type(answer).__name__}: {answer!r}")
        raise


@exercise
def interaction(function: Callable[..., Any]) -> None:
    """`interaction(base, first, second, both, sizes) -> float`: gain of both minus both gains."""
    points = [
        ((82.0, 85.0, 81.0, 84.0), 0.0, "+3 and -1 alone, +2 together: they add up exactly"),
        ((82.0, 85.0, 81.0, 82.5), -1.5, "+3 and -1 alone make +2; together it was +0.5"),
        ((90.0, 88.0, 87.0, 86.0), 1.0, "-2 and -3 alone make -5; together it was -4"),
    ]
    sizes = [
        ((1000, 500, 250, 125), 0.0, "2 and 4 times smaller alone, 8 times together: a product"),
        (
            (1000, 500, 250, 250),
            -1.0,
            "2 times 4 is 8, and together it is only 4: one halving less",
        ),
        ((1024, 256, 128, 16), 1.0, "4 times 8 is 32, and together it is 64: one halving more"),
        ((900, 300, 900, 300), 0.0, "the second technique saves nothing, alone or after the first"),
    ]
    units = (
        (False, points, "a network is its accuracy minus that of `base`"),
        (True, sizes, "a size is log2(base / size), the number of halvings"),
    )
    for flag, cases, unit in units:
        for values, expected, hint in cases:
            found = _number(function(*values, flag))
            expect(
                math.isclose(found, expected, abs_tol=1e-9),
                f"interaction{(*values, flag)} is {found:g}: {hint}, so {expected:g} is due. The "
                f"gain of {unit}",
            )
    one, other = function(7000, 3100, 900, 410, True), function(7000, 900, 3100, 410, True)
    expect(
        math.isclose(one, other, abs_tol=1e-9), "which technique is called first changes nothing"
    )


@exercise
def codebook_bytes(function: Callable[..., Any]) -> None:
    """`codebook_bytes(layers, bits) -> int`: bytes of shared 8-bit codes, layer by layer."""
    cases: list[tuple[list[tuple[int, int]], int, int, str]] = [
        ([(1000, 10)], 4, 500 + 16 + 80, "500 bytes of indices, 16 codes, 8 bytes a channel"),
        ([(1000, 10)], 2, 250 + 4 + 80, "two bits an index, and a book of only 4 codes"),
        ([(1000, 10)], 8, 1000 + 256 + 80, "a book of 256 codes has 256 bytes"),
        ([(9, 1)], 4, 5 + 16 + 8, "nine indices of 4 bits are 4.5 bytes: a file has whole ones"),
        (
            [(9, 1), (9, 1)],
            4,
            2 * (5 + 16 + 8),
            "each layer has its own book and begins at a whole byte",
        ),
        ([(72, 8), (640, 10)], 3, 27 + 8 + 64 + 240 + 8 + 80, "three bits an index"),
        ([], 4, 0, "no layers, no bytes"),
    ]
    for layers, bits, expected, hint in cases:
        answer = function(list(layers), bits)
        expect(
            isinstance(answer, Real) and answer == expected and not isinstance(answer, bool),
            f"codebook_bytes({layers}, {bits}) is {answer!r}, not {expected}: {hint}",
        )


@exercise
def best_under(function: Callable[..., Any]) -> None:
    """`best_under(rows, budget) -> row or None`: the most accurate row that fits."""
    rows = [
        {"name": "large", "accuracy": 0.91, "bytes": 9000},
        {"name": "middle", "accuracy": 0.88, "bytes": 4000},
        {"name": "beaten", "accuracy": 0.85, "bytes": 6000},
        {"name": "twin", "accuracy": 0.88, "bytes": 5000},
        {"name": "small", "accuracy": 0.70, "bytes": 1000},
    ]
    cases = [
        (10**6, "large", "everything fits, and `large` is the most accurate"),
        (8999, "middle", "`large` is one byte too large; of equal accuracies the smaller one"),
        (9000, "large", "what takes exactly the budget fits"),
        (6500, "middle", "not the row nearest to the budget, but the most accurate that fits"),
        (3999, "small", "only `small` fits"),
        (999, None, "nothing fits: None"),
    ]
    for order in (1, -1):
        given = rows[::order]
        for budget, expected, hint in cases:
            arguments = copy.deepcopy(given)
            answer = function(arguments, budget)
            expect(arguments == given, "your function changed the rows: leave them as they are")
            found = answer
            if answer is not None:
                expect(
                    isinstance(answer, dict) and answer in given,
                    f"return one of the rows, or None; got {answer!r}",
                )
                found = answer["name"]
            expect(
                found == expected,
                f"best_under(rows, {budget}) is {found!r}, not {expected!r}: {hint}",
            )
    expect(function([], 10) is None, "without rows the answer is None")
