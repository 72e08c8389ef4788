"""Post-training quantization of a whole network, in the arithmetic of the integer contract.

`quantize_network` folds batch norm, runs a calibration sample and gives every layer its grids. The
`QuantizedNetwork` it returns computes with real numbers that lie on those grids ("fake-quantized"),
layer by layer what the integer machine computes with codes:

- activations: affine, one scale and zero-point per tensor, taken after the ReLU (zero-point -128);
- weights: symmetric without the most negative code, one scale per output channel (or per tensor);
- bias: int32 in units of input scale x weight scale, rounded half to even;
- ReLU and ReLU6 clip codes; max pool and flatten keep their input's grid; average pools keep it too
  and round the mean of (code - zero_point) half to even; additions, convolutions and linear layers
  have their own.

`helpers.fpga` reads `QuantizedNetwork.nodes`. Source: Jacob et al. 2018 (arXiv:1712.05877) section 2.

Chapter: 09_quantization.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from helpers.quantization.calibration import CALIBRATION, Summary, min_max
from helpers.quantization.graph import Node, apply, before_activation, trace
from helpers.quantization.grids import (
    QuantizationParameters,
    affine,
    dequantize,
    finish_scale,
    quantize,
    symmetric,
    weight_bits_of,
)

BIAS_LIMIT = 2**30  # leaves the other half of int32 to the products


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedNode(Node):
    """A `Node` with its grids and integers.

    `output` is the grid of the activations. For convolution and linear layers `weight_parameters`
    (axis 0, or axis None for per-tensor), `weight_codes` (int32 tensor, shape of `weight`) and
    `bias_codes` (int32, (out,)) hold the integers; `weight` and `bias` still hold the floats.
    """

    output: QuantizationParameters
    weight_parameters: QuantizationParameters | None = None
    weight_codes: Tensor | None = None
    bias_codes: Tensor | None = None
    bias_scale: Tensor | None = None  # float64 (out,): input scale x weight scale, the unit of sums

    @property
    def clip(self) -> tuple[int, int]:
        """Smallest and largest output code, the activation function included."""
        p = self.output
        if self.activation is None:
            return p.qmin, p.qmax
        six = p.qmax if self.activation == "relu" else int(quantize(torch.tensor(6.0), p))
        return max(p.qmin, int(p.zero_point)), min(p.qmax, six)


class QuantizedNetwork(nn.Module):
    """The fake-quantized network: `forward` gives logits, `forward_all` every layer's output.

    The input's dtype decides the arithmetic: float32 for speed, float64 (`network(x.double())`)
    where results are compared with integers, since float64 holds every sum of products closely
    enough to round it as the exact integer machine does.
    """

    def __init__(self, nodes: list[QuantizedNode]) -> None:
        super().__init__()
        self.nodes = nodes

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) on the last layer's grid, from images (N, C, H, W)."""
        return self._run(x, keep=False)[self.nodes[-1].name]

    def forward_all(self, x: Tensor) -> dict[str, Tensor]:
        """Every node's output by name, in order, as real numbers on its grid."""
        return self._run(x, keep=True)

    def codes(self, x: Tensor) -> dict[str, Tensor]:
        """Every node's output by name as integer codes (int8), evaluated in float64."""
        values = self._run(x.double(), keep=True)
        return {n.name: quantize(values[n.name], n.output).to(torch.int8) for n in self.nodes}

    @torch.no_grad()
    def _run(self, x: Tensor, keep: bool) -> dict[str, Tensor]:
        if tuple(x.shape[1:]) != self.nodes[0].shape:
            raise ValueError(
                f"x must have shape (N, {', '.join(map(str, self.nodes[0].shape))}), "
                f"got {tuple(x.shape)}"
            )
        if torch.isnan(x).any():
            raise ValueError("x holds NaN: no code stands for it")
        last_reader = {name: node.name for node in self.nodes for name in node.inputs}
        values: dict[str, Tensor] = {}
        for node in self.nodes:
            inputs = [values[name] for name in node.inputs] or [x]
            values[node.name] = _fake(node, inputs)
            if not keep:
                for name in node.inputs:
                    if last_reader[name] == node.name:
                        values.pop(name, None)
        return values


def _fake(node: QuantizedNode, inputs: list[Tensor]) -> Tensor:
    """One layer on real numbers that lie on its input grids; the result lies on its own."""
    x, scale = inputs[0], float(node.output.scale)
    if node.op in ("max_pool", "flatten"):
        return before_activation(node, inputs)
    if node.op in ("avg_pool", "global_avg_pool"):
        centred = torch.round(x.double() / scale)  # code - zero_point, exactly
        return torch.round(before_activation(node, [centred])).mul_(scale).to(x.dtype)
    if node.op == "input":
        steps = x / scale
    else:
        weight = bias = None
        if node.weight_parameters is not None:
            assert node.weight_codes is not None
            assert node.bias_codes is not None
            assert node.bias_scale is not None
            weight = dequantize(node.weight_codes, node.weight_parameters, x.dtype)
            bias = (node.bias_codes * node.bias_scale).to(x.dtype)
        steps = before_activation(node, inputs, weight, bias).div_(scale)
    low, high = node.clip
    zero = int(node.output.zero_point)
    return steps.round_().clamp_(low - zero, high - zero).mul_(scale)


