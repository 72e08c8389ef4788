"""The figures of chapter 03: a latent weight and its sign, and batch norm as thresholds."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from helpers import plots
from helpers.binaryconnect import Codes


def latent() -> Figure:
    """A latent weight under noisy gradients, clipped at the bounds, and the sign that is used."""
    plots.style()
    generator = np.random.default_rng(11)
    pull = np.repeat([-0.010, 0.012, 0.03, -0.022], 60)  # what the gradients agree on, by phase
    w, path = 0.35, []
    for step in pull + generator.normal(0, 0.06, len(pull)):
        w = float(np.clip(w + step, -1, 1))
        path.append(w)
    values = np.array(path)
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(7.2, 3.7), sharex=True, height_ratios=(2.2, 1)
    )
    upper.plot(values, marker="")
    upper.axhline(0, color="black", linewidth=0.8, linestyle="-")
    for bound in (-1, 1):
        upper.axhline(bound, color=plots.COLOURS[1], linestyle="--", linewidth=1)
    upper.annotate("clipped", (2, 0.84), color=plots.COLOURS[1])
    upper.set(ylabel="latent weight $w$", ylim=(-1.15, 1.15), yticks=(-1, 0, 1))
    lower.step(
        range(len(values)), np.where(values >= 0, 1, -1), where="post", color="black", marker=""
    )
    lower.set(xlabel="training step", ylabel="$w_b$", ylim=(-1.6, 1.6), yticks=(-1, 1))
    for axis in (upper, lower):
        axis.grid(False)
    return figure


def thresholds() -> Figure:
    """The batch norm of a whole-number sum, the edges of the code, and the thresholds they become."""
    plots.style()
    step = Codes(levels=3, step=0.5)
    gamma, beta, mean, deviation = 1.0, 0.1, 4.3, 6.0
    sums = np.arange(-4, 16)
    outputs = gamma * (sums - mean) / deviation + beta
    code = np.round(2 * step(torch.tensor(outputs)).numpy())
    figure, axis = plt.subplots(figsize=(7.2, 3.4))
    line = np.array([-4.5, 15.5])
    axis.plot(
        line, gamma * (line - mean) / deviation + beta, marker="", color="#888888", linewidth=1
    )
    for value in range(4):
        chosen = code == value
        axis.plot(
            sums[chosen], outputs[chosen], plots.MARKERS[value], color=plots.COLOURS[value],
            linestyle="", label=f"code {value}",
        )  # fmt: skip
    for edge in step.edges:
        reached = int(sums[outputs >= edge][0])
        real = (edge - beta) * deviation / gamma + mean
        axis.hlines(edge, -4.5, real, color="black", linewidth=0.8, linestyle=":")
        axis.vlines(real, -1.5, edge, color="black", linewidth=0.8, linestyle=":")
        axis.vlines(reached, -1.5, edge, color="black", linewidth=1.2)
        axis.annotate(f"$s \\geq {reached}$", (reached, -1.32), (3, 0), textcoords="offset points")
        axis.annotate(f"edge {edge:g}", (-4.4, edge + 0.04), fontsize=8)
    axis.set(
        xlabel="whole-number sum $s$",
        ylabel="batch norm's output",
        ylim=(-1.45, 2.2),
        xlim=(-4.5, 15.5),
    )
    axis.set_xticks(sums[::2])
    axis.grid(False)
    axis.legend(loc="upper left", bbox_to_anchor=(0.0, 0.98), ncols=2)
    return figure


FIGURES = {"03_latent": latent, "03_thresholds": thresholds}
