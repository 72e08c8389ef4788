"""Figures of chapter 13: all rows of the scoreboard, their fronts, and steps that add up or do not.

`scoreboard` is the figure of the introduction. Lab 10 solves another task than the others, so its rows
are left out everywhere.
"""

import itertools
import math
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from helpers import plots
from helpers.report import pareto_front

Row = dict[str, Any]
FLOAT = "float32"
# Labs by what they do to a network, in the order of the legend.
FAMILIES = {
    "pruned": ("04",),
    "shared, coded": ("05",),
    "low rank": ("06",),
    "fewer channels or layers": ("02", "08"),
    "quantized after training": ("09", "11", "12"),
    "trained quantized": ("09b",),
    "combined": ("13",),
}
SHORTER = {
    "combined: ": "",
    "half StandardCNN": "half CNN",
    "Deep Compression: pruned, shared": "Deep Compression",
    ", trained": "",
    " (100 and 33 units), 8 epochs": "",
    "post-training": "after training",
    "int8 activations": "int8",
}


def comparable(rows: list[Row], least: float = 0.75) -> list[Row]:
    return [row for row in rows if row["accuracy"] >= least and row["lab"] != "10_edge_recipe"]


def cloud(axis: Axes, rows: list[Row], cost: str, label: str) -> list[Row]:
    """One cloud of points with its front, which is returned; networks as trained are hollow."""
    for row in rows:
        plain = row["method"] == FLOAT
        axis.plot(
            row[cost],
            100 * row["accuracy"],
            "s" if plain else "o",
            color=plots.COLOURS[0],
            markerfacecolor="white" if plain else plots.COLOURS[0],
            markersize=6 if plain else 3.5,
            linestyle="none",
        )
    front = pareto_front(rows, cost)
    axis.step(
        [row[cost] for row in front],
        [100 * row["accuracy"] for row in front],
        where="post",
        color=plots.COLOURS[1],
        marker="",
        zorder=1,
    )
    axis.set(xscale="log", xlabel=label)
    return front


