"""The figures of chapter 11: the datapath, three rules of rounding, the stages of the golden check."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers import plots
from helpers.fpga.arithmetic import decompose, requantize_gemmlowp, shift_right


def _box(axis: Axes, x: float, y: float, width: float, text: str, shade: str = "white") -> None:
    height = 0.62
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.02",
            facecolor=shade,
            edgecolor="black",
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], text: str = ""
) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 1.1})
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        vertical = start[0] == end[0]
        axis.text(
            x + (0.08 if vertical else 0),
            y + (0 if vertical else 0.12),
            text,
            ha="left" if vertical else "center",
            va="center" if vertical else "bottom",
            fontsize=8,
        )


def _plain(width: float, height: float, size: tuple[float, float]) -> tuple[Figure, Axes]:
    plots.style()
    figure, axis = plt.subplots(figsize=size)
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.axis("off")
    return figure, axis


def datapath() -> Figure:
    """One output of a layer: multiply-accumulate above, requantization below, with bit widths."""
    figure, axis = _plain(10.4, 5.2, (7.4, 3.7))
    upper, lower = 3.75, 1.45
    axis.text(0.1, 4.95, "once per weight", fontsize=9, style="italic")
    axis.text(0.1, 2.35, "once per output", fontsize=9, style="italic")
    _box(axis, 0.95, upper, 1.3, "input\ncode q")
    _box(axis, 3.15, upper, 1.2, "− $Z_x$", "#e6e6e6")
    _box(axis, 5.35, upper, 1.2, "× weight", "#e6e6e6")
    _box(axis, 8.3, upper, 2.6, "+ accumulator,\nstarts at the bias", "#e6e6e6")
    _arrow(axis, (1.62, upper), (2.53, upper), "8 bits")
    _arrow(axis, (3.77, upper), (4.73, upper), "9")
    _arrow(axis, (5.97, upper), (6.98, upper), "16")
    _box(axis, 5.35, 4.85, 2.0, "weight memory")
    _box(axis, 8.6, 4.85, 2.0, "bias memory")
    _arrow(axis, (5.35, 4.52), (5.35, 4.08), "2 to 8")
    _arrow(axis, (8.6, 4.52), (8.6, 4.08), "32")
    names = [
        "× $M_0$",
        "+ $2^{s-1}$",
        "shift\nright by $s$",
        "+ $Z_y$",
        "clip to\nlow..high",
    ]
    places = [8.6, 6.85, 5.15, 3.35, 1.55]
    for x, name in zip(places, names, strict=True):
        _box(axis, x, lower, 1.2, name, "#e6e6e6")
    _arrow(axis, (8.6, 3.42), (8.6, 1.8), "32 bits at\nmost")
    for left, right, text in zip(places[1:], places[:-1], ["≤ 48", "≤ 48", "", ""], strict=True):
        _arrow(axis, (right - 0.62, lower), (left + 0.62, lower), text)
    _box(axis, 8.6, 0.35, 2.9, "multiplier 16, shift 6 bits")
    _arrow(axis, (8.6, 0.68), (8.6, 1.12))
    _box(axis, 1.55, 0.35, 1.9, "output code q")
    _arrow(axis, (1.55, 1.12), (1.55, 0.68), "8 bits")
    return figure


def rounding() -> Figure:
    """Codes near zero under four rules, as staircases over the exact quotient."""
    plots.style()
    quotient = np.arange(-10, 11)
    multiplier, shift = decompose(0.25, 31)
    found = {
        rule: shift_right(quotient * multiplier, shift, rule)
        for rule in ("half_up", "half_even", "floor")
    }
    found["gemmlowp"] = requantize_gemmlowp(quotient, multiplier, shift)
    figure, axes = plt.subplots(1, 4, figsize=(7.4, 2.4), sharex=True, sharey=True)
    for axis, (name, codes) in zip(axes, found.items(), strict=True):
        exact = quotient / 4
        axis.plot([-2.6, 2.6], [-2.6, 2.6], color="0.5", linestyle=":", marker="")
        wrong = np.abs(codes - exact) > 0.5
        axis.plot(exact[~wrong], codes[~wrong], "o", color=plots.COLOURS[0], markersize=4)
        axis.plot(exact[wrong], codes[wrong], "X", color=plots.COLOURS[1], markersize=6)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("exact value")
        axis.set_xticks(range(-2, 3))
        axis.set_yticks(range(-3, 4))
    axes[0].set_ylabel("rounded")
    return figure


def stages() -> Figure:
    """The golden check: seven stages in a row, equality where every byte must agree."""
    figure, axis = _plain(10.4, 2.9, (7.4, 2.1))
    upper = [
        "float\nnetwork",
        "fake-\nquantized",
        "integer\nreference",
        "files\nread back",
        "fast\ndatapath",
    ]
    places = [0.85, 3.0, 5.15, 7.3, 9.45]
    for i, (x, name) in enumerate(zip(places, upper, strict=True)):
        _box(axis, x, 2.2, 1.35, name, "#e6e6e6" if i >= 2 else "white")
    for i, sign in enumerate(["≈", "≈", "=", "="]):
        axis.text((places[i] + places[i + 1]) / 2, 2.2, sign, ha="center", va="center", fontsize=16)
    _box(axis, 9.45, 0.6, 1.5, "pipeline,\nlab 12", "white")
    _box(axis, 6.2, 0.6, 2.2, "ONNX Runtime on\nthe exported file", "white")
    axis.text(9.45, 1.4, "=", ha="center", va="center", fontsize=16, rotation=90)
    axis.text(7.95, 1.4, "= in the onnxruntime mode", ha="right", va="center", fontsize=9)
    axis.annotate("", (7.35, 0.85), (8.9, 1.85), arrowprops={"arrowstyle": "-", "color": "black"})
    axis.text(
        0.1, 0.6, "≈ accuracy and most codes agree\n= every byte agrees", fontsize=9, va="center"
    )
    return figure


FIGURES = {"11_datapath": datapath, "11_rounding": rounding, "11_stages": stages}
