"""Depthwise separable convolution: blocks, what they can represent, what they cost.

A depthwise convolution (`groups` = input channels) filters every channel by itself; a pointwise
convolution (1x1) mixes the channels. Without a non-linear layer between them the two are one full
convolution whose kernels are `pointwise[o, c] * depthwise[c]`: for every input channel one 3x3
pattern, scaled for each output. `multiplier` patterns for every input channel lift that rank.

Sources: Howard et al. 2017 (MobileNets, arXiv:1704.04861), sections 3.1 to 3.4.

Chapter: 02_architecture.
"""

import copy
import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from helpers.models import SeparableCNN

PLACEMENTS = ("none", "between", "both")

# MobileNet v1 after its first convolution: (output channels, stride). The paper's table 1 gives the
# last depthwise layer a stride of 2 but a map that stays 7x7; only stride 1 costs its 569 M MACs.
MOBILENET = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def _check_count(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")


def separable_block(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    multiplier: int = 1,
    placement: str = "both",
) -> nn.Sequential:
    """Depthwise K x K, then pointwise; an odd K keeps the size of the map (divided by `stride`).

    `placement` says where batch norm and ReLU6 stand: "both" (after either convolution, MobileNet
    v1), "between" (after the depthwise one only, the food-11 article), "none" (a linear block). A
    convolution has a bias unless a batch norm follows it. `multiplier` is the number of depthwise
    filters for each input channel.
    """
    _check_count(
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel_size,
        stride=stride,
        multiplier=multiplier,
    )
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd to be centred on a pixel, got {kernel_size}")
    if placement not in PLACEMENTS:
        raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
    middle = multiplier * in_channels
    block = nn.Sequential()
    depthwise = nn.Conv2d(
        in_channels,
        middle,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=in_channels,
        bias=placement == "none",
    )
    block.add_module("depthwise", depthwise)
    if placement != "none":
        block.add_module("bn1", nn.BatchNorm2d(middle))
        block.add_module("relu1", nn.ReLU6())
    block.add_module("pointwise", nn.Conv2d(middle, out_channels, 1, bias=placement != "both"))
    if placement == "both":
        block.add_module("bn2", nn.BatchNorm2d(out_channels))
        block.add_module("relu2", nn.ReLU6())
    return block


def compose(depthwise: nn.Conv2d, pointwise: nn.Conv2d) -> nn.Conv2d:
    """The one full convolution that equals `depthwise` followed directly by `pointwise`.

    Its weight is W[o, c] = sum over the m filters j of channel c of P[o, c m + j] D[c m + j], its bias
    P b_D + b_P. Exact at the border too: the pointwise layer pads nothing. Raises ValueError unless
    the first is depthwise and the second a plain 1x1 convolution with as many inputs.
    """
    for name, layer in (("depthwise", depthwise), ("pointwise", pointwise)):
        if not isinstance(layer, nn.Conv2d):
            raise ValueError(f"{name} must be an nn.Conv2d, got {type(layer).__name__}")
    inputs, middle = depthwise.in_channels, depthwise.out_channels
    if depthwise.groups != inputs:
        raise ValueError(
            f"depthwise must have groups = its {inputs} input channels, got {depthwise.groups}"
        )
    plain = pointwise.kernel_size == (1, 1) and pointwise.stride == (1, 1)
    if not plain or pointwise.padding not in ((0, 0), "valid", "same") or pointwise.groups != 1:
        raise ValueError(f"pointwise must be 1x1 with stride 1, no padding, no groups: {pointwise}")
    if pointwise.in_channels != middle:
        raise ValueError(
            f"pointwise must take the {middle} channels of depthwise, got {pointwise.in_channels}"
        )
    outputs, each = pointwise.out_channels, middle // inputs
    mix = pointwise.weight.detach().reshape(outputs, inputs, each)  # (C_o, C_i, m)
    patterns = depthwise.weight.detach().reshape(inputs, each, *depthwise.kernel_size)
    bias = torch.zeros(outputs, dtype=mix.dtype, device=mix.device)
    if depthwise.bias is not None:
        bias = bias + mix.reshape(outputs, middle) @ depthwise.bias.detach()
    if pointwise.bias is not None:
        bias = bias + pointwise.bias.detach()
    full = _like(depthwise, inputs, outputs, groups=1, bias=True)
    with torch.no_grad():
        full.weight.copy_(torch.einsum("ocm,cmyx->ocyx", mix, patterns))
        assert full.bias is not None
        full.bias.copy_(bias)
    return full


def separate(layer: nn.Conv2d, multiplier: int = 1) -> nn.Sequential:
    """The best depthwise and pointwise pair in place of a full convolution, least squared error.

    The kernels of one input channel c, as a matrix W[:, c] of shape (C_o, K^2), must become a sum of
    `multiplier` outer products. No two input channels share anything, so the truncated SVD of each
    matrix is the optimum (Eckart and Young); with multiplier = min(C_o, K^2) nothing is lost. Both
    factors get the square root of the singular values. The bias goes to the pointwise layer.

    Raises ValueError for another layer, groups other than 1, and a multiplier out of range.
    """
    _check_full(layer)
    outputs, inputs, height, width = layer.weight.shape
    most = min(outputs, height * width)
    _check_multiplier(multiplier, most)
    u, s, vh = torch.linalg.svd(_by_input(layer.weight), full_matrices=False)
    root = s[:, :multiplier].sqrt()  # (C_i, m)
    patterns = root[:, :, None] * vh[:, :multiplier]  # (C_i, m, K^2)
    mix = u[:, :, :multiplier] * root[:, None]  # (C_i, C_o, m)
    middle = inputs * multiplier
    depthwise = _like(layer, inputs, middle, groups=inputs, bias=False)
    pointwise = nn.Conv2d(
        middle,
        outputs,
        1,
        bias=layer.bias is not None,
        dtype=layer.weight.dtype,
        device=layer.weight.device,
    )
    with torch.no_grad():
        depthwise.weight.copy_(patterns.reshape(middle, 1, height, width))
        pointwise.weight.copy_(mix.transpose(0, 1).reshape(outputs, middle, 1, 1))
        if layer.bias is not None and pointwise.bias is not None:
            pointwise.bias.copy_(layer.bias)
    pair = nn.Sequential()
    pair.add_module("depthwise", depthwise)
    pair.add_module("pointwise", pointwise)
    return pair.train(layer.training)


def separable_error(weight: Tensor, multiplier: int = 1) -> float:
    """Share of the squared weights (C_o, C_i, K, K) that the best pair of `separate` loses, 0 to 1."""
    if weight.ndim != 4:
        raise ValueError(f"weight must have shape (C_o, C_i, K, K), got {tuple(weight.shape)}")
    _check_multiplier(multiplier, min(weight.shape[0], weight.shape[2] * weight.shape[3]))
    energy = torch.linalg.svdvals(_by_input(weight).double()).square()
    total = float(energy.sum())
    return float(energy[:, multiplier:].sum()) / total if total else 0.0


def cost_ratio(out_channels: int, kernel_size: int = 3, multiplier: int = 1) -> Fraction:
    """MACs (and weights) of the pair over those of the full convolution: m (1/N + 1/K^2), exactly.

    The number of input channels, the size of the map and the stride cancel.

    >>> cost_ratio(64)
    Fraction(73, 576)
    """
    _check_count(out_channels=out_channels, kernel_size=kernel_size, multiplier=multiplier)
    return multiplier * (Fraction(1, out_channels) + Fraction(1, kernel_size**2))


def scale_width(width: int, alpha: float, divisor: int = 1) -> int:
    """`alpha` times `width`, rounded (half up) to a multiple of `divisor`, never below `divisor`.

    With a divisor, where rounding down would lose more than a tenth, the next multiple is taken: the
    rule of the published MobileNet code (there with divisor 8).
    """
    _check_count(width=width, divisor=divisor)
    if isinstance(alpha, bool) or not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be a positive number, got {alpha!r}")
    wanted = alpha * width
    chosen = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return chosen + divisor if divisor > 1 and chosen < 0.9 * wanted else chosen


def scale_widths(widths: Sequence[int], alpha: float, divisor: int = 1) -> tuple[int, ...]:
    """`scale_width` of every width: the width multiplier of a whole network."""
    return tuple(scale_width(width, alpha, divisor) for width in widths)


def mobilenet(
    alpha: float = 1.0, *, in_channels: int = 3, classes: int = 1000, separable: bool = True
) -> nn.Sequential:
    """MobileNet v1 with width multiplier `alpha`, or the same network with full convolutions.

    At 224 x 224: 568,740,352 MACs and 4,231,976 parameters. Build it under `torch.device("meta")`
    to count it without storage.
    """
    _check_count(in_channels=in_channels, classes=classes)
    before = scale_width(32, alpha)
    network = nn.Sequential(_norm_block(nn.Conv2d(in_channels, before, 3, 2, 1, bias=False)))
    for width, stride in MOBILENET:
        after = scale_width(width, alpha)
        if separable:
            network.append(separable_block(before, after, stride=stride))
        else:
            network.append(_norm_block(nn.Conv2d(before, after, 3, stride, 1, bias=False)))
        before = after
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)])
    return network


