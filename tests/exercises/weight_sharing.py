"""Typical wrong answers to the exercises of lab 05_weight_sharing, and unusual right ones."""

import math
from fractions import Fraction

import numpy as np
import torch
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


def codes_of(lengths: list[int], order: list[int]) -> list[str]:
    codes, number, before = [""] * len(lengths), 0, 0
    for symbol in order:
        if lengths[symbol]:
            number <<= max(0, lengths[symbol] - before)
            codes[symbol] = f"{number:0{lengths[symbol]}b}"
            number, before = number + 1, lengths[symbol]
    return codes


def order_of_symbols(lengths: list[int]) -> list[str]:
    return codes_of(lengths, list(range(len(lengths))))


def later_symbols_first(lengths: list[int]) -> list[str]:
    return codes_of(lengths, sorted(range(len(lengths)), key=lambda s: (lengths[s], -s)))


def no_leading_zeros(lengths: list[int]) -> list[str]:
    order = sorted(range(len(lengths)), key=lambda s: (lengths[s], s))
    return [f"{int(c, 2):b}" if c else "" for c in codes_of(lengths, order)]


def numbers_not_texts(lengths: list[int]) -> list[int]:
    order = sorted(range(len(lengths)), key=lambda s: (lengths[s], s))
    return [int(c, 2) if c else 0 for c in codes_of(lengths, order)]


def shift_by_one_only(lengths: list[int]) -> list[str]:
    codes, number, before = [""] * len(lengths), 0, 0
    for symbol in sorted(range(len(lengths)), key=lambda s: (lengths[s], s)):
        if lengths[symbol]:
            number <<= int(lengths[symbol] > before)
            codes[symbol] = f"{number:0{lengths[symbol]}b}"
            number, before = number + 1, lengths[symbol]
    return codes


def without_fillers(positions: Indices, value_bits: int, gap_bits: int) -> int:
    return len(positions) * (value_bits + gap_bits) + (2**value_bits - 1) * 32


def without_codebook(positions: Indices, value_bits: int, gap_bits: int) -> int:
    ways = np.diff(positions, prepend=-1)
    return int((-(-ways // 2**gap_bits)).sum()) * (value_bits + gap_bits)


def zero_in_the_codebook(positions: Indices, value_bits: int, gap_bits: int) -> int:
    return without_codebook(positions, value_bits, gap_bits) + 2**value_bits * 32


def fillers_without_a_value(positions: Indices, value_bits: int, gap_bits: int) -> int:
    ways = np.diff(positions, prepend=-1)
    entries = int((-(-ways // 2**gap_bits)).sum())
    return entries * gap_bits + len(positions) * value_bits + (2**value_bits - 1) * 32


def start_at_zero(positions: Indices, value_bits: int, gap_bits: int) -> int:
    ways = np.diff(positions, prepend=0)
    entries = int(np.maximum(1, -(-ways // 2**gap_bits)).sum())
    return entries * (value_bits + gap_bits) + (2**value_bits - 1) * 32


def gaps_to_one_less(positions: Indices, value_bits: int, gap_bits: int) -> int:
    ways = np.diff(positions, prepend=-1)
    entries = int((-(-ways // (2**gap_bits - 1))).sum())
    return entries * (value_bits + gap_bits) + (2**value_bits - 1) * 32


WRONG_ANSWERS = {
    "canonical_codes": [
        ("in the order of the symbols", order_of_symbols),
        ("later symbols first", later_symbols_first),
        ("leading zeros lost", no_leading_zeros),
        ("numbers", numbers_not_texts),
        ("one zero only where the length jumps", shift_by_one_only),
    ],
    "shared_layer_bits": [
        ("fillers forgotten", without_fillers),
        ("codebook forgotten", without_codebook),
        ("zero counted in the codebook", zero_in_the_codebook),
        ("fillers without a value", fillers_without_a_value),
        ("counts from 0", start_at_zero),
        ("largest gap off by one", gaps_to_one_less),
    ],
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


def step_by_loops(values: Numbers, centroids: Numbers) -> list[float]:
    groups: list[list[float]] = [[] for _ in centroids]
    for value in values.tolist():
        groups[min(range(len(groups)), key=lambda j: abs(value - centroids[j]))].append(value)
    return [sum(g) / len(g) if g else c for g, c in zip(groups, centroids.tolist(), strict=True)]


def gradient_by_autograd(gradient: Numbers, index: Indices, k: int) -> torch.Tensor:
    codebook = torch.zeros(k, requires_grad=True)
    weight = torch.cat([torch.zeros(1), codebook])[torch.as_tensor(index).long()]
    (weight * torch.as_tensor(gradient).float()).sum().backward()
    assert codebook.grad is not None
    return codebook.grad


def codes_by_counting(lengths: list[int]) -> list[str]:
    """As in the file formats that count the codes of each length first."""
    following, code = {}, 0
    for n in range(1, max(lengths) + 1):
        code = (code + (lengths.count(n - 1) if n > 1 else 0)) << 1
        following[n] = code
    codes = []
    for n in lengths:
        codes.append(f"{following[n]:0{n}b}" if n else "")
        following[n] = following.get(n, 0) + 1
    return codes


def codes_by_kraft(lengths: list[int]) -> NDArray[np.str_]:
    codes, begin = [""] * len(lengths), Fraction(0)
    for s in sorted(range(len(lengths)), key=lambda s: (lengths[s], s)):
        if lengths[s]:
            codes[s] = f"{int(begin * 2 ** lengths[s]):0{lengths[s]}b}"
            begin += Fraction(1, 2 ** lengths[s])
    return np.array(codes)


def bits_by_loop(positions: Indices, value_bits: int, gap_bits: int) -> float:
    entries, at = 0, -1
    for position in positions:
        entries, at = entries + math.ceil((position - at) / 2**gap_bits), position
    return float(entries * (value_bits + gap_bits) + (2**value_bits - 1) * 32)


RIGHT_ANSWERS = {
    "kmeans_step": [
        ("loops, a list", step_by_loops),
        ("a tensor of float32", lambda v, c: torch.tensor(step_by_loops(v, c))),
    ],
    "centroid_gradient": [
        ("autograd, float32", gradient_by_autograd),
        ("a list", lambda g, i, k: [(g * (i == j)).sum() for j in range(1, k + 1)]),
    ],
    "canonical_codes": [
        ("counts each length", codes_by_counting),
        ("an array, by Kraft's sum", codes_by_kraft),
        ("a tuple", lambda lengths: tuple(codes_by_counting(lengths))),
    ],
    "shared_layer_bits": [
        ("a loop, float", bits_by_loop),
        ("a tensor", lambda *given: torch.tensor(bits_by_loop(*given))),
    ],
}
