"""Learned bit-widths: each layer has a real number of bits alpha that training moves.

Between two whole widths a weight is interpolated, so that the loss has a gradient in alpha:

    w_hat = (1 - t) Q_b(w) + t Q_{b+1}(w),    b = floor(alpha), t = alpha - b,
    dL/dalpha = sum (dL/dw_hat) (Q_{b+1}(w) - Q_b(w)),    dL/dw = dL/dw_hat (straight through).

At a whole alpha the upper pair is taken, at 8 the lower. After each optimizer step alpha is clamped
to 1..8 and the moving average m average + (1 - m) alpha, which the forward pass uses, follows it; the
gradient in the average is handed to alpha. Without a price on bits nothing keeps alpha down:
`mean_bits` is that price's unit. At the end each layer's average is rounded, a half up.

Sources: the adaptive-precision VGG16 paper (alpha in 1..8, moving average, rounding; it prints no
gradient and no price); the interpolation is that of FracBits (Yang and Jin 2021, arXiv:2007.02017).

Chapter: 09b_qat.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from helpers import training
from helpers.data import Split
from helpers.models import weight_layers
from helpers.quantization.grids import fake_quantize, symmetric

NARROWEST, WIDEST = 1, 8
# In bits: alpha is stored as alpha / UNIT, so that AdamW's step of lr moves it by UNIT lr.
UNIT = 100.0


def check_width(bits: int, name: str = "bits") -> None:
    """Refuse anything but a whole number from 1 to 8."""
    if type(bits) is not int or not NARROWEST <= bits <= WIDEST:
        raise ValueError(f"{name} must be a whole number from 1 to 8, got {bits!r}")


def quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """`weight` (out, ...) on a grid of `bits` bits, one scale per output channel; no gradient.

    Same shape and dtype; ValueError for bits other than 1 to 8.

    2 to 8 bits: the restricted symmetric grid over the channel's largest |w|. One bit leaves that
    grid only the code 0, so it means another one: s sign(w) with s the channel's mean |w|, which is
    the s of least squared error (Rastegari et al. 2016, arXiv:1603.05279, section 3.1); sign(0) = 1.
    """
    check_width(bits)
    weight = weight.detach()
    if bits > 1:
        return fake_quantize(weight, symmetric(weight, bits, axis=0))
    size = weight.abs().flatten(1).mean(1).reshape(-1, *[1] * (weight.ndim - 1))
    return torch.where(weight >= 0, size, -size)


class Interpolated(torch.autograd.Function):
    """(weight, alpha) -> the weight between the two whole widths beside alpha."""

    @staticmethod
    def forward(ctx, weight: Tensor, alpha: Tensor) -> Tensor:
        low = min(math.floor(float(alpha)), WIDEST - 1)
        below, above = quantize_weight(weight, low), quantize_weight(weight, low + 1)
        ctx.save_for_backward(above - below)
        fraction = (alpha - low).to(weight.dtype)
        return (1 - fraction) * below + fraction * above

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (difference,) = ctx.saved_tensors
        return gradients[0], (gradients[0] * difference).sum()


def interpolated(weight: Tensor, alpha: Tensor) -> Tensor:
    """w_hat of the module's first equation: `weight` (out, ...) at `alpha` (), with both gradients.

    ValueError for an alpha outside 1..8.
    """
    if not NARROWEST <= float(alpha.detach()) <= WIDEST:
        raise ValueError(f"alpha must lie in 1..8, got {float(alpha.detach())}")
    return Interpolated.apply(weight, alpha)


class LearnedWidth(nn.Module):
    """The parametrization weight -> interpolated weight of one layer.

    Parameter `stored` () is alpha / UNIT; buffer `average` () is the moving average of alpha.
    """

    average: Tensor

    def __init__(self, start: float, momentum: float) -> None:
        super().__init__()
        self.stored = nn.Parameter(torch.tensor(start / UNIT))
        self.register_buffer("average", torch.tensor(start))
        self.momentum = momentum

    @property
    def alpha(self) -> Tensor:
        return self.stored * UNIT

    def forward(self, weight: Tensor) -> Tensor:
        alpha = self.alpha
        return interpolated(weight, self.average + (alpha - alpha.detach()))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The float weight is kept as it is."""
        return weight

    @torch.no_grad()
    def follow_(self) -> None:
        """Clamp alpha to 1..8 and let the moving average follow it."""
        self.stored.clamp_(NARROWEST / UNIT, WIDEST / UNIT)
        self.average.lerp_(self.alpha, 1 - self.momentum).clamp_(NARROWEST, WIDEST)


def learnable(
    model: nn.Module,
    *,
    start: float = 8.0,
    momentum: float = 0.9,
    layers: Iterable[str] | None = None,
) -> nn.Module:
    """A copy of `model` whose layers (all convolutions and dense layers, or `layers`) learn widths.

    Train it with `training.fit(..., penalty=lambda m: price * mean_bits(m), after_step=follow_)`,
    or let `learn_bits` do so. Scales are per output channel, so a batch norm may stay where it is:
    folding multiplies a channel's weights by one number, which changes the scale and no code.
    """
    if not NARROWEST <= start <= WIDEST:
        raise ValueError(f"start must lie in 1..8, got {start!r}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be from 0 to below 1, got {momentum!r}")
    model = copy.deepcopy(model)
    known = weight_layers(model)
    names = list(known if layers is None else layers)
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"unknown layers {unknown}; the layers are {list(known)}")
    if not names:
        raise ValueError("model has no convolution or dense layer that could learn a width")
    for name in names:
        if parametrize.is_parametrized(known[name], "weight"):
            raise ValueError(f"layer {name!r} has a parametrized weight already")
        parametrize.register_parametrization(
            known[name], "weight", LearnedWidth(float(start), momentum)
        )
    return model