def merge_last_pointwise(model: SeparableCNN) -> SeparableCNN:
    """A `SeparableCNN` without its last pointwise layer, and with the same outputs.

    No norm and no activation follow that layer, averaging is linear, and so is `fc`: the two
    matrices are multiplied once and for all. Raises ValueError where a max-pool stands between them.
    """
    if not isinstance(model, SeparableCNN):
        raise ValueError(f"model must be a SeparableCNN, got {type(model).__name__}")
    name, last = list(model.features.named_children())[-1]
    if not (isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1)):
        raise ValueError(f"the features must end in a pointwise layer, but end in {name}: {last}")
    merged = copy.deepcopy(model)
    mix = last.weight.detach().flatten(1)  # (C_o, C_i)
    weight, bias = model.fc.weight.detach(), model.fc.bias.detach()
    fc = nn.Linear(mix.shape[1], weight.shape[0], dtype=mix.dtype, device=mix.device)
    with torch.no_grad():
        fc.weight.copy_(weight @ mix)
        fc.bias.copy_(bias if last.bias is None else weight @ last.bias.detach() + bias)
    delattr(merged.features, name)
    merged.fc = fc.train(model.training)
    return merged


def _norm_block(convolution: nn.Conv2d) -> nn.Sequential:
    norm = nn.BatchNorm2d(convolution.out_channels)
    return nn.Sequential(convolution, norm, nn.ReLU6())


def _by_input(weight: Tensor) -> Tensor:
    """(C_o, C_i, K, K) -> (C_i, C_o, K^2): for every input channel, a row for each output."""
    return weight.detach().flatten(2).transpose(0, 1)


def _like(
    layer: nn.Conv2d, in_channels: int, out_channels: int, *, groups: int, bias: bool
) -> nn.Conv2d:
    """A convolution with the geometry of `layer` and other channels."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=bias,
        padding_mode=layer.padding_mode,
        dtype=layer.weight.dtype,
        device=layer.weight.device,
    )


def _check_full(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"layer must be an nn.Conv2d, got {type(layer).__name__}")
    if layer.groups != 1:
        raise ValueError(f"layer must have groups=1, got groups={layer.groups}")


def _check_multiplier(multiplier: int, most: int) -> None:
    if isinstance(multiplier, bool) or not isinstance(multiplier, int):
        raise ValueError(f"multiplier must be a whole number from 1 to {most}, got {multiplier!r}")
    if not 1 <= multiplier <= most:
        raise ValueError(f"multiplier must be from 1 to {most}, got {multiplier}")
