"""Batch-norm folding: a convolution and the batch norm after it are one convolution.

Source: Jacob et al. 2018 (arXiv:1712.05877) section 3.2.

Chapter: 09_quantization.
"""

import copy

import torch
from torch import fx, nn

from helpers.models import replace_module_


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode with every convolution + batch norm pair folded into one.

    w' = gamma w / sqrt(v + eps), b' = beta + gamma (b - mean) / sqrt(v + eps), in float64. The batch
    norm becomes `nn.Identity`. A batch norm that does not directly follow a convolution (or a linear
    layer) of which it is the only reader is refused, as is one without running statistics.
    """
    model = copy.deepcopy(model).eval()
    modules = dict(model.named_modules())
    graph = symbolic_trace(model).graph
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            continue
        before = node.args[0]
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or len(before.users) != 1:
            raise ValueError(
                f"batch norm {node.target!r} cannot be folded: it follows {describe(before, modules)}"
                ", and only a convolution or linear layer read by nothing else can take it in"
            )
        for target in (node.target, before.target):
            if sum(other.target == target for other in graph.nodes) > 1:
                raise ValueError(f"layer {target!r} is used more than once: it cannot be folded")
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(f"batch norm {node.target!r} has no running statistics to fold")
        _absorb(layer, norm)
        replace_module_(model, str(node.target), nn.Identity())
    return model


def _absorb(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Fold the batch norm `norm` into `layer`, in place."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gamma = norm.weight.detach().double() if norm.affine else torch.ones_like(mean)
    beta = norm.bias.detach().double() if norm.affine else torch.zeros_like(mean)
    factor = gamma / torch.sqrt(variance + norm.eps)
    weight, bias = layer.weight.detach(), layer.bias
    old = bias.detach().double() if bias is not None else torch.zeros_like(mean)
    shape = (-1,) + (1,) * (weight.ndim - 1)
    layer.weight = nn.Parameter((weight.double() * factor.reshape(shape)).to(weight.dtype))
    layer.bias = nn.Parameter((beta + factor * (old - mean)).to(weight.dtype))


def symbolic_trace(model: nn.Module) -> fx.GraphModule:
    """`torch.fx.symbolic_trace`; a forward that depends on the data is a ValueError."""
    try:
        return fx.symbolic_trace(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced: its forward must not depend on the data "
            f"({type(error).__name__}: {error})"
        ) from error


def describe(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """'features.3' (MaxPool2d), for messages."""
    if node.op == "call_module":
        return f"{str(node.target)!r} ({type(modules[str(node.target)]).__name__})"
    if node.op == "call_function":
        return f"{node.name!r} (function {getattr(node.target, '__name__', node.target)})"
    return f"{node.name!r} ({node.op} {node.target})"
