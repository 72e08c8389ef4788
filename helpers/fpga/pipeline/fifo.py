"""A FIFO with valid and ready, as registers see it.

Chapter: 12_fpga_pipeline.
"""

from collections import deque

from helpers.fpga.arithmetic import Integers


class Fifo:
    """First in, first out, between one producer and one consumer.

    `valid` (a word can be taken) and `ready` (a word can be given) tell the state at the last clock
    edge. Both sides look at them in the same cycle and act; `clock` is the next edge. So a word
    needs one cycle to get through, and a full FIFO refuses a word even if one leaves at that
    moment. `depth` None means never full. A producer that pushes when not ready, or a consumer that
    pops when not valid, is an error of the machine and raises RuntimeError.

    >>> fifo = Fifo(1)
    >>> fifo.push([7]); fifo.valid, fifo.ready
    (False, True)
    >>> fifo.clock(); fifo.valid, fifo.ready
    (True, False)
    """

    def __init__(self, depth: int | None = 2) -> None:
        if depth is not None and depth < 1:
            raise ValueError(f"depth must be at least 1 word, got {depth}")
        self.depth = depth
        self.words: deque[Integers] = deque()
        self.incoming: Integers | None = None
        self.occupied = 0  # words at the last clock edge
        self.peak = 0  # the depth that would have been enough
        self.valid, self.ready = False, True

    def push(self, word: Integers) -> None:
        """Give a word; it is inside after the next clock edge."""
        if not self.ready or self.incoming is not None:
            raise RuntimeError("push into a FIFO that is not ready")
        self.incoming = word

    def pop(self) -> Integers:
        """Take the oldest word, at most one per cycle."""
        if not self.valid or len(self.words) < self.occupied:
            raise RuntimeError("pop from a FIFO that is not valid")
        return self.words.popleft()

    def clock(self) -> None:
        """The clock edge: what was given is inside, what was taken is gone."""
        if self.incoming is None and len(self.words) == self.occupied:
            return
        if self.incoming is not None:
            self.words.append(self.incoming)
            self.incoming = None
            self.peak = max(self.peak, self.occupied + 1)
        self.occupied = len(self.words)
        self.valid = self.occupied > 0
        self.ready = self.depth is None or self.occupied < self.depth
