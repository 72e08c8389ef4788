"""Dense layers at low rank against SciPy, TensorLy and the theorem of Eckart and Young."""

import copy

import numpy as np
import pytest
import scipy.linalg
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.tenalg import svd_interface
from torch import Tensor, nn

from helpers.low_rank.dense import (
    SPLITS,
    break_even_rank,
    energy,
    factors,
    rank_for_energy,
    svd_linear,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def linear(inputs: int, outputs: int, **options: bool) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(inputs, outputs, **options).double()


def squared(x: Tensor) -> float:
    return float(x.square().sum())


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9), (1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("split", SPLITS)
def test_eckart_young_at_every_rank(shape: tuple[int, int], split: str) -> None:
    matrix = draw(*shape)
    u, s, vt = scipy.linalg.svd(matrix.numpy(), full_matrices=False)
    for rank in range(1, min(shape) + 1):
        left, right = factors(matrix, rank, split=split)  # type: ignore[arg-type]
        assert left.shape == (shape[0], rank)
        assert right.shape == (rank, shape[1])
        assert abs(squared(matrix - left @ right) - (s[rank:] ** 2).sum()) < 1e-9
        oracle = (u[:, :rank] * s[:rank]) @ vt[:rank]
        assert np.abs((left @ right).numpy() - oracle).max() < 1e-9


def test_tensorly_finds_the_same_product() -> None:
    matrix = draw(20, 31)
    tensorly.set_backend("numpy")
    u, s, vt = svd_interface(matrix.numpy(), n_eigenvecs=5)
    left, right = factors(matrix, 5)
    assert np.abs((left @ right).numpy() - (u * s) @ vt).max() < 1e-9


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6), st.data())
def test_no_other_product_of_that_rank_is_closer(
    m: int, n: int, seed: int, data: st.DataObject
) -> None:
    matrix = draw(m, n, seed=seed)
    rank = data.draw(st.integers(1, min(m, n)))
    left, right = factors(matrix, rank)
    best = squared(matrix - left @ right)
    generator = torch.Generator().manual_seed(seed + 1)
    for size in (1e-3, 0.1):  # neighbours
        other = left + size * torch.randn(left.shape, generator=generator, dtype=torch.float64)
        assert squared(matrix - other @ right) >= best - 1e-9
    other = torch.randn(m, rank, generator=generator, dtype=torch.float64)
    for _ in range(20):  # alternating least squares from a random start
        across = torch.linalg.lstsq(other, matrix).solution
        other = torch.linalg.lstsq(across.T, matrix.T).solution.T
    assert squared(matrix - other @ across) >= best - 1e-9


def test_the_square_root_balances_and_the_others_do_not() -> None:
    matrix, s = draw(8, 11), torch.linalg.svdvals(draw(8, 11))[:4]
    found = {split: factors(matrix, 4, split=split) for split in ("root", "left", "right")}  # type: ignore[arg-type]
    for left, right, a, b in (
        (*found["root"], s, s),
        (*found["left"], s**2, torch.ones(4)),
        (*found["right"], torch.ones(4), s**2),
    ):
        assert torch.allclose(left.T @ left, torch.diag(a).double(), atol=1e-9)
        assert torch.allclose(right @ right.T, torch.diag(b).double(), atol=1e-9)


def test_golden_factors() -> None:
    left, right = factors(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), 1)
    assert left.dtype == torch.float32
    assert (left @ right).tolist() == [[0.0, 0.0], [0.0, 4.0]]
    assert left.abs().max() == right.abs().max() == 2


def test_float32_is_decomposed_in_float64_and_rounded_once() -> None:
    matrix = draw(20, 30).float()
    for part, exact in zip(factors(matrix, 7), factors(matrix.double(), 7), strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, exact.float())


def test_zeros_and_deficient_matrices() -> None:
    left, right = factors(torch.zeros(3, 5), 2)
    assert not (left @ right).any()
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()
    low = draw(6, 2) @ draw(2, 9, seed=1)
    for rank in (2, 4, 6):
        left, right = factors(low, rank)
        assert (left @ right - low).abs().max() < 1e-9


@pytest.mark.parametrize("rank", [0, -1, 6, 2.0, True, None, "2"])
def test_ranks_out_of_range_are_refused(rank: object) -> None:
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to 5, got"):
        factors(draw(5, 7), rank)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to 5, got"):
        svd_linear(linear(7, 5), rank)  # type: ignore[arg-type]


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        factors(torch.zeros(3), 1)
    with pytest.raises(ValueError, match="split must be one of root, left, right, got 'both'"):
        factors(torch.zeros(3, 3), 1, split="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN or infinite"):
        factors(torch.tensor([[1.0, float("nan")]]), 1)
    with pytest.raises(ValueError, match=r"nn.Linear, got Conv2d"):
        svd_linear(nn.Conv2d(1, 1, 1), 1)  # type: ignore[arg-type]