def run_float(nodes: list[Node], x: Tensor) -> dict[str, Tensor]:
    """Every node's output of the traced float network, in the dtype of `x` (N, C, H, W)."""
    values: dict[str, Tensor] = {}
    with torch.no_grad():
        for node in nodes:
            parameters = [None if t is None else t.to(x.dtype) for t in (node.weight, node.bias)]
            inputs = [values[name] for name in node.inputs] or [x]
            values[node.name] = apply(node, inputs, *parameters)
    return values


def observe(nodes: list[Node], calibration: Tensor, batch_size: int = 100) -> dict[str, Summary]:
    """One `Summary` per layer that needs a range of its own, from images (N, C, H, W)."""
    if len(calibration) == 0:
        raise ValueError("the calibration data is empty: at least one image is needed")
    pixels = calibration.flatten(1)
    if pixels.shape[1] > 1 and (pixels == pixels[:, :1]).all():
        raise ValueError(
            f"calibration holds {len(calibration)} constant image(s), all pixels alike: they say "
            "nothing about the ranges of real images; a few hundred training images do"
        )
    summaries = {n.name: Summary() for n in nodes if n.op in ("input", "conv", "linear", "add")}
    for batch in calibration.split(batch_size):
        values = run_float(nodes, batch)
        for name, summary in summaries.items():
            if not torch.isfinite(values[name]).all():
                raise ValueError(f"calibration gives NaN or infinite values at {name!r}")
            summary.add(values[name])
    return summaries


def quantize_network(
    model: nn.Module,
    calibration: Tensor,
    *,
    weight_bits: int | Mapping[str, int] = 8,
    activation_bits: int = 8,
    per_channel: bool = True,
    method: str = "min_max",
    power_of_two: bool = False,
) -> QuantizedNetwork:
    """Quantize a trained network after training; `model` itself is left as it is.

    `calibration` (N, C, H, W) float32 are typical inputs, normalized as for the network; a few
    hundred are enough. `weight_bits` is 2 to 8, for all layers or by layer name (8 for the rest);
    `activation_bits` 2 to 8; `method` names a rule of `helpers.quantization.calibration.CALIBRATION`, used for
    every layer but the input, which keeps its full range. `power_of_two` restricts every scale to
    2**k. ValueError for unknown operators, NaN weights, bad shapes, names or widths, and for
    calibration images without any contrast.
    """
    if method not in CALIBRATION:
        raise ValueError(f"method must be one of {sorted(CALIBRATION)}, got {method!r}")
    if type(activation_bits) is not int or not 2 <= activation_bits <= 8:
        raise ValueError(
            f"activation_bits must be a whole number from 2 to 8, got {activation_bits!r}"
        )
    if not isinstance(calibration, Tensor) or calibration.ndim < 2:
        raise ValueError(f"calibration must be a tensor (N, C, H, W), got {type(calibration)}")
    nodes = trace(model, calibration.shape[1:])
    bits = weight_bits_of(weight_bits, [n.name for n in nodes if n.weight is not None], 8)
    summaries = observe(nodes, calibration)
    done: dict[str, QuantizedNode] = {}
    for node in nodes:
        if node.name not in summaries:
            done[node.name] = QuantizedNode(**vars(node), output=done[node.inputs[0]].output)
            continue
        rule = min_max if node.op == "input" else CALIBRATION[method]
        low, high = rule(summaries[node.name], activation_bits)
        output = affine(low, high, activation_bits, power_of_two=power_of_two)
        extra: dict[str, Any] = {}
        if node.weight is not None and node.bias is not None:
            width, before = bits[node.name], done[node.inputs[0]].output
            assert width is not None
            axis = 0 if per_channel else None
            p = symmetric(node.weight, width, axis=axis, power_of_two=power_of_two)
            p = room_for_bias(node.weight, node.bias, p, before.scale, power_of_two=power_of_two)
            unit = (before.scale * p.scale).expand(len(node.bias))
            extra = {
                "weight_parameters": p,
                "weight_codes": quantize(node.weight, p),
                "bias_codes": torch.round(node.bias.double() / unit).to(torch.int32),
                "bias_scale": unit,
            }
        done[node.name] = QuantizedNode(**vars(node), output=output, **extra)
    return QuantizedNetwork(list(done.values()))


def room_for_bias(
    weight: Tensor,
    bias: Tensor,
    p: QuantizationParameters,
    input_scale: Tensor,
    *,
    power_of_two: bool = False,
) -> QuantizationParameters:
    """Enlarge weight scales whose bias would not fit |code| <= 2**30; a finer unit for dead channels.

    A channel that batch norm has switched off has weights near 0 beside an ordinary bias. Its own
    scale would push the bias code out of int32. Channels of exact zeros take the largest scale.
    """
    needed = bias.double().abs() / (input_scale * BIAS_LIMIT)
    scale = p.scale
    if p.axis is None:
        needed = needed.amax()
    else:
        dead = weight.flatten(1).abs().amax(1) == 0
        if not dead.all():
            scale = torch.where(dead, scale[~dead].amax(), scale)
    scale = torch.where(needed > scale, finish_scale(needed, power_of_two), scale)
    return QuantizationParameters(scale, p.zero_point, p.qmin, p.qmax, p.axis)
