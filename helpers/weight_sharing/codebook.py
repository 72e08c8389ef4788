"""Layers whose weights are indices into a small table of shared values, and the table's training.

A weight is table[index]: index 0 means exactly zero (a pruned weight), index j >= 1 the centroid
j - 1 of the layer's codebook. The codebook is the parameter; the indices are frozen. Autograd then
adds up the gradients of all weights that share a centroid, which is the rule of the paper.

Source: Han et al. 2016 (arXiv:1510.00149) section 3.

Chapter: 05_weight_sharing.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.utils import parametrize

from helpers.models import weight_layers
from helpers.weight_sharing.kmeans import Start, kmeans


@dataclass(frozen=True, eq=False)
class SharedLayer:
    """One layer's shared weights: `index`, uint8 of the weight's shape, 0 for zero, j for centroid
    j - 1; `codebook` (k,), the centroids in the weight's dtype. k may be 0 (a layer of zeros).
    """

    index: Tensor
    codebook: Tensor

    def weight(self) -> Tensor:
        """The weights that the indices stand for."""
        return look_up(self.codebook, self.index)


def look_up(codebook: Tensor, index: Tensor) -> Tensor:
    """table[index] with table = (0, codebook), differentiable in the codebook."""
    table = torch.cat([codebook.new_zeros(1), codebook])
    return table.index_select(0, index.flatten().to(torch.int64)).reshape(index.shape)


class SharedWeight(nn.Module):
    """The parametrization codebook -> weight of a layer.

    It keeps the places and the centroids of the nonzero weights only, so that a pruned layer is
    cheap to train; `index` puts them together.
    """

    position: Tensor
    centroid: Tensor

    def __init__(self, layer: SharedLayer) -> None:
        super().__init__()
        flat = layer.index.flatten().to(torch.int64)
        self.shape = layer.index.shape
        self.register_buffer("position", flat.nonzero().flatten())
        self.register_buffer("centroid", (flat[self.position] - 1).to(torch.uint8))
        self._begin = layer.codebook

    @property
    def index(self) -> Tensor:
        """uint8 of the weight's shape: 0 for zero, j for centroid j - 1."""
        flat = torch.zeros(self.shape.numel(), dtype=torch.uint8)
        flat[self.position] = self.centroid + 1
        return flat.reshape(self.shape)

    def forward(self, codebook: Tensor) -> Tensor:
        zeros = codebook.new_zeros(self.shape.numel())
        shared = codebook.index_select(0, self.centroid.to(torch.int64))
        return zeros.index_copy(0, self.position, shared).reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The codebook to begin with (called once, when the layer is made)."""
        return self._begin.clone()


def share_weight(
    weight: Tensor, bits: int, *, start: Start = "dynamic", seed: int = 0
) -> SharedLayer:
    """Cluster the nonzero entries of `weight` so that every index fits in `bits` bits.

    2**bits - 1 centroids and the zero. `bits` is 1 to 8. NaN and infinity are refused.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f"bits must be a whole number from 1 to 8, got {bits!r}")
    weight = weight.detach()
    index = torch.zeros(weight.shape, dtype=torch.uint8)
    nonzero = weight != 0
    values = weight[nonzero]
    if len(values) == 0:
        return SharedLayer(index, weight.new_zeros(0))
    found = kmeans(values.numpy(), 2**bits - 1, start=start, seed=seed)
    index[nonzero] = torch.from_numpy(found.assignment + 1).to(torch.uint8)
    return SharedLayer(index, torch.from_numpy(found.centroids).to(weight.dtype))


