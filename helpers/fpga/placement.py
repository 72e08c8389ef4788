"""Memories in whole blocks: how a width and a depth fit block RAM, LUT RAM and constant logic.

A block RAM has a fixed number of bits but several widths; a memory of `width` x `depth` bits takes
columns x rows of whole blocks, and what sticks out may go to look-up tables instead. `place`
decides for all memories of a design at once, exactly.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from helpers.fpga.devices import Device, LutRam

DEEP_ROM = 1.4  # LUTs of a constant table deeper than 256 words over bits / 16; see `rom_luts`
BUCKETS = 512  # LUT RAM is counted in at most so many steps, rounded up


@dataclass(frozen=True)
class Memory:
    """`copies` memories of `depth` words of `width` bits; a constant one is a ROM.

    `what` is "weights", "channel constants", "line buffer" or "sums". `width` is what one access
    must deliver. A ROM may be stored in wider words with a multiplexer behind it, or in narrower
    ones if an access may take up to `cycles` cycles.
    """

    layer: str
    what: str
    width: int
    depth: int
    copies: int = 1
    constant: bool = False
    cycles: int = 1

    @property
    def bits(self) -> int:
        return self.width * self.depth * self.copies


@dataclass(frozen=True, order=True)
class Place:
    """One way to build a memory: whole blocks, LUT RAMs and look-up tables (theirs included)."""

    blocks: int = 0
    lut_rams: int = 0
    luts: int = 0
    mode: str = ""

    def __add__(self, other: "Place") -> "Place":
        return Place(
            self.blocks + other.blocks, self.lut_rams + other.lut_rams, self.luts + other.luts
        )


def mux_luts(inputs: int) -> int:
    """Four-input LUTs per bit that select one of `inputs` words.

    One LUT selects one of two; the hard multiplexers behind the LUTs of a slice (MUX2_LUT5 to
    MUX2_LUT8 in a GW2A) join up to eight such pairs for nothing.

    >>> [mux_luts(n) for n in (1, 2, 3, 4, 8)]
    [0, 1, 2, 2, 4]
    """
    return 0 if inputs < 2 else -(-inputs // 2)


def rom_luts(width: int, depth: int, lut_inputs: int = 4) -> int:
    """LUTs of a constant table: each holds 2^lut_inputs bits of one column.

    Depths up to 256 (for LUT4) are filled up to a power of two, as Yosys 0.70 does for a GW2A (its
    counts for 8 x 108, 24 x 96 and 48 x 48 bits: 64, 192, 192). For deeper tables, whose selection
    takes LUTs too, it needed 1.20 (48 x 768) and 1.39 times (8 x 2048) bits / 16: we take 1.4.

    >>> [rom_luts(*shape) for shape in ((8, 108), (24, 96), (48, 48))]
    [64, 192, 192]
    """
    held = 2**lut_inputs
    if depth <= 16 * held:
        return width * max(1, 2 ** max(0, (depth - 1).bit_length() - lut_inputs))
    return int(np.ceil(DEEP_ROM * width * depth / held))


def ram_cost(width: int, depth: int, ram: LutRam) -> tuple[int, int]:
    """(LUT RAMs, LUTs) of a memory with one write and one read port: the RAMs and the selection."""
    rows = -(-depth // ram.depth)
    count = rows * -(-width // ram.width)
    return count, count * ram.luts + width * mux_luts(rows)


@cache
def options(memory: Memory, part: Device) -> tuple[Place, ...]:
    """The ways to build a memory on a part that no other way beats, fewest blocks first.

    Everything in LUTs; everything in blocks, in each mode and word that `shapes` allows; or whole
    blocks for the most part and the rest of the rows or columns in LUTs.
    """
    found = [] if (rest := _rest(memory, memory.width, memory.depth, part)) is None else [rest]
    for width, depth, select, text in shapes(memory):
        for bits, words in part.modes:
            for columns in {width // bits, -(-width // bits)} - {0}:
                for rows in {depth // words, -(-depth // words)} - {0}:
                    left = width - bits * columns, depth - words * rows
                    extra = [
                        _rest(memory, *shape, part)
                        for shape in ((left[0], depth), (min(width, bits * columns), left[1]))
                        if min(shape) > 0
                    ]
                    if None in extra:
                        continue
                    in_luts = sum((place for place in extra if place), Place())
                    luts = select + width * mux_luts(rows) + in_luts.luts
                    mode = f"{columns} x {rows} blocks of {bits} x {words}{text}"
                    if extra:
                        mode += ", rest in LUTs"
                    found.append(Place(columns * rows, in_luts.lut_rams, luts, mode))
    n = memory.copies
    return tuple(Place(n * p.blocks, n * p.lut_rams, n * p.luts, p.mode) for p in _unbeaten(found))


def shapes(memory: Memory) -> list[tuple[int, int, int, str]]:
    """(bits in a word, words, LUTs of the selection, text) in which a memory may be stored.

    A ROM is read in a fixed order, so a word may hold several accesses, or three accesses two words
    (the first word then waits in registers). Yosys does the former by itself: 96 x 3072 bits became
    16 blocks and 192 LUTs, as counted here.
    """
    width, depth = memory.width, memory.depth
    found = [(width, depth, 0, "")]
    if not memory.constant:
        return found
    for group in (2, 3, 4, 6, 8, 12, 16):
        text = f", {group} accesses a word"
        found.append((width * group, -(-depth // group), width * mux_luts(group), text))
    if width % 2 == 0:
        words = -(-2 * depth // 3)
        found.append((3 * width // 2, words, width * mux_luts(3), ", 3 accesses in 2 words"))
    for cycles in range(2, memory.cycles + 1):
        found.append((-(-width // cycles), depth * cycles, 0, f", an access in {cycles} words"))
    return found


def _rest(memory: Memory, width: int, depth: int, part: Device) -> Place | None:
    """A part of a memory in look-up tables, or None where the device has no RAM in them."""
    if memory.constant:
        return Place(0, 0, rom_luts(width, depth, part.lut_inputs), "in LUTs")
    if part.lut_ram is None:
        return None
    return Place(0, *ram_cost(width, depth, part.lut_ram), "in LUT RAM")


def _unbeaten(places: Sequence[Place]) -> list[Place]:
    kept: list[Place] = []
    for place in sorted(places):
        if not any(k.lut_rams <= place.lut_rams and k.luts <= place.luts for k in kept):
            kept.append(place)
    return kept


def smallest_port(memory: Memory, part: Device) -> int:
    """Bits of one block that a ROM fills through one of two ports, or 0 if it does not fit so.

    A port of a block with two is at most half as wide as a single one.
    """
    widest = max(width for width, _ in part.modes) // 2
    if not memory.constant or memory.copies > 1 or part.read_ports < 2:
        return 0
    used = [
        bits * depth
        for width, depth, select, _ in shapes(memory)
        for bits, words in part.modes
        if not select and width <= bits <= widest and depth <= words
    ]
    return min(used, default=0)


def pairs(memories: Sequence[Memory], part: Device) -> list[tuple[Memory, ...]]:
    """ROMs that may share a block, one at each of its two read ports; all others alone.

    Greedy: the ROM that is largest in LUTs first, with the largest that fits beside it.
    """
    size = max(width * depth for width, depth in part.modes)
    used = {m: smallest_port(m, part) for m in memories}
    left = sorted((m for m in memories if used[m]), key=lambda m: (-m.bits, m.layer, m.what))
    together: dict[Memory, Memory] = {}
    while left:
        first = left.pop(0)
        beside = [m for m in left if used[first] + used[m] <= size]
        if beside:
            together[first] = beside[0]
            left.remove(beside[0])
    second = set(together.values())
    return [(m, together[m]) if m in together else (m,) for m in memories if m not in second]


def place(
    memories: Sequence[Memory], part: Device, luts: int, *, share: bool = True
) -> dict[Memory, Place]:
    """The way to build each memory, all chosen together.

    Among all combinations the one that fills the scarcer of block RAM and LUTs the least, where
    `luts` of the logic are taken already; LUT RAM must suffice. Dynamic programming over (blocks,
    LUT RAMs): exact for given `pairs`, apart from LUT RAM being counted in steps of 1/512 of what
    the part has, rounded up. With `share` False every block serves one memory.

    Raises:
        ValueError: the memories that cannot go to block RAM need more LUT RAM than there is.
    """
    step = max(1, -(-part.lut_rams // BUCKETS))
    groups = pairs(memories, part) if share else [(memory,) for memory in memories]
    ways = [_ways(group, part) for group in groups]
    blocks = [[sum(p.blocks for p in way) for way in choice] for choice in ways]
    rams = [[-(-sum(p.lut_rams for p in way) // step) for way in choice] for choice in ways]
    most = max(sum(map(min, blocks)), min(3 * part.blocks, sum(map(max, blocks))))
    best = np.full((most + 1, part.lut_rams // step + 1), np.inf)
    best[0, 0] = luts
    history = []
    for i, choice in enumerate(ways):
        after, chosen = np.full_like(best, np.inf), np.zeros(best.shape, np.int16)
        for j, way in enumerate(choice):
            a, b = blocks[i][j], rams[i][j]
            if a >= best.shape[0] or b >= best.shape[1]:
                continue
            trial = best[: len(best) - a, : best.shape[1] - b] + sum(p.luts for p in way)
            better = trial < after[a:, b:]
            after[a:, b:][better] = trial[better]
            chosen[a:, b:][better] = j
        history.append(chosen)
        best = after
    load = np.maximum(np.arange(most + 1)[:, None] / part.blocks, best / part.luts)
    a, b = (int(n) for n in np.unravel_index(int(np.argmin(load)), load.shape))
    if not np.isfinite(best[a, b]):
        raise ValueError(
            f"the memories need more LUT RAM than the {part.lut_rams} of the {part.name} and cannot"
            " go to block RAM"
        )
    result: dict[Memory, Place] = {}
    for i in reversed(range(len(ways))):
        j = int(history[i][a, b])
        result.update(zip(groups[i], ways[i][j], strict=True))
        a, b = a - blocks[i][j], b - rams[i][j]
    return {memory: result[memory] for memory in memories}


def _ways(group: tuple[Memory, ...], part: Device) -> list[tuple[Place, ...]]:
    """The ways to build one memory, or two: each for itself, or together in one block."""
    found = list(product(*(options(memory, part) for memory in group)))
    if len(group) == 2:
        found.append((Place(1, 0, 0, "one port of a block"), Place(0, 0, 0, "its other port")))
    return found
