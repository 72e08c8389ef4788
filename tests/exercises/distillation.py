"""Typical wrong answers, and unusual right ones, to the exercises of lab 07_distillation."""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def loss_with(
    *, power: int = 2, reduction: str = "batchmean", swapped: bool = False, hard_t: bool = False
) -> Any:
    """The right loss with one thing changed."""

    def loss(z: Tensor, y: Tensor, v: Tensor, temperature: float, alpha: float) -> Tensor:
        q, p = F.log_softmax(z / temperature, 1), F.log_softmax(v / temperature, 1)
        first, second = (p, q) if swapped else (q, p)
        terms = F.kl_div(first, second.exp(), reduction="none")
        soft = {"batchmean": terms.sum(1).mean(), "everything": terms.mean(), "sum": terms.sum()}
        soft = temperature**power * soft[reduction]
        hard = F.cross_entropy(z / temperature if hard_t else z, y)
        return alpha * soft + (1 - alpha) * hard

    return loss


def loss_of_probabilities(z, y, v, temperature, alpha):  # type: ignore[no-untyped-def]
    q, p = F.softmax(z / temperature, 1), F.softmax(v / temperature, 1)
    soft = temperature**2 * F.kl_div(q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(z, y)


def loss_softened_twice(z, y, v, temperature, alpha):  # type: ignore[no-untyped-def]
    return loss_with()(F.softmax(z, 1), y, F.softmax(v, 1), temperature, alpha)


def loss_of_logits(z, y, v, temperature, alpha):  # type: ignore[no-untyped-def]
    soft = temperature**2 * F.kl_div(z / temperature, v / temperature, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(z, y)


def loss_alpha_exchanged(z, y, v, temperature, alpha):  # type: ignore[no-untyped-def]
    return loss_with()(z, y, v, temperature, 1 - alpha)


def loss_log_of_softmax(z, y, v, temperature, alpha):  # type: ignore[no-untyped-def]
    q, p = F.softmax(z / temperature, 1), F.softmax(v / temperature, 1)
    soft = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    return alpha * soft + (1 - alpha) * F.cross_entropy(z, y)


def gradient(z: Tensor, v: Tensor, temperature: float, power: int = 1) -> Tensor:
    difference = (z / temperature).softmax(1) - (v / temperature).softmax(1)
    return temperature**power * difference / len(z)


def in_place(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    z.div_(temperature)
    return temperature * (z.softmax(1) - (v / temperature).softmax(1)) / len(z)


def everything_in_train_mode(model: nn.Module) -> nn.Module:
    return model.train()


def everything_in_eval_mode(model: nn.Module) -> nn.Module:
    return model.eval()


def every_batch_norm_in_eval_mode(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return model


def only_top_level_children(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.children():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
    return model


def without_train(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
    return model


def frozen_parameters(model: nn.Module) -> nn.Module:
    every_batch_norm_in_eval_mode(model)
    model.top[1].train()
    return model.requires_grad_(False)


def bias_of_frequencies(logits: Tensor, labels: Tensor, label: int) -> float:
    said = float((logits.argmax(1) == label).double().mean())
    return float((labels == label).double().mean()) - said


def bias_of_its_own_rows(logits: Tensor, labels: Tensor, label: int) -> float:
    """Enough for every row of the class, whatever it costs the others."""
    rows = logits[labels == label]
    return float((rows.amax(1) - rows[:, label]).max()) + 0.01


def bias_upwards_only(logits: Tensor, labels: Tensor, label: int) -> float:
    def right(bias: float) -> int:
        moved = logits.clone()
        moved[:, label] += bias
        return int((moved.argmax(1) == labels).sum())

    return max((b / 20 for b in range(200)), key=right)


def bias_in_place(logits: Tensor, labels: Tensor, label: int) -> float:
    scores = []
    for _ in range(200):
        logits[:, label] += 0.1
        scores.append(int((logits.argmax(1) == labels).sum()))
    return 0.1 * (1 + scores.index(max(scores)))


WRONG_ANSWERS = {
    "distillation_loss": [
        ("no T squared", loss_with(power=0)),
        ("T instead of T squared", loss_with(power=1)),
        ("reduction='mean'", loss_with(reduction="everything")),
        ("reduction='sum'", loss_with(reduction="sum")),
        ("arguments exchanged", loss_with(swapped=True)),
        ("labels softened too", loss_with(hard_t=True)),
        ("probabilities where log probabilities belong", loss_of_probabilities),
        ("softmax taken twice", loss_softened_twice),
        ("KL of the logits", loss_of_logits),
        ("alpha on the labels", loss_alpha_exchanged),
        ("log of a softmax that is 0", loss_log_of_softmax),
    ],
    "soft_gradient": [
        ("wrong sign", lambda z, v, t: -gradient(z, v, t)),
        ("not the mean over the batch", lambda z, v, t: gradient(z, v, t) * len(z)),
        ("mean over the classes too", lambda z, v, t: gradient(z, v, t) / z.shape[1]),
        ("T squared left over", lambda z, v, t: gradient(z, v, t, 2)),
        ("no T at all", lambda z, v, t: gradient(z, v, t, 0)),
        ("not softened", lambda z, v, t: t * (z.softmax(1) - v.softmax(1)) / len(z)),
        ("changes its argument", in_place),
    ],
    "train_unfrozen": [
        ("plain train()", everything_in_train_mode),
        ("plain eval()", everything_in_eval_mode),
        ("frozen or not", every_batch_norm_in_eval_mode),
        ("children only", only_top_level_children),
        ("never calls train()", without_train),
        ("freezes parameters", frozen_parameters),
    ],
    "best_bias": [
        ("difference of frequencies", bias_of_frequencies),
        ("for its own class only", bias_of_its_own_rows),
        ("upwards only", bias_upwards_only),
        ("changes the logits", bias_in_place),
    ],
}


def loss_in_numpy(z, y, v, temperature, alpha):  # type: ignore[no-untyped-def]
    def log_softmax(rows):  # type: ignore[no-untyped-def]
        rows = rows - rows.max(1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    z, v = z.numpy(), v.numpy()
    q, p = log_softmax(z / temperature), log_softmax(v / temperature)
    soft = (np.exp(p) * (p - q)).sum(1).mean()
    hard = -log_softmax(z)[np.arange(len(y)), y.numpy()].mean()
    return alpha * temperature**2 * soft + (1 - alpha) * hard


def loss_in_float32(z, y, v, temperature, alpha):  # type: ignore[no-untyped-def]
    return loss_with()(z.float(), y, v.float(), temperature, alpha)


def gradient_by_autograd(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    leaf = z.clone().requires_grad_()
    labels = torch.zeros(len(z), dtype=torch.int64)
    loss_with()(leaf, labels, v, temperature, 1.0).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


def train_by_recursion(model: nn.Module) -> nn.Module:
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    model.training = not (isinstance(model, kinds) and not model.weight.requires_grad)
    for child in model.children():
        train_by_recursion(child)
    return model


def train_a_copy(model: nn.Module) -> nn.Module:
    def set_mode(module: nn.Module) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(module.weight.requires_grad)

    return copy.deepcopy(model).train().apply(set_mode)


def bias_on_a_grid(logits: Tensor, labels: Tensor, label: int) -> Any:
    z, y = logits.numpy(), labels.numpy()
    grid = np.arange(-15, 15, 0.01)
    one = np.eye(z.shape[1])[label]
    return grid[np.argmax([((z + b * one).argmax(1) == y).sum() for b in grid])]


def bias_as_a_tensor(logits: Tensor, labels: Tensor, label: int) -> Tensor:
    lead = logits.index_fill(1, torch.tensor(label), -torch.inf).amax(1) - logits[:, label]
    tries = torch.cat([lead - 1e-9, lead + 1e-9])
    one = F.one_hot(torch.tensor(label), logits.shape[1])
    right = [((logits + b * one).argmax(1) == labels).sum() for b in tries]
    return tries[torch.stack(right).argmax()]


RIGHT_ANSWERS = {
    "distillation_loss": [("NumPy", loss_in_numpy), ("float32", loss_in_float32)],
    "soft_gradient": [
        ("by autograd", gradient_by_autograd),
        ("lists of numbers", lambda z, v, t: gradient(z, v, t).tolist()),
    ],
    "train_unfrozen": [("by recursion", train_by_recursion), ("a copy", train_a_copy)],
    "best_bias": [("a fine grid, NumPy", bias_on_a_grid), ("a tensor", bias_as_a_tensor)],
}
