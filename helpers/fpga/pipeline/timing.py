"""When every word moves: the equations of the pipeline, without its values.

Write p(w) for the cycle in which word w leaves a stage, l(w) for the cycle in which the reader
takes it into its line buffer, e(k) for the cycle of the last step of turn k. A register shows what
happened in earlier cycles only, so every "after" below costs one cycle. With n steps per turn:

    l(w) = max(l(w-1) + 1,  p_source(w) + 1,  e(last turn that reads the pixel w replaces) + 1)
    e(k) = max(max(e(k-1), l(last word that k reads)) + n,  p(k-1))
    p(k) = max(e(k) + 1,  l_reader(k - depth) + 1 for every reader)

The last term of e: the output register must be empty, or become empty in the same cycle. `schedule`
solves the equations word by word, for any depths. Without limits, `free_schedule` solves each stage
at once: e(k) = n k + max over j <= k of (l_j - n j) + n, a running maximum.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from helpers.fpga.arithmetic import Integers
from helpers.fpga.integer_model import IntegerModel
from helpers.fpga.pipeline.folding import Design, frame_interval
from helpers.fpga.pipeline.simulate import DeadlockError, due_cycles
from helpers.fpga.pipeline.structure import Depths, Edge, Stage, build, edges


@dataclass(frozen=True, eq=False)
class Schedule:
    """The cycle in which each word leaves each stage, and in which each reader takes it."""

    pushed: dict[str, Integers]
    taken: dict[Edge, Integers]
    frames: int

    @property
    def frame_ends(self) -> Integers:
        """The cycle after which each frame's last word is out of the last stage, (N,)."""
        return list(self.pushed.values())[-1].reshape(self.frames, -1)[:, -1]

    @property
    def fifo_peak(self) -> dict[Edge, int]:
        """Words for which each FIFO must have places so that this very schedule is possible."""
        peak = {}
        for edge, taken in self.taken.items():
            pushed = self.pushed[edge[0]]
            inside = np.arange(1, len(pushed) + 1) - np.searchsorted(taken, pushed)
            peak[edge] = int(inside.max())
        return peak


