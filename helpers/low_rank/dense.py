"""Dense layers: the best approximation of rank r, and what it costs.

W (m, n) becomes left (m, r) times right (r, n): two dense layers with nothing between them. By the
theorem of Eckart and Young (1936) the truncated singular value decomposition leaves the least
squared error of all products of that rank, the sum of the squares of the dropped singular values.

Sources: Eckart and Young 1936; Denton et al. 2014 (arXiv:1404.0736) section 3.

Chapter: 06_low_rank.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

Split = Literal["root", "left", "right"]
SPLITS = ("root", "left", "right")


def check_rank(rank: int, largest: int | None, name: str = "rank") -> None:
    """ValueError unless `rank` is a whole number from 1 to `largest` (None: without limit)."""
    whole = isinstance(rank, int) and not isinstance(rank, bool)
    if not whole or rank < 1 or (largest is not None and rank > largest):
        allowed = "of 1 or more" if largest is None else f"from 1 to {largest}"
        raise ValueError(f"{name} must be a whole number {allowed}, got {rank!r}")


def factors(matrix: Tensor, rank: int, *, split: Split = "root") -> tuple[Tensor, Tensor]:
    """left (m, rank) and right (rank, n), whose product is the best of that rank for `matrix` (m, n).

    With matrix = U S V^T, `split` says which factor gets the singular values: both their square
    root ("root"), or one of them all ("left": U S and V^T; "right": U and S V^T). The product is the
    same. Computed in float64, returned in the matrix's dtype and on its device.

    >>> left, right = factors(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), 1)
    >>> (left @ right).tolist()
    [[0.0, 0.0], [0.0, 4.0]]

    Raises ValueError for a rank outside 1..min(m, n), NaN or infinity, and an unknown split.
    """
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have two dimensions, got shape {tuple(matrix.shape)}")
    check_rank(rank, min(matrix.shape))
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not torch.isfinite(matrix).all():
        raise ValueError("matrix holds values that are NaN or infinite")
    u, s, vt = torch.linalg.svd(matrix.detach().to(torch.float64), full_matrices=False)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    power = {"root": 0.5, "left": 1.0, "right": 0.0}[split]  # of S, in the left factor
    left, right = u * s**power, s[:, None] ** (1 - power) * vt
    return left.to(matrix.dtype), right.to(matrix.dtype)


def energy(singular_values: Tensor, *, power: float = 2) -> Tensor:
    """Share of the energy in the first 1, 2, ... singular values, float64, same shape (k,).

    The energy of a matrix is the sum of the squares of its singular values: the sum of the squares
    of its entries. `power=1` gives the share of their plain sum, which is another number and bounds
    no squared error. A matrix of zeros has nothing to lose: its shares are all 1.
    """
    s = torch.as_tensor(singular_values).detach().to(torch.float64)
    if s.ndim != 1 or not len(s):
        raise ValueError(f"singular_values must have shape (k,), k >= 1, got {tuple(s.shape)}")
    if not torch.isfinite(s).all() or (s < 0).any() or (s.diff() > 0).any():
        raise ValueError("singular_values must be finite, not negative, and in falling order")
    if s[0] == 0:
        return torch.ones_like(s)
    total = (s / s[0]).pow(power).cumsum(0)  # scaled, so that no square over- or underflows
    return total / total[-1]


def rank_for_energy(singular_values: Tensor, share: float, *, power: float = 2) -> int:
    """The smallest rank whose first singular values hold at least `share` (0 < share <= 1).

    A matrix of zeros gives 1, the smallest rank that a layer can have.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
    held = energy(singular_values, power=power)
    return int((held < share).sum()) + 1


def break_even_rank(m: int, n: int) -> int:
    """The largest rank with fewer parameters than an m x n matrix: rank * (m + n) < m * n.

    0 where no rank saves anything, as for a layer with one input or one output. A dense layer
    makes one MAC for each weight, so the same rank is the break-even in MACs.

    >>> break_even_rank(1024, 1000)
    505
    """
    for name, size in (("m", m), ("n", n)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of 1 or more, got {size!r}")
    return (m * n - 1) // (m + n)


def svd_linear(layer: nn.Linear, rank: int, *, split: Split = "root") -> nn.Sequential:
    """Two dense layers in place of one: `first` (inputs to rank), then `second` (rank to outputs).

    No activation function between them; the bias is on the second. At full rank the function is
    the same up to rounding. `layer` is left as it is; dtype, device, mode and `requires_grad` carry
    over. Raises ValueError for anything but an `nn.Linear` and for a rank that `factors` refuses.
    """
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"layer must be an nn.Linear, got {type(layer).__name__}")
    left, right = factors(layer.weight, rank, split=split)
    weight = layer.weight
    options: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
    bias = layer.bias is not None
    return pair(
        nn.Linear(layer.in_features, rank, bias=False, **options),
        nn.Linear(rank, layer.out_features, bias=bias, **options),
        (right, left),
        layer,
        ("first", "second"),
    )


def pair(
    first: Any, second: Any, weights: tuple[Tensor, Tensor], layer: Any, names: tuple[str, str]
) -> nn.Sequential:
    """`first` and `second` in a row with these weights, and the bias and modes of `layer`."""
    with torch.no_grad():
        first.weight.copy_(weights[0])
        second.weight.copy_(weights[1])
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
            second.bias.requires_grad_(layer.bias.requires_grad)
    both = nn.Sequential()
    for name, module in zip(names, (first, second), strict=True):
        module.weight.requires_grad_(layer.weight.requires_grad)
        both.add_module(name, module)
    return both.train(layer.training)
