"""Bits per layer under a byte budget: what each layer bears, measured, and the best choice, exactly.

The loss of a choice is taken to be the sum of its layers' losses, each measured with that layer alone
quantized. Choosing one width per layer is then a multiple-choice knapsack problem. With this few
layers it is solved exactly, for all budgets at once: layer by layer, keep every (bytes, loss) that no
other choice beats in both.

Source of the dynamic programme: Kellerer, Pferschy, Pisinger, "Knapsack Problems" (2004), chapter 11.

Chapter: 09b_qat.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from joblib import Parallel, delayed
from torch import nn

from helpers import training
from helpers.data import Split
from helpers.models import weight_layers
from helpers.qat.bits import check_width, settle

Losses = Mapping[str, Mapping[int, float]]  # by layer and width


@dataclass(frozen=True)
class Choice:
    """One width per layer, the bytes of the weights, and the sum of the layers' losses."""

    bytes: int
    loss: float
    bits: dict[str, int]


def weight_counts(model: nn.Module) -> dict[str, int]:
    """Weights (biases apart) by convolution or dense layer."""
    return {n: m.weight.numel() for n, m in weight_layers(model).items()}


def weight_bytes(counts: Mapping[str, int], bits: int | Mapping[str, int]) -> int:
    """Bytes of the codes, each layer packed without gaps and filled up to a whole byte.

    Scales and biases are the same for every choice of widths and are left out.
    """
    table = dict.fromkeys(counts, bits) if isinstance(bits, int) else dict(bits)
    if set(table) != set(counts):
        raise ValueError(f"bits must name the layers {list(counts)}, got {list(table)}")
    for name, width in table.items():
        check_width(width, f"bits of {name!r}")
    return sum(_packed(counts[name], width) for name, width in table.items())


def _packed(count: int, width: int) -> int:
    return -(-count * width // 8)


def sensitivity(
    model: nn.Module, images: Split, widths: Sequence[int], *, batch_size: int = 200
) -> dict[str, dict[int, float]]:
    """Loss added by each layer at each width, all other layers float: mean cross-entropy, nats.

    `images` are labelled training or validation images, never the test set: widths are chosen by
    the result. Small negative entries are measured ones: a coarse weight can be luckier than a fine
    one. The measurements run through joblib.
    """
    names = list(weight_layers(model))
    if not widths or not names:
        raise ValueError(f"widths and layers must not be empty, got {list(widths)} and {names}")
    for width in widths:
        check_width(width, "width")
    before = _loss(model, images, batch_size)
    jobs = [(name, width) for name in names for width in widths]
    after = Parallel()(
        delayed(_loss_at)(model, name, width, images, batch_size) for name, width in jobs
    )
    table: dict[str, dict[int, float]] = {name: {} for name in names}
    for (name, width), loss in zip(jobs, after, strict=True):
        table[name][width] = loss - before
    return table


def _loss_at(model: nn.Module, name: str, width: int, images: Split, batch_size: int) -> float:
    return _loss(settle(model, {name: width}), images, batch_size)


def _loss(model: nn.Module, images: Split, batch_size: int) -> float:
    return float(F.cross_entropy(training.logits(model, images.x, batch_size), images.y))


def frontier(losses: Losses, counts: Mapping[str, int]) -> list[Choice]:
    """Every choice of widths that no other beats in both bytes and loss, by rising bytes.

    `losses` gives each layer's loss at the widths it may have. Exact for losses that add up; of
    equals in both, the one with the narrower early layers is kept. The cost grows with the number of
    different byte sums, a few thousand for the course's networks.
    """
    if not losses or set(losses) != set(counts):
        raise ValueError(f"losses must name the layers {list(counts)}, got {list(losses)}")
    best: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    for name, row in losses.items():
        for width, loss in row.items():
            check_width(width, f"width of {name!r}")
            if not math.isfinite(loss):
                raise ValueError(f"the loss of {name!r} at {width} bits is {loss!r}, not finite")
        if not row:
            raise ValueError(f"layer {name!r} has no width to choose from")
        grown = [
            (size + _packed(counts[name], width), total + loss, (*chosen, width))
            for size, total, chosen in best
            for width, loss in row.items()
        ]
        best, least = [], math.inf
        for entry in sorted(grown):
            if entry[1] < least:
                best.append(entry)
                least = entry[1]
    return [
        Choice(size, loss, dict(zip(losses, chosen, strict=True))) for size, loss, chosen in best
    ]


def choose_bits(losses: Losses, counts: Mapping[str, int], budget: int) -> Choice:
    """The choice of least total loss whose weights take at most `budget` bytes.

    Raises ValueError for a budget below the smallest choice, naming that choice's bytes.
    """
    choices = frontier(losses, counts)
    if budget < choices[0].bytes:
        raise ValueError(f"budget must be at least {choices[0].bytes:,} bytes, got {budget:,}")
    return max((c for c in choices if c.bytes <= budget), key=lambda choice: choice.bytes)
