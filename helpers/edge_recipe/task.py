"""The recipe's task: a few classes to tell apart, and everything else as one class "background".

The GW2A accelerator paper pre-trains on ImageNet and then tells nine animals from a background made
of other animals and empty scenes, with 13,393 images in all. Here six classes of
Fashion-MNIST are the large data set; the other four, with a few labels each, are the task, and the
background is made of the six.

Source: Meng et al. 2024, section 2.1.

Chapter: 10_edge_recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.data import Dataset, Split

TARGETS = (0, 3, 5, 8)  # T-shirt/top, dress, sandal, bag


@dataclass(frozen=True)
class EdgeTask:
    """Splits whose labels are 0 .. len(class_names) - 1; the last class is the background."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]


def only(split: Split, classes: Sequence[int]) -> Split:
    """The images of `classes`, in the order of `split`, labelled by their place in `classes`.

    >>> split = Split(torch.zeros(4, 1, 2, 2), torch.tensor([3, 0, 5, 3]))
    >>> only(split, (5, 3)).y.tolist()
    [1, 0, 1]
    """
    places = _places(classes, int(split.y.max()) + 1)
    kept = places[split.y] >= 0
    return Split(split.x[kept], places[split.y[kept]])


def with_background(split: Split, targets: Sequence[int], count: int, *, skip: int = 0) -> Split:
    """`count` images of each class of `targets` and as many of all other classes together.

    They are the first of each class, or those after the first `skip`. Labels are the places in
    `targets`, and len(targets) for the background, which takes its images from the other classes in
    turn, so that their shares differ by one image at most.

    Raises ValueError for unknown or repeated targets, none left for the background, and classes with
    too few images.
    """
    classes = int(split.y.max()) + 1
    places = _places(targets, classes)
    others = [c for c in range(classes) if places[c] < 0]
    if not others:
        raise ValueError(f"targets {list(targets)} leave no class for the background")
    if count < len(others) or skip < 0:
        raise ValueError(
            f"count must be at least {len(others)} (one of each background class) and skip 0 or "
            f"more, got {count} and {skip}"
        )
    shares = {c: _share(count, len(others), i) for i, c in enumerate(others)}
    skipped = {c: _share(skip, len(others), i) for i, c in enumerate(others)}
    chosen = []
    for c in (*targets, *others):
        n, start = shares.get(c, count), skipped.get(c, skip)
        found = (split.y == c).nonzero()[start : start + n, 0]
        if len(found) < n:
            raise ValueError(
                f"class {c} has {int((split.y == c).sum())} images, fewer than the {n} after "
                f"skip={start} that count={count} asks for"
            )
        chosen.append(found)
    rows = torch.cat(chosen)
    labels = places[split.y[rows]]
    return Split(split.x[rows], torch.where(labels < 0, len(targets), labels))


def edge_task(
    dataset: Dataset, *, labelled: int, held: int, targets: Sequence[int] = TARGETS
) -> EdgeTask:
    """The task on `dataset`: `labelled` training and `held` validation images of each of its classes.

    The test split has every test image of the targets and as many of the background as of one target.
    """
    tests = min(int((dataset.test.y == c).sum()) for c in targets)
    return EdgeTask(
        train=with_background(dataset.train, targets, labelled),
        validation=with_background(dataset.validation, targets, held),
        test=with_background(dataset.test, targets, tests),
        class_names=(*(dataset.class_names[c] for c in targets), "background"),
    )


def source_classes(classes: int = 10, targets: Sequence[int] = TARGETS) -> tuple[int, ...]:
    """The classes that pre-training may see: all but the targets."""
    return tuple(c for c in range(classes) if c not in targets)


def shrink(dataset: Dataset, split: Split, size: int) -> Split:
    """The same images at `size` x `size` pixels, in whole pixel codes, as a smaller camera gives.

    Bilinear with antialiasing, as `data.load(size=...)`; `dataset` has the normalization. Raises
    ValueError for a size that is larger than the images or below 1.
    """
    side = split.x.shape[-1]
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= side:
        raise ValueError(f"size must be a whole number from 1 to {side} pixels, got {size!r}")
    parts = []
    for x in split.x.split(500):
        codes = dataset.pixels(x)
        if size != side:
            codes = F.interpolate(codes, (size, size), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).view(-1, 1, 1) * 255 for v in (dataset.mean, dataset.std))
        parts.append((codes.float() - mean) / std)
    return Split(torch.cat(parts), split.y)


def _share(count: int, parts: int, index: int) -> int:
    """What part `index` gets when `count` is dealt to `parts` in turn."""
    return count // parts + (index < count % parts)


def _places(targets: Sequence[int], classes: int) -> Tensor:
    """For each class its place in `targets`, -1 for the others."""
    if not targets or len(set(targets)) < len(targets):
        raise ValueError(f"targets must be one or more different classes, got {list(targets)}")
    unknown = [c for c in targets if not 0 <= c < classes]
    if unknown:
        raise ValueError(f"targets must be from 0 to {classes - 1}, got {unknown}")
    places = torch.full((classes,), -1)
    places[list(targets)] = torch.arange(len(targets))
    return places
