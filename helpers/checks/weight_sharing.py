"""Checks of the exercises in lab 05_weight_sharing.

Chapter: 05_weight_sharing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.checks import exercise, expect

__all__ = ["canonical_codes", "centroid_gradient", "kmeans_step", "shared_layer_bits"]


def _array(answer: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    expect(found.shape == shape, f"return an array of shape {shape}, got {answer!r}")
    return found


@exercise
def kmeans_step(function: Callable[..., Any]) -> None:
    """`kmeans_step(values, centroids) -> new centroids`, lower index at ties, empty ones stay."""
    cases = [
        ([0.0, 1.0, 10.0, 12.0], [0.0, 9.0], [0.5, 11.0], "the mean of the values nearest to each"),
        ([0.0, 1.0, 2.0], [0.0, 2.0], [0.5, 2.0], "at a tie the lower index takes the value"),
        ([1.0, 2.0], [1.5, 50.0], [1.5, 50.0], "a centroid without values stays where it is"),
        ([1.0, 2.0, 6.0], [8.0, 0.0], [6.0, 1.5], "the centroids need not be in rising order"),
        ([3.0, 3.0], [3.0, 3.0, 4.0], [3.0, 3.0, 4.0], "of equal centroids the first takes all"),
        ([-1.0, 0.5, 0.7, 2.0], [0.0], [0.55], "one centroid is the mean of everything"),
    ]
    for values, centroids, expected, hint in cases:
        given = np.array(values), np.array(centroids)
        answer = _array(function(*given), (len(centroids),))
        text = f"kmeans_step({values}, {centroids}) gave {answer.tolist()}, not {expected}: {hint}"
        expect(bool(np.allclose(answer, expected)), text)
        expect(
            given[0].tolist() == values and given[1].tolist() == centroids,
            "your function changed its arguments: return a new array",
        )
    rng = np.random.default_rng(5)
    many, begin = rng.normal(size=200), rng.normal(size=6)
    answer = _array(function(many.copy(), begin.copy()), (6,))
    nearest = np.abs(many[:, None] - begin).argmin(1)
    expected_means = [many[nearest == k].mean() for k in range(6)]
    expect(
        bool(np.allclose(answer, expected_means)),
        "for 200 random values and 6 centroids the means are not those of the nearest values",
    )


@exercise
def centroid_gradient(function: Callable[..., Any]) -> None:
    """`centroid_gradient(gradient, index, k)`: sums over the weights of centroids 1..k."""
    gradient = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    index = np.array([[0, 1, 1], [3, 1, 0]])
    answer = _array(function(gradient.copy(), index.copy(), 3), (3,))
    expected = [22.0, 0.0, 8.0]
    text = (
        f"gradient {gradient.tolist()} with index {index.tolist()} gave {answer.tolist()}, "
        f"not {expected}"
    )
    expect(bool(np.isfinite(answer).all()), f"{text}: an unused centroid gets 0")
    expect(answer[0] != 22 / 3, f"{text}: the chain rule adds, it does not average")
    expect(answer.tolist() == expected, f"{text}: index j is centroid j - 1, index 0 is none")
    rng = np.random.default_rng(1)
    gradient = rng.normal(size=(4, 3, 3, 3))
    index = rng.integers(0, 6, gradient.shape).astype(np.uint8)
    answer = _array(function(gradient, index, 5), (5,))
    sums = np.bincount(index.ravel(), gradient.ravel(), minlength=6)[1:]
    expect(
        bool(np.allclose(answer, sums)),
        "for a convolution's gradient of shape (4, 3, 3, 3) the sums are wrong",
    )


@exercise
def canonical_codes(function: Callable[..., Any]) -> None:
    """`canonical_codes(lengths) -> list of texts`: shorter first, then in the order of symbols."""
    cases = [
        ([1, 3, 3, 3, 4, 4], ["0", "100", "101", "110", "1110", "1111"], "Cormen's six letters"),
        ([2, 2, 2, 2], ["00", "01", "10", "11"], "codes keep their leading zeros"),
        ([3, 1, 3, 2], ["110", "0", "111", "10"], "shorter codes come first, whoever has them"),
        ([2, 0, 1, 2], ["10", "", "0", "11"], "a symbol of length 0 has no code"),
        ([0, 1], ["", "0"], "one symbol alone has the code 0"),
        ([4, 1, 4, 3, 3], ["1100", "0", "1101", "100", "101"], "a length may be left out, here 2"),
        (
            [5, 1, 2, 3, 5, 5, 5],
            ["11100", "0", "10", "110", "11101", "11110", "11111"],
            "a long tail",
        ),
        ([0, 0], ["", ""], "without symbols there are no codes"),
    ]
    for lengths, expected, hint in cases:
        given = list(lengths)
        answer = function(given)
        text = f"canonical_codes({lengths}) gave {answer!r}, not {expected}: {hint}"
        expect(isinstance(answer, (list, tuple, np.ndarray)) and len(answer) == len(lengths), text)
        expect(all(isinstance(code, str) for code in answer), f"{text}; codes are texts")
        expect(list(answer) == expected, text)
        expect(given == lengths, "your function changed its argument: sort a copy")


@exercise
def shared_layer_bits(function: Callable[..., Any]) -> None:
    """`shared_layer_bits(positions, value_bits, gap_bits)`: entries, fillers and the codebook."""
    cases = [
        ([1, 4, 15], 2, 3, 4 * 5 + 3 * 32, "gaps 2, 3 and 11: the last takes one filler"),
        ([0, 1, 2], 4, 4, 3 * 8 + 15 * 32, "neighbours need no filler; the first gap is 1"),
        ([7], 1, 3, 1 * 4 + 32, "a gap of exactly 2**3 = 8 fits, it is stored as 7"),
        ([8], 1, 3, 2 * 4 + 32, "a gap of 9 takes one filler"),
        ([24], 5, 3, 4 * 8 + 31 * 32, "a gap of 25 takes three fillers"),
    ]
    for positions, value_bits, gap_bits, expected, hint in cases:
        given = np.array(positions)
        answer = function(given, value_bits, gap_bits)
        text = (
            f"shared_layer_bits({positions}, {value_bits}, {gap_bits}) gave {answer!r}, "
            f"not {expected}: {hint}, and the codebook has 2**{value_bits} - 1 numbers"
        )
        expect(np.ndim(answer) == 0 and answer is not None and answer == expected, text)
        expect(given.tolist() == positions, "your function changed its argument")
    kept = np.flatnonzero(np.random.default_rng(2).random(20_000) < 0.08)
    fields = [int(np.ceil(gap / 32)) for gap in np.diff(np.concatenate([[-1], kept]))]
    expected = sum(fields) * (6 + 5) + 63 * 32
    answer = function(kept, 6, 5)
    expect(answer == expected, f"8 % of 20,000 weights gave {answer!r} bits, not {expected}")