def overview(rows: list[Row]) -> Figure:
    """Accuracy against bytes (left) and multiply-accumulates (right), both logarithmic."""
    plots.style()
    good = comparable(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True)
    cloud(left, good, "bytes", "bytes stored")
    macs = [row for row in good if row["macs"]]
    cloud(right, macs, "macs", "multiply-accumulates for one image")
    left.set_ylabel("test accuracy (%)")
    for row in good:
        if row["method"] == FLOAT and row["network"] in ("LeNet5", "SeparableCNN"):
            left.annotate(
                row["network"],
                (row["bytes"], 100 * row["accuracy"]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    return figure


def title(row: Row) -> str:
    text = f"{row['network']}, {row['method']}"
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


def name_front(axis: Axes, front: list[Row], cost: str, least: float = 0.3) -> None:
    """Names in the empty corner above the front, each higher than the last.

    A row gets one if it is at least `least` points better than the last row with a name.
    """
    height, named = 0.0, 0.0
    for row in front:
        y = 100 * row["accuracy"]
        if y < named + least:
            continue
        height, named = max(y + 0.5, height + 1.15), y
        axis.annotate(
            title(row),
            (row[cost], y),
            xytext=(row[cost] / 1.25, height),
            ha="right",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkB": 2},
        )
    axis.set_ylim(74.5, max(93.0, height + 0.8))


def fronts(rows: list[Row]) -> Figure:
    """Both clouds, one above the other, with the names of what nothing beats."""
    plots.style()
    good = comparable(rows)
    figure, axes = plt.subplots(2, 1, figsize=(7.2, 8.4))
    pairs = (("bytes", "bytes stored"), ("macs", "multiply-accumulates for one image"))
    for axis, (cost, label) in zip(axes, pairs, strict=True):
        found = [row for row in good if row[cost]]
        front = cloud(axis, found, cost, label)
        name_front(axis, front, cost)
        if found:
            low, high = (bound(row[cost] for row in found) for bound in (min, max))
            axis.set_xlim(low / 100, high * 1.4)
        axis.set_ylabel("test accuracy (%)")
    return figure


def losses(rows: list[Row]) -> Figure:
    """Accuracy lost against times smaller, each row beside its own network in float32."""
    plots.style()
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    base = {row["network"]: row for row in comparable(rows, 0.0) if row["method"] == FLOAT}
    base |= {row["network"]: row for row in rows if row["method"] == "combined: labels, float32"}
    drawn = [row for row in comparable(rows, 0.0) if row["network"] in base]
    for number, (family, labs) in enumerate(FAMILIES.items()):
        x, y = [], []
        for row in drawn:
            start = base[row["network"]]
            if row["lab"].split("_")[0] in labs and row is not start:
                x.append(start["bytes"] / row["bytes"])
                y.append(100 * (start["accuracy"] - row["accuracy"]))
        if x:
            axis.plot(
                x,
                y,
                plots.MARKERS[number],
                color=plots.COLOURS[number],
                markersize=6,
                markerfacecolor="white" if number % 2 else plots.COLOURS[number],
                linestyle="none",
                label=family,
            )
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.set(xscale="log", xlabel="times fewer bytes", ylabel="accuracy lost (points)")
    axis.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axis.minorticks_off()
    axis.set_ylim(9, -4)
    if drawn:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def steps(rows: list[Row]) -> Figure:
    """The chain of lab 13 as arrows, and where the single steps added up would have led."""
    plots.style()
    known = {
        row["method"].removeprefix("combined: "): row for row in rows if row["lab"][:2] == "13"
    }
    figure, axis = plt.subplots(figsize=(7.2, 3.9))
    chain = (
        ("labels, float32", "trained with labels", (8, -3), "left"),
        ("teacher, float32", "with a teacher", (8, -3), "left"),
        ("teacher, slimmed, float32", "slimmed", (0, -13), "center"),
        ("teacher, slimmed, 4-bit codebook", "4-bit codebook", (0, -14), "center"),
    )
    if all(name in known for name, *_ in chain):
        points = [
            (math.log2(known[name]["bytes"]), 100 * known[name]["accuracy"]) for name, *_ in chain
        ]
        alone = ("labels, slimmed, float32", "labels, 4-bit codebook")
        start = points[0]
        moves = [(points[1][0] - start[0], points[1][1] - start[1])]
        for name in alone:
            row = known[name]
            moves.append((math.log2(row["bytes"]) - start[0], 100 * row["accuracy"] - start[1]))
        place = start
        for move in moves:
            end = (place[0] + move[0], place[1] + move[1])
            arrow(axis, place, end, "0.55", "--")
            place = end
        for before, after in itertools.pairwise(points):
            arrow(axis, before, after, plots.COLOURS[0], "-")
        for (x, y), (_, text, offset, side) in zip(points, chain, strict=True):
            axis.plot(x, y, "o", color=plots.COLOURS[0], markersize=4)
            axis.annotate(text, (x, y), offset, textcoords="offset points", ha=side, fontsize=8.5)
        axis.plot(*place, "X", color="0.4", markersize=7)
        text = "teacher, slimming and codebook,\neach alone, added up"
        offset = (4, 8)
        axis.annotate(text, place, offset, textcoords="offset points", fontsize=8.5, color="0.3")
        kilobytes = (3, 6, 12, 25, 50, 100)
        axis.set_xticks([math.log2(1000 * k) for k in kilobytes], [str(k) for k in kilobytes])
        axis.set_xlim(math.log2(2500), math.log2(330000))
        heights = [y for _, y in [*points, place]]
        axis.set_ylim(min(heights) - 0.8, max(heights) + 0.9)
    axis.set(xlabel="kilobytes (logarithmic)", ylabel="test accuracy (%)")
    return figure


def arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, line: Any
) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color=colour,
            linestyle=line,
            linewidth=1.4,
            shrinkA=0,
            shrinkB=0,
        )
    )


FIGURES = {
    "scoreboard": overview,
    "13_steps": steps,
    "13_fronts": fronts,
    "13_losses": losses,
}
