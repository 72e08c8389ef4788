"""From masks to a really smaller network, and what a dropped channel leaves behind.

A mask is a bool tensor with an entry for each channel of a group, True where the channel is kept.

Source: Liu et al. 2017 (arXiv:1708.06519), section 3, and its code, which zeroes beta with gamma.

Chapter: 08_slimming.
"""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from helpers.slimming.groups import NORMS, ChannelGroup, chain, channel_groups


def masked(model: nn.Module, kept: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the same shape in which every dropped channel is 0 where it is read.

    Everything that belongs to a dropped channel becomes zero: its filter and bias, its depthwise
    filter and bias, gamma and beta of its batch norms. Raises ValueError as `slim` does.
    """
    groups, kept = _checked(model, kept)
    model = copy.deepcopy(model)
    for name, mask in kept.items():
        group = groups[name]
        for layer in (name, *group.norms, *group.depthwise):
            module = model.get_submodule(layer)
            with torch.no_grad():
                for values in (module.weight, module.bias):
                    if isinstance(values, Tensor):
                        values[~mask] = 0.0
    return model


def slim(
    model: nn.Module,
    kept: Mapping[str, Tensor],
    *,
    constants: Literal["drop", "fold"] = "drop",
) -> nn.Module:
    """A copy without the dropped channels: smaller tensors, fewer MACs, the same layer names.

    "drop" forgets them, so the outputs are those of `masked(model, kept)`. "fold" takes each
    dropped channel as the constant that `dead_constants` gives and adds what the reader makes of it
    to the reader's bias; without a bias, to the running mean of the batch norm behind it. For
    channels whose scale is 0 that keeps the network's function wherever no zero padding meets the
    constant: everywhere if the layer after the scale is pointwise or dense.

    Groups that `kept` leaves out stay whole. Raises ValueError for unknown groups, a mask of another
    length or dtype, and a mask that keeps no channel (nothing would pass the layer).
    """
    if constants not in ("drop", "fold"):
        raise ValueError(f"constants must be 'drop' or 'fold', got {constants!r}")
    groups, kept = _checked(model, kept)
    model = copy.deepcopy(model)
    if constants == "fold":
        for name, mask in kept.items():
            _fold(model, groups[name], mask)
    for name, mask in kept.items():
        group, count = groups[name], int(mask.sum())
        _slice_outputs(model.get_submodule(name), mask)
        for norm in group.norms:
            _slice_norm(model.get_submodule(norm), mask)
        for layer in group.depthwise:
            module = model.get_submodule(layer)
            _slice_outputs(module, mask)
            module.in_channels = module.groups = count  # type: ignore[assignment]
        _slice_inputs(model.get_submodule(group.reader), mask.repeat_interleave(group.spread))
    return model


def dead_constants(model: nn.Module, group: ChannelGroup) -> Tensor:
    """What each channel of `group` holds where it is read, if its first scale were 0, (size,).

    The batch norm then gives beta at every pixel, the activation function f(beta); pools pass a
    constant on, a depthwise filter multiplies it by the sum of its weights, and further batch norms
    act as they do (a second scale of 0 gives their beta). Borders of padded maps are not looked at.
    """
    maker = model.get_submodule(group.name)
    bias = maker.bias
    value = bias.detach().clone() if isinstance(bias, Tensor) else torch.zeros(group.size)
    fresh = True
    for name in group.path:
        module = model.get_submodule(name)
        if isinstance(module, NORMS):
            gain = torch.zeros_like(value) if fresh else _gain(module)
            beta = 0.0 if module.bias is None else module.bias.detach()
            mean = 0.0 if module.running_mean is None else module.running_mean
            value, fresh = beta + gain * (value - mean), False
        elif isinstance(module, nn.Conv2d):
            value = value * module.weight.detach().sum((1, 2, 3))
            value = value if module.bias is None else value + module.bias.detach()
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            value = module(value.clone())
    return value


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """The same shape with new random weights, as PyTorch initializes them: to train from scratch."""
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, *NORMS)):
                module.reset_parameters()
    return model


def _gain(norm: nn.Module) -> Tensor:
    """gamma / sqrt(v + eps) of a batch norm in eval mode."""
    if norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    root = torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator]
    return root if norm.weight is None else norm.weight.detach() * root  # type: ignore[operator]


def _fold(model: nn.Module, group: ChannelGroup, mask: Tensor) -> None:
    """Add what the dropped channels' constants contribute to the reader, in place."""
    reader = model.get_submodule(group.reader)
    constants = torch.where(mask, 0.0, dead_constants(model, group))
    sums = reader.weight.detach().flatten(2).sum(2) if reader.weight.ndim == 4 else reader.weight  # type: ignore[operator]
    extra = sums.detach() @ constants.repeat_interleave(group.spread)  # type: ignore[operator]
    if isinstance(reader.bias, Tensor):
        reader.bias.data += extra
        return
    names = [name for name, _ in chain(model)]
    after = names[names.index(group.reader) + 1 :]
    norm = model.get_submodule(after[0]) if after else None
    if isinstance(norm, NORMS) and norm.running_mean is not None:
        norm.running_mean -= extra
    else:
        reader.bias = nn.Parameter(extra)


def _slice_outputs(layer: nn.Module, mask: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach()[mask].clone())  # type: ignore[operator]
    if isinstance(layer.bias, Tensor):
        layer.bias = nn.Parameter(layer.bias.detach()[mask].clone())
    setattr(
        layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(layer.weight)
    )


def _slice_inputs(layer: nn.Module, mask: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach()[:, mask].clone())  # type: ignore[operator]
    setattr(
        layer, "in_features" if isinstance(layer, nn.Linear) else "in_channels", int(mask.sum())
    )


def _slice_norm(norm: nn.Module, mask: Tensor) -> None:
    for key in ("weight", "bias"):
        values = getattr(norm, key)
        if values is not None:
            setattr(norm, key, nn.Parameter(values.detach()[mask].clone()))
    for key in ("running_mean", "running_var"):
        values = getattr(norm, key)
        if values is not None:
            setattr(norm, key, values[mask].clone())
    norm.num_features = int(mask.sum())  # type: ignore[assignment]


def _checked(
    model: nn.Module, kept: Mapping[str, Tensor]
) -> tuple[dict[str, ChannelGroup], dict[str, Tensor]]:
    """The groups of `model`, and `kept` as bool tensors on the model's device."""
    groups = channel_groups(model)
    unknown = sorted(set(kept) - set(groups))
    if unknown:
        raise ValueError(f"masks for unknown layers {unknown}; known are {list(groups)}")
    masks = {}
    for name, mask in kept.items():
        size = groups[name].size
        if mask.dtype != torch.bool or tuple(mask.shape) != (size,):
            raise ValueError(
                f"the mask of {name!r} must be bool of shape ({size},), "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if not mask.any():
            raise ValueError(
                f"the mask of {name!r} drops all {size} channels: nothing would pass the layer"
            )
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        masks[name] = mask.to(weight.device)
    return groups, masks
