"""The pipeline in time: who works and who waits, drawn.

Chapter: 12_fpga_pipeline.
"""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from helpers import plots
from helpers.fpga.pipeline.machine import DONE, INPUT, OUTPUT, WORK
from helpers.fpga.pipeline.simulate import Run

SHADES = {DONE: "white", INPUT: "#e6e6e6", OUTPUT: plots.COLOURS[5], WORK: plots.COLOURS[0]}


def shares(run: Run, start: int = 0, stop: int | None = None) -> dict[str, dict[int, float]]:
    """The share of cycles from `start` to `stop` that each stage spends in each state."""
    return {
        name: {state: float((states[start:stop] == state).mean()) for state in SHADES}
        for name, states in run.states.items()
    }


def gantt(axis: Axes, run: Run, *, columns: int = 400, stop: int | None = None) -> None:
    """One strip per stage; every column shows the state that is most frequent in its cycles.

    Dark: work. Middle: waits for output. Light: waits for input. White: done.
    """
    stop = min(stop or run.cycles, run.cycles)
    edges = np.linspace(0, stop, min(columns, stop) + 1).astype(int)
    picture = np.array(
        [
            [np.bincount(states[a:b], minlength=4).argmax() for a, b in itertools.pairwise(edges)]
            for states in run.states.values()
        ]
    )
    colours = ListedColormap([SHADES[state] for state in sorted(SHADES)])
    axis.imshow(
        picture,
        cmap=colours,
        vmin=-0.5,
        vmax=3.5,
        aspect="auto",
        interpolation="nearest",
        extent=(0, stop, len(picture) - 0.5, -0.5),
    )
    axis.set_yticks(range(len(picture)), [name.split(".")[-1] for name in run.states])
    axis.set_xlabel("cycle")
    axis.grid(False)
    for line in range(1, len(picture)):
        axis.axhline(line - 0.5, color="white", linewidth=2, linestyle="-", marker="")
