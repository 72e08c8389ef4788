"""Checks of the exercises in lab 05_weight_sharing.

Chapter: 05_weight_sharing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.checks import exercise, expect

__all__ = ["centroid_gradient", "kmeans_step"]


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
    values, centroids = rng.normal(size=200), rng.normal(size=6)
    answer = _array(function(values.copy(), centroids.copy()), (6,))
    nearest = np.abs(values[:, None] - centroids).argmin(1)
    expected_means = [values[nearest == k].mean() for k in range(6)]
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
