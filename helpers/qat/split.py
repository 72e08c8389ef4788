"""An integer backbone and a float head: what the split can save, and the network it makes.

The adaptive-precision VGG16 paper quantizes VGG16 up to its fifth pooling layer and leaves the dense
head in float32. Whatever the backbone's width, the file keeps the head's four bytes a parameter.

Chapter: 09b_qat.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers import cost
from helpers.quantization.graph import Node
from helpers.quantization.network import QuantizedNetwork, quantize_network, run_float

VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width, convolutions


@dataclass(frozen=True)
class Part:
    """Learned numbers and multiply-accumulates per image of one side of the cut."""

    parameters: int
    macs: int


def vgg16(classes: int = 1000) -> nn.Module:
    """VGG16 for 224 x 224 x 3 with children `backbone` and `head`, without storage: to be counted.

    Source: Simonyan and Zisserman 2015, table 1, column D; 138,357,544 parameters.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.device("meta"):
        before = 3
        for i, (width, convolutions) in enumerate(VGG16_STAGES, 1):
            for j in range(1, convolutions + 1):
                layers[f"conv{i}_{j}"] = nn.Conv2d(before, width, 3, padding=1)
                layers[f"relu{i}_{j}"] = nn.ReLU()
                before = width
            layers[f"pool{i}"] = nn.MaxPool2d(2)
        head = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
            nn.Linear(4096, classes),
        )
    return nn.Sequential(OrderedDict(backbone=nn.Sequential(layers), head=head))


def parts(
    model: nn.Module, input_shape: tuple[int, ...], *, head: str = "head"
) -> tuple[Part, Part]:
    """(backbone, head) of `model`: its child `head` on one side, everything else on the other."""
    _check_head(model, head)
    counted = cost.count(model, input_shape)
    sides = [[], []]  # type: list[list[cost.LayerCost]]
    for layer in counted.layers:
        sides[_inside(layer.name, head)].append(layer)
    backbone, rest = (
        Part(sum(layer.parameters for layer in side), sum(layer.macs for layer in side))
        for side in sides
    )
    return backbone, rest


def split_bytes(backbone: Part, head: Part, bits: float) -> float:
    """Bytes with `bits` bits a number in the backbone (0 is the bound) and float32 in the head."""
    if not 0 <= bits <= 32:
        raise ValueError(f"bits must be from 0 to 32, got {bits!r}")
    return backbone.parameters * bits / 8 + 4 * head.parameters


def ratio(backbone: Part, head: Part, bits: float) -> float:
    """How many times smaller than float32 the split network is; `bits=0` gives the upper bound.

    Infinite without a head at 0 bits.
    """
    after = split_bytes(backbone, head, bits)
    return math.inf if after == 0 else split_bytes(backbone, head, 32) / after


def bits_for_bytes(backbone: Part, head: Part, size: float) -> float | None:
    """Bits per backbone number that would give a file of `size` bytes; None where none would.

    None too where more than 32 bits a number would fit.
    """
    if not size > 0:
        raise ValueError(f"size must be positive, got {size!r}")
    bits = 8 * (size - 4 * head.parameters) / backbone.parameters
    return bits if 0 < bits <= 32 else None


class SplitNetwork(nn.Module):
    """`backbone`, a `QuantizedNetwork`, and the float layers `head` behind it."""

    def __init__(self, backbone: QuantizedNetwork, head: list[Node]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) from images (N, C, H, W)."""
        features = self.backbone(x)
        first = self.head[0]
        start = Node(first.inputs[0], "input", (), tuple(features.shape[1:]))
        return run_float([start, *self.head], features)[self.head[-1].name]


def split_network(
    model: nn.Module,
    calibration: Tensor,
    *,
    head: str = "head",
    weight_bits: int | Mapping[str, int] = 8,
    activation_bits: int = 8,
) -> SplitNetwork:
    """`model` with everything before its child `head` quantized after training, the head in float.

    The arguments are those of `quantize_network`; a mapping names backbone layers.
    """
    _check_head(model, head)
    if isinstance(weight_bits, Mapping):
        inside = sorted(name for name in weight_bits if _inside(name, head))
        if inside:
            raise ValueError(f"weight bits for layers of the float head: {inside}")
    quantized = quantize_network(
        model, calibration, weight_bits=weight_bits, activation_bits=activation_bits
    )
    cut = next(i for i, node in enumerate(quantized.nodes) if _inside(node.name, head))
    backbone, rest = quantized.nodes[:cut], quantized.nodes[cut:]
    known = {backbone[-1].name, *(node.name for node in rest)}
    if cut == 1 or any(name not in known for node in rest for name in node.inputs):
        raise ValueError(f"{head!r} must follow the backbone and read its last layer alone")
    return SplitNetwork(QuantizedNetwork(backbone), list(rest))


def _inside(name: str, head: str) -> bool:
    return name == head or name.startswith(f"{head}.")


def _check_head(model: nn.Module, head: str) -> None:
    children = [name for name, _ in model.named_children()]
    if head not in children:
        raise ValueError(f"head must name a child of the model, one of {children}, got {head!r}")
