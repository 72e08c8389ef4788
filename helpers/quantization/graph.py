"""Read a network as a list of layers: batch norm folded, activations fused, shapes known.

`trace` turns a PyTorch module into `Node`s in execution order, the form in which a network is
quantized (`helpers.quantization.network`), exported and simulated (`helpers.fpga`). It knows the
operators of the integer contract and refuses every other one by name.

Chapter: 09_quantization.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from helpers.quantization.folding import describe, fold_batch_norm, symbolic_trace

Op = Literal["input", "conv", "linear", "max_pool", "avg_pool", "global_avg_pool", "add", "flatten"]
Activation = Literal["relu", "relu6"] | None


@dataclass(frozen=True, eq=False)
class Node:
    """One layer of a traced network, in float.

    `name` is the module's path ("stages.0.conv") or, for a function, its name in the graph
    ("add"). `inputs` are the names of the nodes it reads. `shape` is the output's without the
    batch. `weight` (out, in/groups, kh, kw) or (out, in) and `bias` (out,) are float32, batch norm
    folded in, and None for the other operators; a layer without a bias gets zeros.
    `attributes` by operator: conv: stride, padding (pairs), groups; max_pool: kernel, stride,
    padding (pairs); avg_pool: kernel, stride (pairs).
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    weight: Tensor | None = None
    bias: Tensor | None = None
    activation: Activation = None


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


ACTIVATIONS: dict[Any, Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    "relu": "relu",
}
DROPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, F.dropout)
ADDITIONS = (operator.add, operator.iadd, torch.add, "add")
FLATTENS = (nn.Flatten, torch.flatten, "flatten")


def trace(model: nn.Module, input_shape: Sequence[int]) -> list[Node]:
    """The layers of `model` in order, the input first and the logits last; see `Node`.

    `input_shape` is (C, H, W), or (features,), without the batch. Dropout and identity layers
    disappear. An operator outside the contract is a ValueError that names it and its type.
    """
    folded = fold_batch_norm(model)
    for name, parameter in folded.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"parameter {name!r} holds values that are NaN or infinite")
    graph_module = symbolic_trace(folded)
    graph_module.graph.eliminate_dead_code()
    modules = dict(graph_module.named_modules())
    nodes: dict[str, Node] = {}  # by our name, in order
    alias: dict[fx.Node, str] = {}  # what each graph node's result is called here
    for item in graph_module.graph.nodes:
        if item.op == "output":
            return _finish(item, alias, nodes)
        described = describe(item, modules)
        module = modules[str(item.target)] if item.op == "call_module" else None
        kind = type(module) if module is not None else item.target if "call" in item.op else None
        sources = [a for a in item.args if isinstance(a, fx.Node)]
        if item.op == "placeholder":
            if nodes:
                raise ValueError(f"the network takes more than one input: {described}")
            nodes["input"] = Node("input", "input", (), tuple(input_shape))
            alias[item] = "input"
        elif item.op == "get_attr":
            continue  # a parameter used as an operand: its reader is refused below
        elif kind in DROPPED and sources:
            alias[item] = alias[sources[0]]
        elif kind in ACTIVATIONS and sources:
            _fuse(sources[0], ACTIVATIONS[kind], described, alias, nodes)
            alias[item] = alias[sources[0]]
        else:
            name = str(item.target) if module is not None else item.name
            if name in nodes:
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    raise ValueError(f"layer {described} is used more than once")
                name = item.name
            op, attributes = _operator(item, kind, module, described)
            if any(source not in alias for source in sources):
                raise ValueError(f"{described} reads a parameter that is no layer's weight or bias")
            inputs = tuple(alias[source] for source in sources)
            node = Node(name, op, inputs, (), attributes, *_parameters(module, op))
            shape = _output_shape(node, [nodes[i].shape for i in inputs], described)
            nodes[name] = replace(node, shape=shape)
            alias[item] = name
    raise ValueError("the network has no output")


def _finish(item: fx.Node, alias: dict[fx.Node, str], nodes: dict[str, Node]) -> list[Node]:
    result = item.args[0]
    if not isinstance(result, fx.Node):
        raise ValueError(f"the network must return one tensor, got {type(result).__name__}")
    if alias[result] != list(nodes)[-1]:
        raise ValueError(f"the network's output {alias[result]!r} is not its last layer")
    return list(nodes.values())


def _fuse(
    source: fx.Node,
    activation: Activation,
    described: str,
    alias: dict[fx.Node, str],
    nodes: dict[str, Node],
) -> None:
    """Give the activation to the conv, linear or add before it, through max pools and flattens.

    A max pool or a flatten and a ReLU may change places: both keep the order of values.
    """
    name = alias[source]
    while nodes[name].op in ("max_pool", "flatten") and _readers(name, alias) == 1:
        name = nodes[name].inputs[0]
    node = nodes[name]
    if node.op not in ("conv", "linear", "add") or _readers(name, alias) != 1:
        raise ValueError(
            f"activation {described} follows {name!r} ({node.op}): a ReLU must follow a "
            "convolution, a linear layer or an addition that nothing else reads"
        )
    both = {node.activation, activation}
    nodes[name] = replace(node, activation="relu6" if "relu6" in both else "relu")


def _readers(name: str, alias: dict[fx.Node, str]) -> int:
    """How many graph nodes read the result called `name` (fused and dropped ones aside)."""
    results = [node for node, called in alias.items() if called == name]
    return sum(alias.get(user) != name for node in results for user in node.users)


