"""The five calibration rules against exact quantiles, brute force and a loop written from the paper."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from helpers.quantization.calibration import (
    CALIBRATION,
    Summary,
    kl_divergence,
    mean_squared_error,
    min_max,
    moving_average,
    percentile,
    summarize,
)
from helpers.quantization.grids import affine, fake_quantize


def gaussian(count: int = 40_000, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def rectified(count: int = 40_000, outlier: float = 20.0) -> Tensor:
    x = gaussian(count).relu()
    x[7] = outlier
    return x


def test_min_max_and_moving_average_golden_values() -> None:
    batches = [torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]), torch.tensor([0.0, 12.0])]
    assert min_max(batches) == (-3.0, 12.0)
    low, high = moving_average(batches, momentum=0.9)
    assert low == pytest.approx(0.9 * (0.9 * -1 + 0.1 * -3))
    assert high == pytest.approx(0.9 * (0.9 * 2 + 0.1 * 1) + 0.1 * 12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e7])
def test_histogram_counts_survive_a_growing_range(scale: float) -> None:
    batches = [gaussian(1000, seed) * scale * 3**seed for seed in range(6)] + [torch.zeros(10)]
    summary = summarize(iter(batches))
    values = torch.cat(batches).double().numpy()
    half = summary.HALF
    edges = (np.arange(2 * half + 1) - half) * summary.width
    expected, _ = np.histogram(values, edges)
    assert summary.counts.sum() == len(values)
    # A float32 value on an edge may fall on either side of it: compare the cumulated counts.
    assert np.abs(np.cumsum(summary.counts.numpy()) - np.cumsum(expected)).max() <= 1
    assert summary.counts[half] >= 10  # the zeros, in the first bin at or above 0
    assert half / 2 <= np.abs(values).max() / summary.width <= half


def test_zeros_first_then_values() -> None:
    summary = summarize([torch.zeros(5), torch.tensor([2.0, -1.0])])
    assert summary.counts.sum() == 7
    assert summary.counts[summary.HALF] == 5
    assert (summary.low, summary.high) == (-1.0, 2.0)


@pytest.mark.parametrize("keep", [99.0, 99.9, 99.99])
def test_percentile_equals_the_exact_quantile_within_a_bin(keep: float) -> None:
    x = gaussian()
    low, high = percentile([x[:100], x[100:]], keep=keep)
    width = summarize(x).width
    exact = np.quantile(x.numpy(), [1 - keep / 100, keep / 100], method="inverted_cdf")
    assert abs(low - exact[0]) <= width
    assert abs(high - exact[1]) <= width


def test_percentile_100_is_min_max_and_bad_percentages_are_refused() -> None:
    assert percentile([gaussian()], keep=100) == min_max([gaussian()])
    for keep in (50, 0, 101):
        with pytest.raises(ValueError, match="keep must be a percentage"):
            percentile([gaussian()], keep=keep)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("x", [gaussian(), rectified()], ids=["gaussian", "relu"])
def test_mean_squared_error_is_near_the_best_of_a_brute_force_search(x: Tensor, bits: int) -> None:
    def error(low: float, high: float) -> float:
        return float((fake_quantize(x, affine(low, high, bits)) - x).square().mean())

    low, high = mean_squared_error([x], bits)
    factors = np.linspace(0.01, 1, 100)
    best = min(error(float(x.min()) * f, float(x.max()) * f) for f in factors)
    assert error(low, high) <= best * 1.02 + (summarize(x).width ** 2)
    assert error(low, high) <= error(*min_max([x]))


def test_mean_squared_error_of_a_gaussian_at_2_and_4_bits() -> None:
    # Optimal uniform quantizers of a unit Gaussian: steps 0.996 (4 levels), 0.335 (16 levels)
    # (Max 1960, table II). An affine grid with an exact zero is slightly different: 12 per cent.
    for bits, step in ((2, 0.9957), (4, 0.3352)):
        low, high = mean_squared_error([gaussian()], bits)
        assert affine(low, high, bits).scale.item() == pytest.approx(step, rel=0.12)


def textbook_kl(counts: np.ndarray, levels: int) -> np.ndarray:
    """KL(P || Q) for every threshold from `levels` bins up, in plain loops."""
    divergences = np.full(len(counts) + 1, np.inf)
    for edge in range(levels, len(counts) + 1):
        p = counts[:edge].astype(float).copy()
        q = np.zeros(edge)
        for level in range(levels):
            bins = [j for j in range(edge) if j * levels // edge == level]
            filled = [j for j in bins if counts[j] > 0]
            for j in filled:
                q[j] = sum(counts[b] for b in bins) / len(filled)
        p[-1] += counts[edge:].sum()
        divergences[edge] = entropy(p, q)
    return divergences


@pytest.mark.parametrize("negative", [False, True])
def test_kl_divergence_equals_the_textbook_loop(negative: bool) -> None:
    x = gaussian(6000) if negative else rectified(6000, outlier=9.0)
    summary = Summary()
    summary.HALF = 128  # few bins, so that the loops stay short
    summary.counts = torch.zeros(256, dtype=torch.float64)
    summary.add(x)
    bits = 5
    low, high = kl_divergence(summary, bits, candidates=1000)
    counts = np.histogram(x.abs().numpy(), (np.arange(129)) * summary.width)[0]
    counts[0] = counts[1]
    used = int(np.flatnonzero(counts).max()) + 1
    divergences = textbook_kl(counts[:used], 16 if negative else 32)
    assert high == pytest.approx(min(summary.high, summary.width * int(divergences.argmin())))
    assert low == (max(summary.low, -high) if negative else 0.0)


def test_kl_and_percentile_and_error_clip_an_outlier_that_min_max_keeps() -> None:
    x = rectified(outlier=40.0)
    assert min_max([x])[1] == 40.0
    for rule in (percentile, kl_divergence):
        assert 2.5 < rule([x], 8)[1] < 6, rule.__name__
    assert mean_squared_error([x], 4)[1] < 30


@pytest.mark.parametrize("name", CALIBRATION)
@pytest.mark.parametrize("bits", [2, 8])
def test_every_rule_stays_inside_the_data_and_gives_a_usable_grid(name: str, bits: int) -> None:
    for x in (gaussian(), rectified(), torch.zeros(50), torch.full((50,), 3.0), -gaussian().relu()):
        low, high = CALIBRATION[name](x.split(7919), bits)
        assert x.min() <= low <= high <= x.max()
        p = affine(low, high, bits)
        assert torch.isfinite(fake_quantize(x, p)).all()
        if x.min() == x.max():  # a constant comes back as it is
            assert torch.allclose(fake_quantize(x, p), x, rtol=1e-6)


@pytest.mark.parametrize("name", CALIBRATION)
def test_empty_or_broken_calibration_data_is_refused(name: str) -> None:
    rule = CALIBRATION[name]
    with pytest.raises(ValueError, match="calibration data is empty"):
        rule([])
    with pytest.raises(ValueError, match="batch is empty"):
        rule([torch.empty(0, 3)])
    with pytest.raises(ValueError, match="NaN or infinite"):
        rule([torch.tensor([1.0, float("nan")])])
    with pytest.raises(ValueError, match="NaN or infinite"):
        rule([torch.tensor([1.0, float("inf")])])


def test_rules_read_one_summary_or_a_generator_alike() -> None:
    x = rectified()
    summary = summarize(x.split(1000))
    for rule in CALIBRATION.values():
        assert rule(summary, 8) == rule((b for b in x.split(1000)), 8)
