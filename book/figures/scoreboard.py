"""The figure of the scoreboard: accuracy against bytes and against MACs, a point for each row.

Lab 10 solves another task than the others, so its rows are left out.
"""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import plots

Row = dict[str, Any]


def front(rows: list[Row], cost: str) -> list[Row]:
    """The rows that no other row beats in accuracy without costing more, cheapest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["accuracy"])):
        if not best or row["accuracy"] > best[-1]["accuracy"]:
            best.append(row)
    return best


def panel(axis: Axes, rows: list[Row], cost: str, label: str) -> None:
    """One cloud of points with its front; the rows that were not compressed are hollow."""
    for row in rows:
        plain = row["method"] == "float32"
        axis.plot(
            row[cost],
            100 * row["accuracy"],
            "s" if plain else "o",
            color=plots.COLOURS[0],
            markerfacecolor="white" if plain else plots.COLOURS[0],
            markersize=6 if plain else 3.5,
            linestyle="none",
        )
    edge = front(rows, cost)
    axis.step(
        [row[cost] for row in edge],
        [100 * row["accuracy"] for row in edge],
        where="post",
        color=plots.COLOURS[1],
        marker="",
        zorder=1,
    )
    axis.set(xscale="log", xlabel=label)


def overview(rows: list[Row]) -> Figure:
    """Accuracy against bytes (left) and multiply-accumulates (right), both logarithmic."""
    plots.style()
    good = [row for row in rows if row["accuracy"] >= 0.75 and row["lab"] != "10_edge_recipe"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True)
    panel(left, good, "bytes", "bytes stored")
    panel(right, [row for row in good if row["macs"]], "macs", "multiply-accumulates for one image")
    left.set_ylabel("test accuracy (%)")
    for row in good:
        if row["method"] == "float32" and row["network"] in ("LeNet5", "SeparableCNN"):
            left.annotate(
                row["network"],
                (row["bytes"], 100 * row["accuracy"]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    return figure


FIGURES = {"scoreboard": overview}
