"""Removing whole layers from a chain, where the shapes allow it or the next layer is made anew.

Source: the GW2A accelerator paper (Meng et al. 2024), section 2.2, which drops two convolutions of
MobileNet v1 completely.

Chapter: 08_slimming.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from helpers.models import replace_module_
from helpers.slimming.groups import MAKERS, chain, layer_shapes


def remove_layers(
    model: nn.Module,
    names: Sequence[str],
    input_shape: tuple[int, ...],
    *,
    renew: int | None = None,
) -> nn.Module:
    """A copy in which the consecutive modules `names` are `nn.Identity`.

    They must return the shape that they get. With a seed `renew` they may change it: the next
    convolution or dense layer is then replaced by a new one with random weights for the shape that
    now arrives, and the network must be trained. Names are those of the chain, such as
    ["features.depthwise4", "features.bn4", "features.relu4", "features.pointwise4"].

    Raises ValueError for unknown names, modules that do not follow one another, and shapes that do
    not allow it.
    """
    order = [name for name, _ in chain(model)]
    unknown = [name for name in names if name not in order]
    if unknown or not names:
        raise ValueError(f"names must be modules of {order}, got {list(names)}")
    start = order.index(names[0])
    if order[start : start + len(names)] != list(names):
        raise ValueError(f"names must follow one another in {order}, got {list(names)}")
    shapes = layer_shapes(model, input_shape)
    before, after = shapes[names[0]][0], shapes[names[-1]][1]
    if before != after and renew is None:
        raise ValueError(
            f"{names[0]!r} to {names[-1]!r} turn {before} into {after}: layers can be removed where "
            "the shape stays, or with renew=SEED, which makes the next layer anew"
        )
    model = copy.deepcopy(model)
    for name in names:
        replace_module_(model, name, nn.Identity())
    if before != after:
        _renew(model, order[start + len(names) :], input_shape, renew or 0)
    return model


def _renew(model: nn.Module, rest: list[str], input_shape: tuple[int, ...], seed: int) -> None:
    """Replace the first layer of `rest` that makes channels by one for what now arrives, in place."""
    for name in rest:
        layer = model.get_submodule(name)
        if isinstance(layer, MAKERS):
            break
    else:
        raise ValueError(
            "no convolution or dense layer follows the removed ones: nothing can be renewed"
        )
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        raise ValueError(f"the next layer, {name!r}, is depthwise: remove it as well")
    earlier = layer_shapes(model, input_shape, until=name)
    arriving = list(earlier.values())[-1][1] if earlier else input_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bias = layer.bias is not None
        if isinstance(layer, nn.Linear):
            new: nn.Module = nn.Linear(arriving[0], layer.out_features, bias=bias)
        else:
            assert isinstance(layer, nn.Conv2d)
            new = nn.Conv2d(
                arriving[0],
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                stride=layer.stride,  # type: ignore[arg-type]
                padding=layer.padding,  # type: ignore[arg-type]
                bias=bias,
            )
    replace_module_(model, name, new)
