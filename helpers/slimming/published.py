"""The food-11 article's pruning table as published, and what its rows say about the training.

Five rates, each 0.95 of the one before, five epochs at each: accuracy on the training and on the
validation images after every epoch.

Chapter: 08_slimming.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

RATES = (0.95, 0.9025, 0.8574, 0.8145, 0.7738)
TRAINING_ACCURACY = (
    (0.7110, 0.7122, 0.7161, 0.7121, 0.7111),
    (0.6726, 0.6713, 0.6627, 0.6690, 0.6745),
    (0.6200, 0.6216, 0.6199, 0.6134, 0.6223),
    (0.5771, 0.5735, 0.5749, 0.5781, 0.5813),
    (0.5461, 0.5446, 0.5481, 0.5426, 0.5478),
)
VALIDATION_ACCURACY = (
    (0.5808, 0.5808, 0.5828, 0.5802, 0.5787),
    (0.5545, 0.5586, 0.5464, 0.5516, 0.5560),
    (0.5105, 0.5117, 0.5163, 0.5137, 0.5015),
    (0.4895, 0.4825, 0.4825, 0.4863, 0.4831),
    (0.4685, 0.4691, 0.4636, 0.4633, 0.4589),
)
TRAINING_IMAGES = 9866  # of food-11
VALIDATION_IMAGES = 3430


def slope(values: Sequence[float]) -> float:
    """Change per step of the least-squares line through equally spaced `values`."""
    n = len(values)
    if n < 2:
        raise ValueError(f"values must hold at least two numbers, got {list(values)}")
    middle, mean = (n - 1) / 2, sum(values) / n
    products = sum((i - middle) * (value - mean) for i, value in enumerate(values))
    return products / sum((i - middle) ** 2 for i in range(n))


@dataclass(frozen=True)
class Row:
    """What five epochs at one rate did to an accuracy."""

    mean: float
    slope: float  # per epoch
    deviation: float  # standard deviation over the epochs (n - 1)
    sampling: float  # standard error of an accuracy of that mean on that many images
    slope_error: float  # of a slope through epochs that vary by `sampling` and nothing else


def describe(values: Sequence[float], images: int) -> Row:
    """Mean, slope and scatter of the accuracies of successive epochs, measured on `images` images."""
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ValueError(f"images must be a whole number of 1 or more, got {images!r}")
    n, gradient = len(values), slope(values)
    mean = sum(values) / n
    if not 0 <= min(values) <= max(values) <= 1:
        raise ValueError(f"values must be accuracies from 0 to 1, got {list(values)}")
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    sampling = math.sqrt(mean * (1 - mean) / images)
    spread = math.sqrt(sum((i - (n - 1) / 2) ** 2 for i in range(n)))
    return Row(mean, gradient, deviation, sampling, sampling / spread)
