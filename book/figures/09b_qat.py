"""The figures of chapter 09b: one layer in training, and the gradients of a quantizer."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import plots, qat


def _box(axis: Axes, x: float, y: float, text: str, width: float, quantizer: bool) -> None:
    axis.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=9,
        bbox={
            "boxstyle": f"square,pad={width}",
            "facecolor": "#d9d9d9" if quantizer else "white",
            "edgecolor": "black",
            "linewidth": 2.2 if quantizer else 1,
        },
        zorder=3,
    )


def graph() -> Figure:
    """The layer of a network in quantization-aware training as a flow chart."""
    plots.style()
    figure, axis = plt.subplots(figsize=(7.4, 2.9))
    top, bottom = 1.0, 0.0
    main = [(0.0, "$x$"), (1.25, "conv"), (2.4, "÷ f"), (3.6, "batch\nnorm"), (4.8, "ReLU6")]
    for x, text in main:
        _box(axis, x, bottom, text, 0.45, False)
    _box(axis, 6.0, bottom, "quantize", 0.45, True)
    _box(axis, -1.3, top, "float\nweight $w$", 0.45, False)
    _box(axis, 0.0, top, "× f", 0.45, False)
    _box(axis, 1.25, top, "quantize", 0.45, True)

    def arrow(start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
        shape = {"arrowstyle": "-|>", "color": "black", "linewidth": 1}
        axis.annotate("", end, start, arrowprops={**shape, "linestyle": "--" if dashed else "-"})

    for left, right in ((0.2, 0.95), (1.55, 2.15), (2.65, 3.25), (3.95, 4.45), (5.2, 5.5)):
        arrow((left, bottom), (right, bottom))
    arrow((6.5, bottom), (7.1, bottom))
    arrow((-0.8, top), (-0.25, top))
    arrow((0.25, top), (0.78, top))
    arrow((1.25, top - 0.2), (1.25, bottom + 0.2))
    axis.plot([3.6, 3.6, 0.0, 0.0], [bottom + 0.3, 1.65, 1.65, 1.55], "--k", linewidth=1, marker="")
    arrow((0.0, 1.6), (0.0, top + 0.2), dashed=True)
    axis.text(1.9, 1.7, "running variance gives $f$", ha="center", va="bottom", fontsize=9)
    axis.text(7.15, bottom, "next\nlayer", va="center", fontsize=9)
    axis.text(
        6.0,
        0.85,
        "forward: staircase\nbackward: straight through",
        ha="center",
        fontsize=8.5,
    )
    axis.set(xlim=(-2.0, 7.8), ylim=(-0.45, 2.0))
    axis.axis("off")
    return figure


def gradients() -> Figure:
    """Staircase with both masks, and LSQ's gradient of the step, 3 bits, step 1."""
    plots.style()
    values = torch.linspace(-5, 5, 4001)
    steps = torch.ones_like(values).requires_grad_()  # a step of its own for every value
    out = qat.lsq(values, steps, 3, 3, gradient_scale=1.0)
    out.sum().backward()
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.0))
    left.plot(values, out.detach(), marker="")
    for y, end, text in ((-4.3, 3.5, "straight through"), (-5.3, 3.0, "LSQ")):
        left.plot([-end, end], [y, y], color="black", linestyle="-", linewidth=4, marker="")
        left.annotate(text, (0, y), (0, 4), textcoords="offset points", ha="center", fontsize=8.5)
    left.set(xlabel="value (steps)", ylabel="output (steps)", ylim=(-6, 4))
    left.set_xticks(range(-5, 6))
    right.plot(values, steps.grad, marker="")
    right.set(xlabel="value (steps)", ylabel="gradient of the step")
    right.set_xticks(range(-5, 6))
    return figure


FIGURES = {"09b_graph": graph, "09b_gradients": gradients}
