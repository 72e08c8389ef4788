"""One training loop for every lab: plain PyTorch, seeded, with the best weights on validation kept.

Chapter: 01_cost.
"""

import copy
import math
import os
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from helpers.data import Split

PROFILES = ("quick", "full")
SCHEDULES = ("cosine", "constant")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (every device)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - seeds what other libraries draw from the global state
    torch.manual_seed(seed)


def profile() -> str:
    """The profile, "quick" (default) or "full": the environment variable COURSE_PROFILE."""
    value = os.environ.get("COURSE_PROFILE", "quick")
    if value not in PROFILES:
        raise ValueError(f"COURSE_PROFILE must be one of {', '.join(PROFILES)}, got {value!r}")
    return value


def fit(
    model: nn.Module,
    train: Split,
    validation: Split,
    *,
    epochs: int,
    lr: float = 1e-3,
    batch_size: int = 128,
    weight_decay: float = 0.0,
    schedule: str = "cosine",
    loss: Callable[..., Tensor] = F.cross_entropy,
    per_image: Tensor | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    seed: int = 0,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    after_step: Callable[[nn.Module], Any] | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a copy of `model` with AdamW; return it with its best weights, and the history.

    The copy has the weights of the epoch with the highest validation accuracy (the earliest of
    equals) and is in eval mode. The history has a dict for each epoch: epoch (from 1), loss (mean
    over the images, without the penalty), validation_accuracy, lr (at the epoch's end), seconds,
    and penalty (mean over the steps) where there is one.

    "cosine" lets the learning rate fall from `lr` to 0 over all steps. The loss is called as
    `loss(logits, labels)`, or with `per_image`, a tensor (N, ...) whose rows go with the training
    images (a teacher's logits, say), as `loss(logits, labels, rows)`. `penalty(model)` is a scalar
    that is added to it. `augment(x, generator)` may change a batch; `after_step(model)` runs after
    each optimizer step (to hold weights at zero, say). Parameters with `requires_grad=False` stay,
    and so do the statistics of a batch norm whose weight is frozen. `device` defaults to the
    model's own. The same arguments give the same bits on one machine with one number of threads;
    the global random state is left as it was.

    Raises ValueError for bad arguments, FloatingPointError when the loss is not finite.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    for name, value, allowed in (
        ("epochs", epochs, epochs >= 1),
        ("batch_size", batch_size, batch_size >= 1),
        ("lr", lr, 0 < lr < math.inf),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf),
    ):
        if not allowed:
            raise ValueError(f"{name} is out of its range, got {value!r}")
    device = torch.device(device) if device is not None else _device(model)
    model = copy.deepcopy(model).to(device)
    _check(model, train, "train")
    _check(model, validation, "validation")
    if per_image is not None and len(per_image) != len(train):
        raise ValueError(
            f"per_image must have one row for each of {len(train)} images, "
            f"got shape {tuple(per_image.shape)}"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model has no parameter with requires_grad=True, so nothing can be fitted")

    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    steps, step = epochs * math.ceil(len(train) / batch_size), 0
    history: list[dict[str, float]] = []
    best_accuracy, best_state = -1.0, model.state_dict()
    bar = tqdm(total=steps, disable=not progress, leave=False, unit="step", mininterval=0.5)
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # what dropout draws from
        for epoch in range(1, epochs + 1):
            started, total, extra, batches = time.perf_counter(), 0.0, 0.0, 0
            _train_mode(model)
            for batch in torch.randperm(len(train), generator=generator).split(batch_size):
                x, y = train.x[batch], train.y[batch]
                if augment is not None:
                    x = augment(x, generator)
                rows = () if per_image is None else (per_image[batch].to(device),)
                error = loss(model(x.to(device)), y.to(device), *rows)
                added = torch.zeros(()) if penalty is None else penalty(model)
                objective = error + added
                if not torch.isfinite(objective):
                    raise FloatingPointError(
                        f"the loss is {objective.item()} in epoch {epoch}; "
                        f"a smaller lr than {lr:g} may help"
                    )
                optimizer.zero_grad()
                objective.backward()
                optimizer.step()
                if after_step is not None:
                    after_step(model)
                total += error.item() * len(batch)
                extra += added.item()
                batches += 1
                step += 1
                if schedule == "cosine":
                    optimizer.param_groups[0]["lr"] = (
                        lr * (1 + math.cos(math.pi * step / steps)) / 2
                    )
                bar.update()
            accuracy = evaluate(model, validation)
            if accuracy > best_accuracy:
                best_accuracy, best_state = accuracy, copy.deepcopy(model.state_dict())
            history.append(
                {
                    "epoch": epoch,
                    "loss": total / len(train),
                    "validation_accuracy": accuracy,
                    "lr": optimizer.param_groups[0]["lr"],
                    "seconds": time.perf_counter() - started,
                    **({} if penalty is None else {"penalty": extra / batches}),
                }
            )
            bar.set_postfix(epoch=epoch, validation=f"{accuracy:.4f}")
    model.load_state_dict(best_state)
    return model.eval(), history


def evaluate(model: nn.Module, split: Split, batch_size: int = 200) -> float:
    """Fraction of `split` whose label has the highest logit, in eval mode; the mode is restored."""
    _check(model, split, "split")
    return float((logits(model, split.x, batch_size).argmax(1) == split.y.cpu()).double().mean())


def logits(model: nn.Module, x: Tensor, batch_size: int = 200) -> Tensor:
    """The network's outputs for `x`, (N, classes) on the CPU, in eval mode; the mode is restored."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(x) == 0:
        raise ValueError("x holds no images")
    device = _device(model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return torch.cat([model(part.to(device)).cpu() for part in x.split(batch_size)])
    finally:
        for module, mode in modes:
            module.training = mode


def _device(model: nn.Module) -> torch.device:
    """Where the model's first parameter is; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _train_mode(model: nn.Module) -> None:
    """Train mode for all but frozen batch norms, whose running statistics would move otherwise."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BATCH_NORMS) and module.affine and not module.weight.requires_grad:
            module.eval()


def _check(model: nn.Module, split: Split, name: str) -> None:
    """Refuse a split that the model cannot be trained or measured on, naming what is wrong."""
    x, y = split.x, split.y
    if len(x) == 0:
        raise ValueError(f"{name} is empty: it holds no images")
    if len(x) != len(y) or y.ndim != 1 or y.dtype != torch.int64:
        raise ValueError(
            f"{name} must hold one int64 label an image, got {len(x)} images and labels of "
            f"shape {tuple(y.shape)}, {y.dtype}"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name}.x must be floating point (normalized images), got {x.dtype}")
    for key, value in (*model.state_dict().items(), (f"{name}.x", x)):
        if (
            value.is_floating_point()
            and value.numel()
            and not torch.isfinite(torch.stack(torch.aminmax(value))).all()
        ):
            raise ValueError(f"{key} holds values that are not finite")
    try:
        output = logits(model, x[:1])
    except RuntimeError as error:
        raise ValueError(
            f"{name}.x of shape {tuple(x.shape)} does not fit the model: {error}"
        ) from error
    if output.ndim != 2:
        raise ValueError(f"the model must return (N, classes), got {tuple(output.shape)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= output.shape[1]:
        raise ValueError(
            f"{name}.y must be from 0 to {output.shape[1] - 1} for this model, got {low} to {high}"
        )
