"""Quantization-aware training of a whole network, in the arithmetic of the integer contract.

`prepare` wraps a trained float network: every convolution and linear layer computes with its
batch-norm-folded, fake-quantized weights, and its output is fake-quantized too. The `QATNetwork`
trains with `training.fit` as it is. `convert` turns it into the `QuantizedNetwork` of chapter
09_quantization, from which `helpers.fpga` starts.

Batch norm while training. The weights are folded with the *running* statistics, quantized and
convolved; the result is divided by the folding factor again and goes through the batch norm, which
normalizes with the batch and updates the running statistics (Krishnamoorthi 2018, arXiv:1806.08342,
section 3.1.2). Once the statistics are frozen (`freeze_statistics_`) and in eval mode the running
statistics are folded into weight and bias, as the hardware will have them, and the bias is rounded
to its int32 unit as well.

Chapter: 09b_qat.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.qat.fake import round_ste
from helpers.qat.quantizers import SMALLEST_FACTOR, STEPS, ActivationQuantizer, WeightQuantizer
from helpers.quantization.calibration import CALIBRATION, min_max
from helpers.quantization.folding import symbolic_trace
from helpers.quantization.graph import Node, before_activation, trace
from helpers.quantization.grids import weight_bits_of
from helpers.quantization.network import QuantizedNetwork, QuantizedNode, observe

BATCH_NORM = ("folded", "frozen")
Norm = nn.BatchNorm1d | nn.BatchNorm2d


class QATNetwork(nn.Module):
    """A float network (`model`) that computes with fake-quantized weights and activations.

    `model` holds the float ("latent") weights and batch norms under their own names and can be used
    alone. `weights` and `activations` map layer names to quantizers. `forward` gives logits, with
    gradients; the dtype of the input decides the arithmetic, as in `QuantizedNetwork`.
    `statistics_frozen` says whether batch norm uses its running statistics in training mode.
    """

    def __init__(self, model: nn.Module, nodes: Sequence[Node]) -> None:
        super().__init__()
        self.model = model
        self.nodes = [replace(node, weight=None, bias=None) for node in nodes]
        self.norms = norm_names(model)
        self.statistics_frozen = False
        self._weights, self._activations = nn.ModuleDict(), nn.ModuleDict()

    @property
    def weights(self) -> dict[str, WeightQuantizer]:
        """The weight quantizers by layer name; layers with float weights are left out."""
        return {name.replace(":", "."): module for name, module in self._weights.items()}  # type: ignore[misc]

    @property
    def activations(self) -> dict[str, ActivationQuantizer]:
        """The quantizers of outputs by layer name; none with `activation_bits=None`."""
        return {name.replace(":", "."): module for name, module in self._activations.items()}  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        """Logits (N, classes)."""
        return self._run(x, keep=False)[self.nodes[-1].name]

    def forward_all(self, x: Tensor) -> dict[str, Tensor]:
        """Every layer's output by name, in order, on its grid."""
        return self._run(x, keep=True)

    def _run(self, x: Tensor, keep: bool) -> dict[str, Tensor]:
        last_reader = {name: node.name for node in self.nodes for name in node.inputs}
        values: dict[str, Tensor] = {}
        scales: dict[str, Tensor | None] = {}
        for node in self.nodes:
            inputs = [values[name] for name in node.inputs] or [x]
            scale = scales[node.inputs[0]] if node.inputs else None
            values[node.name], scales[node.name] = self._node(node, inputs, scale)
            for name in () if keep else node.inputs:
                if last_reader[name] == node.name:
                    values.pop(name, None)
        return values

    def _node(
        self, node: Node, inputs: list[Tensor], scale: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Output of a node and the scale of its grid (None where activations stay float)."""
        x, key = inputs[0], _key(node.name)
        if node.op in ("avg_pool", "global_avg_pool") and scale is not None:
            centred = round_ste(x.double() / scale)  # code - zero_point, exactly
            steps = round_ste(before_activation(node, [centred]))
            return (steps * scale).to(x.dtype), scale
        if node.op in ("conv", "linear"):
            y = self._layer(node, x, scale)
        elif node.op == "input":
            y = x
        else:
            y = before_activation(node, inputs)
        if node.activation is not None:
            y = F.relu(y) if node.activation == "relu" else F.relu6(y)
        if key not in self._activations:
            return y, scale
        quantizer = self.activations[node.name]
        y = quantizer(y)
        return y, quantizer.grid.scale

    def _layer(self, node: Node, x: Tensor, scale: Tensor | None) -> Tensor:
        """Convolution or linear layer with its batch norm, before the activation function."""
        layer = self.model.get_submodule(node.name)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        quantizer = self.weights.get(node.name)
        norm = self.norm(node.name)
        if norm is not None and norm.training and not self.statistics_frozen:
            factor = factor_of(norm)
            assert factor is not None
            factor = factor.detach()
            factor = torch.where(factor.abs() < SMALLEST_FACTOR, SMALLEST_FACTOR, factor)
            weight = _times(layer.weight, factor)
            if quantizer is not None:
                weight = quantizer(weight, quantizer.grid(weight, factor), x.dtype)
            y = before_activation(node, [x], weight, torch.zeros_like(factor).to(x.dtype))
            y = y / factor.to(x.dtype).reshape((-1,) + (1,) * (y.ndim - 2))
            return norm(y if layer.bias is None else y + _channels(layer.bias, y))
        weight, bias = folded(layer, norm)
        if quantizer is None:
            return before_activation(node, [x], weight.to(x.dtype), bias.to(x.dtype))
        p = quantizer.grid(weight, factor_of(norm), bias, scale)
        weight = quantizer(weight, p, x.dtype)
        if scale is not None:
            unit = (scale * p.scale).expand(len(bias))
            bias = round_ste(bias.double() / unit) * unit
        return before_activation(node, [x], weight, bias.to(x.dtype))

    def norm(self, name: str) -> Norm | None:
        """The batch norm behind a layer, if there is one."""
        return self.model.get_submodule(self.norms[name]) if name in self.norms else None  # type: ignore[return-value]


def _key(name: str) -> str:
    return name.replace(".", ":")  # a ModuleDict takes no dots


def _channels(bias: Tensor, y: Tensor) -> Tensor:
    return bias.to(y.dtype).reshape((-1,) + (1,) * (y.ndim - 2))


def factor_of(norm: Norm | None) -> Tensor | None:
    """What folding multiplies the weights by, gamma / sqrt(running variance + eps), float64 (C,)."""
    if norm is None:
        return None
    assert norm.running_var is not None
    gamma = norm.weight.double() if norm.affine else torch.ones_like(norm.running_var).double()
    return gamma / torch.sqrt(norm.running_var.double() + norm.eps)


def _times(weight: Tensor, factor: Tensor) -> Tensor:
    shape = (-1,) + (1,) * (weight.ndim - 1)
    return (weight.double() * factor.reshape(shape)).to(weight.dtype)


def folded(layer: nn.Conv2d | nn.Linear, norm: Norm | None) -> tuple[Tensor, Tensor]:
    """Weight and bias with the running statistics folded in: `fold_batch_norm`, with gradients."""
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(len(layer.weight))
    factor = factor_of(norm)
    if norm is None or factor is None:
        return layer.weight, bias
    assert norm.running_mean is not None
    beta = norm.bias.double() if norm.affine else torch.zeros_like(factor)
    bias = beta + factor * (bias.double() - norm.running_mean.double())
    return _times(layer.weight, factor), bias.to(layer.weight.dtype)


def norm_names(model: nn.Module) -> dict[str, str]:
    """Layer name -> name of the batch norm that follows it."""
    modules = dict(model.named_modules())
    names: dict[str, str] = {}
    for node in symbolic_trace(model).graph.nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], Norm):
            names[str(node.args[0].target)] = str(node.target)
    return names


def prepare(
    model: nn.Module,
    calibration: Tensor,
    *,
    weight_bits: int | Mapping[str, int | None] | None = 8,
    activation_bits: int | None = 8,
    per_channel: bool = True,
    step: str = "min_max",
    batch_norm: str = "folded",
    method: str = "min_max",
) -> QATNetwork:
    """A trainable fake-quantized copy of the float network `model`; `model` is left as it is.

    `calibration` (N, C, H, W) gives every activation its first range, by the rule `method`. Bits:
    weights 1 to 8 for all layers or by layer name (8 for the rest), activations 2 to 8; None leaves
    them float. `step`: "min_max" ranges follow the values, "lsq" steps are learned. `batch_norm`:
    "folded" trains with the batch's statistics until `freeze_statistics_`, "frozen" keeps the
    float network's from the start. Dropout layers of `model` are passed over. The network that comes
    back is in eval mode and equals `quantize_network` with the same arguments (2 bits up, "min_max").
    """
    for name, value, known in (
        ("step", step, STEPS),
        ("batch_norm", batch_norm, BATCH_NORM),
        ("method", method, sorted(CALIBRATION)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if activation_bits is not None and (
        type(activation_bits) is not int or not 2 <= activation_bits <= 8
    ):
        raise ValueError(
            f"activation_bits must be a whole number from 2 to 8, or None, got {activation_bits!r}"
        )
    if not isinstance(calibration, Tensor) or calibration.ndim < 2:
        raise ValueError(f"calibration must be a tensor (N, C, H, W), got {type(calibration)}")
    nodes = trace(model, calibration.shape[1:])
    weighted = {n.name: n.weight for n in nodes if n.weight is not None}
    network = QATNetwork(copy.deepcopy(model), nodes)
    network.statistics_frozen = batch_norm == "frozen"
    for name, bits in weight_bits_of(weight_bits, list(weighted), 8, lowest=1).items():
        if bits is not None:
            network._weights[_key(name)] = WeightQuantizer(
                bits,
                weighted[name],
                factor_of(network.norm(name)),
                per_channel=per_channel,
                step=step,
            )
    summaries = observe(nodes, calibration) if activation_bits is not None else {}
    for name, summary in summaries.items():
        assert activation_bits is not None
        rule = min_max if name == nodes[0].name else CALIBRATION[method]
        low, high = rule(summary, activation_bits)
        network._activations[_key(name)] = ActivationQuantizer(
            activation_bits, low, high, step=step, fixed=name == nodes[0].name
        )
    return network.eval()


def freeze_statistics_(network: QATNetwork) -> QATNetwork:
    """Batch norm uses its running statistics from now on, in training mode too; gamma, beta train."""
    network.statistics_frozen = True
    return network


def freeze_ranges_(network: QATNetwork) -> QATNetwork:
    """The ranges of activations stay as they are; learned steps of activations stop learning."""
    for quantizer in network.activations.values():
        quantizer.frozen = True
        if quantizer.step is not None:
            quantizer.step.requires_grad_(False)
    return network


def convert(network: QATNetwork) -> QuantizedNetwork:
    """The integers of a trained `QATNetwork`, as `quantize_network` would have made them.

    Its output equals `network` in eval mode: bit for bit in float64 (`network(x.double())`), and in
    float32 up to values that lie on a rounding boundary to within float32's precision.

    Raises ValueError where weights or activations were left float.
    """
    if not isinstance(network, QATNetwork):
        raise ValueError(
            f"network must be a QATNetwork, got {type(network).__name__}; "
            "prepare(model, calibration) makes one"
        )
    weights, activations = network.weights, network.activations
    if not activations:
        raise ValueError("activations are float: prepare with activation_bits before convert")
    done: dict[str, QuantizedNode] = {}
    for node in trace(network.model, network.nodes[0].shape):
        if node.name not in activations:
            done[node.name] = QuantizedNode(**vars(node), output=done[node.inputs[0]].output)
            continue
        extra: dict[str, Any] = {}
        if node.weight is not None and node.bias is not None:
            if node.name not in weights:
                raise ValueError(f"the weights of {node.name!r} are float: give them weight_bits")
            before = done[node.inputs[0]].output
            factor = factor_of(network.norm(node.name))
            p = weights[node.name].grid(node.weight, factor, node.bias, before.scale)
            unit = (before.scale * p.scale).expand(len(node.bias))
            extra = {
                "weight_parameters": p,
                "weight_codes": weights[node.name].codes(node.weight, p),
                "bias_codes": torch.round(node.bias.double() / unit).to(torch.int32),
                "bias_scale": unit,
            }
        done[node.name] = QuantizedNode(**vars(node), output=activations[node.name].grid, **extra)
    return QuantizedNetwork(list(done.values()))
