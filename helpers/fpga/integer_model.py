"""The integer model: a network as integers, scales and shapes, in NumPy, with nothing left float.

Activations are int8 codes with one scale and one zero-point per tensor. Weights are signed, 2 to 8
bits, symmetric without the most negative code, one scale per output channel. Biases are int32 in
units of (input scale x weight scale). Construction checks all of that and refuses a model whose
accumulators could leave int32, whatever the input.

Chapter: 11_fpga_datapath.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.arithmetic import Floats, Integers, signed_bits

OPS = (
    "input", "conv", "linear", "max_pool", "avg_pool", "global_avg_pool", "add", "flatten",
)  # fmt: skip
INT32 = (-(2**31), 2**31 - 1)
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One operator and the tensor it produces.

    `shape` is the output without the batch, (C, H, W) or (F,). `scale` and `zero_point` belong to
    the output codes, which lie in low..high: the code range of the format, narrowed by ReLU (low =
    zero-point) and ReLU6 (high = the code of 6).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    low: int = -128
    high: int = 127
    weight: npt.NDArray[np.int8] | None = None  # (C_out, C_in / groups, K_h, K_w) or (N_out, N_in)
    weight_scale: Floats | None = None  # (C_out,)
    weight_bits: int = 8
    bias: npt.NDArray[np.int32] | None = None  # (C_out,)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    kernel: Pair = (1, 1)
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """One filter per channel: groups = input channels = output channels."""
        if self.op != "conv" or self.weight is None:
            return False
        return self.weight.shape[1] == 1 and self.groups == self.weight.shape[0]

    @property
    def taps(self) -> int:
        """Products in one accumulator: weights per output channel, or values in one window."""
        if self.weight is not None:
            return int(self.weight[0].size)
        return self.kernel[0] * self.kernel[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image: 0 for operators without weights."""
        return 0 if self.weight is None else int(np.prod(self.shape)) * self.taps

    @property
    def has_accumulator(self) -> bool:
        """Whether the layer sums products and requantizes the sum."""
        return self.op in ("conv", "linear", "avg_pool", "global_avg_pool")


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """Layers in the order in which they run; the first is the input, the last gives the logits."""

    layers: tuple[IntegerLayer, ...]
    table: dict[str, IntegerLayer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "table", {layer.name: layer for layer in self.layers})
        from helpers.fpga.validation import check_model  # it needs the classes of this module

        check_model(self)

    def __getitem__(self, name: str) -> IntegerLayer:
        if name not in self.table:
            raise ValueError(f"unknown layer {name!r}; the layers are {', '.join(self.table)}")
        return self.table[name]

    def __iter__(self) -> Iterator[IntegerLayer]:
        return iter(self.layers)

    @property
    def input(self) -> IntegerLayer:
        return self.layers[0]

    @property
    def output(self) -> IntegerLayer:
        return self.layers[-1]

    def source(self, layer: IntegerLayer, index: int = 0) -> IntegerLayer:
        """The layer whose codes `layer` reads."""
        return self.table[layer.inputs[index]]

    def check_input(self, codes: npt.NDArray[Any]) -> None:
        """Refuse anything but an int8 batch (N, C, H, W) of codes in the input's range."""
        first = self.input
        if not isinstance(codes, np.ndarray) or codes.dtype != np.int8:
            kind = getattr(codes, "dtype", type(codes).__name__)
            raise ValueError(f"codes must be a NumPy int8 array, got {kind}")
        if codes.shape[1:] != first.shape or codes.ndim != len(first.shape) + 1:
            expected = ", ".join(map(str, first.shape))
            raise ValueError(f"codes must have shape (N, {expected}), got {codes.shape}")
        whole = (first.low, first.high) == (-128, 127)  # then every int8 is a code
        if not whole and codes.size and not first.low <= codes.min() <= codes.max() <= first.high:
            raise ValueError(f"codes must lie in {first.low}..{first.high}")

    def quantize_input(self, x: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """Codes of real inputs: divide by the scale, round half to even, add the zero-point."""
        first, values = self.input, np.asarray(x)
        kind = np.float64 if values.dtype == np.float64 else np.float32
        out = np.empty(values.shape, np.int8)
        for start in range(0, len(values), 500):  # in pieces, to need little memory
            part = values[start : start + 500].astype(kind)
            if not np.isfinite(part).all():
                raise ValueError("x holds NaN or infinity")
            part /= kind(first.scale)
            np.rint(part, out=part)
            part += first.zero_point
            out[start : start + 500] = np.clip(part, first.low, first.high, out=part)
        return out


def factors(model: IntegerModel, layer: IntegerLayer) -> Floats:
    """The real requantization factors M of a layer, float64.

    conv and linear: S_x S_w / S_y, shape (C_out,). Average pools keep their input's scale: 1 over
    the window's size, shape (1,). add: S_a / S_y and S_b / S_y, shape (2,).
    """
    if layer.op in ("conv", "linear"):
        assert layer.weight_scale is not None
        return model.source(layer).scale * layer.weight_scale / layer.scale
    if layer.op in ("avg_pool", "global_avg_pool"):
        return np.array([1.0 / layer.taps])
    if layer.op == "add":
        return np.array([model.source(layer, i).scale / layer.scale for i in (0, 1)])
    raise ValueError(f"layer {layer.name!r} ({layer.op}) does not requantize")


def accumulator_range(model: IntegerModel, name: str) -> tuple[Integers, Integers]:
    """Exact smallest and largest accumulator of each output channel, int64, over all inputs.

    The worst input gives every positive weight the largest centred code q - Z_x and every negative
    weight the smallest; a padded position gives 0, which lies between. Shape (C_out,), or (1,) for
    average pools, whose accumulator is the sum of centred codes.
    """
    layer = model[name]
    if not layer.has_accumulator:
        raise ValueError(f"layer {name!r} ({layer.op}) has no accumulator")
    source = model.source(layer)
    smallest, largest = source.low - source.zero_point, source.high - source.zero_point
    if layer.weight is None:
        return np.array([layer.taps * smallest]), np.array([layer.taps * largest])
    assert layer.bias is not None
    weight = layer.weight.reshape(len(layer.weight), -1).astype(np.int64)
    positive, negative = np.maximum(weight, 0).sum(1), np.minimum(weight, 0).sum(1)
    bias = layer.bias.astype(np.int64)
    return (
        positive * smallest + negative * largest + bias,
        positive * largest + negative * smallest + bias,
    )


def accumulator_bits(model: IntegerModel, name: str) -> int:
    """Width of the accumulator that a layer really needs: exact, from its weights and bias.

    A two's complement register of this width never overflows in its final value. Intermediate sums
    may wrap: modulo 2**bits the end is right all the same, unless the adder saturates.
    """
    low, high = accumulator_range(model, name)
    return signed_bits(int(low.min()), int(high.max()))


def generic_accumulator_bits(taps: int, weight_bits: int = 8, activation_max: int = 127) -> int:
    """Width that is safe for any weights: ceil(log2(taps * w_max * activation_max)) + 1.

    `activation_max` is the largest magnitude of q - Z: 127 for symmetric int8, 255 for int8 with a
    zero-point of -128. The bias is not counted.

    >>> [generic_accumulator_bits(k) for k in (9, 75, 576, 25088)]
    [19, 22, 25, 30]
    """
    if taps < 1 or activation_max < 1 or not 2 <= weight_bits <= 8:
        raise ValueError(
            "taps and activation_max must be positive and weight_bits 2 to 8, "
            f"got {taps}, {activation_max}, {weight_bits}"
        )
    return (taps * (2 ** (weight_bits - 1) - 1) * activation_max - 1).bit_length() + 1


def output_shape(layer: IntegerLayer, inputs: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that `layer` must produce from its inputs' shapes, without the batch."""
    first = inputs[0]
    if layer.op == "flatten":
        return (int(np.prod(first)),)
    if layer.op == "linear":
        return (0 if layer.weight is None else len(layer.weight),)
    if layer.op == "add":
        return first
    if layer.op == "global_avg_pool":
        return (first[0], 1, 1)
    channels = first[0] if layer.weight is None else len(layer.weight)
    sides = (
        (side + 2 * pad - kernel) // stride + 1
        for side, pad, kernel, stride in zip(
            first[1:], layer.padding, layer.kernel, layer.stride, strict=True
        )
    )
    return (channels, *sides)
