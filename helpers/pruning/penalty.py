"""The density-diversity penalty: training that asks for zeros and for few distinct values.

Source: Wang et al., "Training Compressed Fully-Connected Networks with a Density-Diversity
Penalty", ICLR 2017. Every pair is counted once here, and the pair sum is divided by the number of
weights, so that one strength serves layers of every size.

Chapter: 04_pruning.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from helpers.models import weight_layers


def pair_coefficients(values: Tensor) -> Tensor:
    """How many of `values` are smaller minus how many are larger, for each entry, in O(n log n).

    Shape and dtype of `values`. For the i-th smallest of n distinct values that is 2i - n - 1. It
    is a subgradient of `pair_sum` (the mean of the two one-sided slopes; equal values pull neither
    way), and `(coefficients * values).sum()` is the pair sum itself.

    >>> pair_coefficients(torch.tensor([5.0, 1.0, 1.0, 2.0])).tolist()
    [3.0, -2.0, -2.0, 1.0]
    """
    if not values.is_floating_point() or not torch.isfinite(values).all():
        raise ValueError(f"values must be finite floating-point numbers, got {values.dtype}")
    ordered, places = values.detach().flatten().sort()
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    larger_from = counts.cumsum(0)  # values up to and including this one
    difference = 2 * larger_from - counts - len(ordered)
    coefficients = torch.empty_like(ordered)
    coefficients[places] = difference.repeat_interleave(counts).to(ordered.dtype)
    return coefficients.reshape(values.shape)


def pair_sum(values: Tensor) -> Tensor:
    """The sum of |a - b| over all unordered pairs of `values`, a scalar with its subgradient."""
    return (pair_coefficients(values) * values).sum()


def density_diversity(
    model: nn.Module,
    *,
    density: float,
    diversity: float,
    layers: Sequence[str] | None = None,
) -> Tensor:
    """density * sum |w| + diversity * pair_sum(w) / n, summed over layers; a scalar for `fit`.

    Layers are all convolutions and dense layers, or those named; biases are left alone. Both parts
    push a weight by at most their strength: the first towards 0, the second towards the middle of
    the other weights, harder the further out a weight ranks.
    """
    return DensityDiversity(density, diversity, layers=layers)(model)


class DensityDiversity:
    """`density_diversity` for `training.fit`'s `penalty`, sorting anew only every `every` calls.

    In between, each weight keeps the coefficient of its last rank: ranks move little from step to
    step, and sorting is most of the cost. One object serves one training run.
    """

    def __init__(
        self,
        density: float,
        diversity: float,
        *,
        layers: Sequence[str] | None = None,
        every: int = 1,
    ) -> None:
        for name, value in (("density", density), ("diversity", diversity)):
            if isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of 0 or more, got {value!r}")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of 1 or more, got {every!r}")
        self.density, self.diversity = density, diversity
        self.layers, self.every = layers, every
        self.calls = 0
        self.coefficients: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module) -> Tensor:
        layers = weight_layers(model)
        unknown = sorted(set(self.layers or ()) - set(layers))
        if unknown:
            raise ValueError(f"layers {unknown} are unknown; the layers are {list(layers)}")
        total = torch.zeros((), device=next(model.parameters()).device)
        for name in layers if self.layers is None else self.layers:
            weight = layers[name].weight
            if self.density:
                total = total + self.density * weight.abs().sum()
            if self.diversity and weight.numel():
                if self.calls % self.every == 0:
                    self.coefficients[name] = pair_coefficients(weight) / weight.numel()
                total = total + self.diversity * (self.coefficients[name] * weight).sum()
        self.calls += 1
        return total
