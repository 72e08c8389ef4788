"""What a network costs: parameters, operations under a named convention, bytes, time.

"FLOPs" in a table can mean six different things. Here a multiply-accumulate (MAC) is the unit, and
everything that some tools add to it is a field of a `Convention`, so that the number of any tool in
`CONVENTIONS` can be reproduced exactly and every difference has a name.

Chapter: 01_cost.
"""

import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)

# Energy of one operation or one 64-bit access in picojoules, 45 nm, 0.9 V.
# Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9. DRAM: 1.3 to 2.6 nJ.
ENERGY_PJ = {
    "int8 add": 0.03,
    "int32 add": 0.1,
    "int8 multiply": 0.2,
    "int32 multiply": 3.1,
    "float16 add": 0.4,
    "float16 multiply": 1.1,
    "float32 add": 0.9,
    "float32 multiply": 3.7,
    "64 bits from 8 KB SRAM": 10.0,
    "64 bits from 32 KB SRAM": 20.0,
    "64 bits from 1 MB SRAM": 100.0,
    "64 bits from DRAM, low": 1300.0,
    "64 bits from DRAM, high": 2600.0,
}


@dataclass(frozen=True)
class Convention:
    """How many operations a tool charges for each thing. ReLU and max-pooling are free in all."""

    mac: int = 1  # per multiply-accumulate of a convolution or dense layer
    conv_bias: int = 0  # per output element of a convolution that has a bias
    linear_bias: int = 0  # per output element of a dense layer that has a bias
    norm_element: int = 0  # per element of a batch norm with learned scale and shift
    norm_plain: int = 0  # per element of a batch norm without them
    norm_parameter: int = 0  # per learned number of a batch norm, whatever the map's size
    adaptive_input: int = 0  # per input element of an adaptive (global) average pooling
    adaptive_output: int = 0  # per output element of it
    average_output: int = 0  # per output element of an ordinary average pooling


CONVENTIONS: dict[str, Convention] = {
    # The course's own: multiply-accumulates and nothing else.
    "mac": Convention(),
    # The food-11 article, which is thop 0.0.31 (2020).
    "article": Convention(
        conv_bias=1,
        norm_element=2,
        norm_plain=2,
        adaptive_input=1,
        adaptive_output=1,
        average_output=1,
    ),
    # thop 0.1.1 (2022): the bias is gone, a learned batch norm costs twice as much as before.
    "thop": Convention(
        norm_element=4, norm_plain=2, adaptive_input=1, adaptive_output=1, average_output=1
    ),
    # torch.utils.flop_counter: two operations for each MAC, and matrix work only.
    "flop_counter": Convention(mac=2),
    # fvcore 0.1.5.
    "fvcore": Convention(norm_element=2, norm_plain=1, adaptive_input=1),
    # torchinfo 1.8, "mult-adds": every learned number times the places where it is used; a batch
    # norm is taken to use its numbers once.
    "torchinfo": Convention(conv_bias=1, linear_bias=1, norm_parameter=1),
}


@dataclass(frozen=True)
class LayerCost:
    """One call of one layer. Shapes leave the batch out; counts are for one image."""

    name: str
    kind: str  # "conv", "depthwise", "pointwise", "linear", "batch norm", or the module's type
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    operations: int


@dataclass(frozen=True)
class Cost:
    """A network's cost for one image, layer by layer in the order of execution.

    `parameters` counts every learned number once, also where layers share it; `macs` counts the
    multiply-accumulates; `operations` adds what `convention` adds.
    """

    layers: list[LayerCost]
    parameters: int
    convention: str

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def operations(self) -> int:
        return sum(layer.operations for layer in self.layers)

    def table(self) -> pd.DataFrame:
        """The layers that hold parameters or cost operations, one row each."""
        rows = [
            {
                "layer": layer.name,
                "kind": layer.kind,
                "output shape": layer.output_shape,
                "parameters": layer.parameters,
                "MACs": layer.macs,
                f"operations ({self.convention})": layer.operations,
            }
            for layer in self.layers
            if layer.parameters or layer.operations
        ]
        return pd.DataFrame(rows)


