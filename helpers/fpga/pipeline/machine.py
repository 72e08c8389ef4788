"""What runs: the camera, and a stage with its line buffers, its position and its output register.

Both have `clock`, one cycle that looks only at what the last clock edge left in the FIFOs.

Chapter: 12_fpga_pipeline.
"""

import numpy as np

from helpers.fpga.arithmetic import Integers
from helpers.fpga.pipeline.fifo import Fifo
from helpers.fpga.pipeline.structure import Stage
from helpers.fpga.pipeline.units import Unit

DONE, WORK, INPUT, OUTPUT = range(4)  # what a stage did in a cycle; the last two are stalls


class Machine:
    """A running stage: line buffers, a position, an output register."""

    def __init__(
        self, stage: Stage, unit: Unit, before: list[Fifo], after: list[Fifo], frames: int
    ) -> None:
        assert stage.windows is not None
        self.stage, self.unit, self.before, self.after = stage, unit, before, after
        self.windows, self.turns = stage.windows, frames * stage.turns
        self.turn = self.step = 0  # the position, counted over all frames
        self.loaded = [0 for _ in before]  # words, counted over all frames
        # the last row is no memory: it is the constant that slot -1, padding, selects
        shape = (stage.buffer + 1, stage.channels)
        self.memories = [np.full(shape, unit.padding, np.int64) for _ in before]
        self.register: tuple[Integers, int] | None = None
        self.words: list[Integers] = []
        self.pushed: list[int] = []
        self.states = bytearray()
        self.peak = [0 for _ in before]

    @property
    def busy(self) -> bool:
        """Whether there is still a word to make, to give or to take."""
        waiting = any(fifo.occupied for fifo in self.before)
        return self.turn < self.turns or self.register is not None or waiting

    def clock(self, now: int) -> bool:
        """One cycle; whether anything moved."""
        room = self._oldest() + self.stage.buffer  # registers of the last clock edge
        moved = self._give(now)
        state = self._compute()
        self.states.append(state)
        return self._load(room) or moved or state == WORK

    def _give(self, now: int) -> bool:
        """Output register to FIFOs: to all readers at once, so a fork waits for the slowest."""
        if self.register is None or not all(fifo.ready for fifo in self.after):
            return False
        word = self.unit.finish(*self.register)
        self.register = None
        for fifo in self.after:
            fifo.push(word)
        self.words.append(word)
        self.pushed.append(now)
        return True

    def _compute(self) -> int:
        """One step of arithmetic, if the window is complete and the result has a place to go."""
        stage = self.stage
        if self.turn == self.turns:
            return DONE
        frame, turn = divmod(self.turn, stage.turns)
        window, group = divmod(turn, stage.groups)
        if self.step == 0 and self.missing():
            return INPUT
        last = self.step == stage.steps - 1
        emits = stage.turns == stage.words_out or window == self.windows.count - 1
        if last and emits and self.register is not None:
            return OUTPUT
        taps = self.windows.taps[window]
        slots = np.where(taps < 0, -1, (taps + frame * self.windows.pixels) % stage.buffer)
        result = self.unit.step(self.memories, slots, group, self.step)
        self.step += 1
        if last:
            self.step, self.turn = 0, self.turn + 1
            if emits:
                self.register = (result, group)
        return WORK

    def missing(self) -> list[int]:
        """Which inputs have not delivered all that the next turn reads."""
        frame, turn = divmod(self.turn, self.stage.turns)
        return [
            i
            for i, (loaded, ready, words) in enumerate(
                zip(self.loaded, self.stage.ready, self.stage.words_in, strict=True)
            )
            if loaded < frame * words + ready.flat[turn]
        ]

    def _oldest(self) -> int:
        """The oldest pixel, counted over all frames, that is still needed."""
        frame, turn = divmod(self.turn, self.stage.turns)
        return frame * self.windows.pixels + int(self.windows.keep[turn // self.stage.groups])

    def _load(self, room: int) -> bool:
        """FIFO to line buffer: a word from each input whose place there is free."""
        moved = False
        for i, (fifo, memory, width) in enumerate(
            zip(self.before, self.memories, self.stage.word, strict=True)
        ):
            pixel, word = divmod(self.loaded[i], self.stage.channels // width)
            if fifo.valid and pixel < room:
                memory[pixel % self.stage.buffer, word * width : (word + 1) * width] = fifo.pop()
                self.loaded[i] += 1
                self.peak[i] = max(self.peak[i], pixel + 1 - room + self.stage.buffer)
                moved = True
        return moved


class Camera:
    """Delivers the pixels of the frames, each when it is due or when there is room, if later."""

    def __init__(self, words: Integers, due: Integers, after: list[Fifo]) -> None:
        self.words, self.due, self.after = words, due.tolist(), after
        self.pushed: list[int] = []
        self.states = bytearray()

    @property
    def left(self) -> int:
        """Pixels still to be delivered."""
        return len(self.words) - len(self.pushed)

    def clock(self, now: int) -> bool:
        """One cycle; whether a pixel left or time alone will bring one."""
        number = len(self.pushed)
        if number == len(self.words):
            self.states.append(DONE)
            return False
        if now < self.due[number]:
            self.states.append(INPUT)
            return True
        if not all(fifo.ready for fifo in self.after):
            self.states.append(OUTPUT)
            return False
        for fifo in self.after:
            fifo.push(self.words[number])
        self.pushed.append(now)
        self.states.append(WORK)
        return True
