"""The recipe's table: what every step leaves, counted by one rule.

Parameters are those that the machine holds: weights, and one bias for each output channel, because
batch norm is folded. A float network takes 4 bytes for each; an int8 network one byte a weight and
four a bias (int32 in units of the sums). MACs are multiply-accumulates of one image.

Chapter: 10_edge_recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from torch import nn

from helpers.quantization import QuantizedNetwork, trace


@dataclass(frozen=True)
class Step:
    """One row: a network after a step of the recipe. `bits` are those of a weight, the mean."""

    name: str
    accuracy: float  # fraction of the test images
    macs: int
    weights: int
    biases: int
    bits: float
    bytes: int  # of weights and biases

    @property
    def parameters(self) -> int:
        return self.weights + self.biases


def step(
    name: str,
    network: nn.Module | QuantizedNetwork,
    input_shape: tuple[int, ...],
    *,
    accuracy: float,
) -> Step:
    """The row of a float network, or of a `QuantizedNetwork` with the bits of its own grids.

    Raises ValueError for an accuracy outside 0 to 1 and for a network that `trace` does not know.
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be a fraction from 0 to 1, got {accuracy!r}")
    quantized = isinstance(network, QuantizedNetwork)
    nodes = network.nodes if isinstance(network, QuantizedNetwork) else trace(network, input_shape)
    if quantized and tuple(nodes[0].shape) != tuple(input_shape):
        raise ValueError(f"input_shape must be {tuple(nodes[0].shape)}, got {input_shape!r}")
    weights = biases = macs = weight_bits = 0
    for node in nodes:
        if node.weight is None or node.bias is None:
            continue
        count = node.weight.numel()
        places = node.shape[1] * node.shape[2] if len(node.shape) == 3 else 1
        grid = getattr(node, "weight_parameters", None)
        weights += count
        biases += len(node.bias)
        macs += count * places
        weight_bits += count * (32 if grid is None else grid.qmax.bit_length() + 1)
    size = -(-weight_bits // 8) + 4 * biases
    return Step(name, accuracy, macs, weights, biases, weight_bits / weights, size)


def table(steps: Sequence[Step]) -> pd.DataFrame:
    """The steps in order, units in the headings; accuracy in per cent of the test images."""
    rows = {
        s.name: (round(100 * s.accuracy, 2), s.macs, s.parameters, round(s.bits, 2), s.bytes)
        for s in steps
    }
    columns = ["test accuracy (%)", "MACs", "parameters", "bits a weight", "bytes"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("step")


def map_sides(size: int, strides: Sequence[int]) -> list[int]:
    """The side of the map after each 3x3 convolution with padding 1: ceil(side / stride).

    >>> map_sides(28, (1, 2, 2, 2))
    [28, 14, 7, 4]
    """
    if size < 1 or any(s < 1 for s in strides):
        raise ValueError(f"size and strides must be at least 1, got {size} and {list(strides)}")
    sides = []
    for stride in strides:
        size = -(-size // stride)
        sides.append(size)
    return sides


def classifier_weights(channels: int, side: int, classes: int, *, pooled: bool) -> int:
    """Weights, and MACs, of the dense layer behind `channels` maps of `side` x `side`.

    Global average pooling hands it one number a channel whatever the side; a flatten all of them.
    """
    for name, value in (("channels", channels), ("side", side), ("classes", classes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return channels * classes * (1 if pooled else side * side)