def _operator(
    item: fx.Node, kind: Any, module: nn.Module | None, described: str
) -> tuple[Op, dict[str, Any]]:
    """Our name and attributes for one graph node, or a ValueError."""

    def refuse(reason: str) -> ValueError:
        return ValueError(f"{described}: {reason}")

    if isinstance(module, nn.Conv2d):
        if _pair(module.dilation) != (1, 1) or module.padding_mode != "zeros":
            raise refuse("only dilation 1 and zero padding are supported")
        padding = module.padding
        if isinstance(padding, str):
            if padding == "same" and not all(k % 2 for k in module.kernel_size):
                raise refuse("padding='same' with an even kernel is not symmetric")
            sides = [k // 2 if padding == "same" else 0 for k in module.kernel_size]
            padding = (sides[0], sides[1])
        pads = {"stride": _pair(module.stride), "padding": _pair(padding)}
        return "conv", pads | {"groups": module.groups}
    if isinstance(module, nn.Linear):
        return "linear", {}
    if kind in (nn.MaxPool2d, nn.AvgPool2d, F.max_pool2d, F.avg_pool2d):
        return _pool(item, module, refuse)
    if kind in (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d):
        size = (
            module.output_size
            if module is not None
            else _arguments(item, ["input", "size"])["size"]
        )
        if size not in (1, (1, 1), [1, 1]):
            raise refuse(f"only output size 1 (global average) is supported, got {size}")
        return "global_avg_pool", {}
    if kind in ADDITIONS:
        operands = [a for a in item.args if isinstance(a, fx.Node)]
        if len(operands) != 2 or item.kwargs.get("alpha", 1) != 1:
            raise refuse("only the sum of two layers is supported")
        return "add", {}
    if kind in FLATTENS:
        if module is not None:
            start, end = module.start_dim, module.end_dim
        else:
            given = _arguments(item, ["input", "start_dim", "end_dim"])
            start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        if (start, end) != (1, -1):
            raise refuse(f"only flatten from dimension 1 to -1 is supported, got {start}..{end}")
        return "flatten", {}
    raise ValueError(
        f"unknown operator {described}; see helpers.quantization.graph.trace for those supported"
    )


def _arguments(item: fx.Node, names: list[str]) -> dict[str, Any]:
    return dict(zip(names, item.args, strict=False)) | dict(item.kwargs)


def _pool(item: fx.Node, module: nn.Module | None, refuse: Any) -> tuple[Op, dict[str, Any]]:
    """Max or average pooling, from a module or a functional call."""
    is_max = isinstance(module, nn.MaxPool2d) or item.target is F.max_pool2d
    if module is not None:
        given = dict(vars(module))
    else:
        tail = ["dilation", "ceil_mode"] if is_max else ["ceil_mode", "count_include_pad"]
        given = _arguments(item, ["input", "kernel_size", "stride", "padding", *tail])
    kernel = _pair(given["kernel_size"])
    stride = _pair(given["stride"]) if given.get("stride") not in (None, [], ()) else kernel
    padding = _pair(given.get("padding", 0))
    if given.get("ceil_mode") or _pair(given.get("dilation", 1)) != (1, 1):
        raise refuse("only ceil_mode=False and dilation 1 are supported")
    if given.get("return_indices") or given.get("divisor_override"):
        raise refuse("return_indices and divisor_override are not supported")
    if is_max:
        return "max_pool", {"kernel": kernel, "stride": stride, "padding": padding}
    if padding != (0, 0):
        raise refuse(
            "average pooling with padding is not supported: runtimes disagree on its divisor"
        )
    return "avg_pool", {"kernel": kernel, "stride": stride}


def _parameters(module: nn.Module | None, op: Op) -> tuple[Tensor | None, Tensor | None]:
    if op not in ("conv", "linear"):
        return None, None
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    weight = module.weight.detach().to(torch.float32).cpu().clone()
    bias = torch.zeros(len(weight)) if module.bias is None else module.bias.detach()
    return weight, bias.to(torch.float32).cpu().clone()


def _output_shape(node: Node, shapes: list[tuple[int, ...]], described: str) -> tuple[int, ...]:
    if node.op == "linear" and len(shapes[0]) != 1:
        raise ValueError(f"{described} reads a feature map of shape {shapes[0]}: flatten it first")
    try:
        with torch.no_grad():
            return tuple(apply(node, [torch.zeros(1, *shape) for shape in shapes]).shape[1:])
    except (RuntimeError, ValueError, IndexError) as error:
        text = str(error).splitlines()[0]
        raise ValueError(f"{described} does not take an input of shape {shapes}: {text}") from error


def apply(
    node: Node, inputs: list[Tensor], weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """What the node computes from float inputs (N, ...), its activation included.

    `weight` and `bias` stand in for the node's own (quantized ones, another dtype).
    """
    x = before_activation(node, inputs, weight, bias)
    if node.activation == "relu":
        return F.relu(x)
    return F.relu6(x) if node.activation == "relu6" else x


def before_activation(
    node: Node, inputs: list[Tensor], weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`apply` without the activation function."""
    x = inputs[0]
    weight = node.weight if weight is None else weight
    bias = node.bias if bias is None else bias
    a = node.attributes
    if node.op == "conv":
        assert weight is not None
        return F.conv2d(x, weight, bias, a["stride"], a["padding"], 1, a["groups"])
    if node.op == "linear":
        assert weight is not None
        return F.linear(x, weight, bias)
    if node.op == "max_pool":
        return F.max_pool2d(x, a["kernel"], a["stride"], a["padding"])
    if node.op == "avg_pool":
        return F.avg_pool2d(x, a["kernel"], a["stride"])
    if node.op == "global_avg_pool":
        return x.mean((2, 3), keepdim=True)
    if node.op == "add":
        if x.shape != inputs[1].shape:
            raise ValueError(f"the sum of shapes {tuple(x.shape)} and {tuple(inputs[1].shape)}")
        return x + inputs[1]
    return x.flatten(1) if node.op == "flatten" else x
