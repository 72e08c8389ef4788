"""Typical wrong answers to the exercises of lab 05_weight_sharing."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]


def nearest(values: Numbers, centroids: Numbers) -> Indices:
    return np.abs(values[:, None] - centroids).argmin(1)


def step(values: Numbers, index: Indices, centroids: Numbers) -> Numbers:
    new = centroids.astype(float)
    for k in np.unique(index):
        new[k] = values[index == k].mean()
    return new


def higher_index_at_ties(values: Numbers, centroids: Numbers) -> Numbers:
    distance = np.abs(values[:, None] - centroids)
    index = len(centroids) - 1 - distance[:, ::-1].argmin(1)
    return step(values, index, centroids)


def nan_when_empty(values: Numbers, centroids: Numbers) -> Numbers:
    index = nearest(values, centroids)
    count = np.bincount(index, minlength=len(centroids))
    with np.errstate(invalid="ignore"):
        return np.bincount(index, values, len(centroids)) / count


def zero_when_empty(values: Numbers, centroids: Numbers) -> Numbers:
    index = nearest(values, centroids)
    count = np.bincount(index, minlength=len(centroids))
    return np.bincount(index, values, len(centroids)) / np.maximum(count, 1)


def medians(values: Numbers, centroids: Numbers) -> Numbers:
    index, new = nearest(values, centroids), centroids.astype(float)
    for k in np.unique(index):
        new[k] = np.median(values[index == k])
    return new


def sorted_centroids(values: Numbers, centroids: Numbers) -> Numbers:
    ordered = np.sort(centroids)
    return step(values, nearest(values, ordered), ordered)


def in_place(values: Numbers, centroids: Numbers) -> Numbers:
    centroids[:] = step(values, nearest(values, centroids), centroids)
    return centroids


def until_convergence(values: Numbers, centroids: Numbers) -> Numbers:
    for _ in range(50):
        centroids = step(values, nearest(values, centroids), centroids)
    return centroids


def mean_gradient(gradient: Numbers, index: Indices, k: int) -> Numbers:
    sums = np.bincount(index.ravel(), gradient.ravel(), k + 1)[1:]
    return sums / np.maximum(np.bincount(index.ravel(), minlength=k + 1)[1:], 1)


def mean_with_nan(gradient: Numbers, index: Indices, k: int) -> Numbers:
    with np.errstate(invalid="ignore"):
        sums = np.bincount(index.ravel(), gradient.ravel(), k + 1)[1:]
        return sums / np.bincount(index.ravel(), minlength=k + 1)[1:]


def zero_as_a_centroid(gradient: Numbers, index: Indices, k: int) -> Numbers:
    return np.array([gradient[index == j].sum() for j in range(k)])


def one_too_many(gradient: Numbers, index: Indices, k: int) -> Numbers:
    return np.bincount(index.ravel(), gradient.ravel(), k + 1)


def last_one_wins(gradient: Numbers, index: Indices, k: int) -> Numbers:
    total = np.zeros(k + 1)
    total[index] += gradient  # repeated indices are added once only
    return total[1:]


def descent(gradient: Numbers, index: Indices, k: int) -> Numbers:
    return -np.bincount(index.ravel(), gradient.ravel(), k + 1)[1:]


WRONG_ANSWERS = {
    "kmeans_step": [
        ("higher index at ties", higher_index_at_ties),
        ("NaN for an empty cluster", nan_when_empty),
        ("zero for an empty cluster", zero_when_empty),
        ("medians", medians),
        ("sorts the centroids", sorted_centroids),
        ("changes its argument", in_place),
        ("runs to the end", until_convergence),
    ],
    "centroid_gradient": [
        ("mean", mean_gradient),
        ("mean with NaN", mean_with_nan),
        ("zero counted as a centroid", zero_as_a_centroid),
        ("zero included", one_too_many),
        ("repeated indices lost", last_one_wins),
        ("sign of the step", descent),
    ],
}
