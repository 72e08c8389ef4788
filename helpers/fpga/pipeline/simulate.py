"""The machine, clock cycle by clock cycle.

In every cycle every stage looks at the state that the last clock edge left, and acts: its output
register gives a word to the FIFOs behind it, its arithmetic does one step on the window in the line
buffer, its write port takes a word from each FIFO before it. Then the clock edge makes all of that
state. Nothing is seen in the cycle in which it happens, so the order of the stages in the loop does
not matter.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from helpers.fpga.arithmetic import Integers, check_mode
from helpers.fpga.integer_model import IntegerModel
from helpers.fpga.pipeline.fifo import Fifo
from helpers.fpga.pipeline.folding import Design, map_shape
from helpers.fpga.pipeline.machine import Camera, Machine
from helpers.fpga.pipeline.structure import Depths, Edge, Stage, build, edges
from helpers.fpga.pipeline.units import unit


class DeadlockError(RuntimeError):
    """Nothing can move any more; the message says who waits for whom."""


@dataclass(frozen=True, eq=False)
class Run:
    """What the machine did.

    `streams` holds the codes of every stage as `Datapath.trace` gives them; `pushed` the cycle in
    which each word left its stage; `states` (cycles,) per stage one of DONE, WORK, INPUT, OUTPUT;
    `fifo_peak` the words each FIFO had to hold, `buffer_peak` the pixels each line buffer held.
    """

    outputs: npt.NDArray[np.int8]
    streams: dict[str, npt.NDArray[np.int8]]
    pushed: dict[str, Integers]
    states: dict[str, npt.NDArray[np.uint8]]
    fifo_peak: dict[Edge, int]
    buffer_peak: dict[tuple[str, int], int]
    cycles: int

    @property
    def frame_ends(self) -> Integers:
        """The cycle after which each frame's last logit is out, (N,)."""
        last = list(self.pushed.values())[-1]
        return last.reshape(len(self.outputs), -1)[:, -1]


def due_cycles(pixels: int, frames: int, interval: int | None) -> Integers:
    """When the camera has each pixel: one per cycle, or `interval` cycles per frame, evenly spaced."""
    if interval is None:
        return np.arange(pixels * frames)
    if interval < pixels:
        raise ValueError(
            f"interval must be at least {pixels} cycles, one per pixel, got {interval}"
        )
    return -(-np.arange(pixels * frames) * interval // pixels)


def simulate(
    model: IntegerModel,
    design: Design,
    codes: npt.NDArray[np.int8],
    *,
    fifo: Depths = 2,
    interval: int | None = None,
    buffers: Mapping[str, int] | None = None,
    hold: Collection[str] = (),
    rounding: str = "half_up",
    multiplier_bits: int = 16,
    progress: bool = False,
) -> Run:
    """Run frames through the pipeline, one right after the other.

    Args:
        model: the integer model.
        design: a folding for each conv and linear layer.
        codes: the frames, int8 (N, C, H, W).
        fifo: depth of every FIFO in words, or of single ones by (producer, consumer); None: endless.
        interval: cycles between frames of the camera, whose pixels come evenly; None: a pixel per
            cycle, as soon as there is room.
        buffers: pixels of line buffer by layer name, where they are not the usual ones.
        hold: layers that start a frame only when all of it has arrived.
        rounding: the requantization, as in `Datapath`.
        multiplier_bits: its multiplier's width, as in `Datapath`.
        progress: show a bar that counts the words of all stages.

    Raises:
        ValueError: the design or an argument does not fit the model.
        DeadlockError: every stage waits for another one, as when a FIFO beside a longer path is too
            shallow.
    """
    model.check_input(codes)
    if len(codes) == 0:
        raise ValueError("codes must hold at least one frame")
    mode, stages = check_mode(rounding), build(model, design, buffers=buffers, hold=hold)
    fifos = {edge: Fifo(depth) for edge, depth in edges(stages, fifo).items()}
    camera, machines = None, {}
    for stage in stages:
        after = [f for (producer, _), f in fifos.items() if producer == stage.name]
        if stage.windows is None:
            pixels = codes.transpose(0, 2, 3, 1).reshape(-1, codes.shape[1]).astype(np.int64)
            due = due_cycles(stage.pixels_out, len(codes), interval)
            camera = Camera(pixels, due, after)
            continue
        before = [fifos[source, stage.name] for source in stage.sources]
        arithmetic = unit(model, stage, mode, multiplier_bits)
        machines[stage.name] = Machine(stage, arithmetic, before, after, len(codes))
    assert camera is not None
    running: list[Camera | Machine] = [camera, *machines.values()]
    total, now = len(codes) * sum(stage.words_out for stage in stages), 0
    with tqdm(total=total, disable=not progress, leave=False, unit="word") as bar:
        while camera.left or any(m.busy for m in machines.values()):
            moved = [machine.clock(now) for machine in running]
            if not any(moved):
                raise DeadlockError(_who_waits(stages[0].name, camera, machines, fifos, now))
            for queue in fifos.values():
                queue.clock()
            now += 1
            if now % 5000 == 0:
                bar.update(sum(len(machine.pushed) for machine in running) - bar.n)
    words = [camera.words, *(np.array(m.words) for m in machines.values())]
    names = [stage.name for stage in stages]
    streams = {
        stage.name: _maps(stage, found, len(codes))
        for stage, found in zip(stages, words, strict=True)
    }
    return Run(
        streams[names[-1]].reshape(len(codes), *model.output.shape),
        streams,
        {n: np.array(m.pushed) for n, m in zip(names, running, strict=True)},
        {n: np.frombuffer(bytes(m.states), np.uint8) for n, m in zip(names, running, strict=True)},
        {edge: queue.peak for edge, queue in fifos.items()},
        {(n, i): peak for n, m in machines.items() for i, peak in enumerate(m.peak)},
        now,
    )


def _maps(stage: Stage, words: Integers, frames: int) -> npt.NDArray[np.int8]:
    """Words in the order in which they left, as the tensors (N, C, H, W) or (N, F) they stand for."""
    channels, height, width = map_shape(stage.layer)
    maps = words.reshape(frames, height, width, channels).transpose(0, 3, 1, 2)
    return maps.reshape(frames, *stage.layer.shape).astype(np.int8)


def _who_waits(
    first: str, camera: Camera, machines: dict[str, Machine], fifos: dict[Edge, Fifo], now: int
) -> str:
    """The waits that close a circle, or all of them."""
    waits: dict[str, tuple[str, str]] = {}  # who: for whom, why
    giving = {first: camera.left > 0} | {n: m.register is not None for n, m in machines.items()}
    for name, gives in giving.items():
        full = [edge for edge, fifo in fifos.items() if edge[0] == name and not fifo.ready]
        missing = [] if name == first else machines[name].missing()
        if gives and full:
            reader, depth = full[0][1], fifos[full[0]].depth
            words = f"{depth} word" + "s" * (depth != 1)
            why = f"{name} waits for {reader} to take from FIFO {name} -> {reader}"
            waits[name] = (reader, f"{why}, full with {words}")
        elif missing:
            source = machines[name].stage.sources[missing[0]]
            waits[name] = (source, f"{name} waits for {source} to send")
    path = list(waits)[:1]
    while path and path[-1] in waits:
        following = waits[path[-1]][0]
        if following in path:
            circle = [waits[name][1] for name in path[path.index(following) :]]
            return f"deadlock in cycle {now}: " + "; ".join(circle)
        path.append(following)
    return f"deadlock in cycle {now}: " + "; ".join(why for _, why in waits.values())
