"""k-means in one dimension: sort once, then every step costs k searches instead of n k distances.

In sorted order a cluster is an interval. Its ends are found by searching the midpoints between the
centroids, its sum is the difference of two prefix sums, so an assignment and an update together
cost k log n. scikit-learn's KMeans, made for any dimension, looks at all n values each time.

Guaranteed: the within-cluster sum of squares (WCSS) never rises from one iteration to the next,
and the result is a local optimum: every value belongs to its nearest centroid, every centroid is
the mean of its values, no cluster is empty. Not guaranteed: the global optimum. It depends on the
start; "dynamic" finds it exactly for short inputs and came within 0.5 % of it on all inputs that
the tests and the benchmark try.

Sources: Lloyd 1982; Han et al. 2016 (arXiv:1510.00149) section 3.2 for the three starts.

Chapter: 05_weight_sharing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from helpers.weight_sharing.intervals import best_intervals, candidate_cuts

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Start = Literal["linear", "density", "random", "dynamic"]


@dataclass(frozen=True, eq=False)
class Clustering:
    """What k-means found, centroids in rising order.

    `centroids` (k,) float64; `assignment` (n,) int64, the index of each value's centroid in the
    order of the values given; `wcss`, the sum of squared distances; `iterations`, the number of
    update steps.
    """

    centroids: Floats
    assignment: Indices
    wcss: float
    iterations: int


def linear(ordered: Floats, k: int) -> Floats:
    """k evenly spaced centroids from the smallest to the largest value. `ordered` is sorted."""
    return np.linspace(ordered[0], ordered[-1], k)


def density(ordered: Floats, k: int) -> Floats:
    """k centroids with equally many values around each: quantiles (j + 1/2) / k of `ordered`."""
    return ordered[((np.arange(k) + 0.5) / k * len(ordered)).astype(np.int64)]


def random(ordered: Floats, k: int, seed: int = 0) -> Floats:
    """k of the values, drawn without replacement (Forgy), sorted."""
    return np.sort(np.random.default_rng(seed).choice(ordered, k, replace=False))


def dynamic(ordered: Floats, k: int) -> Floats:
    """The means of the k best intervals by dynamic programming over at most max(1024, 12 k) cuts.

    Exact for inputs with no more distinct values than that; otherwise a start close to the optimum.
    """
    centred = ordered - ordered.mean()
    ends = best_intervals(centred, k, candidate_cuts(centred, max(1024, 12 * k)))
    return np.add.reduceat(ordered, ends[:-1]) / np.diff(ends)


STARTS: dict[str, Callable[[Floats, int], Floats]] = {
    "linear": linear,
    "density": density,
    "random": random,
    "dynamic": dynamic,
}


def kmeans(
    values: ArrayLike,
    k: int,
    *,
    start: Start | ArrayLike = "dynamic",
    seed: int = 0,
    max_iterations: int = 100_000,
) -> Clustering:
    """Cluster `values` (n,), n >= 1, around k centroids by Lloyd's algorithm.

    `start` names where the centroids begin ("random" uses `seed`) or holds the k centroids.
    Iterates until no value changes its cluster, at most `max_iterations` updates.

    A value halfway between two centroids goes to the lower one. An empty cluster moves to where it
    helps: it takes the upper half of the cluster that gains most from being cut at its mean. With k
    or fewer distinct values each gets a centroid of its own: fewer than k centroids, WCSS 0.

    Raises ValueError for no values, NaN or infinity, k < 1, an unknown start, a start of the
    wrong length.

    >>> kmeans([0.8, 1.2, 6.4, 6.6], 2).centroids.tolist()
    [1.0, 6.5]
    """
    numbers = _numbers(values)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k must be a whole number of clusters, 1 or more, got {k!r}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations!r}")
    ordered = np.sort(numbers).astype(np.float64)  # float32 sorts faster
    distinct = 1 + np.count_nonzero(ordered[1:] != ordered[:-1])
    centroids = _begin(ordered, int(k), start, seed, distinct)
    if distinct <= k:
        centroids, iterations = np.unique(ordered), 0
    else:
        # Squares shall neither overflow nor vanish. Both steps are exact for float32 values, so
        # that a tie remains a tie: a difference in float64, and a power of two.
        shift = ordered[len(ordered) // 2]
        size = np.ldexp(1.0, np.frexp(max(shift - ordered[0], ordered[-1] - shift))[1])
        scaled = (ordered - shift) / size
        centroids, iterations = _lloyd(scaled, (centroids - shift) / size, max_iterations)
        centroids = np.unique(_polish(ordered, centroids * size + shift))
    nearest = np.repeat(centroids, np.diff(_ends(ordered, centroids)))
    wcss = float(np.square(ordered - nearest).sum())
    return Clustering(centroids, _assign(numbers, centroids), wcss, iterations)


def _numbers(values: ArrayLike) -> NDArray:
    numbers = np.asarray(values)
    if numbers.dtype not in (np.float32, np.float64):
        numbers = numbers.astype(np.float64)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError(f"values must be one-dimensional and not empty, got {numbers.shape}")
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        raise ValueError(f"values holds {bad} numbers that are NaN or infinite")
    return numbers


def _begin(ordered: Floats, k: int, start: Start | ArrayLike, seed: int, distinct: int) -> Floats:
    """The k starting centroids, sorted; refuses what is not one."""
    if isinstance(start, str):
        if start not in STARTS:
            raise ValueError(f"start must be one of {sorted(STARTS)} or an array, got {start!r}")
        if distinct <= k:
            return np.unique(ordered)
        return random(ordered, k, seed) if start == "random" else STARTS[start](ordered, k)
    centroids = np.sort(np.asarray(start, dtype=np.float64))
    if centroids.shape != (k,) or not np.isfinite(centroids).all():
        raise ValueError(f"start must hold k = {k} finite centroids, got {start!r}")
    return centroids


def _midpoints(centroids: Floats) -> Floats:
    return (centroids[1:] + centroids[:-1]) / 2


def _assign(numbers: NDArray, centroids: Floats) -> Indices:
    """The index of the nearest centroid of each of `numbers`, the lower one at a midpoint."""
    above = _midpoints(centroids)
    if numbers.dtype == np.float32:  # x > m just when x > the last float32 that is not above m
        near = above.astype(np.float32)
        above = np.where(near > above, np.nextafter(near, np.float32(-np.inf)), near)
    if len(above) > 32:
        return np.searchsorted(above, numbers, side="left")
    index = np.zeros(len(numbers), dtype=np.uint8)
    for edge in above:  # a few passes over all numbers beat a search for each
        index += numbers > edge
    return index.astype(np.int64)


def _ends(ordered: Floats, centroids: Floats) -> Indices:
    """Assignment step: cluster c holds ordered[ends[c] : ends[c + 1]]."""
    inner = np.searchsorted(ordered, _midpoints(centroids), side="right")
    return np.concatenate([[0], inner, [len(ordered)]])


def _means(ordered: Floats, prefix: Floats, ends: Indices) -> Floats:
    """Update step: the mean of each (nonempty) interval, held inside it against rounding."""
    means = np.diff(prefix[ends]) / np.diff(ends)
    return np.clip(means, ordered[ends[:-1]], ordered[ends[1:] - 1])


def _fill(ordered: Floats, prefix: Floats, ends: Indices) -> Indices:
    """Ends without empty intervals: for each one left out, the best interval is cut at its mean.

    Cutting an interval of n_1 + n_2 values lowers the WCSS by n_1 n_2 / (n_1 + n_2) (m_1 - m_2)^2.
    """
    k = len(ends) - 1
    ends = np.unique(ends)
    while len(ends) < k + 1:
        cut = np.searchsorted(ordered, _means(ordered, prefix, ends), side="right")
        cut = np.minimum(cut, ends[1:])
        left, right = cut - ends[:-1], ends[1:] - cut
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = (prefix[cut] - prefix[ends[:-1]]) / left - (
                prefix[ends[1:]] - prefix[cut]
            ) / right
            gain = np.where(right > 0, left * right / (left + right) * gap**2, -1.0)
        ends = np.sort(np.append(ends, cut[np.argmax(gain)]))
    return ends


def _lloyd(ordered: Floats, centroids: Floats, max_iterations: int) -> tuple[Floats, int]:
    """Assign and update until the clusters stay; more than k distinct values."""
    prefix = np.concatenate([[0.0], np.cumsum(ordered)])
    before = np.empty(0, dtype=np.int64)
    for iteration in range(max_iterations):
        ends = _ends(ordered, centroids)
        if np.array_equal(ends, before):
            return centroids, iteration
        if (np.diff(ends) == 0).any():
            ends = _fill(ordered, prefix, ends)
        centroids, before = _means(ordered, prefix, ends), ends
    return centroids, max_iterations


def _polish(ordered: Floats, centroids: Floats) -> Floats:
    """The means once more, summed cluster by cluster: prefix sums round a little more."""
    ends = np.unique(_ends(ordered, centroids))
    means = np.add.reduceat(ordered, ends[:-1]) / np.diff(ends)
    return np.clip(means, ordered[ends[:-1]], ordered[ends[1:] - 1])