def learned_layers(model: nn.Module) -> dict[str, LearnedWidth]:
    """The `LearnedWidth` of each layer that has one, by the layer's name; ValueError for none."""
    found = {
        name: module.parametrizations.weight[0]
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
    }
    found = {name: entry for name, entry in found.items() if isinstance(entry, LearnedWidth)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no learned widths: see `learnable`")
    return found


def follow_(model: nn.Module) -> None:
    """After an optimizer step: clamp every alpha to 1..8, move every average (in place)."""
    for entry in learned_layers(model).values():
        entry.follow_()


def widths(model: nn.Module) -> dict[str, float]:
    """The moving average of alpha by layer, what the forward pass uses."""
    return {name: float(entry.average) for name, entry in learned_layers(model).items()}


def mean_bits(model: nn.Module) -> Tensor:
    """sum N_l alpha_l / sum N_l over the layers that learn, N_l weights each; differentiable."""
    layers = learned_layers(model)
    counts = {name: _stored_weight(model, name).numel() for name in layers}
    total = sum(counts.values())
    return torch.stack([counts[n] / total * entry.alpha for n, entry in layers.items()]).sum()


def round_half_up(width: float) -> int:
    """The whole number of bits nearest to `width` in 1..8; 2.5 becomes 3 (Python's round says 2)."""
    if not NARROWEST <= width <= WIDEST:
        raise ValueError(f"width must lie in 1..8, got {width!r}")
    return math.floor(width + 0.5)


def final_bits(model: nn.Module) -> dict[str, int]:
    """Each layer's moving average, rounded half up."""
    return {name: round_half_up(width) for name, width in widths(model).items()}


def plain(model: nn.Module) -> nn.Module:
    """A copy without learned widths, holding the float weights."""
    model = copy.deepcopy(model)
    for name in learned_layers(model):
        layer = model.get_submodule(name)
        weight = _stored_weight(model, name).detach().clone()  # the next line overwrites it
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        layer.weight = nn.Parameter(weight)
    return model


def settle(model: nn.Module, bits: Mapping[str, int]) -> nn.Module:
    """A copy of the plain `model` with the weights of the named layers on grids of those widths.

    The result can go on to `quantization.quantize_network` with the same widths, which finds the
    same codes again; a layer of 1 bit with width 2 there, whose codes -1 and 1 hold it exactly.
    """
    model = copy.deepcopy(model)
    known = weight_layers(model)
    if unknown := sorted(set(bits) - set(known)):
        raise ValueError(f"bits for unknown layers {unknown}; the layers are {list(known)}")
    for name, width in bits.items():
        check_width(width, f"bits of {name!r}")
    with torch.no_grad():
        for name, width in bits.items():
            weight = known[name].get_parameter("weight")
            weight.copy_(quantize_weight(weight, width))
    return model


@dataclass(frozen=True, eq=False)
class Learned:
    """What `learn_bits` found: whole widths, the float network after the last step, and the path.

    `path` has the moving averages by layer after each optimizer step, starting with step 0.
    """

    bits: dict[str, int]
    network: nn.Module
    path: list[dict[str, float]]
    history: list[dict[str, float]]


def learn_bits(
    model: nn.Module,
    train: Split,
    validation: Split,
    *,
    price: float,
    epochs: int,
    lr: float = 1e-3,
    batch_size: int = 128,
    start: float = 8.0,
    momentum: float = 0.9,
    seed: int = 0,
    progress: bool = True,
) -> Learned:
    """Train weights and widths together; `price` is in units of loss per mean bit of a weight.

    The widths are those after the last step, not those of the epoch of best accuracy: early epochs
    have more bits and would win. The learning rate is constant, so that widths can move to the end.
    """
    if not (math.isfinite(price) and price >= 0):
        raise ValueError(f"price must be 0 or more, got {price!r}")
    steps = epochs * math.ceil(len(train) / batch_size)
    network = learnable(model, start=start, momentum=momentum)
    path, last = [widths(network)], [network]

    def after_step(trained: nn.Module) -> None:
        follow_(trained)
        path.append(widths(trained))
        if len(path) == steps + 1:
            last[0] = copy.deepcopy(trained)

    _, history = training.fit(
        network,
        train,
        validation,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        schedule="constant",
        penalty=lambda m: price * mean_bits(m),
        after_step=after_step,
        seed=seed,
        progress=progress,
    )
    return Learned(final_bits(last[0]), plain(last[0]).eval(), path, history)


def _stored_weight(model: nn.Module, name: str) -> Tensor:
    """The float weight beneath a layer's parametrization."""
    return model.get_submodule(name).parametrizations.weight.original  # type: ignore
