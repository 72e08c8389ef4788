"""The integer model as an ONNX file of quantized operators, int8 codes in and int8 codes out.

Convolutions, linear layers and average pools become `QLinearConv` (a linear layer as a 1x1
convolution, an average pool as a depthwise convolution with weights 1 and scale 1 / window size),
so that one rule covers every requantization. A residual add becomes DequantizeLinear, Sum,
QuantizeLinear: `Sum` because ONNX Runtime replaces `Add` between these by a kernel of its own whose
rounding depends on the processor. Only operators of the ONNX standard are used.

The package onnx is imported when it is needed: students can do without it.

Chapter: 11_fpga_datapath.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.integer_model import IntegerLayer, IntegerModel

OPSET, IR_VERSION = 13, 8  # old enough for every runtime since 2021


def available() -> bool:
    """Whether the package onnx can be imported."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        return False
    return True


def constants(model: IntegerModel, layer: IntegerLayer) -> dict[str, npt.NDArray[Any]]:
    """The arrays that a layer stores in the file, by name; the same on writing and on checking."""
    name = layer.name
    arrays: dict[str, npt.NDArray[Any]] = {
        f"{name}:scale": np.array(layer.scale, np.float32),
        f"{name}:zero_point": np.array(layer.zero_point, np.int8),
    }
    if layer.has_accumulator:
        if layer.weight is None:
            channels = layer.shape[0]
            weight = np.ones((channels, 1, *layer.kernel), np.int8)
            weight_scale = np.full(channels, 1.0 / layer.taps, np.float32)
            bias = np.zeros(channels, np.int32)
        else:
            assert layer.weight_scale is not None
            assert layer.bias is not None
            weight = layer.weight if layer.op == "conv" else layer.weight[:, :, None, None]
            weight_scale, bias = layer.weight_scale.astype(np.float32), layer.bias
        arrays |= {
            f"{name}:weight": weight,
            f"{name}:weight_scale": weight_scale,
            f"{name}:weight_zero_point": np.zeros(len(weight), np.int8),
            f"{name}:bias": bias,
        }
    if layer.op == "linear":
        arrays[f"{name}:as_map"] = np.array([0, model.source(layer).shape[0], 1, 1], np.int64)
        arrays[f"{name}:as_row"] = np.array([0, layer.shape[0]], np.int64)
    if (layer.low, layer.high) != (-128, 127):
        arrays[f"{name}:low"] = np.array(layer.low, np.int8)
        arrays[f"{name}:high"] = np.array(layer.high, np.int8)
    return arrays


def to_onnx(model: IntegerModel) -> Any:
    """The `onnx.ModelProto` of an integer model, checked by onnx's own checker."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []
    arrays: dict[str, npt.NDArray[Any]] = {}
    for layer in model:
        arrays |= constants(model, layer)
        if layer.op != "input":
            nodes += _nodes(model, layer, helper.make_node)
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "integer_model",
        [helper.make_tensor_value_info(model.input.name, TensorProto.INT8, ["N", *model.input.shape])],
        [helper.make_tensor_value_info(model.output.name, TensorProto.INT8, ["N", *model.output.shape])],
        [numpy_helper.from_array(a, name) for name, a in arrays.items() if name in used],
    )  # fmt: skip
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="network-compression-fpga",
    )  # fmt: skip
    checker.check_model(proto, full_check=True)
    return proto


def _nodes(model: IntegerModel, layer: IntegerLayer, node: Any) -> list[Any]:
    name, source = layer.name, layer.inputs[0]
    clipped = (layer.low, layer.high) != (-128, 127) and layer.op in ("conv", "linear", "add")
    result = f"{name}:unclipped" if clipped else name
    grid = [f"{name}:scale", f"{name}:zero_point"]
    nodes: list[Any] = []
    if layer.op == "flatten":
        nodes.append(node("Flatten", [source], [result], axis=1))
    elif layer.op == "max_pool":
        nodes.append(node("MaxPool", [source], [result], **_window(layer)))
    elif layer.op == "add":
        for side, other in enumerate(layer.inputs):
            real = f"{name}:real{side}"
            nodes.append(
                node("DequantizeLinear", [other, f"{other}:scale", f"{other}:zero_point"], [real])
            )
        nodes.append(node("Sum", [f"{name}:real0", f"{name}:real1"], [f"{name}:real"]))
        nodes.append(node("QuantizeLinear", [f"{name}:real", *grid], [result]))
    else:
        attributes = _window(layer) | {"group": layer.groups}
        x, y = source, result
        if layer.op == "linear":
            x, y = f"{name}:map", f"{name}:column"
            nodes.append(node("Reshape", [source, f"{name}:as_map"], [x]))
        elif layer.op != "conv":
            attributes["group"] = layer.shape[0]
        parameters = ["weight", "weight_scale", "weight_zero_point"]
        inputs = [x, f"{source}:scale", f"{source}:zero_point"]
        inputs += [f"{name}:{p}" for p in parameters] + grid + [f"{name}:bias"]
        nodes.append(node("QLinearConv", inputs, [y], **attributes))
        if layer.op == "linear":
            nodes.append(node("Reshape", [y, f"{name}:as_row"], [result]))
    if clipped:
        nodes.append(node("Clip", [result, f"{name}:low", f"{name}:high"], [name]))
    return nodes


def _window(layer: IntegerLayer) -> dict[str, list[int]]:
    return {
        "kernel_shape": list(layer.kernel),
        "strides": list(layer.stride),
        "pads": [*layer.padding, *layer.padding],
    }


def check_file(model: IntegerModel, path: Path) -> None:
    """Read an ONNX file back; ValueError naming it unless every node and array is the model's."""
    import onnx
    from onnx import numpy_helper

    try:
        found = onnx.load(str(path))
        onnx.checker.check_model(found, full_check=True)
    except Exception as error:
        raise ValueError(f"{path}: not a valid ONNX file ({error})") from error
    expected = to_onnx(model)
    if list(found.graph.node) != list(expected.graph.node):
        raise ValueError(f"{path}: its operators differ from the model's")
    stored = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    for layer in model:
        for name, array in constants(model, layer).items():
            if name in stored and not (
                stored[name].dtype == array.dtype and np.array_equal(stored[name], array)
            ):
                raise ValueError(f"{path}: the array {name!r} differs from the model's")
