"""The figures of chapter 08: one channel through four tensors, and the published table."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers import plots
from helpers.slimming import published


def _grid(
    axis: Axes, left: float, rows: int, columns: int, row: int | None, column: int | None
) -> tuple[float, float]:
    """A weight as a grid of cells, one row or column hatched; its middle and its right end."""
    cell = 0.5
    top = 0.5 * rows * cell
    for r in range(rows):
        for c in range(columns):
            gone = r == row or c == column
            axis.add_patch(
                Rectangle(
                    (left + c * cell, top - (r + 1) * cell),
                    cell,
                    cell,
                    facecolor="#f3d6c4" if gone else "#dbe9f4",
                    edgecolor="#333333",
                    hatch="////" if gone else None,
                    linewidth=0.8,
                )
            )
    return left + columns * cell / 2, left + columns * cell


def groups() -> Figure:
    """Pointwise, depthwise, batch norm, pointwise: the third channel hatched in each."""
    plots.style()
    figure, axis = plt.subplots(figsize=(7.4, 2.9))
    texts = (
        ("pointwise $i$\n(makes it)", "one row", 5, 4, 2, None),
        ("depthwise $i+1$", "one filter", 5, 1, 2, None),
        ("batch norm", "$\\gamma, \\beta, \\mu, v$", 5, 1, 2, None),
        ("pointwise $i+1$\n(reads it)", "one column", 3, 5, None, 2),
    )
    left = 0.0
    for number, (title, what, rows, columns, row, column) in enumerate(texts):
        middle, right = _grid(axis, left, rows, columns, row, column)
        axis.text(middle, 1.75, title, ha="center", va="bottom")
        axis.text(middle, -1.75, what, ha="center", va="top", color="#a04000")
        if number < 3:
            axis.annotate(
                "",
                (right + 1.65, 0),
                (right + 0.2, 0),
                arrowprops={"arrowstyle": "->", "color": "#333333"},
            )
        left = right + 1.85
    axis.set(xlim=(-0.4, left - 1.4), ylim=(-2.5, 2.9), aspect="equal")
    axis.axis("off")
    return figure


def table() -> Figure:
    """The food-11 article's training accuracies with the sampling error of each rate."""
    plots.style()
    figure, axis = plt.subplots(figsize=(7.0, 3.2))
    for i, (rate, row) in enumerate(zip(published.RATES, published.TRAINING_ACCURACY, strict=True)):
        found = published.describe(row, published.TRAINING_IMAGES)
        x = np.arange(5) + 6 * i
        low, high = (100 * (found.mean + s * found.sampling) for s in (-1, 1))
        axis.fill_between([x[0] - 0.4, x[-1] + 0.4], low, high, color="#dddddd")
        axis.plot(x, 100 * np.array(row), color=plots.COLOURS[0], linestyle="-", marker="o")
        axis.text(
            x.mean(), high + 1, f"rate {rate}\n{100 * found.slope:+.2f} an epoch", ha="center"
        )
    axis.set(xlabel="epoch (five at each rate)", ylabel="training accuracy (%)", ylim=(50, 80))
    axis.set_xticks([6 * i + e for i in range(5) for e in range(5)], [*"01234"] * 5)
    return figure


FIGURES = {"08_groups": groups, "08_published": table}
