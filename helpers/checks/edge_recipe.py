"""Checks of the exercises in lab 10_edge_recipe.

Chapter: 10_edge_recipe.
"""

from collections.abc import Callable
from typing import Any

import torch

from helpers.checks import exercise, expect

__all__ = ["background_labels", "cheapest_cut", "dense_weights", "quotient_follows"]


@exercise
def background_labels(function: Callable[..., Any]) -> None:
    """`background_labels(y, targets) -> (N,)`: places in `targets`, len(targets) for the rest."""
    cases: list[tuple[list[int], tuple[int, ...], list[int], str]] = [
        ([3, 1, 4, 1, 5], (4, 1), [2, 1, 0, 1, 2], "4 is the first target, 1 the second"),
        ([0, 1, 2, 3], (0, 1, 2), [0, 1, 2, 3], "3 is background, whose label is 3 here"),
        ([0, 1, 2, 0], (2, 0, 1), [1, 2, 0, 1], "a label that was replaced must not be replaced again"),
        ([7, 7, 2], (2,), [1, 1, 0], "one target: the background is 1"),
        ([5, 6], (0, 1, 2, 3), [4, 4], "no target occurs"),
    ]  # fmt: skip
    for old, targets, expected, hint in cases:
        y = torch.tensor(old)
        answer = function(y, targets)
        expect(y.tolist() == old, "your function changed y: make a new tensor")
        expect(answer is not None, "return the new labels, got None")
        found = torch.as_tensor(answer).tolist()  # a list or an array will do
        expect(
            found == expected,
            f"labels {old} with targets {targets} must become {expected}, got {found}: {hint}",
        )


@exercise
def dense_weights(function: Callable[..., Any]) -> None:
    """`dense_weights(size, strides, channels, classes, pooled) -> int`: behind a chain of 3x3 layers."""
    cases: list[tuple[int, tuple[int, ...], int, int, int, str]] = [
        (28, (1, 2, 2, 2), 96, 5, 4, "the sides are 28, 14, 7, 4"),
        (96, (2, 1, 2, 1, 2, 1, 2, 1), 192, 10, 6, "the sides are 48, 48, 24, 24, 12, 12, 6, 6"),
        (20, (1, 2, 2, 2), 7, 3, 3, "the sides are 20, 10, 5, 3"),
        (9, (2, 2), 2, 2, 3, "the sides are 5 and 3"),
        (10, (3, 3), 4, 2, 2, "a stride of 3 gives the sides 4 and 2"),
        (1, (2, 2), 8, 4, 1, "a side of 1 stays 1"),
        (11, (), 3, 2, 11, "without a convolution the side stays"),
    ]
    for size, strides, channels, classes, side, hint in cases:
        for pooled in (False, True):
            expected = channels * classes * (1 if pooled else side * side)
            answer = function(size, strides, channels, classes, pooled)
            kind = "a pool" if pooled else "a flatten"
            expect(
                not isinstance(answer, bool) and answer == expected,
                f"{size} pixels, strides {strides}, {channels} channels, {classes} classes behind "
                f"{kind}: {expected} weights, got {answer!r} ({hint})",
            )


@exercise
def quotient_follows(function: Callable[..., Any]) -> None:
    """`quotient_follows(printed, numerator, denominator) -> bool`: does rounding explain a quotient?"""
    cases = [
        ("8.57", "6.09", "0.71", True, "6.085 to 6.095 over 0.705 to 0.715 is 8.51 to 8.65"),
        ("8.8", "6.09", "0.71", False, "at most 8.65, and 8.8 was at least 8.75"),
        ("4.9", "2", "1", True, "1.5 to 2.5 over 0.5 to 1.5 is 1 to 5"),
        ("1.0", "2", "1", True, "1.5 to 2.5 over 0.5 to 1.5 is 1 to 5"),
        ("5.2", "2", "1", False, "1.5 to 2.5 over 0.5 to 1.5 is 1 to 5, and 5.2 was at least 5.15"),
        ("3.00", "3.00", "1.00", True, "it is exactly the quotient"),
        ("3.03", "3.00", "1.00", False, "at most 3.005 / 0.995 = 3.0201"),
        ("54", "53.8", "1.000", True, "53.72 to 53.88, and 54 may have been 53.6"),
        ("1.5", "1.00", "0.70", False, "1.411 to 1.446, and 1.5 was at least 1.45"),
        ("120", "10", "0.08", True, "9.5 to 10.5 over 0.075 to 0.085 is 112 to 140"),
        ("0.02", "1.0", "60", True, "0.0157 to 0.0176, and 0.02 may have been 0.016"),
    ]
    for printed, numerator, denominator, expected, hint in cases:
        answer = function(printed, numerator, denominator)
        expect(answer in (True, False), f"return True or False, got {answer!r}")
        expect(
            bool(answer) == expected,
            f"{numerator} / {denominator}, printed as {printed}: {expected}, got {answer} ({hint})",
        )


Table = dict[tuple[str, float], tuple[float, int]]


@exercise
def cheapest_cut(function: Callable[..., Any]) -> None:
    """`cheapest_cut(table, baseline, allowed) -> (layer, ratio) or None`: least loss per MAC saved."""
    mild: Table = {("a", 0.25): (0.89, 100), ("a", 0.5): (0.88, 400), ("b", 0.25): (0.86, 500)}
    cases: list[tuple[Table, float, float, tuple[str, float] | None, str]] = [
        (mild, 0.90, 0.05, ("a", 0.5), "losses per 100 MACs: 0.01, 0.005, 0.008"),
        (mild, 0.90, 0.015, ("a", 0.25), "only one cut loses at most 0.015"),
        (mild, 0.90, 0.005, None, "every cut loses more than 0.005"),
        ({}, 0.9, 0.1, None, "there is nothing to cut"),
        (
            {("a", 0.5): (0.92, 10), ("b", 0.5): (0.90, 1000), ("c", 0.5): (0.89, 1000)},
            0.90,
            0.05,
            ("a", 0.5),
            "a gains 0.02 over 10 MACs: its loss per MAC is the lowest, and negative",
        ),
        (
            {("a", 0.5): (0.75, 100), ("b", 0.5): (0.5, 200), ("c", 0.5): (0.25, 100)},
            1.0,
            0.9,
            ("b", 0.5),
            "a and b lose 0.0025 a MAC; b saves more",
        ),
        (
            {("a", 0.1): (0.95, 0), ("b", 0.5): (0.80, 100)},
            0.90,
            0.2,
            ("b", 0.5),
            "a saves nothing, so it is no cut",
        ),
    ]
    for table, baseline, allowed, expected, hint in cases:
        answer = function(dict(table), baseline, allowed)
        pair = None if answer is None else tuple(answer)  # a list will do
        expect(
            pair == expected,
            f"from {table}, baseline {baseline}, allowed {allowed}: {expected}, got {answer!r} ({hint})",
        )
