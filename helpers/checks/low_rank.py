"""Checks of the exercises in lab 06_low_rank.

Chapter: 06_low_rank.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from helpers.checks import exercise, expect

__all__ = [
    "energy_rank",
    "factor_linear",
    "joint_matrix",
    "largest_saving_rank",
    "split_geometry",
]


def _draw(*shape: int, seed: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _number(answer: Any) -> float | None:
    """A number of whatever type (Python's, NumPy's, a tensor of one element); else None."""
    try:
        return float(answer)
    except (TypeError, ValueError, RuntimeError):
        return None


@exercise
def factor_linear(function: Callable[..., Any]) -> None:
    """`factor_linear(weight, rank) -> (first, second)`, best product, square-root split."""
    for m, n, rank in ((5, 8, 2), (8, 5, 3), (4, 4, 4), (3, 6, 1)):
        weight = _draw(m, n)
        before = weight.clone()
        answer = function(weight, rank)
        expect(
            isinstance(answer, (tuple, list)) and len(answer) == 2,
            f"return two weights (first, second), got {type(answer).__name__}",
        )
        first, second = (torch.as_tensor(part, dtype=torch.float64).detach() for part in answer)
        shapes = tuple(first.shape), tuple(second.shape)
        expect(
            shapes == ((rank, n), (m, rank)),
            f"for a weight {(m, n)} and rank {rank} the shapes must be first {(rank, n)} and second "
            f"{(m, rank)}, got {shapes[0]} and {shapes[1]}: PyTorch keeps (outputs, inputs)",
        )
        expect(torch.equal(weight, before), "your function changed its argument")
        s = torch.linalg.svdvals(weight)
        error, least = (
            float((weight - second @ first).square().sum()),
            float(s[rank:].square().sum()),
        )
        expect(
            error < least + 1e-4,  # float32 will do
            f"second @ first leaves a squared error of {error:.6g}; the best of rank {rank} leaves "
            f"{least:.6g}, the sum of the squares of the dropped singular values",
        )
        sizes = float(first.square().sum()), float(second.square().sum())
        expected = float(s[:rank].sum())
        expect(
            all(abs(size - expected) < 1e-3 for size in sizes),
            f"the product is right, but the squared sizes of first and second are {sizes[0]:.4g} and "
            f"{sizes[1]:.4g}: each factor should get the square root of the singular values",
        )


@exercise
def energy_rank(function: Callable[..., Any]) -> None:
    """`energy_rank(singular_values, share)`: smallest rank with that share of the squares."""
    cases: list[tuple[list[float], float, int, str]] = [
        ([4.0, 3.0], 0.6, 1, "16 of 25 is 64 %"),
        ([4.0, 3.0], 0.64, 1, "exactly the share is enough"),
        ([4.0, 3.0], 0.65, 2, "one value holds only 64 %"),
        ([3.0, 2.0, 1.0, 1.0], 0.9, 3, "squares 9, 4, 1, 1: two hold 13 of 15, three 14 of 15"),
        ([1.0, 1.0, 1.0, 1.0], 0.5, 2, "two of four equal values hold half"),
        ([5.0, 0.0, 0.0], 1.0, 1, "the zeros hold nothing"),
        ([4.0, 3.0], 1.0, 2, "all of the energy needs all values"),
        ([10.0, 4.0, 4.0, 4.0, 4.0], 0.6, 1, "100 of 164 is 61 %"),
    ]
    for values, share, expected, hint in cases:
        answer = function(torch.tensor(values, dtype=torch.float64), share)
        expect(
            _number(answer) == expected,
            f"energy_rank({values}, {share}) gave {answer!r}, not {expected}: {hint} "
            "(energy is the sum of squares, the rank a whole number from 1)",
        )


@exercise
def largest_saving_rank(function: Callable[..., Any]) -> None:
    """`largest_saving_rank(m, n)`: largest r with r (m + n) < m n."""
    cases = [
        (1024, 1000, 505), (1000, 1024, 505), (300, 784, 216), (4, 4, 1), (6, 3, 1), (100, 300, 74),
        (12, 4, 2), (1, 50, 0), (50, 1, 0), (2, 2, 0), (1, 1, 0),
    ]  # fmt: skip
    for m, n, expected in cases:
        answer = function(m, n)
        expect(
            _number(answer) == expected,
            f"largest_saving_rank({m}, {n}) gave {answer!r}, not {expected}: rank {expected} has "
            f"{expected * (m + n)} weights, rank {expected + 1} has {(expected + 1) * (m + n)}, the "
            f"layer {m * n}; an equal number saves nothing",
        )


@exercise
def joint_matrix(function: Callable[..., Any]) -> None:
    """`joint_matrix(weight)`: (C_o, C_i, K_y, K_x) -> (C_i K_y, C_o K_x)."""
    for shape in ((4, 3, 3, 3), (2, 5, 3, 2), (3, 3, 1, 1)):
        weight = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)  # all differ
        o, c, height, width = shape
        answer = torch.as_tensor(function(weight))
        expect(
            tuple(answer.shape) == (c * height, o * width),
            f"a weight {shape} gives a matrix of {(c * height, o * width)}, got "
            f"{tuple(answer.shape)}",
        )
        for place in (
            (0, 0, 0, 0),
            (o - 1, c - 1, height - 1, width - 1),
            (1, c - 1, 0, width - 1),
        ):
            row, column = place[1] * height + place[2], place[0] * width + place[3]
            expect(
                bool(answer[row, column] == weight[place]),
                f"weight[o, c, y, x] = weight{list(place)} belongs in row c * K_y + y = {row}, column "
                f"o * K_x + x = {column}; what is there comes from another place: reorder the axes "
                "before you reshape",
            )
    vertical, horizontal = _draw(2, 4, 3), _draw(5, 2, 3, seed=7)
    weight = torch.einsum("dcy,odx->ocyx", vertical, horizontal)
    rank = int(torch.linalg.matrix_rank(torch.as_tensor(function(weight))))
    expect(rank == 2, f"a weight made of 2 middle channels gave a matrix of rank {rank}, not 2")


@exercise
def split_geometry(function: Callable[..., Any]) -> None:
    """`split_geometry(kernel_size, stride, padding) -> (vertical, horizontal)` dicts."""
    keys = ("kernel_size", "stride", "padding")
    for kernel_size, stride, padding in (
        ((3, 3), (1, 1), (1, 1)),
        ((3, 3), (2, 2), (1, 1)),
        ((3, 5), (2, 1), (0, 2)),
        ((5, 3), (1, 3), (2, 0)),
    ):
        answer = function(kernel_size, stride, padding)
        expect(
            isinstance(answer, (tuple, list)) and len(answer) == 2,
            f"return two dictionaries (vertical, horizontal), got {type(answer).__name__}",
        )
        for part in answer:
            expect(
                isinstance(part, dict) and set(part) == set(keys),
                f"each part is a dictionary with the keys {', '.join(keys)}, got {part!r}",
            )
        column, row = _draw(1, 1, kernel_size[0], 1), _draw(1, 1, 1, kernel_size[1], seed=7)
        x = _draw(1, 1, 11, 12, seed=8)
        exact = F.conv2d(x, column * row, stride=stride, padding=padding)
        for part, weight, name in zip(
            answer, (column, row), ("vertical", "horizontal"), strict=True
        ):
            size = tuple(part["kernel_size"])
            expect(
                size == tuple(weight.shape[2:]),
                f"for a kernel of {kernel_size} the {name} convolution has a kernel of "
                f"{tuple(weight.shape[2:])}, got {size}",
            )
            x = F.conv2d(x, weight, stride=tuple(part["stride"]), padding=tuple(part["padding"]))
        text = f"kernel {kernel_size}, stride {stride}, padding {padding}"
        expect(
            x.shape == exact.shape,
            f"{text}: the pair's output is {tuple(x.shape[2:])}, the convolution's "
            f"{tuple(exact.shape[2:])}; each axis is padded and strided once",
        )
        expect(
            bool(torch.allclose(x, exact)),
            f"{text}: the output has the right size but other values; give each stride and padding to "
            "the convolution that runs along that axis",
        )
