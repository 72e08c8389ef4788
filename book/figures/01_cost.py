"""The figures of chapter 01: where parameters and work are, and which roof a layer is under."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import nn

from helpers import cost, models, plots

PEAK, BANDWIDTH = 5e9, 0.5e9  # an accelerator with 5 GOP/s and a memory of 0.5 GB/s


def two_sides() -> Figure:
    """Parameters to the left, MACs to the right, one bar per layer of the Standard CNN."""
    plots.style()
    with torch.device("meta"):
        model = models.StandardCNN()
    rows = [row for row in cost.count(model, (3, 128, 128)).layers if row.macs]
    names = [row.name.split(".")[1] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
    for axis, values, label in (
        (left, [row.parameters / 1e6 for row in rows], "parameters (millions)"),
        (right, [row.macs / 1e6 for row in rows], "MACs for one image (millions)"),
    ):
        drawn = plots.bars(
            axis,
            names,
            values,
            xlabel=label,
            texts=[f"{value:,.2g}" if value < 1 else f"{value:,.3g}" for value in values],
        )
        for bar, row in zip(drawn, rows, strict=True):
            if row.kind == "linear":
                bar.set(facecolor=plots.COLOURS[1], hatch="//")
    right.invert_yaxis()
    return figure


def roofline() -> Figure:
    """Four layers under the roof of a small accelerator, with float32 and with int8 numbers."""
    plots.style()
    layers: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "dense": (nn.Linear(8192, 1024), (8192,)),
        "depthwise": (nn.Conv2d(256, 256, 3, padding=1, groups=256), (256, 16, 16)),
        "pointwise": (nn.Conv2d(256, 256, 1), (256, 16, 16)),
        "convolution": (nn.Conv2d(256, 256, 3, padding=1), (256, 16, 16)),
    }
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    grid = [0.2, PEAK / BANDWIDTH, 1000]
    axis.loglog(
        grid, [cost.attainable(i, PEAK, BANDWIDTH) / 1e9 for i in grid], color="black", marker=""
    )
    for (name, (layer, shape)), marker in zip(layers.items(), plots.MARKERS, strict=False):
        counted = cost.count(layer, shape)
        points = []
        for bits, filled in ((32, "white"), (8, plots.COLOURS[0])):
            intensity = cost.traffic(counted, bits, bits)["operations per byte"].iloc[0]
            points.append((intensity, cost.attainable(intensity, PEAK, BANDWIDTH) / 1e9))
            axis.plot(
                *points[-1], marker, color=plots.COLOURS[0], markerfacecolor=filled, markersize=8
            )
        axis.annotate(
            "", points[1], points[0], arrowprops={"arrowstyle": "->", "shrinkA": 5, "shrinkB": 5}
        )
        below = name in ("dense", "depthwise")
        place = (10, -4) if below else (0, 10 if name == "convolution" else -18)
        axis.annotate(
            name, points[0], place, textcoords="offset points", ha="left" if below else "center"
        )
    axis.text(0.9, 0.75, "bandwidth", rotation=33, ha="center")
    axis.text(22, 5.6, "peak", ha="center")
    axis.set(
        xlabel="arithmetic intensity (operations per byte)",
        ylabel="attainable speed (GOP/s)",
        ylim=(0.08, 9),
    )
    return figure


FIGURES = {"01_two_sides": two_sides, "01_roofline": roofline}