def share(
    model: nn.Module,
    bits: int | Mapping[str, int],
    *,
    start: Start = "dynamic",
    seed: int = 0,
) -> nn.Module:
    """A copy of `model` whose convolution and dense weights are codebooks with frozen indices.

    `bits` is one width for all layers, or maps layer names to widths; layers it leaves out stay
    as they are. Biases stay. Only nonzero weights are clustered, and zeros stay zero whatever
    training does. `training.fit` then trains the codebooks (and the biases).

    Raises ValueError for unknown layers, bits outside 1..8, NaN, layers that share already.
    """
    model = copy.deepcopy(model)
    layers = weight_layers(model)
    widths = dict(bits) if isinstance(bits, Mapping) else dict.fromkeys(layers, bits)
    if unknown := sorted(set(widths) - set(layers)):
        raise ValueError(f"bits for unknown layers {unknown}; the layers are {list(layers)}")
    made = {}
    for name, width in widths.items():
        if parametrize.is_parametrized(layers[name], "weight"):
            raise ValueError(f"layer {name!r} shares its weights already; `plain` gives them back")
        try:
            made[name] = share_weight(layers[name].weight, width, start=start, seed=seed)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    for name, layer in made.items():
        put_(layers[name], layer)
    return model


def put_(module: nn.Module, layer: SharedLayer) -> None:
    """Make the weight of `module` (in place) a shared one. The shapes must agree."""
    shape = tuple(module.get_parameter("weight").shape)
    if shape != tuple(layer.index.shape):
        raise ValueError(f"index has shape {tuple(layer.index.shape)}, the weight {shape}")
    if layer.index.numel() and int(layer.index.max()) > len(layer.codebook):
        raise ValueError(
            f"index goes up to {int(layer.index.max())}, the codebook has {len(layer.codebook)}"
        )
    parametrize.register_parametrization(module, "weight", SharedWeight(layer))


def shared_layers(model: nn.Module) -> dict[str, SharedLayer]:
    """The shared layers of a model by name, in order, detached copies."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            entry = module.parametrizations.weight
            if isinstance(entry[0], SharedWeight):
                found[name] = SharedLayer(entry[0].index, entry.original.detach().clone())
    return found


def plain(model: nn.Module) -> nn.Module:
    """A copy of `model` with ordinary weights, bit for bit those that the codebooks stand for."""
    model = copy.deepcopy(model)
    for name, layer in shared_layers(model).items():
        module = model.get_submodule(name)
        # Not remove_parametrizations: that takes `weight` from the class, which copies share.
        module.__class__ = type(module).__bases__[0]
        bias = module.bias
        del module.parametrizations, module.bias
        module.weight, module.bias = nn.Parameter(layer.weight()), bias
    return model


def codebook_gradient(gradient: ArrayLike, index: ArrayLike, k: int) -> np.ndarray:
    """The gradient of k centroids, (k,) float64: the SUM of `gradient` over each centroid's weights.

    `gradient` and `index` (0 to k - 1) have the weight's shape.

    >>> codebook_gradient([0.5, 0.25, 1.0], [0, 1, 0], 2).tolist()
    [1.5, 0.25]
    """
    values = np.asarray(gradient, dtype=np.float64).ravel()
    where = np.asarray(index).ravel()
    if len(values) != len(where):
        raise ValueError(f"gradient has {len(values)} entries, index {len(where)}")
    if len(where) and not 0 <= where.min() <= where.max() < k:
        raise ValueError(f"index must be from 0 to {k - 1}, got {where.min()} to {where.max()}")
    return np.bincount(where.astype(np.int64), values, minlength=k)


def compression_rate(n: int, k: int, *, bits: int = 32, codebook: bool = True) -> float:
    """How many times smaller n weights of `bits` bits become with k shared values.

    n bits / (n ceil(log2 k) + k bits); without the last term if `codebook` is False. One shared
    value needs no index at all, so without its codebook the rate is infinite.

    >>> compression_rate(16, 4)
    3.2
    """
    for name, value in (("n", n), ("k", k), ("bits", bits)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    if k > n:
        raise ValueError(f"k must not exceed n = {n}: {k} shared values for fewer weights")
    stored = n * (k - 1).bit_length() + (k * bits if codebook else 0)
    return n * bits / stored if stored else float("inf")
