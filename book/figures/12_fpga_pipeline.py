"""The figures of chapter 12: a stage, what a line buffer keeps, the pipeline in time and in space."""

import itertools

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from helpers import models, plots, training
from helpers.fpga import explore
from helpers.fpga.convert import from_quantized
from helpers.fpga.devices import device
from helpers.fpga.pipeline.folding import Folding, folded
from helpers.fpga.pipeline.gantt import gantt
from helpers.fpga.pipeline.simulate import simulate
from helpers.fpga.pipeline.timing import sized_fifos
from helpers.quantization import quantize_network


def _box(axis: Axes, x: float, y: float, width: float, text: str, shade: str = "white") -> None:
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.36),
            width,
            0.72,
            boxstyle="round,pad=0.02",
            facecolor=shade,
            edgecolor="black",
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "black", "ls": style})


def stage() -> Figure:
    """One stage between two FIFOs; data to the right, permission to the left."""
    plots.style()
    figure, axis = plt.subplots(figsize=(7.4, 2.5))
    axis.set(xlim=(0, 10.4), ylim=(0, 3.5))
    axis.axis("off")
    parts = [
        (0.75, 1.05, "FIFO", "white"),
        (2.65, 1.35, "line\nbuffer", "#e6e6e6"),
        (4.45, 1.2, "window", "#e6e6e6"),
        (6.15, 1.25, "P × Q\nmultipliers", "#e6e6e6"),
        (8.0, 1.4, "output\nregister,\nrequantize", "#e6e6e6"),
        (9.75, 1.05, "FIFO", "white"),
    ]
    for x, width, text, shade in parts:
        _box(axis, x, 2.1, width, text, shade)
    for (a, wide_a, *_), (b, wide_b, *_) in itertools.pairwise(parts):
        _arrow(axis, (a + wide_a / 2 + 0.04, 2.1), (b - wide_b / 2 - 0.04, 2.1), "-")
    axis.text(4.45, 3.25, "zero-point for padding", ha="center", fontsize=8)
    _arrow(axis, (4.45, 3.15), (4.45, 2.55), "-")
    axis.text(6.15, 3.25, "weight memory", ha="center", fontsize=8)
    _arrow(axis, (6.15, 3.15), (6.15, 2.55), "-")
    for start, end, text in (
        ((2.65, 1.65), (0.75, 1.65), "room?"),
        ((9.75, 1.65), (8.0, 1.65), "ready?"),
    ):
        middle = (start[0] + end[0]) / 2
        axis.plot([start[0], start[0]], [1.65, 1.2], color="black", ls=":", marker="", lw=1)
        axis.plot([start[0], end[0]], [1.2, 1.2], color="black", ls=":", marker="", lw=1)
        _arrow(axis, (end[0], 1.2), (end[0], 1.68), ":")
        axis.text(middle, 0.9, text, ha="center", fontsize=8)
    axis.text(5.2, 0.25, "every box acts in every cycle, on what the last clock edge left", ha="center",
              fontsize=9, style="italic")  # fmt: skip
    return figure


