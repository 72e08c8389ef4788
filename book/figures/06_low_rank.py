"""The figures of chapter 06: one layer as two, and what a rank costs."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers import plots


def _box(
    axis: Axes, x: float, y: float, width: float, height: float, text: str, series: int
) -> None:
    """A labelled rectangle whose hatch tells it apart in black and white."""
    face = ("#cfe3f2", "#f7d9c8", "#cdeadf")[series]
    axis.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor="black", linewidth=1))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def factors() -> Figure:
    """Left: a matrix as a product of two thin ones. Right: a kernel in two passes."""
    plots.style()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.2, 2.9), gridspec_kw={"width_ratios": [1.15, 1]}
    )
    _box(left, 0, 0, 3.2, 2.4, "$W$\n$m \\times n$", 0)
    left.text(3.55, 1.2, "≈", ha="center", va="center", fontsize=16)
    _box(left, 3.9, 0, 0.55, 2.4, "$U_r\\Sigma_r^{1/2}$", 1)
    left.texts[-1].set_rotation(90)
    left.text(4.7, 1.2, "·", ha="center", va="center", fontsize=16)
    _box(left, 4.95, 1.85, 3.2, 0.55, "$\\Sigma_r^{1/2} V_r^\\top$", 2)
    left.text(4.17, -0.35, "$m \\times r$", ha="center", fontsize=9)
    left.text(6.55, 1.5, "$r \\times n$", ha="center", fontsize=9)
    left.set(xlim=(-0.2, 8.4), ylim=(-0.7, 3.0))
    left.set_title("a dense layer")
    for x, width, height, text, name in (
        (0, 1.5, 1.5, "", "$C_i$ maps"),
        (3.2, 1.5, 1.5, "", "$D$ maps"),
        (6.4, 1.5, 1.5, "", "$C_o$ maps"),
    ):
        for shift in (0.24, 0.12, 0.0):
            _box(right, x + shift, 0.4 + shift, width, height, text, 0)
        right.text(x + width / 2 + 0.1, 0.05, name, ha="center", fontsize=9)
    right.add_patch(Rectangle((0.6, 0.7), 0.3, 0.9, facecolor="#D55E00", edgecolor="black"))
    right.add_patch(Rectangle((3.5, 1.0), 0.9, 0.3, facecolor="#009E73", edgecolor="black"))
    for x, text in ((2.4, "$K \\times 1$"), (5.6, "$1 \\times K$")):
        right.annotate(
            "",
            (x + 0.65, 1.25),
            (x - 0.55, 1.25),
            arrowprops={"arrowstyle": "->", "linewidth": 1.2},
        )
        right.text(x + 0.03, 1.5, text, ha="center", fontsize=9)
    right.set(xlim=(-0.2, 8.4), ylim=(-0.7, 3.0))
    right.set_title("a convolution")
    for axis in (left, right):
        axis.axis("off")
    return figure


def break_even() -> Figure:
    """Weights of the article's conv1 and conv2 against the middle channels, whole = 1."""
    plots.style()
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    for (inputs, outputs), text in (((3, 16), "conv1, 3 → 16"), ((16, 16), "conv2, 16 → 16")):
        middle = np.arange(1, 27)
        ratio = middle * (inputs + outputs) / (3 * inputs * outputs)
        (line,) = axis.plot(middle, ratio, markersize=3.5)
        plots.label_line(axis, line, text)
        bound = 3 * inputs * outputs / (inputs + outputs)
        axis.plot(
            [bound, bound], [0, 1], color=line.get_color(), linewidth=1, marker="", linestyle=":"
        )
        axis.annotate(
            f"{bound:.3g}", (bound, 0), (4, 4), textcoords="offset points", color=line.get_color()
        )
    axis.axhline(1, color="black", linewidth=0.9)
    axis.text(0.4, 1.06, "the whole layer", fontsize=9)
    axis.plot([16], [16 * 19 / 144], "o", color="black", fillstyle="none", markersize=11)
    axis.annotate(
        "“it got bigger!”", (16, 16 * 19 / 144), (-88, 4), textcoords="offset points", fontsize=9
    )
    axis.set(xlabel="middle channels D", ylabel="weights, ratio", xlim=(0, 33), ylim=(0, 3.5))
    return figure


FIGURES = {"06_factors": factors, "06_break_even": break_even}
