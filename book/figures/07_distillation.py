"""The figures of chapter 07: two answers to one image, and what the temperature does."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from helpers import distillation, plots

NAMES = ("ankle boot", "sneaker", "sandal", "bag", "shirt", "dress")
LOGITS = torch.tensor([[9.0, 5.5, 4.0, 0.5, -2.0, -5.0]], dtype=torch.float64)


def idea() -> Figure:
    """A label, and a teacher's soft targets at T = 1 and T = 4, as bars beside one another."""
    plots.style()
    panels = {
        "the label": torch.eye(6, dtype=torch.float64)[:1],
        "the teacher, T = 1": distillation.soft_targets(LOGITS, 1),
        "the teacher, T = 4": distillation.soft_targets(LOGITS, 4),
    }
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.5), sharey=True)
    for i, (axis, (title, p)) in enumerate(zip(axes, panels.items(), strict=True)):
        bars = axis.barh(
            NAMES, p[0], color=plots.COLOURS[i], hatch=plots.HATCHES[i], edgecolor="white"
        )
        axis.bar_label(bars, [f"{value:.3f}" for value in p[0].tolist()], padding=3, fontsize=8)
        axis.set(xlim=(0, 1.3), xlabel="probability", title=title)
        axis.set_xticks([0, 0.5, 1])
        axis.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    return figure


def temperature() -> Figure:
    """The softened probabilities over T, and the gradient's size with and without T squared."""
    plots.style()
    grid = np.logspace(-0.3, 2, 80)
    curves = np.array([distillation.soft_targets(LOGITS[0], float(t)).numpy() for t in grid])
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.0))
    for i, name in enumerate(NAMES[:3]):
        left.semilogx(grid, curves[:, i], marker="", label=name)
    left.legend()
    left.axhline(1 / 6, color="#888888", linewidth=0.8, linestyle=":", marker="")
    left.annotate("1/6", (0.55, 1 / 6), (0, 3), textcoords="offset points", fontsize=8)
    left.set(xlabel="temperature T", ylabel="probability", ylim=(0, 1.02))
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(64, 6, generator=generator, dtype=torch.float64)
    v = LOGITS + torch.randn(64, 6, generator=generator, dtype=torch.float64)
    sizes = [float(distillation.soft_gradient(z, v, float(t)).norm()) for t in grid]
    (with_factor,) = right.loglog(grid, sizes, marker="")
    (without,) = right.loglog(grid, np.array(sizes) / grid**2, marker="")
    right.annotate(
        "with T²",
        (8, sizes[40]),
        (0, -14),
        textcoords="offset points",
        color=with_factor.get_color(),
    )
    right.annotate(
        "without",
        (8, sizes[40] / 100),
        (6, 2),
        textcoords="offset points",
        color=without.get_color(),
    )
    right.set(xlabel="temperature T", ylabel="size of the gradient")
    return figure


FIGURES = {"07_idea": idea, "07_temperature": temperature}
