"""Which channels belong together: a channel is made by one layer and carried through others.

In a chain of layers, a convolution or dense layer makes channels; batch norms, activation functions,
pools and depthwise convolutions carry each of them on alone; the next convolution or dense layer reads
all of them. Whoever drops a channel must drop it in every one of these layers.

Source: the channel selection of Liu et al. 2017 (arXiv:1708.06519), section 3; the groups of Fang et
al. 2023 (arXiv:2301.12900), section 3, for chains.

Chapter: 08_slimming.
"""

from dataclasses import dataclass

import torch
from torch import fx, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
MAKERS = (nn.Conv2d, nn.Linear)
# Each maps a channel of zeros to zeros and a constant channel to a constant channel.
CARRIERS = (
    *(nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity),
)


@dataclass(frozen=True)
class ChannelGroup:
    """One set of channels, with every layer that has an entry for each of them."""

    name: str  # the layer that makes the channels (its output channels)
    size: int
    path: tuple[str, ...]  # the modules between maker and reader, in order
    norms: tuple[str, ...]  # the batch norms among them
    depthwise: tuple[str, ...]  # the depthwise convolutions among them
    reader: str  # the layer whose input channels they are
    spread: int  # inputs of the reader for each channel: H * W after a flatten, otherwise 1


def chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that an image passes, by name, in order.

    Raises ValueError for a network that is not a chain of modules (an addition, a function, a
    module that is used twice, a forward that depends on the data).
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced: its forward must not depend on the data "
            f"({type(error).__name__}: {error})"
        ) from error
    modules = dict(model.named_modules())
    found: list[tuple[str, nn.Module]] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        name = str(node.target)
        if node.op != "call_module" or len(node.args) != 1:
            raise ValueError(f"the network must be a chain of modules, but it holds {node.name!r}")
        if len(node.users) > 1:
            raise ValueError(f"the network must be a chain, but {name!r} is read more than once")
        if name in (other for other, _ in found):
            raise ValueError(f"the network must be a chain, but {name!r} is used more than once")
        found.append((name, modules[name]))
    return found


def channel_groups(model: nn.Module) -> dict[str, ChannelGroup]:
    """The groups of a chain, by the name of the layer that makes them, first to last.

    The network's own inputs and outputs are in no group: they cannot be dropped.

    >>> from helpers.models import SeparableCNN
    >>> group = channel_groups(SeparableCNN(widths=(16, 32), pools=0))["features.conv1"]
    >>> group.norms, group.depthwise, group.reader
    (('features.bn1', 'features.bn2'), ('features.depthwise2',), 'features.pointwise2')

    Raises ValueError for a network that is not a chain, for layers it does not know, and for
    grouped convolutions that are not depthwise.
    """
    groups: dict[str, ChannelGroup] = {}
    maker, size, flat = "", 0, False
    path: list[str] = []
    norms: list[str] = []
    depthwise: list[str] = []
    for name, module in chain(model):
        if isinstance(module, MAKERS) and not _is_depthwise(name, module):
            if maker:
                spread = _spread(name, module, size, flat)
                parts = (tuple(path), tuple(norms), tuple(depthwise))
                groups[maker] = ChannelGroup(maker, size, *parts, name, spread)
            maker, flat = name, False
            size = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            path, norms, depthwise = [], [], []
            continue
        path.append(name)
        if isinstance(module, NORMS):
            if maker and module.num_features != size:
                raise ValueError(
                    f"batch norm {name!r} has {module.num_features} features for {size} channels: "
                    "a batch norm after a flatten cannot be split into channels"
                )
            norms.append(name)
        elif isinstance(module, nn.Conv2d):
            depthwise.append(name)
        elif not isinstance(module, CARRIERS):
            raise ValueError(
                f"{name!r} is a {type(module).__name__}; known are convolutions, dense layers, "
                f"batch norms and {', '.join(kind.__name__ for kind in CARRIERS)}"
            )
        flat = flat or isinstance(module, nn.Flatten)
    return groups


def _is_depthwise(name: str, module: nn.Module) -> bool:
    """Whether a layer filters each channel alone. A convolution 1 -> 1 counts as an ordinary one."""
    if not isinstance(module, nn.Conv2d) or module.groups == 1:
        return False
    if not module.groups == module.in_channels == module.out_channels:
        raise ValueError(
            f"{name!r} has {module.groups} groups for {module.in_channels} to "
            f"{module.out_channels} channels: groups must be 1 or, with as many outputs, one a channel"
        )
    return True


def _spread(name: str, module: nn.Module, size: int, flat: bool) -> int:
    """Inputs that layer `name` has for each of `size` channels."""
    inputs = module.in_features if isinstance(module, nn.Linear) else module.in_channels
    assert isinstance(inputs, int)
    if inputs % size or (inputs != size and not flat):
        raise ValueError(f"{name!r} has {inputs} inputs, which {size} channels cannot fill")
    return inputs // size


def layer_shapes(
    model: nn.Module, input_shape: tuple[int, ...], until: str | None = None
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output shape (without the batch) of each module of the chain before `until`, by name."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    like = next(model.parameters(), torch.zeros(()))
    x = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            for name, module in chain(model):
                if name == until:
                    break
                y = module(x)
                shapes[name], x = (tuple(x.shape[1:]), tuple(y.shape[1:])), y
    except RuntimeError as error:
        raise ValueError(f"input_shape {input_shape} does not fit the model: {error}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    return shapes
