"""The figures of chapter 09: two ways to lay a grid over a range, and the two errors of a grid."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from helpers import plots, quantization


def grids() -> Figure:
    """A real axis between the codes of a symmetric and of an affine 4-bit grid."""
    plots.style()
    low, high, bits = -0.6, 2.4, 4
    both = {
        "symmetric, −7 … 7": quantization.symmetric(torch.tensor([low, high]), bits),
        "affine, −8 … 7": quantization.affine(low, high, bits),
    }
    figure, axis = plt.subplots(figsize=(7.2, 2.9))
    axis.axhline(0, color="black", linewidth=1)
    axis.axvspan(low, high, color="#e8e8e8", zorder=0)
    axis.text((low + high) / 2, 1.62, "values that occur", ha="center", color="#444444")
    for (text, p), y in zip(both.items(), (0.75, -0.75), strict=True):
        codes = torch.arange(p.qmin, p.qmax + 1)
        places = quantization.dequantize(codes, p).numpy()
        inside = (places > low - 0.05) & (places < high + 0.05)
        axis.plot(
            places[~inside], np.full((~inside).sum(), y), "o", color="#999999", fillstyle="none"
        )
        axis.plot(places[inside], np.full(inside.sum(), y), "o", color=plots.COLOURS[0])
        axis.vlines(places, 0, y, color="#bbbbbb", linewidth=0.7, linestyle="-")
        zero = int(p.zero_point)
        for code in (p.qmin, zero, p.qmax):
            where = float(quantization.dequantize(torch.tensor(code), p))
            label = f"Z = {code}" if code == zero else str(code)
            axis.annotate(
                label, (where, y), (0, 8 if y > 0 else -16), textcoords="offset points", ha="center"
            )
        axis.text(-3.9, y, text, va="center")
    axis.plot([0], [0], marker="|", markersize=14, color="black")
    axis.annotate("0.0", (0, 0), (10, 3), textcoords="offset points", ha="center", fontsize=9)
    axis.set(xlim=(-4.0, 2.7), ylim=(-1.5, 1.95), yticks=[], xlabel="real value")
    axis.set_xticks(np.arange(-2, 3))
    axis.spines["left"].set_visible(False)
    axis.grid(False)
    return figure


def two_errors() -> Figure:
    """Mean squared error of a symmetric 4-bit grid on unit Gaussian numbers, in its two parts."""
    plots.style()
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    limits = np.linspace(0.8, 5.0, 60)
    parts = []
    for limit in limits:
        p = quantization.symmetric(torch.tensor([float(limit)]), 4)
        error = (quantization.fake_quantize(x, p) - x).square()
        outside = x.abs() > limit
        parts.append((float(error[~outside].sum()), float(error[outside].sum())))
    rounding, clipping = np.array(parts).T / len(x)
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    for values, text, where, offset in (
        (rounding + clipping, "sum", 8, (8, 8)),
        (rounding, "rounding (inside)", 50, (-30, -16)),
        (clipping, "clipping (outside)", 22, (10, 2)),
    ):
        (line,) = axis.semilogy(limits, values, marker="")
        axis.annotate(
            text,
            (limits[where], values[where]),
            offset,
            textcoords="offset points",
            color=line.get_color(),
        )
    best = int(np.argmin(rounding + clipping))
    axis.plot(limits[best], (rounding + clipping)[best], "o", color="black")
    axis.annotate(
        "least error",
        (limits[best], (rounding + clipping)[best]),
        (-6, 12),
        textcoords="offset points",
    )
    axis.set(
        xlabel="end of the range (standard deviations)", ylabel="mean squared error", ylim=(1e-5, 1)
    )
    return figure


FIGURES = {"09_grids": grids, "09_two_errors": two_errors}