def count(model: nn.Module, input_shape: tuple[int, ...], convention: str = "mac") -> Cost:
    """Count one image of `input_shape` = (C, H, W) through `model`, in evaluation mode.

    The model is not touched: a copy without storage (on PyTorch's `meta` device) is run instead, so
    that a network of any size takes milliseconds and no memory. Modules are counted, functions are
    not: additions, `F.relu` or `F.avg_pool2d` are free here, and matrix work outside the known
    modules (a convolution called as a function, attention) is found and refused.

    >>> from helpers.models import LeNet5
    >>> count(LeNet5(), (1, 28, 28)).macs
    2293000

    Raises ValueError for an unknown convention, a shape that does not fit, and a module that holds
    parameters but is not a convolution, a linear layer or a batch norm.
    """
    shape = _checked(model, input_shape, convention)
    layers: list[LayerCost] = []
    seen: set[int] = set()
    rules = CONVENTIONS[convention]

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            own = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
            seen.update(own)
            macs, extra = _operations(module, inputs[0], output, rules)
            layers.append(
                LayerCost(
                    name,
                    _kind(module),
                    tuple(inputs[0].shape[1:]),
                    tuple(output.shape[1:]),
                    sum(own.values()),
                    macs,
                    rules.mac * macs + extra,
                )
            )

        return record

    shadow = _without_storage(model)
    for name, module in shadow.named_modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(hook(name))
    types = [p.dtype for p in shadow.parameters() if p.is_floating_point()] or [torch.float32]
    x = torch.empty((1, *shape), dtype=types[0], device="meta")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as watcher:
            shadow(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"input_shape {shape} (channels, height, width, no batch) does not fit "
            f"{type(model).__name__}: {error}"
        ) from error
    cost = Cost(layers, sum(p.numel() for p in model.parameters()), convention)
    elsewhere = watcher.get_total_flops() // 2 - cost.macs
    if elsewhere:
        raise ValueError(
            f"{type(model).__name__} makes {elsewhere:,} MACs outside its convolution and linear "
            "modules (functions such as F.conv2d or a matrix product); they cannot be counted"
        )
    return cost


def _checked(model: nn.Module, input_shape: tuple[int, ...], convention: str) -> tuple[int, ...]:
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch module, got {type(model).__name__}")
    shape = tuple(input_shape)
    if not shape or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in shape):
        raise ValueError(f"input_shape must be positive integers (C, H, W), got {input_shape!r}")
    for name, module in model.named_modules():
        holds = any(p is not None for p in module._parameters.values())
        if holds and not isinstance(module, (*_CONVOLUTIONS, *_NORMS, nn.Linear)):
            raise ValueError(
                f"module {name!r} of type {type(module).__name__} holds parameters, but only "
                "convolutions, linear layers and batch norms can be counted"
            )
    return shape


def _without_storage(model: nn.Module) -> nn.Module:
    # The memo tells deepcopy that each tensor has been copied already, namely to an empty one.
    memo: dict[int, Any] = {id(b): b.detach().to("meta") for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=False)
    return copy.deepcopy(model, memo).eval()


def _kind(module: nn.Module) -> str:
    if isinstance(module, _CONVOLUTIONS):
        if module.groups == module.in_channels and module.groups > 1:
            return "depthwise"
        return "pointwise" if set(module.kernel_size) == {1} else "conv"
    if isinstance(module, nn.Linear):
        return "linear"
    return "batch norm" if isinstance(module, _NORMS) else type(module).__name__


def _operations(module: nn.Module, x: Tensor, y: Tensor, rules: Convention) -> tuple[int, int]:
    """MACs of one call, and what the convention charges beyond them. Batch of one."""
    if isinstance(module, _CONVOLUTIONS):
        per_output = module.in_channels // module.groups * math.prod(module.kernel_size)
        return y.numel() * per_output, rules.conv_bias * y.numel() * (module.bias is not None)
    if isinstance(module, nn.Linear):
        bias = rules.linear_bias * y.numel() * (module.bias is not None)
        return y.numel() * module.in_features, bias
    if isinstance(module, _NORMS):
        per_element = rules.norm_element if module.affine else rules.norm_plain
        learned = sum(p.numel() for p in module.parameters())
        return 0, per_element * x.numel() + rules.norm_parameter * learned
    if isinstance(module, _ADAPTIVE):
        return 0, rules.adaptive_input * x.numel() + rules.adaptive_output * y.numel()
    if isinstance(module, _AVERAGES):
        return 0, rules.average_output * y.numel()
    return 0, 0


