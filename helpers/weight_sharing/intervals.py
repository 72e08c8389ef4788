"""Where to cut a sorted line of numbers into k intervals: dynamic programming.

In one dimension the clusters of k-means are intervals, so a clustering is k - 1 cuts in the sorted
values. The best cuts follow from the best cuts of a shorter line:

    best(j, c) = min over i of  best(i, c - 1) + cost(i, j)

where cost(i, j) is the sum of squares of the values i..j-1 about their mean. The best i never falls
as j grows, so each row is found by halving: n log n steps instead of n squared.

Sources: Wang and Song 2011 (Ckmeans.1d.dp, doi 10.32614/RJ-2011-015) for the recursion; Panter and
Dite 1951 for where an optimal quantizer has its levels (density to the power 1/3).

Chapter: 05_weight_sharing.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def candidate_cuts(ordered: Floats, groups: int) -> Indices:
    """Positions where a cluster may begin or end, from 0 to n: about `groups` of them, or all.

    A cut between equal values never helps. Of the others, half are taken evenly by rank, and half
    evenly in the sum of gap**(2/3), which spaces them as the levels of an optimal quantizer. No gap
    counts for more than one space, so that an outlier far away does not take the cuts of the rest.
    """
    gaps = np.diff(ordered)
    cuts = np.flatnonzero(gaps) + 1
    if len(cuts) > groups:
        weight = np.cbrt(gaps[cuts - 1]) ** 2
        for _ in range(5):
            weight = np.minimum(weight, 2 * weight.sum() / groups)
        weight = np.cumsum(weight)
        by_error = np.searchsorted(weight, np.linspace(0, weight[-1], groups // 2))
        by_rank = np.linspace(0, len(cuts) - 1, groups // 2).astype(np.int64)
        cuts = cuts[np.union1d(np.minimum(by_error, len(cuts) - 1), by_rank)]
    return np.concatenate([[0], cuts, [len(ordered)]]).astype(np.int64)


def best_intervals(ordered: Floats, k: int, cuts: Indices) -> Indices:
    """The k + 1 ends of the k intervals of least squared error, chosen among `cuts`.

    `ordered` is sorted and centred (squares are summed); `cuts` rises from 0 to n and has at least
    k + 1 entries. With all n + 1 positions as `cuts` the result is the global optimum.
    """
    if not 1 <= k < len(cuts):
        raise ValueError(f"k must be from 1 to {len(cuts) - 1} for {len(cuts)} cuts, got {k}")
    count = cuts.astype(np.float64)
    total = np.concatenate([[0.0], np.cumsum(ordered)])[cuts]
    squares = np.concatenate([[0.0], np.cumsum(ordered * ordered)])[cuts]

    def cost(i: Indices, j: Indices) -> Floats:
        within = squares[j] - squares[i] - (total[j] - total[i]) ** 2 / (count[j] - count[i])
        return np.maximum(within, 0.0)

    best = np.full(len(cuts), np.inf)
    best[0] = 0.0
    rows = []
    for _ in range(k):
        best, chosen = _row(best, cost)
        rows.append(chosen)
    ends = [len(cuts) - 1]
    for chosen in reversed(rows):
        ends.append(int(chosen[ends[-1]]))
    return cuts[ends[::-1]]


def _row(previous: Floats, cost: Callable[[Indices, Indices], Floats]) -> tuple[Floats, Indices]:
    """min over i < j of previous[i] + cost(i, j) for every j, and the i that attains it.

    All middles of one level of the halving are done at once: for the middle j, i lies between the
    choices of its two neighbours on the level above.
    """
    last = len(previous) - 1
    best = np.full(last + 1, np.inf)
    chosen = np.zeros(last + 1, dtype=np.int64)
    half = 1 << last.bit_length()
    while half >= 1:
        middle = np.arange(half, last + 1, 2 * half)
        if len(middle):
            low = chosen[middle - half]
            above = middle + half
            high = np.where(above <= last, chosen[np.minimum(above, last)], last)
            high = np.minimum(high, middle - 1)
            size = high - low + 1
            start = np.cumsum(size) - size
            j = np.repeat(middle, size)
            i = np.arange(len(j)) - np.repeat(start - low, size)
            value = previous[i] + cost(i, j)
            least = np.minimum.reduceat(value, start)
            hits = np.flatnonzero(value == np.repeat(least, size))
            _, first = np.unique(j[hits], return_index=True)
            best[middle], chosen[middle] = least, i[hits[first]]
        half //= 2
    return best, chosen
