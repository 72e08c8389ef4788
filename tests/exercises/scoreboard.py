"""Typical wrong answers to the exercises of lab 13_scoreboard."""

import math
from typing import Any

Row = dict[str, Any]


def difference_of_gains(
    base: float, first: float, second: float, both: float, sizes: bool
) -> float:
    return both - base


def plain_sizes(base: float, first: float, second: float, both: float, sizes: bool) -> float:
    """Bytes saved instead of factors."""
    sign = -1 if sizes else 1
    return sign * (both - first - second + base)


def ratio_of_factors(base: float, first: float, second: float, both: float, sizes: bool) -> float:
    """Without the logarithm: 1 where nothing interacts."""
    return first * second / (base * both) if sizes else both - first - second + base


def natural_logarithm(base: float, first: float, second: float, both: float, sizes: bool) -> float:
    if sizes:
        return math.log(first * second / (base * both))
    return both - first - second + base


def other_sign(base: float, first: float, second: float, both: float, sizes: bool) -> float:
    if sizes:
        return math.log2(base * both / (first * second))
    return first + second - base - both


def always_points(base: float, first: float, second: float, both: float, sizes: bool) -> float:
    return both - first - second + base


def without_book(layers: list[tuple[int, int]], bits: int) -> int:
    return sum(-(-weights * bits // 8) + 8 * channels for weights, channels in layers)


def float_book(layers: list[tuple[int, int]], bits: int) -> int:
    return without_book(layers, bits) + sum(4 * 2**bits for _ in layers)


def one_book(layers: list[tuple[int, int]], bits: int) -> int:
    return without_book(layers, bits) + 2**bits


def broken_bytes(layers: list[tuple[int, int]], bits: int) -> float:
    return sum(weights * bits / 8 + 2**bits + 8 * channels for weights, channels in layers)


def rounded_once(layers: list[tuple[int, int]], bits: int) -> int:
    indices = -(-sum(weights for weights, _ in layers) * bits // 8)
    return indices + sum(2**bits + 8 * channels for _, channels in layers)


def bias_only(layers: list[tuple[int, int]], bits: int) -> int:
    return without_book(layers, bits) + sum(2**bits - 4 * channels for _, channels in layers)


def nearest_budget(rows: list[Row], budget: int) -> Row | None:
    fitting = [row for row in rows if row["bytes"] <= budget]
    return max(fitting, key=lambda row: row["bytes"]) if fitting else None


def strictly_below(rows: list[Row], budget: int) -> Row | None:
    fitting = [row for row in rows if row["bytes"] < budget]
    return max(fitting, key=lambda row: (row["accuracy"], -row["bytes"])) if fitting else None


def first_of_equals(rows: list[Row], budget: int) -> Row | None:
    fitting = [row for row in rows if row["bytes"] <= budget]
    return max(fitting, key=lambda row: row["accuracy"]) if fitting else None


def stops_on_nothing(rows: list[Row], budget: int) -> Row:
    fitting = [row for row in rows if row["bytes"] <= budget]
    return max(fitting, key=lambda row: (row["accuracy"], -row["bytes"]))


def no_budget(rows: list[Row], budget: int) -> Row | None:
    return max(rows, key=lambda row: (row["accuracy"], -row["bytes"])) if rows else None


def just_the_name(rows: list[Row], budget: int) -> str | None:
    found = nearest_budget(rows, budget)
    return found and found["name"]


def sorts_in_place(rows: list[Row], budget: int) -> Row | None:
    rows.sort(key=lambda row: (-row["accuracy"], row["bytes"]))
    return next((row for row in rows if row["bytes"] <= budget), None)


WRONG_ANSWERS = {
    "interaction": [
        ("the gain of both", difference_of_gains),
        ("bytes instead of factors", plain_sizes),
        ("no logarithm", ratio_of_factors),
        ("another logarithm", natural_logarithm),
        ("the other sign", other_sign),
        ("ignores `sizes`", always_points),
    ],
    "codebook_bytes": [
        ("no codebook", without_book),
        ("a codebook of floats", float_book),
        ("one codebook for all layers", one_book),
        ("half bytes", broken_bytes),
        ("rounded up once", rounded_once),
        ("forgets the scales", bias_only),
    ],
    "best_under": [
        ("the largest that fits", nearest_budget),
        ("strictly below", strictly_below),
        ("any of equal accuracy", first_of_equals),
        ("stops where nothing fits", stops_on_nothing),
        ("no budget", no_budget),
        ("a name", just_the_name),
        ("changes the rows", sorts_in_place),
    ],
}
