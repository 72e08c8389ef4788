"""The networks that the course compresses, and two ways into any network: by layer and by name.

The networks are plain modules with their sizes as arguments. Every layer is an `nn` module with a speaking name (`features.conv1`, `classifier.fc2`), the forward
pass has no data-dependent branch (so `torch.fx` can trace it), and the last layer gives logits.
Shapes in comments leave the batch out: (channels, height, width).

Chapter: 01_cost.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

WeightLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
PRUNED_WIDTHS = (16, 32, 64, 99, 198, 198, 198, 256)  # the food-11 article's student after 0.95**5


def _positive(**sizes: int | Sequence[int]) -> None:
    """Refuse sizes that are not positive integers, naming the argument."""
    for name, value in sizes.items():
        values = list(value) if isinstance(value, Sequence) else [value]
        if not values or not all(type(v) is int and v >= 1 for v in values):
            raise ValueError(f"{name} must be one or more positive integers, got {value!r}")


def _pooled(size: int, pools: int) -> int:
    """The side of a map after `pools` 2x2 max-pools; ValueError where nothing would be left."""
    side = size // 2**pools
    if side < 1:
        raise ValueError(f"size must be at least {2**pools} for {pools} pools, got {size}")
    return side


class LeNet300100(nn.Module):
    """Two hidden dense layers of 300 and 100 units: 266,610 parameters for 28x28 grey images.

    Source: LeCun et al. 1998, section III.C; the usual subject of pruning papers (Han et al. 2015).
    """

    def __init__(self, in_features: int = 784, classes: int = 10) -> None:
        super().__init__()
        _positive(in_features=in_features, classes=classes)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(in_features, 300)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(300, 100)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:  # (1, 28, 28)
        x = self.relu1(self.fc1(self.flatten(x)))  # (300,)
        x = self.relu2(self.fc2(x))  # (100,)
        return self.fc3(x)  # (classes,)


class LeNet5(nn.Module):
    """Two 5x5 convolutions and two dense layers: 431,080 parameters for 28x28 grey images.

    Caffe's version of the network (20 and 50 filters, 500 hidden units), the one that Deep
    Compression counts, with a ReLU after each convolution, where Caffe has only the max-pool.
    """

    def __init__(self, in_channels: int = 1, size: int = 28, classes: int = 10) -> None:
        super().__init__()
        _positive(in_channels=in_channels, size=size, classes=classes)
        if size < 16:
            raise ValueError(f"size must be at least 16 for two 5x5 convolutions, got {size}")
        side = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:  # (1, 28, 28)
        x = self.pool1(self.relu1(self.conv1(x)))  # (20, 12, 12)
        x = self.pool2(self.relu2(self.conv2(x)))  # (50, 4, 4)
        x = self.relu3(self.fc1(self.flatten(x)))  # (500,)
        return self.fc2(x)  # (classes,)


class StandardCNN(nn.Module):
    """The food-11 article's classifier: 12,833,803 parameters at its full size.

    Each stage is a 3x3 convolution (padding 1), batch norm, ReLU and a 2x2 max-pool; then dense
    layers with ReLU between them.
    """

    def __init__(
        self,
        in_channels: int = 3,
        size: int = 128,
        classes: int = 11,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        hidden: Sequence[int] = (1024, 512),
    ) -> None:
        super().__init__()
        _positive(in_channels=in_channels, size=size, classes=classes, channels=channels)
        if len(hidden):
            _positive(hidden=hidden)
        side = _pooled(size, len(channels))
        self.features = nn.Sequential()
        for i, (before, after) in enumerate(
            zip((in_channels, *channels[:-1]), channels, strict=True), 1
        ):
            self.features.add_module(f"conv{i}", nn.Conv2d(before, after, 3, padding=1))
            self.features.add_module(f"bn{i}", nn.BatchNorm2d(after))
            self.features.add_module(f"relu{i}", nn.ReLU())
            self.features.add_module(f"pool{i}", nn.MaxPool2d(2))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential()
        inputs = channels[-1] * side * side
        for i, units in enumerate(hidden, 1):
            self.classifier.add_module(f"fc{i}", nn.Linear(inputs, units))
            self.classifier.add_module(f"relu{i}", nn.ReLU())
            inputs = units
        self.classifier.add_module(f"fc{len(hidden) + 1}", nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:  # (3, 128, 128)
        x = self.features(x)  # (512, 4, 4)
        return self.classifier(self.flatten(x))  # (classes,)


class SeparableCNN(nn.Module):
    """The food-11 article's depthwise separable student: 256,779 parameters at its full size.

    One 3x3 convolution with batch norm and ReLU6, then a block per further width: depthwise 3x3,
    batch norm, ReLU6, pointwise 1x1 with neither after it. A 2x2 max-pool closes each of the first
    `pools` stages; global average pooling makes the network independent of the image size.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 11,
        widths: Sequence[int] = (16, 32, 64, 128, 256, 256, 256, 256),
        pools: int = 4,
    ) -> None:
        super().__init__()
        _positive(in_channels=in_channels, classes=classes, widths=widths)
        if not 0 <= pools <= len(widths):
            raise ValueError(f"pools must be from 0 to {len(widths)} (the stages), got {pools}")
        self.features = nn.Sequential()
        for i, after in enumerate(widths, 1):
            if i == 1:
                self.features.add_module("conv1", nn.Conv2d(in_channels, after, 3, padding=1))
                self.features.add_module("bn1", nn.BatchNorm2d(after))
                self.features.add_module("relu1", nn.ReLU6())
            else:
                before = widths[i - 2]
                self.features.add_module(
                    f"depthwise{i}", nn.Conv2d(before, before, 3, padding=1, groups=before)
                )
                self.features.add_module(f"bn{i}", nn.BatchNorm2d(before))
                self.features.add_module(f"relu{i}", nn.ReLU6())
                self.features.add_module(f"pointwise{i}", nn.Conv2d(before, after, 1))
            if i <= pools:
                self.features.add_module(f"pool{i}", nn.MaxPool2d(2))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:  # (3, 128, 128)
        x = self.features(x)  # (256, 8, 8)
        return self.fc(self.flatten(self.average(x)))  # (classes,)