def storage_bytes(what: nn.Module | Cost | int, bits: int, *, buffers: bool = False) -> int:
    """Bytes of that many numbers at `bits` bits each (1 to 32), packed without gaps.

    `what` is a model, its `Cost`, or the number of parameters. With `buffers`, a model's
    floating-point buffers (the statistics of batch norms) count too. Raises ValueError for another
    number of bits.
    """
    _check_bits("bits", bits)
    if isinstance(what, nn.Module):
        tensors: list[Tensor] = list(what.parameters())
        tensors += [b for b in what.buffers() if buffers and b.is_floating_point()]
        numbers = sum(t.numel() for t in tensors)
    else:
        numbers = what.parameters if isinstance(what, Cost) else what
    if isinstance(numbers, bool) or not isinstance(numbers, int) or numbers < 0:
        raise ValueError(f"what must be a model, a Cost or a count of 0 or more, got {what!r}")
    return -(-numbers * bits // 8)


def file_bytes(model: nn.Module) -> int:
    """Bytes of the model's state as a safetensors file, header included; nothing is written."""
    return len(save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}))


def traffic(cost: Cost, weight_bits: int = 32, activation_bits: int = 32) -> pd.DataFrame:
    """Bytes that each convolution and dense layer moves for one image, if nothing stays on chip.

    Every layer reads its weights and biases once, reads its input map and writes its output map;
    batch norm, activation and pooling are taken to happen on the way and move nothing. The last
    column is the arithmetic intensity in operations per byte, two operations a MAC.
    """
    _check_bits("weight_bits", weight_bits)
    _check_bits("activation_bits", activation_bits)
    rows = []
    for layer in cost.layers:
        if not layer.macs:
            continue
        row: dict[str, Any] = {
            "layer": layer.name,
            "kind": layer.kind,
            "MACs": layer.macs,
            "weight bytes": storage_bytes(layer.parameters, weight_bits),
            "input bytes": storage_bytes(math.prod(layer.input_shape), activation_bits),
            "output bytes": storage_bytes(math.prod(layer.output_shape), activation_bits),
        }
        row["bytes"] = row["weight bytes"] + row["input bytes"] + row["output bytes"]
        row["operations per byte"] = 2 * layer.macs / row["bytes"]
        rows.append(row)
    return pd.DataFrame(rows)


def attainable(intensity: float, peak: float, bandwidth: float) -> float:
    """The roofline: operations per second at `intensity` operations per byte.

    `peak` is in operations per second, `bandwidth` in bytes per second (Williams 2009). Raises
    ValueError unless all three are positive.
    """
    for name, value in (("intensity", intensity), ("peak", peak), ("bandwidth", bandwidth)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    return min(peak, intensity * bandwidth)


def latency(
    function: Callable[..., Any], *inputs: Any, repeats: int = 20, warmup: int = 3
) -> float:
    """Median seconds of `function(*inputs)` over `repeats` calls after `warmup` calls.

    A model is run in evaluation mode without gradients and gets its mode back. The number of
    threads is PyTorch's (`torch.get_num_threads()`): say it wherever you report a time.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be 1 or more and warmup 0 or more, got {repeats}, {warmup}")
    training = isinstance(function, nn.Module) and function.training
    if isinstance(function, nn.Module):
        function.eval()
    seconds = []
    try:
        with torch.inference_mode():
            for _ in range(warmup + repeats):
                start = time.perf_counter()
                function(*inputs)
                seconds.append(time.perf_counter() - start)
    finally:
        if isinstance(function, nn.Module):
            function.train(training)
    return statistics.median(seconds[warmup:])


def _check_bits(name: str, bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 32:
        raise ValueError(f"{name} must be a whole number from 1 to 32, got {bits!r}")