def line_buffer() -> Figure:
    """A map of 9 x 6 pixels: gone, kept, just arrived, not yet there; and the window."""
    plots.style()
    height, width, newest = 6, 9, 3 * 9 + 5
    oldest = newest - 2 * width - 2
    figure, axis = plt.subplots(figsize=(6.0, 2.9))
    axis.set(xlim=(-0.4, 14.4), ylim=(height - 0.2, -0.6), aspect="equal")
    axis.axis("off")
    looks = {
        "gone": {"facecolor": "white", "hatch": "xx"},
        "in the line buffer": {"facecolor": plots.COLOURS[4]},
        "just arrived": {"facecolor": plots.COLOURS[0]},
        "not there yet": {"facecolor": "white"},
    }
    for pixel in range(height * width):
        kind = (
            "gone" if pixel < oldest
            else "in the line buffer" if pixel < newest
            else "just arrived" if pixel == newest
            else "not there yet"
        )  # fmt: skip
        corner = (pixel % width, pixel // width - 0.5)
        axis.add_patch(Rectangle(corner, 0.92, 0.92, edgecolor="0.6", lw=0.6, **looks[kind]))
    x, y = newest % width, newest // width
    axis.add_patch(Rectangle((x - 2.04, y - 2.54), 3, 3, fill=False, edgecolor="black", lw=2.4))
    for row, (name, look) in enumerate(looks.items()):
        axis.add_patch(Rectangle((9.7, row * 0.95), 0.7, 0.7, edgecolor="0.6", lw=0.6, **look))
        axis.text(10.65, row * 0.95 + 0.35, name, va="center", fontsize=9)
    axis.add_patch(Rectangle((9.7, 3.85), 0.7, 0.7, fill=False, edgecolor="black", lw=2.4))
    axis.text(10.65, 4.2, "3 × 3 window", va="center", fontsize=9)
    return figure


def in_time() -> Figure:
    """A balanced design with shallow and with deep enough FIFOs: who works, who waits."""
    plots.style()
    training.set_seed(0)
    network = models.small("SeparableCNN").eval()
    images = torch.rand(2, 1, 28, 28)
    model = from_quantized(quantize_network(network, images))
    parallel = [(8, 9), (2, 9), (4, 16), (1, 9), (8, 8), (2, 9), (16, 8), (1, 1)]
    design = {
        layer.name: Folding(*pair) for layer, pair in zip(folded(model), parallel, strict=True)
    }
    codes = model.quantize_input(images.repeat(2, 1, 1, 1)[:3].numpy())
    runs = {
        "FIFOs of 2 words": simulate(model, design, codes),
        "FIFOs behind the pools of 12 and 16 words": simulate(
            model, design, codes, fifo=sized_fifos(model, design)
        ),
    }
    stop = max(run.cycles for run in runs.values())
    figure, axes = plt.subplots(2, 1, figsize=(7.4, 5.6), sharex=True)
    for axis, (title, run) in zip(axes, runs.items(), strict=True):
        gantt(axis, run, stop=stop)
        axis.set(xlim=(0, stop), xlabel="", title=title)
    axes[1].set_xlabel("cycle")
    return figure


def blocks() -> Figure:
    """A ROM of 96 bits x 3072 words in blocks of 18 x 1024: plain, and in words of three accesses."""
    plots.style()
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.9), width_ratios=(1, 2))
    for axis, columns, rows, width, depth, title in (
        (axes[0], 6, 3, 96, 3072, "96-bit words: 18 blocks"),
        (axes[1], 16, 1, 288, 1024, "words of three accesses, 288 bits: 16 blocks"),
    ):
        axis.add_patch(plt.Rectangle((0, 0), width, depth, color=plots.COLOURS[4], alpha=0.7, lw=0))
        for i in range(columns):
            for j in range(rows):
                frame = (18 * i, 1024 * j), 18, 1024
                axis.add_patch(plt.Rectangle(*frame, fill=False, ec="black"))
        waste = 18 * columns - width
        if waste:
            beside = plt.Rectangle((width, 0), waste, 1024 * rows, fc="none", ec="0.3", hatch="//")
            axis.add_patch(beside)
            axis.annotate(
                "12 of 108 bits unused",
                (width + 6, 1200),
                (30, 3350),
                arrowprops={"arrowstyle": "-"},
            )
        axis.set(xlim=(-3, 18 * columns + 3), ylim=(-60, 3700), title=title)
        axis.set(xlabel="bits of a word", ylabel="words", yticks=range(0, 3073, 1024))
        axis.grid(visible=False)
    return figure


KINDS = ["weights", "line buffer", "channel constants"]


def budget() -> Figure:
    """The 46 blocks of a GW2A-18 under the fastest designs of EdgeNet with 8, 6 and 4-bit weights."""
    plots.style()
    training.set_seed(0)
    network = models.EdgeNet().eval()
    model = from_quantized(quantize_network(network, torch.randn(4, 3, 96, 96)))
    part, buffers = device("GW2A-18"), explore.least_buffers(model, ["average", "fc"])
    looks = [{"fc": plots.COLOURS[i], "hatch": plots.HATCHES[i]} for i in range(3)]
    figure, axes = plt.subplots(1, 3, figsize=(9, 3))
    for axis, bits in zip(axes, (8, 6, 4), strict=True):
        report = explore.fastest(model, part, weight_bits=bits, buffers=buffers).report
        used = report.by_kind()["block RAM"]
        filled = [n for n, kind in enumerate(KINDS) for _ in range(used[kind])]
        for i in range(part.blocks):
            look = looks[filled[i]] if i < len(filled) else {"fc": "white"}
            axis.add_patch(plt.Rectangle((i % 8, -(i // 8)), 0.9, 0.9, ec="0.2", **look))
        title = f"{bits}-bit weights: {used.sum()} of {part.blocks} blocks"
        axis.set(xlim=(-0.2, 8.2), ylim=(-5.3, 1.2), title=title, aspect="equal")
        axis.axis("off")
    handles = [plt.Rectangle((0, 0), 1, 1, ec="0.2", **look) for look in looks]
    figure.legend(handles, KINDS, loc="outside lower center", ncols=3)
    return figure


FIGURES = {
    "12_stage": stage,
    "12_line_buffer": line_buffer,
    "12_in_time": in_time,
    "12_blocks": blocks,
    "12_budget": budget,
}
