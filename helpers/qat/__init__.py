"""Quantization-aware training: the quantizer inside the training loop.

- `fake`: fake quantization with the straight-through gradient, per tensor and per channel;
- `lsq`: a quantizer whose step is learned;
- `quantizers`: the grids of weights and activations while they move;
- `network`: `prepare` a float network, train it with `training.fit`, `convert` it to integers;
- `bits`: widths that are learned, and `budget`: widths that are chosen for a number of bytes;
- `stages`: float, weights, activations, fine-tune, and `split`: an integer backbone, a float head.

Chapter: 09b_qat.
"""

from helpers.qat.fake import fake_quantize_ste, round_ste, sign_ste
from helpers.qat.lsq import initial_step, least_squares_step, lsq
from helpers.qat.network import (
    QATNetwork,
    convert,
    freeze_ranges_,
    freeze_statistics_,
    prepare,
)
from helpers.qat.quantizers import ActivationQuantizer, WeightQuantizer

__all__ = [
    "ActivationQuantizer",
    "QATNetwork",
    "WeightQuantizer",
    "convert",
    "fake_quantize_ste",
    "freeze_ranges_",
    "freeze_statistics_",
    "initial_step",
    "least_squares_step",
    "lsq",
    "prepare",
    "round_ste",
    "sign_ste",
]
