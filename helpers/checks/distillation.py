"""Checks of the exercises in lab 07_distillation.

Chapter: 07_distillation.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from helpers.checks import exercise, expect

NEAR = 1e-5  # an answer in float32 is right too

__all__ = ["best_bias", "distillation_loss", "soft_gradient", "train_unfrozen"]


def _draw(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def _number(answer: Any) -> float:
    """The scalar that a student's function returned."""
    found = torch.as_tensor(answer)
    expect(found.numel() == 1, f"return one number, got shape {tuple(found.shape)}")
    return float(found.detach())


@exercise
def distillation_loss(function: Callable[..., Any]) -> None:
    """`distillation_loss(logits, labels, teacher_logits, temperature, alpha)`: a scalar tensor."""
    z, v, y = _draw(4, 6, seed=1), _draw(4, 6, seed=2), torch.tensor([5, 0, 2, 2])
    rows = list(zip(z.tolist(), v.tolist(), y.tolist(), strict=True))
    hard = sum(-math.log(_softmax(zi, 1)[yi]) for zi, _, yi in rows) / 4
    expect(
        math.isclose(_number(function(z, y, v, 4.0, 0.0)), hard, rel_tol=NEAR),
        "with alpha = 0 it is the plain cross entropy of the labels, at temperature 1, as the mean "
        "over the batch",
    )
    for temperature in (1.0, 4.0):
        forward = backward = 0.0
        for zi, vi, _ in rows:
            p, q = _softmax(vi, temperature), _softmax(zi, temperature)
            forward += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 4
            backward += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 4
        found, t2 = _number(function(z, y, v, temperature, 1.0)), temperature**2
        hints = {
            t2
            * backward: "the arguments are exchanged: kl_div(log q, p) is KL(p || q), p the teacher's",
            t2 * forward / 6: "reduction='mean' divides by the classes as well; use 'batchmean'",
            t2 * forward * 4: "it is a sum over the batch; take its mean",
            forward: "the factor T**2 is missing",
        }
        right = math.isclose(found, t2 * forward, rel_tol=NEAR)
        hint = next(
            (h for value, h in hints.items() if math.isclose(found, value, rel_tol=NEAR)), ""
        )
        expect(
            right,
            f"with alpha = 1, T = {temperature:g} it gave {found:.6g}, not {t2 * forward:.6g}: "
            f"{hint or 'T**2 times KL(p || q), both softened with T, the mean over the batch'}",
        )
    found = _number(function(z, y, v, 4.0, 0.3))
    expect(
        math.isclose(found, 0.3 * t2 * forward + 0.7 * hard, rel_tol=NEAR),
        f"with alpha = 0.3 it gave {found:.6g}: alpha weighs the teacher, 1 - alpha the labels",
    )
    big = _number(function(100 * z, y, 100 * v, 1.0, 1.0))
    expect(
        math.isfinite(big), f"logits of a few hundred gave {big}: use log_softmax, not log(softmax)"
    )


@exercise
def soft_gradient(function: Callable[..., Any]) -> None:
    """`soft_gradient(logits, teacher_logits, temperature)`: by the closed formula, no autograd."""
    for count, temperature in ((1, 1.0), (5, 4.0), (3, 20.0)):
        z, v = _draw(count, 4, seed=count), _draw(count, 4, seed=count + 9)
        before = z.clone(), v.clone()
        answer = torch.as_tensor(function(z, v, temperature))
        expect(
            torch.equal(z, before[0]) and torch.equal(v, before[1]),
            "your function changed its arguments: return a new tensor",
        )
        expect(
            tuple(answer.shape) == tuple(z.shape),
            f"the gradient has the shape of the logits, {tuple(z.shape)}, got {tuple(answer.shape)}",
        )
        expected = torch.tensor(
            [
                [temperature * (q - p) / count for q, p in zip(qs, ps, strict=True)]
                for qs, ps in zip(
                    [_softmax(row, temperature) for row in z.tolist()],
                    [_softmax(row, temperature) for row in v.tolist()],
                    strict=True,
                )
            ],
            dtype=torch.float64,
        )
        size = float(answer.double().norm() / expected.norm())
        text = f"(N = {count}, T = {temperature:g})"
        expect(
            not torch.allclose(answer.double(), -expected),
            f"the sign is wrong {text}: a step against the gradient must move q towards p",
        )
        expect(
            torch.allclose(answer.double(), expected, rtol=NEAR, atol=1e-6),
            f"not the gradient {text}; yours is {size:.3g} times as long as the right one. The "
            "T**2 of the loss meets 1/T from the softmax and the mean over the batch",
        )


class _Net(nn.Module):
    """Batch norms, frozen and not, at two depths, and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        self.top = nn.Sequential(nn.Linear(108, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
        self.body.requires_grad_(False)


@exercise
def train_unfrozen(function: Callable[..., Any]) -> None:
    """`train_unfrozen(model)`: train mode, but a batch norm with a frozen weight in eval mode."""
    model = _Net().eval()
    answer = function(model)
    expect(
        isinstance(answer, nn.Module),
        f"return the model, got {type(answer).__name__}",
    )
    body, top = answer.body, answer.top
    expect(
        top[1].training and top[2].training,
        "the batch norm and the dropout that train must be in train mode, call model.train() first",
    )
    expect(not body[1].training, "a batch norm whose weight is frozen is still in train mode")
    flags = [p.requires_grad for p in answer.parameters()]
    expect(
        flags == [False] * 4 + [True] * 4,
        "which parameters train must stay as it was: change modes only",
    )
    before = body[1].running_mean.clone()
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    top(body(x))
    expect(torch.equal(body[1].running_mean, before), "its running mean moved with a batch")
    free = _Net().requires_grad_(True)
    free.body[1].eval()
    expect(
        function(free).body[1].training,
        "a batch norm that is not frozen must come back to train mode (here it was in eval mode)",
    )
    seen = function(_Net().requires_grad_(False).train())
    expect(
        not seen.body[1].training and not seen.top[1].training,
        "with everything frozen, every batch norm must be in eval mode",
    )


@exercise
def best_bias(function: Callable[..., Any]) -> None:
    """`best_bias(logits, labels, label)`: what to add to one logit for the most right answers."""
    generator = torch.Generator().manual_seed(4)
    for count, classes, label, shift in ((200, 4, 2, -2.0), (300, 5, 0, 3.0), (60, 3, 1, 0.0)):
        logits = _draw(count, classes, seed=count)
        labels = logits.argmax(1)
        noisy = torch.rand(count, generator=generator) < 0.15
        labels[noisy] = torch.randint(0, classes, (int(noisy.sum()),), generator=generator)
        logits[:, label] += shift
        before = logits.clone()

        def right(bias: float, z: torch.Tensor = logits, y: torch.Tensor = labels) -> int:
            moved = z.clone()
            moved[:, label] += bias  # noqa: B023 - called within this turn
            return int((moved.argmax(1) == y).sum())

        bias = _number(function(logits, labels, label))
        expect(torch.equal(logits, before), "your function changed the logits: work on a copy")
        best = max(right(b / 20) for b in range(-240, 241))
        expect(
            right(bias) >= best - 1,
            f"a bias of {bias:.3g} on class {label} makes {right(bias)} of {count} rows right, but "
            f"{best} are possible. Try a fine grid from far below 0 to far above, or the exact "
            "places where a row changes its answer",
        )
