"""The figures of chapter 10: what each step of the recipe touches, and figures as intervals."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers import plots
from helpers.edge_recipe import published

STEPS = (
    ("pre-train", "large data set"),
    ("new head", "body frozen"),
    ("all layers", "lower rate"),
    ("drop layers", "deepest first"),
    ("cut channels", "least sensitive"),
    ("shrink input", "side / s"),
    ("int8", "static or QAT"),
    ("export", "golden vectors"),
)
TOUCHED = {  # which quantities a step lowers, by the step's place above
    "weights": {3, 4},
    "MACs": {3, 4, 5},
    "maps and line buffers": {3, 4, 5},
    "bits a number": {6},
}


def recipe() -> Figure:
    """The eight steps in a row and, below them, a square for every quantity that a step lowers."""
    plots.style()
    figure, axis = plt.subplots(figsize=(9.6, 3.0))
    for i, (title, how) in enumerate(STEPS):
        axis.add_patch(
            FancyBboxPatch(
                (i * 1.25, 0),
                1.0,
                0.8,
                boxstyle="round,pad=0.03",
                facecolor="#dbe9f4" if i < 3 else "white",
                edgecolor="#333333",
                linewidth=1,
            )
        )
        axis.text(i * 1.25 + 0.5, 0.52, title, ha="center", va="center", fontsize=8.5)
        axis.text(
            i * 1.25 + 0.5, 0.24, how, ha="center", va="center", fontsize=6.5, color="#444444"
        )
        if i:
            axis.annotate(
                "",
                (i * 1.25 - 0.04, 0.4),
                (i * 1.25 - 0.21, 0.4),
                arrowprops={"arrowstyle": "->", "color": "#333333"},
            )
    for row, (quantity, steps) in enumerate(TOUCHED.items()):
        y = -0.55 - 0.42 * row
        axis.text(-0.15, y, quantity, ha="right", va="center", fontsize=9)
        axis.plot([0, 9.75], [y, y], color="#cccccc", linestyle="-", marker="", linewidth=0.8)
        for i in range(len(STEPS)):
            if i in steps:
                axis.plot(i * 1.25 + 0.5, y, marker="v", markersize=10, color="#000000")
    axis.set(xlim=(-2.2, 9.9), ylim=(-2.1, 1.0))
    axis.axis("off")
    return figure


def intervals() -> Figure:
    """Two published figures as intervals: the efficiency, and the MACs of a cycle."""
    plots.style()
    found = {(r.name, r.formula): r for r in published.relations()}
    efficiency = found["efficiency", "throughput / power"]
    macs = found["MACs per cycle", "operations / 2 / cycles"]
    figure, axes = plt.subplots(2, 1, figsize=(7.0, 2.9))
    marks = (
        (axes[0], efficiency, ((8.57, "printed 8.57", -14), (efficiency.value, "8.578", 8)), "GOPS/W"),
        (axes[1], macs, ((48, "48 multipliers", 8), (96, "96 of 9 x 9 bits", 8)), "MACs in a cycle"),
    )  # fmt: skip
    for axis, relation, points, label in marks:
        axis.plot(
            [relation.low, relation.high],
            [0, 0],
            color="#000000",
            linestyle="-",
            marker="|",
            markersize=12,
            linewidth=4,
        )
        for x, text, shift in points:
            axis.plot([x], [0], marker="D", color=plots.COLOURS[1], markersize=7)
            axis.annotate(
                text, (x, 0), (0, shift), textcoords="offset points", ha="center", fontsize=9,
                va="bottom" if shift > 0 else "top",
            )  # fmt: skip
        axis.set(xlabel=label, ylim=(-1, 1), yticks=[])
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
    axes[0].set_xlim(8.45, 8.70)
    axes[1].set_xlim(40, 104)
    return figure


FIGURES = {"10_recipe": recipe, "10_intervals": intervals}
