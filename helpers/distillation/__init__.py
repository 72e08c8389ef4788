"""Distillation: a small network learns from a large one's outputs, or from its features.

- `loss`: soft targets, the loss with temperature, its gradient, what a teacher must be;
- `transfer`: a teacher by transfer (freeze, new head, unfreeze), and the two tasks of the lab;
- `hints`: matching an intermediate layer (FitNets);
- `controls`: flipped labels, classes left out, the bias that makes up for one.

Chapter: 07_distillation.
"""

from helpers.distillation.controls import (
    best_bias,
    flip_labels,
    without_class,
)
from helpers.distillation.hints import fit_hint, hint_loss, layer_output, regressor_for
from helpers.distillation.loss import (
    check_teacher,
    distillation_loss,
    distilling,
    soft_gradient,
    soft_loss,
    soft_targets,
    teacher_logits,
)
from helpers.distillation.transfer import (
    TransferTask,
    food11_task,
    freeze,
    head_name,
    new_head,
    resnet34,
    transfer,
    unfreeze,
    upside_down_task,
)

__all__ = [
    "TransferTask",
    "best_bias",
    "check_teacher",
    "distillation_loss",
    "distilling",
    "fit_hint",
    "flip_labels",
    "food11_task",
    "freeze",
    "head_name",
    "hint_loss",
    "layer_output",
    "new_head",
    "regressor_for",
    "resnet34",
    "soft_gradient",
    "soft_loss",
    "soft_targets",
    "teacher_logits",
    "transfer",
    "unfreeze",
    "upside_down_task",
    "without_class",
]
