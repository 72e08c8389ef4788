"""The figures of chapter 05: the paper's 4 x 4 layer, and what sharing saves over layer sizes."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from helpers import plots
from helpers.weight_sharing import codebook_gradient, compression_rate, kmeans

WEIGHT = np.array(  # Han et al. 2016, figure 3
    [
        [2.09, -0.98, 1.48, 0.09],
        [0.05, -0.14, -1.08, 2.12],
        [-0.91, 1.92, 0.00, -1.03],
        [1.87, 0.00, 1.53, 1.49],
    ]
)
GRADIENT = np.array(
    [
        [-0.03, -0.01, 0.03, 0.02],
        [-0.01, 0.01, -0.02, 0.12],
        [-0.01, 0.02, 0.04, 0.01],
        [-0.07, -0.02, 0.01, -0.02],
    ]
)
TINTS = ("#ffffff", "#e3e3e3", "#c4c4c4", "#a0a0a0")  # one grey for each cluster


def _grid(axis: Axes, values: NDArray, index: NDArray, text: str, title: str) -> None:
    """A matrix of numbers, each on the grey of its cluster."""
    rows, columns = values.shape
    for (r, c), value in np.ndenumerate(values):
        axis.add_patch(
            plt.Rectangle((c, rows - 1 - r), 1, 1, facecolor=TINTS[index[r, c]], edgecolor="black")
        )
        axis.text(c + 0.5, rows - 0.5 - r, text.format(value), ha="center", va="center", fontsize=9)
    axis.set(xlim=(-0.05, columns + 0.05), ylim=(-0.05, rows + 0.05), title=title)
    axis.set_aspect("equal")
    axis.axis("off")


def sharing() -> Figure:
    """Weights, indices and codebook above; gradient, its sums and the new codebook below."""
    plots.style()
    found = kmeans(WEIGHT.ravel(), 4, start="linear")
    index = found.assignment.reshape(4, 4)
    sums = codebook_gradient(GRADIENT, index, 4)
    places = np.arange(4)[:, None]
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 5.0), width_ratios=(4, 4, 2))
    _grid(axes[0, 0], WEIGHT, index, "{:.2f}", "weights, 32 bits each")
    _grid(axes[0, 1], index, index, "{:d}", "indices, 2 bits each")
    _grid(axes[0, 2], found.centroids[:, None], places, "{:.2f}", "codebook")
    _grid(axes[1, 0], GRADIENT, index, "{:.2f}", "gradient of each weight")
    _grid(axes[1, 1], sums[:, None], places, "{:.2f}", "summed by index")
    _grid(axes[1, 2], (found.centroids - sums)[:, None], places, "{:.2f}", "new codebook")
    return figure


def rates() -> Figure:
    """Compression rate against the number of shared values, for three sizes of layer."""
    plots.style()
    counts = 2 ** np.arange(1, 11)
    figure, axis = plt.subplots(figsize=(6.8, 3.4))
    for n, offset in ((235_200, 8), (30_000, 0), (1_000, 0)):
        ks = [k for k in counts if k <= n]
        (line,) = axis.plot(ks, [compression_rate(n, int(k)) for k in ks])
        plots.label_line(axis, line, f"{n:,} weights", offset=(6, offset))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.axhline(1, color="#777777", linewidth=0.8)
    axis.set(xlabel="shared values k", ylabel="times smaller", xlim=(1.8, 5000), ylim=(0.6, 45))
    axis.set_xticks(counts, [f"{k:,}" for k in counts])
    axis.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    return figure


FIGURES = {"05_sharing": sharing, "05_rates": rates}
