"""The figures of chapter 04: pruning in pictures, gaps with fillers, where index bits eat the savings."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers import plots, pruning

WEIGHTS = np.array(
    [
        [0.9, -0.1, 0.2, -1.2],
        [0.0, 0.3, -0.1, 0.1],
        [-0.2, 1.1, 0.1, -0.7],
        [0.1, -0.1, -0.8, 0.2],
    ]
)


def _cells(axis: Axes, left: float, top: float, matrix: np.ndarray, kept: np.ndarray) -> None:
    """A matrix as boxes with numbers; dropped entries are empty and grey."""
    for (row, column), value in np.ndenumerate(matrix):
        here = bool(kept[row, column])
        axis.add_patch(
            Rectangle(
                (left + column, top - row - 1),
                1,
                1,
                facecolor="white" if here else "#dddddd",
                edgecolor="black",
                linewidth=0.8,
            )
        )
        if here:
            place = (left + column + 0.5, top - row - 0.5)
            axis.text(*place, f"{value:g}", ha="center", va="center", fontsize=9)


def idea() -> Figure:
    """A 4 x 4 matrix dense, masked, and as the numbers of its compressed rows."""
    plots.style()
    kept = np.abs(WEIGHTS) >= 0.5
    csr = pruning.to_csr(WEIGHTS * kept)
    figure, axis = plt.subplots(figsize=(7.4, 2.5))
    _cells(axis, 0, 4, WEIGHTS, np.ones_like(kept))
    _cells(axis, 5.5, 4, WEIGHTS, kept)
    axis.annotate("", (5.3, 2), (4.2, 2), arrowprops={"arrowstyle": "->"})
    axis.annotate("", (10.8, 2), (9.7, 2), arrowprops={"arrowstyle": "->"})
    axis.text(2, 4.25, "trained: 16 numbers", ha="center")
    axis.text(7.5, 4.25, "masked: still 16 numbers", ha="center")
    axis.text(15.2, 4.25, f"stored: {csr.numbers} numbers", ha="center")
    rows = (("values", csr.values), ("columns", csr.columns), ("row starts", csr.pointers))
    for height, (name, numbers) in zip((3.1, 2.0, 0.9), rows, strict=True):
        axis.text(13.4, height, name, ha="right", va="center", fontsize=9)
        for i, number in enumerate(numbers):
            axis.add_patch(
                Rectangle(
                    (13.6 + i, height - 0.4), 1, 0.8, fill=False, edgecolor="black", linewidth=0.8
                )
            )
            axis.text(14.1 + i, height, f"{number:g}", ha="center", va="center", fontsize=9)
    axis.set(xlim=(-0.1, 19), ylim=(-0.2, 4.8), aspect="equal")
    axis.axis("off")
    return figure


def gaps() -> Figure:
    """The positions 1, 4 and 15 as gaps of three bits, with the filler between them."""
    plots.style()
    found = pruning.gap_encode([1, 4, 15], 16, 3)
    places = pruning.gap_decode(found.codes, 16)
    figure, axis = plt.subplots(figsize=(7.4, 2.1))
    for i in range(16):
        kept = i in (1, 4, 15)
        face = plots.COLOURS[4] if kept else "white"
        axis.add_patch(Rectangle((i, 0), 1, 1, facecolor=face, edgecolor="black", linewidth=0.8))
        axis.text(i + 0.5, -0.45, str(i), ha="center", va="center", fontsize=8, color="#444444")
    filler = int(places[found.filler][0])
    axis.add_patch(Rectangle((filler, 0), 1, 1, facecolor="white", edgecolor="black", hatch="////"))
    axis.text(filler + 0.5, -1.1, "filler: a stored zero", ha="center", fontsize=9)
    at = -1
    for place, code in zip(places, found.codes, strict=True):
        arrow = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.35"}
        axis.annotate("", (place + 0.5, 1.05), (at + 0.5, 1.05), arrowprops=arrow)
        height = 1.25 + 0.17 * int(code + 1)
        axis.text((at + place) / 2 + 0.5, height + 0.3, f"{code + 1}", ha="center", fontsize=10)
        at = int(place)
    axis.text(-0.5, -0.45, "−1", ha="center", va="center", fontsize=8, color="#444444")
    axis.set(xlim=(-1.2, 16.2), ylim=(-1.5, 3.4), aspect="equal")
    axis.axis("off")
    return figure


def break_even() -> Figure:
    """Bits per weight of a random mask against density: gaps of three widths, bit mask, dense."""
    plots.style()
    densities = np.geomspace(0.005, 1, 60)
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.2), sharex=True)
    for axis, value_bits in zip(axes, (32, 4), strict=True):
        for bits in (3, 5, 8):
            entries = np.array([1 + pruning.expected_fillers(d, bits) for d in densities])
            curve = densities * entries * (value_bits + bits)
            axis.loglog(100 * densities, curve, marker="", label=f"gaps of {bits} bits")
        axis.loglog(100 * densities, 1 + value_bits * densities, marker="", label="bit mask")
        axis.axhline(value_bits, color="black", linewidth=1, linestyle=":", label="dense")
        axis.set(title=f"{value_bits}-bit values", xlabel="weights kept (%)")
        axis.set_xticks([1, 10, 100], ["1", "10", "100"])
    axes[0].set_ylabel("bits stored per weight")
    axes[1].legend(fontsize=8)
    return figure


FIGURES = {"04_idea": idea, "04_gaps": gaps, "04_break_even": break_even}
