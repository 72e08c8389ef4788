"""Separable convolutions against the convolution itself, TensorLy, and counts by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker
from torch import Tensor, nn

from helpers import cost
from helpers.low_rank.convolution import (
    as_matrix,
    break_even_channels,
    from_matrix,
    per_kernel,
    separable_conv,
    separable_cost,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def convolution(*arguments: Any, **options: Any) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Conv2d(*arguments, **options).double()


def rebuild(pair: nn.Sequential) -> Tensor:
    """The K x K weight that the pair stands for."""
    return torch.einsum("dcy,odx->ocyx", pair[0].weight[..., 0], pair[1].weight[:, :, 0])


def test_the_matrix_by_index() -> None:
    weight = draw(4, 3, 2, 5)
    matrix = as_matrix(weight)
    assert matrix.shape == (6, 20)
    for o, c, y, x in np.ndindex(*weight.shape):
        assert matrix[c * 2 + y, o * 5 + x] == weight[o, c, y, x]
    assert torch.equal(from_matrix(matrix, weight.shape), weight)
    with pytest.raises(ValueError, match="C_o, C_i, K_y, K_x"):
        as_matrix(matrix)
    with pytest.raises(ValueError, match="does not fit a weight of shape"):
        from_matrix(matrix, (4, 3, 5, 2))


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"padding": (2, 0), "bias": False},
    {"stride": 2, "padding": 1},
    {"stride": (1, 3), "padding": (0, 2)},
    {"dilation": 2, "padding": 2},
    {"dilation": (1, 3), "stride": (2, 1)},
    {"padding": "same"},
    {"padding": "same", "dilation": (2, 1)},
    {"padding": "valid"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (1, 2), "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "replicate", "stride": 2},
]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (1, 3), (3, 1)])
def test_full_rank_is_the_same_function(kernel: tuple[int, int], options: dict[str, Any]) -> None:
    layer = convolution(3, 4, kernel, **options)
    pair = separable_conv(layer, min(as_matrix(layer.weight).shape))
    x = draw(2, 3, 11, 14)
    assert pair(x).shape == layer(x).shape
    assert (pair(x) - layer(x)).abs().max() < 1e-12
    assert pair.vertical.bias is None
    assert (pair.horizontal.bias is None) == (layer.bias is None)


@pytest.mark.parametrize("shape", [(1, 5, 3, 3), (5, 1, 3, 3), (1, 1, 3, 3), (6, 4, 1, 1)])
def test_one_input_one_output_and_pointwise(shape: tuple[int, ...]) -> None:
    layer = convolution(shape[1], shape[0], shape[2:], padding=shape[2] // 2)
    pair = separable_conv(layer, min(as_matrix(layer.weight).shape))
    x = draw(2, shape[1], 6, 7)
    assert (pair(x) - layer(x)).abs().max() < 1e-12


def test_eckart_young_at_every_number_of_channels() -> None:
    layer = convolution(3, 5, (3, 2))
    s = np.linalg.svd(as_matrix(layer.weight.detach()).numpy(), compute_uv=False)
    for channels in range(1, 10):
        error = (rebuild(separable_conv(layer, channels)) - layer.weight).detach().square().sum()
        assert abs(float(error) - (s[channels:] ** 2).sum()) < 1e-9


def test_tensorly_finds_the_same_kernel() -> None:
    layer = convolution(4, 6, 3)
    tensorly.set_backend("numpy")
    matrix = as_matrix(layer.weight.detach()).numpy()
    (core, bases), _ = partial_tucker(matrix, rank=[5, 5], modes=[0, 1], tol=1e-14)
    theirs = from_matrix(torch.from_numpy(bases[0] @ core @ bases[1].T), layer.weight.shape)
    assert (rebuild(separable_conv(layer, 5)) - theirs).abs().max() < 1e-9


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(0, 10**6))
def test_no_other_pair_with_as_many_channels_is_closer(channels: int, seed: int) -> None:
    layer = convolution(3, 4, 3)
    pair = separable_conv(layer, channels)
    best = float((rebuild(pair) - layer.weight).detach().square().sum())
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-3, 0.1, 1.0):
        other = copy.deepcopy(pair)
        with torch.no_grad():
            for part in other:
                noise = torch.randn(part.weight.shape, generator=generator, dtype=torch.float64)
                part.weight += size * noise
        assert float((rebuild(other) - layer.weight).detach().square().sum()) >= best - 1e-9


def test_a_layer_made_of_two_is_found_again() -> None:
    vertical = convolution(3, 2, (3, 1), padding=(1, 0), bias=False)
    horizontal = convolution(2, 5, (1, 3), padding=(0, 1))
    layer = convolution(3, 5, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(rebuild(nn.Sequential(vertical, horizontal)))
        layer.bias.copy_(horizontal.bias)
    x = draw(2, 3, 8, 9)
    assert (separable_conv(layer, 2)(x) - horizontal(vertical(x))).abs().max() < 1e-12
    with torch.no_grad():
        layer.weight.zero_()
    assert (separable_conv(layer, 1)(x) - layer(x)).abs().max() < 1e-12


def test_a_kernel_of_rank_one_is_separable_and_a_random_one_mostly() -> None:
    sobel = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([-1.0, 0, 1])).double()
    assert (per_kernel(sobel[None, None], 1) - sobel).abs().max() < 1e-12
    weight = draw(100, 100, 3, 3)
    kept = per_kernel(weight, 1).square().sum() / weight.square().sum()
    assert abs(float(kept) - 0.748) < 0.01  # 0.7478 over 50,000 Gaussian kernels
    assert (per_kernel(weight, 3) - weight).abs().max() < 1e-12


def test_per_kernel_is_each_kernels_own_best() -> None:
    weight = draw(2, 3, 3, 4)
    for o, c in np.ndindex(2, 3):
        u, s, vt = np.linalg.svd(weight[o, c].numpy(), full_matrices=False)
        best = (u[:, :2] * s[:2]) @ vt[:2]
        assert np.abs(per_kernel(weight, 2)[o, c].numpy() - best).max() < 1e-12


def test_the_layer_is_left_alone_and_its_modes_carry_over() -> None:
    layer = convolution(3, 4, 3).float().eval()
    before = copy.deepcopy(layer.state_dict())
    pair = separable_conv(layer, 2)
    with torch.no_grad():
        pair.horizontal.weight.zero_()
        pair.horizontal.bias.zero_()
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert not pair.training
    assert pair.vertical.weight.dtype == torch.float32


# Counts


@pytest.mark.parametrize(
    ("layer", "channels", "weights", "macs"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), None, 432, 442_368),
        (nn.Conv2d(3, 16, 3, padding=1), 16, 144 + 768, 147_456 + 786_432),
        (nn.Conv2d(16, 16, 3, padding=1), None, 2304, 2_359_296),
        (nn.Conv2d(16, 16, 3, padding=1), 16, 768 + 768, 1_572_864),
        (nn.Conv2d(3, 16, 3, padding=1), 7, 399, 408_576),
        (nn.Conv2d(3, 16, 3, padding=1), 8, 456, 466_944),
        (nn.Conv2d(3, 16, 3, padding=1), 4, 228, 233_472),
        (nn.Conv2d(3, 16, 3, padding=1), 3, 171, 175_104),
        (nn.Conv2d(3, 16, 3), 4, 228, 207_360),
    ],
)
def test_the_articles_example(
    layer: nn.Conv2d, channels: int | None, weights: int, macs: int
) -> None:
    assert separable_cost(layer, channels, (32, 32)) == (weights, macs)


def test_four_channels_are_not_half() -> None:
    def ratio(layer: nn.Conv2d, channels: int) -> float:
        whole = separable_cost(layer, None, (32, 32))[1]
        return round(separable_cost(layer, channels, (32, 32))[1] / whole, 4)

    padded, valid = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3)
    assert [ratio(padded, d) for d in (4, 3, 7, 8)] == [0.5278, 0.3958, 0.9236, 1.0556]
    assert [ratio(valid, d) for d in (4, 3)] == [0.5333, 0.4]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_counts_agree_with_the_counter(options: dict[str, Any]) -> None:
    layer = convolution(3, 5, (3, 5), **options)
    for channels in (None, 1, 4):
        weights, macs = separable_cost(layer, channels, (11, 14))
        network = layer if channels is None else separable_conv(layer, channels)
        counted = cost.count(network, (3, 11, 14))
        assert macs == counted.macs
        assert weights == counted.parameters - (5 if layer.bias is not None else 0)


@settings(max_examples=60)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 2)
)
def test_break_even_by_counting(c: int, o: int, height: int, width: int, stride: int) -> None:
    layer = nn.Conv2d(c, o, (height, width), stride=stride)
    for size in (None, (9, 11)):
        which = 0 if size is None else 1
        place = size or (9, 11)
        whole = separable_cost(layer, None, place)[which]
        ranks = range(1, min(c * height, o * width) + 1)
        saving = [d for d in ranks if separable_cost(layer, d, place)[which] < whole]
        assert break_even_channels(layer, size) == max(saving, default=0)


def test_golden_break_even() -> None:
    assert break_even_channels(nn.Conv2d(3, 16, 3, padding=1)) == 7
    assert break_even_channels(nn.Conv2d(3, 16, 3, padding=1), (32, 32)) == 7
    assert break_even_channels(nn.Conv2d(16, 16, 3, padding=1)) == 23  # 24 is equal
    assert break_even_channels(nn.Conv2d(1, 1, 1)) == 0


# Bad input


@pytest.mark.parametrize("channels", [0, -1, 10, 2.0, True, None])
def test_channels_out_of_range_are_refused(channels: object) -> None:
    with pytest.raises(ValueError, match="channels must be a whole number from 1 to 9, got"):
        separable_conv(convolution(3, 16, 3), channels)  # type: ignore[arg-type]


def test_other_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups=1, got groups=4"):
        separable_conv(nn.Conv2d(4, 4, 3, groups=4), 1)
    with pytest.raises(ValueError, match=r"groups=1, got groups=2"):
        separable_cost(nn.Conv2d(4, 4, 3, groups=2), 1, (8, 8))
    for layer in (nn.Linear(3, 3), nn.ConvTranspose2d(1, 1, 3), nn.Conv1d(1, 1, 3)):
        with pytest.raises(ValueError, match=r"must be an nn.Conv2d, got"):
            separable_conv(layer, 1)  # type: ignore[arg-type]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="too small for a kernel"):
        separable_cost(nn.Conv2d(1, 1, 5), 1, (4, 9))
    with pytest.raises(ValueError, match="two whole numbers"):
        separable_cost(nn.Conv2d(1, 1, 3), 1, (4.0, 9))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels must be a whole number of 1 or more"):
        separable_cost(nn.Conv2d(1, 1, 3), 0, (4, 9))


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = convolution(2, 2, 3)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite"):
        separable_conv(layer, 2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        per_kernel(layer.weight, 1)
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to 3"):
        per_kernel(layer.weight, 4)
