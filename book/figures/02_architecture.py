"""The figures of chapter 02: the kernels of two convolutions, and the law 1/N + 1/K^2."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import architecture, plots

INPUTS, OUTPUTS = 4, 5


def _picture(axis: Axes, values: np.ndarray, title: str) -> None:
    axis.imshow(values, cmap="gray", vmin=-2.4, vmax=2.4, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=7, pad=2)


def kernels() -> Figure:
    """All kernels of a full convolution, and those of a depthwise and pointwise pair."""
    plots.style()
    generator = torch.Generator().manual_seed(5)
    full = torch.randn(OUTPUTS, INPUTS, 3, 3, generator=generator).numpy()
    patterns = torch.randn(INPUTS, 3, 3, generator=generator).numpy()
    mix = torch.linspace(-1.6, 1.6, OUTPUTS * INPUTS)[
        torch.randperm(OUTPUTS * INPUTS, generator=generator)
    ]
    mix = mix.reshape(OUTPUTS, INPUTS).numpy()
    figure = plt.figure(figsize=(7.4, 4.6))
    left, right = figure.subfigures(1, 2)
    texts = (
        f"full: {OUTPUTS * INPUTS} patterns of 9 weights = {9 * OUTPUTS * INPUTS}",
        f"pair: {INPUTS} patterns, {OUTPUTS * INPUTS} factors = {9 * INPUTS + OUTPUTS * INPUTS}",
    )
    for part, text, weight in (
        (left, texts[0], full),
        (right, texts[1], mix[..., None, None] * patterns),
    ):
        axes = part.subplots(OUTPUTS, INPUTS)
        part.suptitle(text, fontsize=9)
        for o in range(OUTPUTS):
            for c in range(INPUTS):
                title = f"{mix[o, c]:+.1f} × $D_{c + 1}$" if part is right else ""
                _picture(axes[o, c], weight[o, c], title)
            axes[o, 0].set_ylabel(f"output {o + 1}", fontsize=7)
        for c in range(INPUTS):
            axes[-1, c].set_xlabel(f"input {c + 1}", fontsize=7)
    return figure


def law() -> Figure:
    """How many times fewer MACs the pair makes, against the number of outputs."""
    plots.style()
    outputs = 2 ** np.arange(0, 11)
    figure, axis = plt.subplots(figsize=(6.8, 3.3))
    for k in (7, 5, 3):
        gains = [float(1 / architecture.cost_ratio(int(n), k)) for n in outputs]
        (line,) = axis.loglog(outputs, gains)
        plots.label_line(axis, line, f"{k} × {k}, at most {k * k}", offset=(8, 0))
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1024"])
    axis.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axis.minorticks_off()
    axis.set(xlabel="output channels N", ylabel="times fewer MACs")
    return figure


FIGURES = {"02_kernels": kernels, "02_law": law}
