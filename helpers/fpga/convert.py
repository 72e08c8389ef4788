"""From the fake-quantized PyTorch network to the integer model.

Chapter: 11_fpga_datapath.
"""

from typing import Any

import numpy as np
from torch import Tensor

from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.quantization.network import QuantizedNetwork, QuantizedNode


def from_quantized(network: QuantizedNetwork) -> IntegerModel:
    """The integers of a `QuantizedNetwork`, checked.

    Raises:
        ValueError: activations are not int8 codes, weights are wider than 8 bits or use -128, or an
            accumulator could leave int32; the message names the layer.
    """
    if not isinstance(network, QuantizedNetwork):
        raise ValueError(
            f"network must be a QuantizedNetwork, got {type(network).__name__};"
            " quantize_network(model, calibration) makes one"
        )
    done: dict[str, IntegerLayer] = {}
    for node in network.nodes:
        done[node.name] = _layer(node, done)
    return IntegerModel(tuple(done.values()))


def _layer(node: QuantizedNode, done: dict[str, IntegerLayer]) -> IntegerLayer:
    grid = node.output
    if node.op in ("max_pool", "avg_pool", "global_avg_pool", "flatten"):
        source = done[node.inputs[0]]
        low, high = source.low, source.high
    else:
        low, high = node.clip
    extra: dict[str, Any] = {}
    if node.weight_codes is not None and node.bias_codes is not None:
        parameters = node.weight_parameters
        assert parameters is not None
        outputs = len(node.weight_codes)
        if parameters.qmin < -127 or parameters.qmax > 127:
            raise ValueError(
                f"layer {node.name!r}: weights must be symmetric and of 8 bits at most"
            )
        extra = {
            "weight": _array(node.weight_codes).astype(np.int8),
            "weight_scale": np.broadcast_to(_array(parameters.scale), (outputs,)).copy(),
            "weight_bits": parameters.qmax.bit_length() + 1,
            "bias": _array(node.bias_codes).astype(np.int32),
        }
    if node.op == "conv":
        extra["kernel"] = tuple(int(n) for n in extra["weight"].shape[2:])
    if node.op == "global_avg_pool":
        extra["kernel"] = done[node.inputs[0]].shape[1:]
        extra["stride"] = extra["kernel"]
    attributes = {
        key: value if key == "groups" else (int(value[0]), int(value[1]))
        for key, value in node.attributes.items()
    }
    return IntegerLayer(
        name=node.name,
        op=node.op,
        inputs=node.inputs,
        shape=tuple(int(n) for n in node.shape),
        scale=float(grid.scale),
        zero_point=int(grid.zero_point),
        low=int(low),
        high=int(high),
        **(extra | attributes),
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