class _Clockwork:
    """One stage of `schedule`: which times are known already."""

    def __init__(self, stage: Stage, frames: int, due: list[int]) -> None:
        self.stage, self.due = stage, due
        self.pushed: list[int] = []
        self.ends: list[int] = []  # e
        self.emitted: list[int] = []  # e of the turns that make a word
        self.taken: list[list[int]] = [[] for _ in stage.sources]  # l
        self.words = frames * stage.words_out
        self.turns = frames * stage.turns
        self.words_in = [frames * n for n in stage.words_in]
        self.ready = [ready.ravel().tolist() for ready in stage.ready]
        if stage.windows is None:
            return
        # the first window that no longer reads pixel - buffer: until then a pixel has no place
        pixels, keep = stage.windows.pixels, stage.windows.keep
        numbers = np.arange(frames * pixels) - stage.buffer
        frame, pixel = np.divmod(numbers, pixels)
        window = frame * stage.windows.count + np.searchsorted(keep, pixel, side="right")
        self.free_after = (np.maximum(window, 0) * stage.groups).tolist()  # turns done

    def load(self, i: int, source: "_Clockwork") -> bool:
        taken, channels, moved = self.taken[i], self.stage.channels, False
        while (w := len(taken)) < min(self.words_in[i], len(source.pushed)):
            turns = self.free_after[w // (channels // self.stage.word[i])]
            if turns > len(self.ends):
                break
            last = taken[-1] if taken else -1
            free = self.ends[turns - 1] if turns else -1
            taken.append(max(last, source.pushed[w], free) + 1)
            moved = True
        return moved

    def compute(self) -> bool:
        stage, moved = self.stage, False
        while (k := len(self.ends)) < self.turns:
            frame, turn = divmod(k, stage.turns)
            begin = self.ends[-1] if self.ends else -1
            for taken, ready, words in zip(self.taken, self.ready, stage.words_in, strict=True):
                need = frame * words + ready[turn]
                if need > len(taken):
                    return moved
                begin = max(begin, taken[need - 1] if need else -1)
            end = begin + stage.steps
            if stage.turns == stage.words_out or turn >= stage.turns - stage.groups:
                if len(self.pushed) < len(self.emitted):
                    return moved
                end = max(end, self.pushed[-1] if self.pushed else -1)
                self.emitted.append(end)
            self.ends.append(end)
            moved = True
        return moved

    def give(self, after: list[tuple[list[int], int | None]]) -> bool:
        moved = False
        while (k := len(self.pushed)) < self.words:
            if self.stage.windows is None:
                time = max(self.due[k], self.pushed[-1] + 1 if k else 0)
            elif k == len(self.emitted):
                return moved
            else:
                time = self.emitted[k] + 1
            for taken, depth in after:
                if depth is not None and k >= depth:
                    if len(taken) <= k - depth:
                        return moved
                    time = max(time, taken[k - depth] + 1)
            self.pushed.append(time)
            moved = True
        return moved


def schedule(
    model: IntegerModel,
    design: Design,
    frames: int = 1,
    *,
    fifo: Depths = 2,
    interval: int | None = None,
    buffers: Mapping[str, int] | None = None,
    hold: Collection[str] = (),
) -> Schedule:
    """Solve the equations for `frames` frames; arguments and errors are those of `simulate`."""
    if frames < 1:
        raise ValueError(f"frames must be positive, got {frames}")
    stages = build(model, design, buffers=buffers, hold=hold)
    depths = edges(stages, fifo)
    due = due_cycles(stages[0].pixels_out, frames, interval).tolist()
    works = {stage.name: _Clockwork(stage, frames, due) for stage in stages}
    taken = {
        (source, work.stage.name): work.taken[i]
        for work in works.values()
        for i, source in enumerate(work.stage.sources)
    }
    after = {
        name: [(taken[e], depth) for e, depth in depths.items() if e[0] == name] for name in works
    }
    moved = True
    while moved:
        moved = False
        for name, work in works.items():
            for i, source in enumerate(work.stage.sources):
                moved |= work.load(i, works[source])
            # a word leaves before the next is computed, and the other way round
            while work.compute() | work.give(after[name]):
                moved = True
    stuck = [name for name, work in works.items() if len(work.pushed) < work.words]
    if stuck:
        raise DeadlockError(f"deadlock: the equations have no solution; {', '.join(stuck)} stop")
    return Schedule(
        {name: np.array(work.pushed) for name, work in works.items()},
        {edge: np.array(times) for edge, times in taken.items()},
        frames,
    )


def free_schedule(
    model: IntegerModel, design: Design, frames: int = 1, *, interval: int | None = None
) -> dict[str, Integers]:
    """The cycle in which each word leaves each stage, if FIFOs and line buffers have no end.

    By stage, the camera first: (words of all frames,). `interval` is that of `simulate`.
    """
    pushed: dict[str, Integers] = {}
    for stage in build(model, design):
        if stage.windows is None:
            pushed[stage.name] = due_cycles(stage.pixels_out, frames, interval)
            continue
        begin = np.full(frames * stage.turns, -1)
        for source, ready, words in zip(stage.sources, stage.ready, stage.words_in, strict=True):
            taken = running_maximum(pushed[source] + 1, 1)
            need = (np.arange(frames)[:, None] * words + ready.ravel()).ravel()
            begin = np.maximum(begin, np.where(need > 0, taken[need - 1], -1))
        ends = running_maximum(begin, stage.steps) + stage.steps
        by_frame = ends.reshape(frames, stage.turns)
        pushed[stage.name] = by_frame[:, stage.turns - stage.words_out :].ravel() + 1
    return pushed


def running_maximum(earliest: Integers, steps: int) -> Integers:
    """The starts of equal jobs, each `steps` after the one before and not before its `earliest`.

    >>> running_maximum(np.array([0, 1, 2, 9]), 3)
    array([0, 3, 6, 9])
    """
    waiting = np.arange(len(earliest)) * steps
    return np.maximum.accumulate(earliest - waiting) + waiting


def first_latency(model: IntegerModel, design: Design) -> int:
    """Cycles from the first pixel to the last logit of the first frame, nothing in the way."""
    return int(list(free_schedule(model, design).values())[-1][-1]) + 1


def sized_fifos(model: IntegerModel, design: Design, frames: int = 3) -> dict[Edge, int]:
    """FIFO depths with which no stage ever waits for room, when the camera sends a frame per
    `frame_interval`: the words that endless FIFOs really hold, and at least 2."""
    pace = frame_interval(model, design)
    free = schedule(model, design, frames, fifo=None, interval=pace)
    return {edge: max(2, peak) for edge, peak in free.fifo_peak.items()}
