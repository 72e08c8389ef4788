"""Separable convolution against loops, SciPy, alternating least squares and the published counts."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import architecture, cost, models, zoo
from helpers.architecture import (
    PLACEMENTS,
    compose,
    cost_ratio,
    merge_last_pointwise,
    mobilenet,
    scale_width,
    scale_widths,
    separable_block,
    separable_error,
    separate,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and statistics in float64, so that nothing is 0 or 1 by chance."""
    module = module.double().eval()
    for index, (name, value) in enumerate(module.state_dict().items()):
        if value.is_floating_point():
            noise = drawn(*value.shape, seed=seed + index)
            value.copy_(noise.abs() + 0.5 if "var" in name else noise)
    return module


def by_loops(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Depthwise convolution of (C, H, W) written with loops over NumPy arrays."""
    padded = np.pad(x.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    kernels, k = weight.numpy()[:, 0], weight.shape[-1]
    each = len(kernels) // len(padded)
    side = (padded.shape[1] - k) // stride + 1
    out = np.zeros((len(kernels), side, side))
    for channel in range(len(kernels)):
        for i in range(side):
            for j in range(side):
                window = padded[channel // each][
                    i * stride : i * stride + k, j * stride : j * stride + k
                ]
                out[channel, i, j] = (window * kernels[channel]).sum()
    return torch.from_numpy(out)


# --- the block


@pytest.mark.parametrize(("stride", "multiplier"), [(1, 1), (2, 1), (1, 3)])
def test_depthwise_layer_of_a_block_filters_each_channel_alone(
    stride: int, multiplier: int
) -> None:
    block = fill(separable_block(4, 5, stride=stride, multiplier=multiplier, placement="between"))
    x = drawn(1, 4, 7, 7)
    assert tuple(block.depthwise.weight.shape) == (4 * multiplier, 1, 3, 3)
    expected = by_loops(x[0], block.depthwise.weight.detach(), stride, padding=1)
    assert torch.allclose(block.depthwise(x)[0], expected)


@pytest.mark.parametrize(
    ("placement", "names"),
    [
        ("none", ["depthwise", "pointwise"]),
        ("between", ["depthwise", "bn1", "relu1", "pointwise"]),
        ("both", ["depthwise", "bn1", "relu1", "pointwise", "bn2", "relu2"]),
    ],
)
def test_block_has_the_layers_of_its_placement(placement: str, names: list[str]) -> None:
    block = separable_block(4, 6, placement=placement)
    assert [name for name, _ in block.named_children()] == names
    assert (block.depthwise.bias is None) == ("bn1" in names)
    assert (block.pointwise.bias is None) == ("bn2" in names)
    assert tuple(block(torch.zeros(2, 4, 8, 8)).shape) == (2, 6, 8, 8)


def test_between_is_the_block_of_the_small_network() -> None:
    """The same layers as `SeparableCNN`, which gives the depthwise layer a redundant bias too."""
    network = models.small("SeparableCNN")
    block = separable_block(16, 32, placement="between")
    kinds = [type(module) for name, module in network.features.named_children() if "2" in name]
    assert kinds[: len(block)] == [type(module) for module in block]
    assert network.features.depthwise2.bias is not None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"out_channels": 2.0}, "out_channels"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"stride": 0}, "stride"),
        ({"multiplier": True}, "multiplier"),
        ({"placement": "after"}, "placement"),
    ],
)
def test_block_refuses_bad_arguments(options: dict, name: str) -> None:
    arguments = {"in_channels": 4, "out_channels": 4, **options}
    with pytest.raises(ValueError, match=name):
        separable_block(arguments.pop("in_channels"), arguments.pop("out_channels"), **arguments)


# --- one full convolution


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 99),
)
def test_composed_convolution_equals_the_pair(
    inputs: int, outputs: int, each: int, stride: int, padding: int, bias: bool, seed: int
) -> None:
    depthwise = fill(
        nn.Conv2d(
            inputs, inputs * each, 3, stride=stride, padding=padding, groups=inputs, bias=bias
        ),
        seed,
    )
    pointwise = fill(nn.Conv2d(inputs * each, outputs, 1, bias=bias), seed + 7)
    full = compose(depthwise, pointwise)
    x = drawn(2, inputs, 6, 5, seed=seed)
    assert full.groups == 1
    assert tuple(full.weight.shape) == (outputs, inputs, 3, 3)
    assert torch.allclose(full(x), pointwise(depthwise(x)), atol=1e-10)


def test_composed_kernels_are_products_entry_by_entry() -> None:
    block = fill(separable_block(3, 4, placement="none"))
    full = compose(block.depthwise, block.pointwise).weight
    for o in range(4):
        for c in range(3):
            expected = block.pointwise.weight[o, c, 0, 0] * block.depthwise.weight[c, 0]
            assert torch.allclose(full[o, c], expected)


@pytest.mark.parametrize(
    ("depthwise", "pointwise", "name"),
    [
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 6, 1), "depthwise"),
        (nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 6, 1), "depthwise"),
        (nn.Linear(4, 4), nn.Conv2d(4, 6, 1), "depthwise"),
        (nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 3), "pointwise"),
        (nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1, stride=2), "pointwise"),
        (nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1, padding=1), "pointwise"),
        (nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1, groups=2), "pointwise"),
        (nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(8, 6, 1), "pointwise"),
    ],
)
def test_compose_refuses_other_layers(
    depthwise: nn.Module, pointwise: nn.Module, name: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        compose(depthwise, pointwise)  # type: ignore[arg-type]


# --- the best pair


def alternating(weight: Tensor, rounds: int = 200) -> float:
    """Least squares for the patterns and for the mix in turn, one pattern an input channel."""
    kernels = weight.flatten(2).numpy()  # (C_o, C_i, K^2)
    patterns = drawn(weight.shape[1], kernels.shape[2], seed=3).numpy()
    for _ in range(rounds):
        mix = np.einsum("ock,ck->oc", kernels, patterns) / (patterns**2).sum(1)
        patterns = np.einsum("ock,oc->ck", kernels, mix) / (mix**2).sum(0)[:, None]
    return float(((kernels - mix[:, :, None] * patterns) ** 2).sum() / (kernels**2).sum())


def test_error_equals_scipys_singular_values() -> None:
    weight = drawn(7, 3, 3, 3)
    for multiplier in (1, 2, 7):
        lost = sum(
            (scipy.linalg.svdvals(weight[:, c].reshape(7, 9).numpy())[multiplier:] ** 2).sum()
            for c in range(3)
        )
        expected = lost / float(weight.square().sum())
        assert separable_error(weight, multiplier) == pytest.approx(expected, abs=1e-12)


def test_best_pair_is_what_alternating_least_squares_finds() -> None:
    weight = drawn(6, 4, 3, 3, seed=1)
    assert separable_error(weight) == pytest.approx(alternating(weight), abs=1e-6)


@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from((1, 3)), st.integers(0, 99))
def test_error_falls_with_the_multiplier_to_zero(
    outputs: int, inputs: int, k: int, seed: int
) -> None:
    weight = drawn(outputs, inputs, k, k, seed=seed)
    errors = [separable_error(weight, m) for m in range(1, min(outputs, k * k) + 1)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(errors))
    assert errors[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("multiplier", [1, 2, 5])
def test_separate_loses_what_separable_error_says_and_keeps_the_geometry(multiplier: int) -> None:
    layer = fill(nn.Conv2d(4, 5, 3, stride=2, padding=1, padding_mode="circular"))
    pair = separate(layer, multiplier)
    rebuilt = compose(pair.depthwise, pair.pointwise)
    lost = (rebuilt.weight - layer.weight).square().sum() / layer.weight.square().sum()
    assert float(lost.detach()) == pytest.approx(
        separable_error(layer.weight, multiplier), abs=1e-12
    )
    assert pair.depthwise.groups == 4
    assert torch.equal(pair.pointwise.bias, layer.bias)
    x = drawn(2, 4, 9, 8)
    assert pair(x).shape == layer(x).shape
    assert pair.depthwise.padding_mode == "circular"
    if multiplier == 5:
        assert torch.allclose(pair(x), layer(x), atol=1e-10)


def test_separate_leaves_its_argument_and_takes_its_mode() -> None:
    layer = nn.Conv2d(3, 6, 3, bias=False).eval()
    before = layer.weight.detach().clone()
    pair = separate(layer)
    assert torch.equal(layer.weight, before)
    assert not pair.training
    assert pair.pointwise.bias is None
    with torch.no_grad():
        pair.pointwise.weight.zero_()
    assert torch.equal(layer.weight, before)


def test_a_separable_kernel_is_found_again() -> None:
    block = fill(separable_block(5, 6, placement="none"))
    full = compose(block.depthwise, block.pointwise)
    assert separable_error(full.weight) < 1e-12
    assert separable_error(torch.zeros(4, 3, 3, 3)) == 0.0


@pytest.mark.parametrize("multiplier", [0, 10, -1, 1.0, True])
def test_multiplier_out_of_range_is_refused(multiplier: int) -> None:
    layer = nn.Conv2d(3, 16, 3)
    with pytest.raises(ValueError, match="multiplier must be"):
        separate(layer, multiplier)
    with pytest.raises(ValueError, match="multiplier must be"):
        separable_error(layer.weight, multiplier)


def test_separate_refuses_other_layers() -> None:
    with pytest.raises(ValueError, match="groups=1"):
        separate(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(ValueError, match=r"nn\.Conv2d"):
        separate(nn.Linear(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        separable_error(torch.zeros(4, 4))


# --- cost


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from((1, 3, 5)),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(5, 9),
)
@settings(max_examples=30)
def test_ratio_is_what_the_counter_counts(
    inputs: int, outputs: int, k: int, each: int, stride: int, side: int
) -> None:
    options = {"kernel_size": k, "stride": stride, "multiplier": each, "placement": "none"}
    pair = separable_block(inputs, outputs, **options)
    full = nn.Conv2d(inputs, outputs, k, stride=stride, padding=k // 2)
    counted = [cost.count(layer, (inputs, side, side)).macs for layer in (pair, full)]
    assert Fraction(*counted) == cost_ratio(outputs, k, each)


def test_ratio_is_the_published_formula() -> None:
    assert cost_ratio(512) == Fraction(1, 512) + Fraction(1, 9)
    assert cost_ratio(1) > 1  # one output channel: the pair costs more


@pytest.mark.parametrize(
    ("alpha", "separable", "side", "macs", "parameters"),
    [
        (1.0, True, 224, 568_740_352, 4_231_976),
        (0.75, True, 224, 325_400_448, 2_585_560),
        (0.5, True, 224, 149_497_088, 1_331_592),
        (0.25, True, 224, 41_030_272, 470_072),
        (1.0, True, 128, 186_400_768, 4_231_976),
        (1.0, False, 224, 4_867_293_184, 29_294_088),
    ],
)
def test_mobilenet_costs_what_was_published(
    alpha: float, separable: bool, side: int, macs: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = mobilenet(alpha, separable=separable)
    counted = cost.count(model, (3, side, side))
    assert (counted.macs, counted.parameters) == (macs, parameters)


def test_mobilenet_runs() -> None:
    model = mobilenet(0.25, in_channels=1, classes=7).eval()
    assert tuple(model(torch.zeros(2, 1, 32, 32)).shape) == (2, 7)
    with pytest.raises(ValueError, match="alpha"):
        mobilenet(0)
    with pytest.raises(ValueError, match="classes"):
        mobilenet(classes=0)


def tensorflow_rule(value: float, divisor: int) -> int:
    """The rule as TensorFlow's MobileNet code states it, least value = divisor."""
    new = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * value else new


@given(st.integers(1, 2000), st.floats(0.01, 4), st.integers(2, 32))
def test_scaled_width_follows_tensorflow(width: int, alpha: float, divisor: int) -> None:
    chosen = scale_width(width, alpha, divisor)
    assert chosen == tensorflow_rule(alpha * width, divisor)
    assert chosen % divisor == 0
    assert chosen >= max(divisor, 0.9 * alpha * width)


@given(st.integers(1, 2000), st.floats(0.01, 4))
def test_scaled_width_without_divisor_rounds(width: int, alpha: float) -> None:
    assert scale_width(width, alpha) == max(1, math.floor(alpha * width + 0.5))


def test_scaled_widths_by_hand() -> None:
    assert [scale_width(w, 0.5, 8) for w in (16, 24, 32)] == [8, 16, 16]
    assert scale_width(18, 1.0, 8) == 24  # 16 would lose more than a tenth
    assert scale_width(17, 1.0, 8) == 16
    assert scale_widths((16, 32, 64), 0.25) == (4, 8, 16)
    for bad in (0, -1.0, math.nan, math.inf, True):
        with pytest.raises(ValueError, match="alpha"):
            scale_width(16, bad)
    with pytest.raises(ValueError, match="divisor"):
        scale_width(16, 0.5, 0)


# --- the layer that can be merged


def test_merged_network_has_the_same_outputs() -> None:
    model = fill(models.SeparableCNN(1, 10, (4, 6, 5), 2))
    merged = merge_last_pointwise(model)
    x = drawn(3, 1, 12, 12)
    assert torch.allclose(merged(x), model(x), atol=1e-9)
    assert "pointwise3" in dict(model.features.named_children())
    assert "pointwise3" not in dict(merged.features.named_children())
    with torch.no_grad():
        merged.features.conv1.weight.zero_()
    assert model.features.conv1.weight.abs().max() > 0


def test_merging_takes_the_layer_and_the_width_of_the_classifier() -> None:
    with torch.device("meta"):
        full = models.SeparableCNN()
    before = cost.count(full, (3, 128, 128))
    assert (before.parameters, before.macs) == (256_779, 29_600_512)
    small = zoo.load("SeparableCNN")
    merged = merge_last_pointwise(small)
    after = cost.count(merged, (1, 28, 28))
    assert (after.parameters, after.macs) == (4_842, 384_800)
    assert not any(module.training for module in merged.modules())


def test_merging_refuses_what_is_not_linear() -> None:
    with pytest.raises(ValueError, match="pool3"):
        merge_last_pointwise(models.SeparableCNN(1, 10, (4, 6, 5), 3))
    with pytest.raises(ValueError, match="relu1"):
        merge_last_pointwise(models.SeparableCNN(1, 10, (4,), 0))
    with pytest.raises(ValueError, match="SeparableCNN"):
        merge_last_pointwise(models.small("StandardCNN"))  # type: ignore[arg-type]


def test_grouped_convolution_is_separate_convolutions() -> None:
    """PyTorch's rule, which the lab teaches: groups do not see each other."""
    weight, x = drawn(9, 2, 3, 3), drawn(2, 6, 7, 7)
    whole = F.conv2d(x, weight, groups=3)
    parts = [F.conv2d(x[:, 2 * i : 2 * i + 2], weight[3 * i : 3 * i + 3]) for i in range(3)]
    assert torch.allclose(whole, torch.cat(parts, 1))


def test_names_of_the_placements() -> None:
    assert PLACEMENTS == ("none", "between", "both")
    assert len(architecture.MOBILENET) == 13