class VGGSmall(nn.Module):
    """A VGG of three stages, cut where VGG16 is cut at pool5: `backbone` and `head`.

    Each stage is two 3x3 convolutions with batch norm and ReLU, then a 2x2 max-pool. The backbone
    holds nearly all multiplications (for an accelerator), the dense head the rest (for a CPU).
    """

    def __init__(
        self,
        in_channels: int = 1,
        size: int = 28,
        classes: int = 10,
        channels: Sequence[int] = (16, 32, 64),
        hidden: int = 128,
    ) -> None:
        super().__init__()
        _positive(
            in_channels=in_channels, size=size, classes=classes, channels=channels, hidden=hidden
        )
        side = _pooled(size, len(channels))
        self.backbone = nn.Sequential()
        before = in_channels
        for i, after in enumerate(channels, 1):
            for j in (1, 2):
                self.backbone.add_module(f"conv{i}_{j}", nn.Conv2d(before, after, 3, padding=1))
                self.backbone.add_module(f"bn{i}_{j}", nn.BatchNorm2d(after))
                self.backbone.add_module(f"relu{i}_{j}", nn.ReLU())
                before = after
            self.backbone.add_module(f"pool{i}", nn.MaxPool2d(2))
        self.head = nn.Sequential()
        self.head.add_module("flatten", nn.Flatten())
        self.head.add_module("fc1", nn.Linear(before * side * side, hidden))
        self.head.add_module("relu1", nn.ReLU())
        self.head.add_module("fc2", nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:  # (1, 28, 28)
        x = self.backbone(x)  # (64, 3, 3)
        return self.head(x)  # (classes,)


class EdgeNet(nn.Module):
    """A MobileNet for small FPGAs: 82,210 parameters at its full size, 96 x 96 pixels.

    One 3x3 convolution, then a block per entry (width, stride) of `blocks`: depthwise 3x3 of that
    stride and pointwise 1x1, each with batch norm and ReLU6; global average pooling; one dense
    layer. No convolution has a bias of its own: batch norm brings it. The defaults, with seven
    blocks, 8,285,952 MACs and 79,752 weights, have the published size of the network of the GW2A
    accelerator paper (7 separable layers, 16.64 M operations, 0.079 M parameters), whose own widths
    are not printed.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        first: int = 12,
        first_stride: int = 2,
        blocks: Sequence[tuple[int, int]] = (
            *((24, 1), (48, 2), (48, 1), (96, 2), (96, 1), (192, 2), (192, 1)),
        ),
    ) -> None:
        super().__init__()
        _positive(in_channels=in_channels, classes=classes, first=first, first_stride=first_stride)
        if not blocks or any(len(block) != 2 for block in blocks):
            raise ValueError(f"blocks must be pairs (width, stride), got {blocks!r}")
        _positive(blocks=[size for block in blocks for size in block])
        self.features = nn.Sequential()
        self._add(1, "conv", nn.Conv2d(in_channels, first, 3, first_stride, 1, bias=False))
        before = first
        for i, (after, stride) in enumerate(blocks, 2):
            grouped = nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False)
            self._add(i, "depthwise", grouped)
            self._add(i, "pointwise", nn.Conv2d(before, after, 1, bias=False))
            before = after
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(before, classes)

    def _add(self, number: int, kind: str, convolution: nn.Conv2d) -> None:
        """Append a convolution with batch norm and ReLU6: `depthwise3`, `depthwise3_bn`, ..."""
        name = f"{kind}{number}"
        self.features.add_module(name, convolution)
        self.features.add_module(f"{name}_bn", nn.BatchNorm2d(convolution.out_channels))
        self.features.add_module(f"{name}_relu", nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:  # (3, 96, 96)
        x = self.features(x)  # (192, 6, 6)
        return self.fc(self.flatten(self.average(x)))  # (classes,)


SMALL: dict[str, dict[str, Any]] = {
    "LeNet300100": {"in_features": 784, "classes": 10},
    "LeNet5": {"in_channels": 1, "size": 28, "classes": 10},
    "StandardCNN": {
        "in_channels": 1,
        "size": 28,
        "classes": 10,
        "channels": (16, 32, 64),
        "hidden": (128,),
    },
    "SeparableCNN": {"in_channels": 1, "classes": 10, "widths": (16, 32, 64, 64), "pools": 2},
    "VGGSmall": {"in_channels": 1, "size": 28, "classes": 10},
}
_CLASSES = (LeNet300100, LeNet5, StandardCNN, SeparableCNN, VGGSmall)


def small(name: str) -> nn.Module:
    """The version of a network for 28x28 grey images and ten classes, freshly initialized.

    >>> sum(p.numel() for p in small("LeNet5").parameters())
    431080
    """
    for network in _CLASSES:
        if network.__name__ == name:
            return network(**SMALL[name])
    raise ValueError(f"unknown network {name!r}; known are {', '.join(SMALL)}")


def weight_layers(model: nn.Module) -> dict[str, WeightLayer]:
    """The convolutions and dense layers of any network by name, in the order of `named_modules`.

    They hold nearly all weights and do nearly all multiplications, so they are what the course
    prunes, shares and quantizes. A network without one gives an empty dictionary.

    >>> list(weight_layers(LeNet5()))
    ['conv1', 'conv2', 'fc1', 'fc2']
    """
    return {name: m for name, m in model.named_modules() if isinstance(m, WeightLayer)}


def replace_module_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place `name` ("features.conv1") of `model`, in place.

    Raises ValueError for a name that is no submodule; "", the model itself, has no place in it.

    >>> network = LeNet5()
    >>> replace_module_(network, "pool1", nn.AvgPool2d(2))
    >>> network.pool1
    AvgPool2d(kernel_size=2, stride=2, padding=0)
    """
    places = [place for place, _ in model.named_modules(remove_duplicate=False) if place]
    if name not in places:
        raise ValueError(
            f"name must be a submodule of {type(model).__name__}, got {name!r}; "
            f"its submodules are {', '.join(places) or 'none'}"
        )
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
