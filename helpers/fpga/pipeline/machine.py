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
        self.ready = [ready.ravel().tolist() for ready in stage.ready]
        self.pixel_words = [stage.channels // width for width in stage.word]
        self.loaded = [0 for _ in before]  # words, counted over all frames
        # the last row is no memory: it is the constant that slot -1, padding, selects
        shape = (stage.buffer + 1, stage.channels)
        self.memories = [np.full(shape, unit.padding, np.int64) for _ in before]
        self.register: tuple[Integers, int] | None = None
        self.words: list[Integers] = []
        self.pushed: list[int] = []
        self.states = bytearray()
        self.peak = [0 for _ in before]
        self._point(0)

    def _point(self, turn: int) -> None:
        """Point the controller at a turn, counted over all frames.

        `need` counts the words of each input that must have arrived; pixels below `room` have a
        place in the line buffer; `slots` are the places of the window's positions.
        """
        stage, windows = self.stage, self.windows
        frame, within = divmod(turn, stage.turns)
        window, group = divmod(within, stage.groups)
        self.turn, self.step, self.group = turn, 0, group
        both = zip(self.ready, stage.words_in, strict=True)
        self.need = [frame * words + ready[within] for ready, words in both]
        self.emits = stage.turns == stage.words_out or window == windows.count - 1
        if group == 0:
            self.room = frame * windows.pixels + int(windows.keep[window]) + stage.buffer
            taps = windows.taps[window]
            place = (taps + frame * windows.pixels) % stage.buffer
            self.slots = np.where(taps < 0, -1, place)

    @property
    def busy(self) -> bool:
        """Whether there is still a word to make, to give or to take."""
        computing = self.turn < self.turns or self.register is not None
        return computing or any(fifo.occupied for fifo in self.before)

    def clock(self, now: int) -> bool:
        """One cycle; whether anything moved."""
        room = self.room  # a place that becomes free in this cycle is seen in the next
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
        if self.turn == self.turns:
            return DONE
        if self.step == 0 and self.missing():
            return INPUT
        last = self.step == self.stage.steps - 1
        if last and self.emits and self.register is not None:
            return OUTPUT
        result = self.unit.step(self.memories, self.slots, self.group, self.step)
        self.step += 1
        if last:
            if self.emits:
                self.register = (result, self.group)
            self._point(self.turn + 1)
        return WORK

    def missing(self) -> list[int]:
        """Which inputs have not delivered all that the next turn reads."""
        return [i for i, need in enumerate(self.need) if self.loaded[i] < need]

    def _load(self, room: int) -> bool:
        """FIFO to line buffer: a word from each input whose place there is free."""
        moved = False
        for i, fifo in enumerate(self.before):
            if not fifo.valid:
                continue
            pixel, word = divmod(self.loaded[i], self.pixel_words[i])
            if pixel < room:
                width = self.stage.word[i]
                block = slice(word * width, (word + 1) * width)
                self.memories[i][pixel % self.stage.buffer, block] = fifo.pop()
                self.loaded[i] += 1
                self.peak[i] = max(self.peak[i], pixel + 1 - room + self.stage.buffer)
                moved = True
        return moved


class Camera:
    """Delivers the pixels of the frames, each when it is due or when there is room, if later.

    `words` (pixels of all frames, channels) are the input codes, `due` (pixels of all frames,) the
    cycles in which they are there, `after` the FIFOs behind.
    """

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
