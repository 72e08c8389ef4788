"""What an integer model must satisfy; each violation is a ValueError that names the layer.

Chapter: 11_fpga_datapath.
"""

from typing import Any

import numpy as np

from helpers.fpga.arithmetic import signed_bits
from helpers.fpga.integer_model import (
    INT32,
    OPS,
    IntegerLayer,
    IntegerModel,
    accumulator_range,
    output_shape,
)

WITH_WEIGHTS = ("conv", "linear")
KEEP_GRID = ("max_pool", "avg_pool", "global_avg_pool", "flatten")
SPATIAL = ("conv", "max_pool", "avg_pool", "global_avg_pool")


def check_model(model: IntegerModel) -> None:
    """Check names, wiring, shapes, types, ranges, and that no accumulator can leave int32."""
    layers = model.layers
    if not layers or layers[0].op != "input":
        raise ValueError("the first layer of an integer model must be its input")
    if len(model.table) != len(layers):
        raise ValueError(f"layer names must differ, got {[layer.name for layer in layers]}")
    known: set[str] = set()
    for layer in layers:
        try:
            _check_layer(model, layer, known)
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r} ({layer.op}): {error}") from None
        known.add(layer.name)
    if len(layers) < 2 or len(layers[-1].shape) != 1:
        raise ValueError(
            f"the last layer must give logits of shape (classes,), got {layers[-1].shape}"
        )


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_layer(model: IntegerModel, layer: IntegerLayer, known: set[str]) -> None:
    _require(layer.op in OPS, f"unknown operator; known are {', '.join(OPS)}")
    _require(
        bool(layer.name) and layer.name.replace("_", "").replace(".", "").isalnum(),
        "a name holds letters, digits, '.' and '_' only, since it names files",
    )
    wanted = {"input": 0, "add": 2}.get(layer.op, 1)
    _require(len(layer.inputs) == wanted, f"needs {wanted} inputs, got {len(layer.inputs)}")
    for name in layer.inputs:
        _require(name in known, f"reads {name!r}, which no earlier layer produces")
    _require(
        np.isfinite(layer.scale) and layer.scale > 0,
        f"scale must be positive and finite, got {layer.scale}",
    )
    _require(
        -128 <= layer.low <= layer.zero_point <= layer.high <= 127,
        "needs -128 <= low <= zero_point <= high <= 127, got "
        f"{layer.low}, {layer.zero_point}, {layer.high}",
    )
    _require(
        len(layer.shape) in (1, 3) and all(isinstance(n, int) and n >= 1 for n in layer.shape),
        f"shape must be (C, H, W) or (F,) without empty sides, got {layer.shape}",
    )
    sources = [model.table[name] for name in layer.inputs]
    if layer.op in SPATIAL:
        _check_window(layer, sources[0])
    if layer.op in WITH_WEIGHTS:
        _check_weights(layer, sources[0])
    else:
        _require(layer.weight is None and layer.bias is None, "takes no weight and no bias")
    if layer.op == "add":
        shapes = [source.shape for source in sources]
        _require(shapes[0] == shapes[1], f"needs two equal shapes, got {shapes[0]} and {shapes[1]}")
    if layer.op in KEEP_GRID:
        grid = (layer.scale, layer.zero_point, layer.low, layer.high)
        _require(
            grid == (sources[0].scale, sources[0].zero_point, sources[0].low, sources[0].high),
            "must keep the scale, zero_point and range of its input",
        )
    if sources:
        expected = output_shape(layer, [source.shape for source in sources])
        _require(layer.shape == expected, f"shape must be {expected}, got {layer.shape}")
    if layer.has_accumulator:
        smallest, largest = accumulator_range(model, layer.name)
        low, high = int(smallest.min()), int(largest.max())
        _require(
            INT32[0] <= low and high <= INT32[1],
            f"accumulators can reach {low}..{high}, which needs {signed_bits(low, high)} bits;"
            " the datapath has 32. Make the layer's scales larger or its bias smaller",
        )


def _check_window(layer: IntegerLayer, source: IntegerLayer) -> None:
    _require(len(source.shape) == 3, f"needs an input (C, H, W), got {source.shape}")
    for key, least in (("stride", 1), ("padding", 0), ("kernel", 1)):
        value = getattr(layer, key)
        _require(
            len(value) == 2 and all(isinstance(n, int) and n >= least for n in value),
            f"{key} must be two integers of at least {least}, got {value}",
        )
    if layer.op == "max_pool":
        _require(
            all(2 * p <= k for p, k in zip(layer.padding, layer.kernel, strict=True)),
            f"padding {layer.padding} must be at most half the kernel {layer.kernel}",
        )
    if layer.op == "global_avg_pool":
        _require(
            layer.kernel == source.shape[1:] and layer.padding == (0, 0),
            f"kernel must be the whole map {source.shape[1:]}, got {layer.kernel}",
        )


def _check_weights(layer: IntegerLayer, source: IntegerLayer) -> None:
    weight, bias, scale = layer.weight, layer.bias, layer.weight_scale
    if weight is None or bias is None or scale is None:
        raise ValueError("needs weight, weight_scale and bias")
    _require(weight.dtype == np.int8, f"weight must be int8, got {weight.dtype}")
    _require(bias.dtype == np.int32, f"bias must be int32, got {bias.dtype}")
    _require(2 <= layer.weight_bits <= 8, f"weight_bits must be 2 to 8, got {layer.weight_bits}")
    limit = 2 ** (layer.weight_bits - 1) - 1
    _require(
        np.abs(weight.astype(np.int64)).max() <= limit,
        f"weights of {layer.weight_bits} bits must lie in -{limit}..{limit}, got "
        f"{weight.min()}..{weight.max()}",
    )
    outputs = len(weight)
    _require(bias.shape == (outputs,), f"bias must have shape ({outputs},), got {bias.shape}")
    _require(scale.shape == (outputs,), f"weight_scale must be ({outputs},), got {scale.shape}")
    _require(np.isfinite(scale).all() and (scale > 0).all(), "weight_scale must be positive")
    if layer.op == "linear":
        _require(len(source.shape) == 1, f"needs a flat input (F,), got {source.shape}")
        expected: tuple[int, ...] = (outputs, *source.shape)
    else:
        channels, groups = source.shape[0], layer.groups
        _require(
            groups >= 1 and channels % groups == 0 and outputs % groups == 0,
            f"groups={groups} must divide {channels} inputs and {outputs} outputs",
        )
        expected = (outputs, channels // groups, *layer.kernel)
    _require(weight.shape == expected, f"weight must have shape {expected}, got {weight.shape}")
