"""Matching an intermediate layer: the teacher's features as a hint for the student's.

Source: Romero et al., "FitNets: Hints for Thin Deep Nets" (2015), section 2.2, equation 3.

Chapter: 07_distillation.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from helpers import training
from helpers.distillation.loss import check_teacher


def layer_output(model: nn.Module, layer: str, x: Tensor, batch_size: int = 200) -> Tensor:
    """What the module `layer` puts out for the images `x`, (N, ...) on the CPU, in eval mode.

    Nothing carries a gradient and the model's modes are restored. Raises ValueError for a layer
    that is not in the model and for no images.
    """
    return training.logits(_Tap(model, layer), x, batch_size)


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """Half the squared distance ||hint - guided||^2 of each row, the mean over the batch.

    Both are (N, ...) of one shape: the regressor's output and the teacher's features. Raises
    ValueError for other shapes and for a hint that carries a gradient into the teacher.
    """
    if guided.shape != hint.shape or guided.ndim < 2 or not len(guided):
        raise ValueError(
            "guided and hint must have one shape (N, ...), got "
            f"{tuple(guided.shape)} and {tuple(hint.shape)}"
        )
    if hint.requires_grad:
        raise ValueError("hint carries a gradient into the teacher: freeze the teacher, or detach")
    return (hint - guided).square().flatten(1).sum(1).mean() / 2


def regressor_for(guided: Tensor, hint: Tensor) -> nn.Module:
    """The layer that carries the student's features to the teacher's shape, freshly initialized.

    For (N, features) a dense layer, for (N, C, H, W) maps of one size a 1x1 convolution. Raises
    ValueError for anything else.
    """
    if guided.ndim == hint.ndim == 2:
        return nn.Linear(guided.shape[1], hint.shape[1])
    if guided.ndim == hint.ndim == 4 and guided.shape[2:] == hint.shape[2:]:
        return nn.Conv2d(guided.shape[1], hint.shape[1], 1)
    raise ValueError(
        "a regressor joins features (N, F) or maps (N, C, H, W) of one size, got "
        f"{tuple(guided.shape)} and {tuple(hint.shape)}"
    )


def fit_hint(
    student: nn.Module,
    layer: str,
    teacher: nn.Module,
    teacher_layer: str,
    x: Tensor,
    *,
    epochs: int,
    lr: float = 1e-3,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> tuple[nn.Module, list[float]]:
    """First stage of FitNets: train a copy of the student up to `layer` to predict the hint.

    The teacher's features at `teacher_layer` are computed once; a regressor (`regressor_for`) is
    trained along and thrown away. No labels are used, and what comes after `layer` stays as it
    was. Returns the copy, in eval mode, and the mean hint loss of each epoch. The second stage is
    `training.fit` with `distilling`. The same arguments give the same bits.

    Raises ValueError for bad arguments and for a teacher that is not frozen.
    """
    for name, value, allowed in (
        ("epochs", epochs, epochs >= 1),
        ("batch_size", batch_size, batch_size >= 1),
        ("lr", lr, 0 < lr < math.inf),
    ):
        if not allowed:
            raise ValueError(f"{name} is out of its range, got {value!r}")
    check_teacher(teacher)
    hints = layer_output(teacher, teacher_layer, x)
    guided = layer_output(student, layer, x[:1])
    student, losses = copy.deepcopy(student).train(), []
    bar = tqdm(total=epochs, disable=not progress, leave=False, unit="epoch", mininterval=0.5)
    with bar, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        regressor = regressor_for(guided, hints[:1])
        tap = _Tap(student, layer)
        parameters = [p for p in student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [*parameters, *regressor.parameters()], lr=lr, weight_decay=0.0
        )
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            total = 0.0
            for batch in torch.randperm(len(x), generator=generator).split(batch_size):
                loss = hint_loss(regressor(tap(x[batch])), hints[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
            losses.append(total / len(x))
            bar.update()
    return student.eval(), losses


class _Reached(Exception):
    """Ends a forward pass at the layer that was waited for."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


class _Tap(nn.Module):
    """A model that ends at `layer`: what comes after it does not run."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        modules = dict(model.named_modules())
        if layer not in modules or not layer:
            raise ValueError(
                f"no module {layer!r} in the model; its modules are {list(modules)[1:]}"
            )
        self.model, self.layer = model, layer

    def forward(self, x: Tensor) -> Tensor:
        def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            raise _Reached(output)

        handle = self.model.get_submodule(self.layer).register_forward_hook(stop)
        try:
            self.model(x)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise ValueError(f"the model's forward pass does not use its module {self.layer!r}")
