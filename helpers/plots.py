"""The course's figures: one style, and one way to show a figure with its alternative text.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every colour comes with
its own line style and marker, so that a page printed in black and white loses nothing.

Chapter: 01_cost.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")


def style() -> None:
    """Set the house style for all figures that follow in this process.

    Chapter: 01_cost.
    """
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS)
            + cycler(linestyle=LINE_STYLES)
            + cycler(marker=MARKERS),
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "figure.figsize": (7.0, 3.6),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "grid.color": "#d9d9d9",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "legend.frameon": False,
            "savefig.facecolor": "white",
            "svg.hashsalt": "network-compression-fpga",
        }
    )


def show(figure: Figure, alt: str) -> None:
    """Display `figure` as PNG with `alt` as its alternative text, then close it.

    `alt` is one or two sentences that say what the figure shows to someone who cannot see it. It
    travels in the output's metadata as `{"image/png": {"alt": alt}}`. Raises ValueError if empty.

    Chapter: 01_cost.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt must say in words what the figure shows, got {alt!r}")
    buffer = io.BytesIO()
    # No Software entry: the same figure gives the same bytes under every matplotlib version.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode("ascii"), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def bars(
    axis: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    xlabel: str,
    log: bool = False,
    texts: Sequence[str] | None = None,
    series: int = 0,
) -> Any:
    """Draw horizontal bars, first label on top, each with its value (or `texts`) at the end.

    `xlabel` names the quantity and its unit; `series` picks colour and hatch. Returns the bars.

    Chapter: 01_cost.
    """
    if len(labels) != len(values) or (texts is not None and len(texts) != len(values)):
        raise ValueError(
            f"labels, values and texts differ in length: {labels!r}, {values!r}, {texts!r}"
        )
    positions = np.arange(len(labels))
    drawn = axis.barh(
        positions,
        list(values),
        color=COLOURS[series % len(COLOURS)],
        hatch=HATCHES[series % len(HATCHES)],
        edgecolor="white",
    )
    axis.set_yticks(positions, list(labels))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(xlabel)
    if log:
        axis.set_xscale("log")
    axis.bar_label(
        drawn, [f"{v:,.4g}" for v in values] if texts is None else list(texts), padding=3
    )
    axis.margins(x=0.18)
    return drawn


def label_line(
    axis: Axes, line: Line2D, text: str, *, offset: tuple[float, float] = (6, 0)
) -> None:
    """Write `text` beside the last point of `line` in its colour, instead of a legend.

    `offset` is in points.

    Chapter: 01_cost.
    """
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    axis.annotate(
        text,
        (x[-1], y[-1]),
        offset,
        textcoords="offset points",
        color=line.get_color(),
        va="center",
        annotation_clip=False,
    )


def images(
    arrays: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    columns: int = 8,
    low: float | None = None,
    high: float | None = None,
    cmap: str = "gray",
    label: str = "",
) -> Figure:
    """A grid of images or feature maps, each (H, W), on one common grey scale.

    `low` and `high` default to the extremes over all arrays; `label` names the scale and its unit
    and adds a colour bar. Raises ValueError for no array or one that is not two-dimensional.

    Chapter: 01_cost.
    """
    pictures = [np.asarray(a) for a in arrays]
    if not pictures or any(p.ndim != 2 for p in pictures):
        raise ValueError(
            f"arrays must be (H, W) pictures, got shapes {[p.shape for p in pictures]}"
        )
    low = min(float(p.min()) for p in pictures) if low is None else low
    high = max(float(p.max()) for p in pictures) if high is None else high
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.1 * columns + 0.6, 1.25 * rows + 0.2), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    drawn = None
    for axis, picture in zip(axes.flat, pictures, strict=False):
        drawn = axis.imshow(picture, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=8)
    if label and drawn is not None:
        figure.colorbar(drawn, ax=axes, label=label, shrink=0.9)
    return figure