# Energy


def test_energy_is_the_share_of_the_squares() -> None:
    matrix = draw(10, 14)
    s = torch.linalg.svdvals(matrix)
    held = energy(s)
    for rank in range(1, 11):
        left, right = factors(matrix, rank)
        kept = 1 - squared(matrix - left @ right) / squared(matrix)
        assert abs(float(held[rank - 1]) - kept) < 1e-9
    assert held[-1] == 1
    assert torch.allclose(energy(s, power=1), s.cumsum(0) / s.sum())


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_energy_of_huge_and_tiny_values(scale: float) -> None:
    s = torch.tensor([4.0, 3.0], dtype=torch.float64) * scale
    assert torch.allclose(energy(s), torch.tensor([0.64, 1.0], dtype=torch.float64))


def test_energy_of_nothing() -> None:
    assert energy(torch.zeros(3)).tolist() == [1, 1, 1]
    assert rank_for_energy(torch.zeros(3), 1.0) == 1


@pytest.mark.parametrize(
    ("share", "power", "expected"),
    [(0.64, 2, 1), (0.641, 2, 2), (1.0, 2, 2), (1e-9, 2, 1), (4 / 7, 1, 1), (0.6, 1, 2)],
)
def test_rank_for_energy(share: float, power: float, expected: int) -> None:
    assert rank_for_energy(torch.tensor([4.0, 3.0, 0.0]), share, power=power) == expected


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_rank_for_energy_is_the_smallest(values: list[float], share: float) -> None:
    s = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank, held = rank_for_energy(s, share), energy(s)
    assert held[rank - 1] >= share
    assert rank == 1 or held[rank - 2] < share


def test_a_random_matrix_by_squares_and_by_plain_sum() -> None:
    s = scipy.linalg.svdvals(np.random.default_rng(0).standard_normal((1000, 1024)))
    found = [rank_for_energy(torch.from_numpy(s), 0.9, power=power) for power in (2, 1)]
    assert abs(found[0] - 516) <= 2
    assert abs(found[1] - 680) <= 2
    assert found[0] > break_even_rank(1000, 1024)


@pytest.mark.parametrize(
    "values", [[], [[1.0]], [1.0, 2.0], [1.0, -1.0], [float("nan")], [float("inf"), 1.0]]
)
def test_what_is_no_spectrum_is_refused(values: list) -> None:
    with pytest.raises(ValueError, match="singular_values must"):
        energy(torch.tensor(values))


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        rank_for_energy(torch.ones(3), share)


# Break-even


def test_golden_break_even() -> None:
    assert break_even_rank(1024, 1000) == break_even_rank(1000, 1024) == 505
    assert 505 * 2024 == 1_022_120 < 1_024_000 < 506 * 2024 == 1_024_144


@given(st.integers(1, 60), st.integers(1, 60))
def test_break_even_by_counting(m: int, n: int) -> None:
    cheaper = [r for r in range(min(m, n) + 1) if r * (m + n) < m * n]
    assert break_even_rank(m, n) == max(cheaper)


@pytest.mark.parametrize(("m", "n"), [(1, 50), (50, 1), (1, 1), (2, 2)])
def test_layers_where_nothing_saves(m: int, n: int) -> None:
    assert break_even_rank(m, n) == 0


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, -1), (2.0, 3), (True, 3)])
def test_sizes_that_are_none(m: object, n: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number of 1 or more"):
        break_even_rank(m, n)  # type: ignore[arg-type]


# The layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(9, 6), (6, 9), (1, 4), (4, 1)])
def test_full_rank_is_the_same_function(inputs: int, outputs: int, bias: bool) -> None:
    layer = linear(inputs, outputs, bias=bias)
    pair = svd_linear(layer, min(inputs, outputs))
    x = draw(5, 2, inputs)
    assert (pair(x) - layer(x)).abs().max() < 1e-12
    assert pair.first.bias is None
    assert (pair.second.bias is not None) == bias


def test_parameters_of_the_pair() -> None:
    pair = svd_linear(linear(784, 300), 50)
    assert sum(p.numel() for p in pair.parameters()) == 50 * (784 + 300) + 300


def test_the_layer_is_left_alone_and_its_modes_carry_over() -> None:
    layer = linear(6, 5).float().eval()
    layer.weight.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    pair = svd_linear(layer, 2)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert not pair.training
    assert [p.requires_grad for p in pair.parameters()] == [False, False, True]
    assert all(p.dtype == torch.float32 for p in pair.parameters())


def test_the_pair_can_be_trained() -> None:
    pair = svd_linear(linear(6, 5), 2)
    pair(draw(3, 6)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in pair.parameters())
