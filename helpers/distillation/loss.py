"""The loss that teaches a student by a teacher's softened outputs, its gradient, its limits.

Sources: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2;
the food-11 article's formula, with the softmax that it leaves out.

Chapter: 07_distillation.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import training

# Layers that compute something else in train mode than in eval mode.
_MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature) along the last dimension: probabilities of `logits`' shape.

    Temperature 1 is the network's own opinion; a higher one moves probability from the first
    class to the others and keeps their order. Raises ValueError for a temperature that is not
    finite and above 0.

    >>> soft_targets(torch.tensor([4.0, 0.0]), 4.0)[1].item()  # doctest: +ELLIPSIS
    0.2689...
    """
    _temperature(temperature)
    return (logits / temperature).softmax(-1)


def soft_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T**2 * KL(p || q), the mean over the batch: p the teacher's soft targets, q the student's.

    Both logits are (N, classes) of one floating dtype. The gradient of KL falls like 1/T**2; the
    factor T**2 keeps its size when the temperature changes. `F.kl_div` takes log q first and p
    second, and divides by N only with reduction="batchmean".

    Raises ValueError for bad temperatures, for shapes or dtypes that do not match, and for teacher
    logits that carry a gradient (the student's loss would train the teacher too).
    """
    _temperature(temperature)
    _pair(logits, teacher_logits)
    log_q = F.log_softmax(logits / temperature, 1)
    log_p = F.log_softmax(teacher_logits / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def soft_gradient(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The gradient of `soft_loss` with respect to the student's logits: T (q - p) / N, (N, classes).

    For a large temperature and logits of mean zero in each row this tends to
    (logits - teacher_logits) / (N * classes): the student is then fitted to the logits themselves.
    """
    _temperature(temperature)
    _pair(logits, teacher_logits)
    q, p = soft_targets(logits, temperature), soft_targets(teacher_logits, temperature)
    return temperature * (q - p) / len(logits)


def distillation_loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor, *, temperature: float, alpha: float
) -> Tensor:
    """alpha * T**2 * KL(p || q) + (1 - alpha) * cross entropy with the labels; a scalar.

    The labels' part always has temperature 1, as the student will be used. `labels` is (N,),
    int64; with alpha 1 they are not looked at, so images without labels serve too. Raises
    ValueError as `soft_loss` does, and for an alpha outside [0, 1].
    """
    _alpha(alpha)
    soft = soft_loss(logits, teacher_logits, temperature)
    if alpha == 1:
        return soft
    return alpha * soft + (1 - alpha) * F.cross_entropy(logits, labels)


def distilling(temperature: float, alpha: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`distillation_loss` with both settings filled in, as `training.fit` calls it.

    Use it as `fit(..., loss=distilling(4.0, 0.9), per_image=teacher_logits(teacher, train.x))`.
    Raises ValueError for bad settings at once, not in the first step.
    """
    _temperature(temperature)
    _alpha(alpha)

    def loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        return distillation_loss(logits, labels, rows, temperature=temperature, alpha=alpha)

    return loss


def check_teacher(teacher: nn.Module) -> None:
    """Refuse a teacher that could change or that answers at random.

    Raises ValueError, naming the place, if a parameter has requires_grad=True, or if a batch norm
    or dropout is in train mode: it would use the batch's statistics (and move its own) or drop
    units. `helpers.distillation.freeze(teacher)` gives a copy that passes.
    """
    for name, parameter in teacher.named_parameters():
        if parameter.requires_grad:
            raise ValueError(
                f"the teacher is not frozen: {name!r} has requires_grad=True; use freeze(teacher)"
            )
    for name, module in teacher.named_modules():
        if isinstance(module, _MODAL) and module.training:
            raise ValueError(
                f"the teacher is in train mode: {name!r} ({type(module).__name__}) gives other "
                "outputs than in eval mode; use freeze(teacher)"
            )


def teacher_logits(teacher: nn.Module, x: Tensor, batch_size: int = 200) -> Tensor:
    """The frozen teacher's outputs for the images `x`, (N, classes), computed once for all epochs.

    Raises ValueError for a teacher that is not frozen (`check_teacher`) and for outputs that are
    not finite.
    """
    check_teacher(teacher)
    found = training.logits(teacher, x, batch_size)
    if not torch.isfinite(found).all():
        raise ValueError("the teacher's logits hold values that are not finite")
    return found


def _temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be finite and above 0, got {temperature!r}")


def _alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha!r}")


def _pair(logits: Tensor, teacher_logits: Tensor) -> None:
    """Refuse logits that cannot be compared row by row."""
    if logits.ndim != 2 or logits.shape != teacher_logits.shape or not len(logits):
        raise ValueError(
            "logits and teacher_logits must both be (N, classes) with N at least 1, got "
            f"{tuple(logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    if not logits.is_floating_point() or logits.dtype != teacher_logits.dtype:
        raise ValueError(
            "logits and teacher_logits must have one floating dtype, got "
            f"{logits.dtype} and {teacher_logits.dtype}"
        )
    if teacher_logits.requires_grad:
        raise ValueError(
            "teacher_logits carries a gradient into the teacher: freeze the teacher, or detach"
        )
