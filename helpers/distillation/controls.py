"""What the experiments change on purpose: labels flipped, classes left out; and the bias that helps.

Chapter: 07_distillation.
"""

import torch
from torch import Tensor

from helpers.data import Split


def flip_labels(labels: Tensor, rate: float, classes: int, *, seed: int = 0) -> Tensor:
    """A copy of `labels` (N,) in which exactly round(rate * N) differ from what they were.

    Which ones, and which of the other classes each gets, is drawn evenly ("symmetric noise").
    Raises ValueError for a rate outside [0, 1], fewer than two classes, or labels outside them.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be from 0 to 1, got {rate!r}")
    if classes < 2:
        raise ValueError(f"classes must be at least 2 so that a label can flip, got {classes}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {labels.tolist()[:10]} ...")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]
    step = torch.randint(1, classes, (len(chosen),), generator=generator)
    flipped = labels.clone()
    flipped[chosen] = (labels[chosen] + step.to(labels)) % classes
    return flipped


def without_class(split: Split, label: int) -> Split:
    """The images of all classes but one, with their labels as they were."""
    kept = split.y != label
    return Split(split.x[kept], split.y[kept])


def best_bias(logits: Tensor, labels: Tensor, label: int) -> float:
    """What to add to the logit of class `label` so that the most rows (N, classes) are right.

    Found exactly: row i changes its answer to `label` where the bias exceeds the lead of its best
    other class, so only the gaps between sorted leads need a look. The middle of the best gap is
    returned; of equally good ones that nearest to 0.
    """
    if logits.ndim != 2 or not 0 <= label < logits.shape[1] or len(labels) != len(logits):
        raise ValueError(
            f"logits must be (N, classes) with one label a row and label one of the classes, got "
            f"{tuple(logits.shape)}, {len(labels)} labels and label={label}"
        )
    others = logits.double().clone()
    others[:, label] = -torch.inf
    best, rival = others.max(1)
    leads, order = (best - logits[:, label]).sort()  # row i says `label` once the bias exceeds it
    gains = (labels[order] == label).long() - (rival[order] == labels[order]).long()
    score = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # after the first k rows changed
    edges = torch.cat([leads[:1] - 2, leads, leads[-1:] + 2])
    middles = (edges[:-1] + edges[1:]) / 2
    real = edges[1:] > edges[:-1]  # equal leads change together
    good = middles[real & (score == score[real].max())]
    return float(good[good.abs().argmin()])
