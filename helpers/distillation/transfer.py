"""A teacher by transfer: freeze a trained body, fit a new head, then let everything move a little.

Sources: the food-11 article (a ResNet-34 of which only the last layer was trained); the GW2A
accelerator paper (first the head, then all layers at a lower learning rate).

Chapter: 07_distillation.
"""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers import data, models, training
from helpers.data import Split

_NORMS = nn.modules.batchnorm._BatchNorm


def head_name(model: nn.Module) -> str:
    """The name of the model's last dense layer, its head ("fc" in a ResNet, "fc3" in LeNet300100).

    Raises ValueError for a model without an `nn.Linear`.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no nn.Linear, so no head to replace")
    return names[-1]


def freeze(model: nn.Module, *, but: Sequence[str] = ()) -> nn.Module:
    """A copy in eval mode whose parameters do not train, except those of the modules named in `but`.

    In PyTorch `requires_grad=False` does not stop a batch norm's running statistics, which move in
    train mode. `training.fit` leaves a batch norm with a frozen weight in eval mode, so they stay;
    one without a weight (affine=False) cannot be told apart there and is refused beside `but`.

    Raises ValueError for a name that is no module of the model.
    """
    modules = dict(model.named_modules())
    for name in but:
        if name not in modules or not name:
            raise ValueError(
                f"no module {name!r} in the model; its modules are {list(modules)[1:]}"
            )
    for name, module in modules.items():
        if but and isinstance(module, _NORMS) and not module.affine:
            raise ValueError(f"{name!r} has no weight to freeze (affine=False)")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for name in but:
        model.get_submodule(name).requires_grad_(True)
    return model


def unfreeze(model: nn.Module) -> nn.Module:
    """A copy whose parameters all train. Give them to a new optimizer: an old one skips them."""
    return copy.deepcopy(model).requires_grad_(True)


def new_head(model: nn.Module, classes: int, *, seed: int = 0) -> nn.Module:
    """A copy whose last dense layer is fresh, with `classes` outputs, and trains; the rest as it was.

    Raises ValueError for fewer than two classes or a model without a dense layer.
    """
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    name = head_name(model)
    model = copy.deepcopy(model)
    old = model.get_submodule(name)
    assert isinstance(old, nn.Linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(old.in_features, classes)
    models.replace_module_(model, name, head.to(old.weight.device, old.weight.dtype))
    return model


def transfer(
    model: nn.Module,
    classes: int,
    train: Split,
    validation: Split,
    *,
    head_epochs: int,
    epochs: int,
    lr: float = 1e-3,
    fine_lr: float = 1e-4,
    seed: int = 0,
    **settings: Any,
) -> tuple[nn.Module, nn.Module]:
    """Both phases on a trained model: (only the new head trained, then all layers trained).

    The first phase fits a new head at `lr` on the frozen body, the second everything at `fine_lr`,
    each with its own optimizer. `settings` go to both calls of `training.fit` (batch_size, device,
    progress ...). Raises ValueError for bad arguments.
    """
    started = new_head(freeze(model), classes, seed=seed)
    head_only, _ = training.fit(
        started, train, validation, epochs=head_epochs, lr=lr, seed=seed, **settings
    )
    tuned, _ = training.fit(
        unfreeze(head_only), train, validation, epochs=epochs, lr=fine_lr, seed=seed, **settings
    )
    return head_only, tuned


@dataclass(frozen=True)
class TransferTask:
    """A network trained on something else, and a new task with few labels.

    `train` has the labelled images, `pool` images of the task (N, C, H, W) whose labels nobody
    uses. `fresh()` makes the source's architecture untrained, `student()` a small network.
    """

    source: nn.Module
    train: Split
    pool: Tensor
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    fresh: Callable[[], nn.Module]
    student: Callable[[], nn.Module]


def resnet34(classes: int, *, pretrained: bool, seed: int = 0) -> nn.Module:
    """torchvision's ResNet-34 with a new head; `pretrained` loads (and fetches) ImageNet's weights.

    Raises RuntimeError where the weights cannot be had, with what to do offline.
    """
    from torchvision import models as vision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = vision.resnet34(weights="IMAGENET1K_V1" if pretrained else None)
        except Exception as error:
            raise RuntimeError(
                f"the ImageNet weights of ResNet-34 could not be loaded ({error}). Offline: put "
                f"resnet34-b627a593.pth into {Path(torch.hub.get_dir()) / 'checkpoints'}, "
                "or take pretrained=False"
            ) from error
    return new_head(model, classes, seed=seed)


def food11_task(
    root: str | os.PathLike[str], *, size: int = 128, pretrained: bool = True
) -> TransferTask:
    """The food-11 article's task: ResNet-34 from ImageNet, the photographs of `root`, its student.

    `root` is what `data.load("food11")` takes. All training images are labelled here, and they are
    the pool as well. The test split is the validation split again where the folder's test images
    have no labels (the article, too, reports its validation split).
    """
    food = data.load("food11", root=Path(root), size=size)
    classes = len(food.class_names)
    test = food.test if int(food.test.y.min()) >= 0 else food.validation
    return TransferTask(
        source=resnet34(classes, pretrained=pretrained),
        train=food.train,
        pool=food.train.x,
        validation=food.validation,
        test=test,
        class_names=food.class_names,
        fresh=lambda: resnet34(classes, pretrained=False),
        student=lambda: models.SeparableCNN(classes=classes),
    )


def upside_down_task(
    dataset: data.Dataset,
    source: nn.Module,
    *,
    labelled: int,
    pool: int,
    held: int,
    fresh: Callable[[], nn.Module],
    student: Callable[[], nn.Module],
) -> TransferTask:
    """The images of `dataset` upside down, as a camera mounted the wrong way would give them.

    Of the training images the first `labelled` (in equal shares of the classes) keep their labels,
    the next `pool` are the pool; `held` validation images choose the epoch. A stand-in for a new
    domain that needs no download. Raises ValueError where a class has too few images.
    """
    return TransferTask(
        source=source,
        train=_turned(data.balanced(dataset.train, labelled)),
        pool=data.balanced(dataset.train, pool, skip=labelled).x.flip(2),
        validation=_turned(data.balanced(dataset.validation, held)),
        test=_turned(dataset.test),
        class_names=dataset.class_names,
        fresh=fresh,
        student=student,
    )


def _turned(split: Split) -> Split:
    return Split(split.x.flip(2), split.y)
