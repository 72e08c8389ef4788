"""Typical wrong answers to the exercises of lab 06_low_rank, and unusual right ones."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Any, Any]


def parts(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank], s[:rank], vt[:rank]


def order_swapped(weight: Tensor, rank: int) -> Pair:
    u, s, vt = parts(weight, rank)
    return u * s.sqrt(), s.sqrt()[:, None] * vt


def v_not_transposed(weight: Tensor, rank: int) -> Pair:
    u, s, vt = torch.linalg.svd(weight, full_matrices=True)
    k = s[:rank].sqrt()
    return k[:, None] * vt.T[:rank], u[:, :rank] * k


def all_in_second(weight: Tensor, rank: int) -> Pair:
    u, s, vt = parts(weight, rank)
    return vt, u * s


def all_in_first(weight: Tensor, rank: int) -> Pair:
    u, s, vt = parts(weight, rank)
    return s[:, None] * vt, u


def scaled_twice(weight: Tensor, rank: int) -> Pair:
    u, s, vt = parts(weight, rank)
    return s[:, None] * vt, u * s


def last_ranks(weight: Tensor, rank: int) -> Pair:
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    k = s[-rank:].sqrt()
    return k[:, None] * vt[-rank:], u[:, -rank:] * k


def squares(values: Tensor) -> Tensor:
    return values.square().cumsum(0) / values.square().sum()


def plain_sum(values: Tensor, share: float) -> int:
    return int((values.cumsum(0) / values.sum() < share).sum()) + 1


def joint_rows_of_outputs(weight: Tensor) -> Tensor:
    o, c, height, width = weight.shape
    return weight.permute(0, 2, 1, 3).reshape(o * height, c * width)


def joint_reshaped_only(weight: Tensor) -> Tensor:
    o, c, height, width = weight.shape
    return weight.reshape(c * height, o * width)


def joint_axes_swapped(weight: Tensor) -> Tensor:
    o, c, height, width = weight.shape
    return weight.permute(2, 1, 0, 3).reshape(c * height, o * width)


def joint_per_kernel(weight: Tensor) -> Tensor:
    o, c, height, width = weight.shape
    return weight.reshape(o * c, height * width)


def geometry(kernel: Pair, strides: tuple[Pair, Pair], paddings: tuple[Pair, Pair]) -> Pair:
    sizes = (kernel[0], 1), (1, kernel[1])
    keys = ("kernel_size", "stride", "padding")
    vertical, horizontal = (
        dict(zip(keys, values, strict=True))
        for values in zip(sizes, strides, paddings, strict=True)
    )
    return vertical, horizontal


WRONG_ANSWERS = {
    "factor_linear": [
        ("second comes first", order_swapped),
        ("V instead of V transposed", v_not_transposed),
        ("all singular values in the second", all_in_second),
        ("all singular values in the first", all_in_first),
        ("singular values in both", scaled_twice),
        ("the smallest singular values", last_ranks),
    ],
    "energy_rank": [
        ("plain sum", plain_sum),
        ("one too few", lambda s, share: int((squares(s) < share).sum())),
        ("more than the share", lambda s, share: int((squares(s) <= share).sum()) + 1),
        ("counts values above a threshold", lambda s, share: int((s > (1 - share) * s[0]).sum())),
    ],
    "largest_saving_rank": [
        ("equal counts as saving", lambda m, n: m * n // (m + n)),
        ("rounds", lambda m, n: round(m * n / (m + n))),
        ("half of the smaller side", lambda m, n: min(m, n) // 2),
        ("a fraction", lambda m, n: m * n / (m + n)),
        ("one too small", lambda m, n: max(0, (m * n - 1) // (m + n) - 1)),
        ("at least one", lambda m, n: max(1, (m * n - 1) // (m + n))),
    ],
    "joint_matrix": [
        ("outputs in the rows", joint_rows_of_outputs),
        ("reshape without permute", joint_reshaped_only),
        ("y before c", joint_axes_swapped),
        ("a row for each kernel", joint_per_kernel),
        ("transposed", lambda w: w.permute(1, 2, 0, 3).flatten(2).flatten(0, 1).T),
    ],
    "split_geometry": [
        ("padding on both", lambda k, s, p: geometry(k, ((s[0], 1), (1, s[1])), (p, p))),
        (
            "all padding on the second",
            lambda k, s, p: geometry(k, ((s[0], 1), (1, s[1])), ((0, 0), p)),
        ),
        (
            "all the stride on the first",
            lambda k, s, p: geometry(k, (s, (1, 1)), ((p[0], 0), (0, p[1]))),
        ),
        ("stride on both", lambda k, s, p: geometry(k, (s, s), ((p[0], 0), (0, p[1])))),
        (
            "axes swapped",
            lambda k, s, p: geometry(k, ((1, s[1]), (s[0], 1)), ((0, p[1]), (p[0], 0))),
        ),
        (
            "horizontal first",
            lambda k, s, p: geometry(k, ((s[0], 1), (1, s[1])), ((p[0], 0), (0, p[1])))[::-1],
        ),
    ],
}


def factors_in_numpy(weight: Tensor, rank: int) -> list[Any]:
    u, s, vt = np.linalg.svd(weight.numpy(), full_matrices=False)
    root = np.sqrt(s[:rank])
    return [root[:, None] * vt[:rank], u[:, :rank] * root]


def factors_by_eigenvectors(weight: Tensor, rank: int) -> Pair:
    values, vectors = torch.linalg.eigh(weight @ weight.T)
    u, s = vectors.flip(1)[:, :rank], values.flip(0)[:rank].sqrt()
    return torch.nn.Parameter((u / s.sqrt()).T @ weight), u * s.sqrt()


def rank_by_search(values: Tensor, share: float) -> Any:
    energy = np.cumsum(np.square(values.numpy()))
    return np.searchsorted(energy, share * energy[-1]) + 1


def joint_by_blocks(weight: Tensor) -> Tensor:
    o, c, height, width = weight.shape
    matrix = torch.zeros(c * height, o * width)
    for i in range(o):
        for j in range(c):
            rows, columns = slice(j * height, (j + 1) * height), slice(i * width, (i + 1) * width)
            matrix[rows, columns] = weight[i, j]
    return matrix


RIGHT_ANSWERS = {
    "factor_linear": [
        ("NumPy, a list", factors_in_numpy),
        ("eigenvectors, a parameter", factors_by_eigenvectors),
        ("float32", lambda w, r: tuple(map(np.float32, factors_in_numpy(w, r)))),
    ],
    "energy_rank": [
        ("NumPy's whole number", rank_by_search),
        ("a tensor", lambda s, share: (squares(s) >= share).nonzero()[0, 0] + 1),
        (
            "shares first",
            lambda s, share: int(((s**2 / (s**2).sum()).cumsum(0) < share).sum()) + 1,
        ),
    ],
    "largest_saving_rank": [
        ("rounds up, then one less", lambda m, n: math.ceil(m * n / (m + n)) - 1),
        ("a whole float", lambda m, n: np.ceil(m * n / (m + n)) - 1),
        ("tries them all", lambda m, n: max(r for r in range(m) if r * (m + n) < m * n)),
    ],
    "joint_matrix": [
        ("block by block, float32", joint_by_blocks),
        ("side by side", lambda w: torch.cat([kernel.flatten(0, 1) for kernel in w], 1)),
        (
            "NumPy",
            lambda w: w.numpy().transpose(1, 2, 0, 3).reshape(-1, w.shape[0] * w.shape[3]),
        ),
    ],
    "split_geometry": [
        (
            "lists",
            lambda k, s, p: list(geometry(k, ([s[0], 1], [1, s[1]]), ([p[0], 0], [0, p[1]]))),
        ),
    ],
}
