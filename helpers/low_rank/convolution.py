"""Convolutions: K x K as K x 1 to D middle channels, then 1 x K.

The weight (C_o, C_i, K_y, K_x), read as a matrix with a row for each (input channel, y) and a
column for each (output channel, x), factors like any other: a row of the right factor holds one
horizontal filter bank, a column of the left factor one vertical one, and the rank is D.

Source: Jaderberg et al. 2014 (arXiv:1405.3866), scheme 2.

Chapter: 06_low_rank.
"""

from typing import Any

import torch
from torch import Tensor, nn

from helpers.low_rank.dense import Split, check_rank, factors, pair


def as_matrix(weight: Tensor) -> Tensor:
    """The weight (C_o, C_i, K_y, K_x) as the matrix that is factored, (C_i K_y, C_o K_x).

    Its rows are the pairs (c, y), its columns the pairs (o, x): a product of rank D is a K_y x 1
    convolution to D channels followed by a 1 x K_x one.
    """
    if weight.ndim != 4:
        raise ValueError(f"weight must have shape (C_o, C_i, K_y, K_x), got {tuple(weight.shape)}")
    outputs, inputs, height, width = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width)


def from_matrix(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `as_matrix`: `shape` is (C_o, C_i, K_y, K_x)."""
    outputs, inputs, height, width = shape
    if tuple(matrix.shape) != (inputs * height, outputs * width):
        raise ValueError(
            f"matrix of shape {tuple(matrix.shape)} does not fit a weight of shape {tuple(shape)}"
        )
    return matrix.reshape(inputs, height, outputs, width).permute(2, 0, 1, 3)


def check_convolution(layer: nn.Module) -> None:
    """ValueError unless `layer` is an `nn.Conv2d` without groups."""
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"layer must be an nn.Conv2d, got {type(layer).__name__}")
    if layer.groups != 1:
        raise ValueError(
            f"layer must have groups=1, got groups={layer.groups}: each group is a convolution of "
            "its own, and a depthwise kernel has no channels to share"
        )


def separable_conv(layer: nn.Conv2d, channels: int, *, split: Split = "root") -> nn.Sequential:
    """Two convolutions in place of one: `vertical` (K_y x 1 to `channels`), then `horizontal`.

    The joint truncated SVD of `as_matrix(weight)` is the best pair for this number of middle
    channels D; at D = min(C_i K_y, C_o K_x) the function is the same up to rounding. Stride, padding
    and dilation go to the axis they belong to, every padding mode to both. The bias is on the
    second: on the first it would leak into the horizontal padding. `split` as in `factors`.

    Raises ValueError for anything but an `nn.Conv2d`, groups > 1, and D outside its range.
    """
    check_convolution(layer)
    outputs, inputs, height, width = layer.weight.shape
    check_rank(channels, min(inputs * height, outputs * width), "channels")
    left, right = factors(as_matrix(layer.weight), channels, split=split)
    vertical = left.reshape(inputs, height, channels).permute(2, 0, 1)[..., None]
    horizontal = right.reshape(channels, outputs, width).permute(1, 0, 2)[:, :, None]
    text = layer.padding if isinstance(layer.padding, str) else None  # "same", "valid": both passes
    options: dict[str, Any] = {
        "padding_mode": layer.padding_mode,
        "dtype": layer.weight.dtype,
        "device": layer.weight.device,
    }
    first = nn.Conv2d(
        inputs,
        channels,
        (height, 1),
        stride=(layer.stride[0], 1),
        padding=text or (int(layer.padding[0]), 0),
        dilation=(layer.dilation[0], 1),
        bias=False,
        **options,
    )
    second = nn.Conv2d(
        channels,
        outputs,
        (1, width),
        stride=(1, layer.stride[1]),
        padding=text or (0, int(layer.padding[1])),
        dilation=(1, layer.dilation[1]),
        bias=layer.bias is not None,
        **options,
    )
    return pair(first, second, (vertical, horizontal), layer, ("vertical", "horizontal"))


def output_size(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the output for an input of `size` = (height, width)."""
    if len(size) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in size):
        raise ValueError(f"size must be two whole numbers (height, width), got {size!r}")
    if layer.padding == "same":
        result = tuple(size)
    else:
        padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
        result = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                size, padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
            )
        )
    if min(*size, *result) < 1:
        raise ValueError(f"size {size} is too small for a kernel of {layer.kernel_size}")
    return result[0], result[1]


def separable_cost(
    layer: nn.Conv2d, channels: int | None, size: tuple[int, int]
) -> tuple[int, int]:
    """Weights (without bias) and MACs of `layer` on an input of `size`, whole or with D channels.

    `channels=None` counts the convolution as it is; any other D can be counted, also one that
    `separable_conv` refuses because the matrix has fewer ranks. The vertical part makes a map of output height
    and *input* width: without padding the map between the two is a rectangle.

    >>> separable_cost(nn.Conv2d(3, 16, 3, padding=1), 4, (32, 32))
    (228, 233472)
    """
    check_convolution(layer)
    (rows, columns), (height, width) = output_size(layer, size), layer.kernel_size
    if channels is None:
        weights = layer.in_channels * layer.out_channels * height * width
        return weights, weights * rows * columns
    check_rank(channels, None, "channels")
    first = height * layer.in_channels * channels
    second = width * layer.out_channels * channels
    return first + second, first * rows * size[1] + second * rows * columns


def break_even_channels(layer: nn.Conv2d, size: tuple[int, int] | None = None) -> int:
    """The largest D that has fewer weights, or with an input `size` (height, width) fewer MACs.

    For K x K it is the largest D below K C_i C_o / (C_i + C_o); the two agree where the convolution
    keeps the width of the map. 0 where no D saves anything.

    >>> break_even_channels(nn.Conv2d(3, 16, 3, padding=1))
    7
    """
    check_convolution(layer)
    which = 0 if size is None else 1
    place = layer_size(layer) if size is None else size
    whole = separable_cost(layer, None, place)[which]
    each = separable_cost(layer, 1, place)[which]
    return min((whole - 1) // each, *as_matrix(layer.weight).shape)


def layer_size(layer: nn.Conv2d) -> tuple[int, int]:
    """A size that every kernel fits into, for counts that do not depend on it."""
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return spans[0], spans[1]


def per_kernel(weight: Tensor, rank: int) -> Tensor:
    """Each K_y x K_x kernel of `weight` replaced by its own best approximation of that rank.

    The naive alternative to `separable_conv`: no filter is shared, so rank 1 needs a middle map for
    each of the C_i C_o kernels. Same shape and dtype as `weight` (C_o, C_i, K_y, K_x).
    """
    if weight.ndim != 4:
        raise ValueError(f"weight must have shape (C_o, C_i, K_y, K_x), got {tuple(weight.shape)}")
    check_rank(rank, min(weight.shape[2:]))
    if not torch.isfinite(weight).all():
        raise ValueError("weight holds values that are NaN or infinite")
    u, s, vt = torch.linalg.svd(weight.detach().to(torch.float64), full_matrices=False)
    return ((u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]).to(weight.dtype)
