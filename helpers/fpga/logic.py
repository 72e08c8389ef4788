"""Look-up tables, registers and multipliers of the units a stage is made of.

Every coefficient is derived in the function that uses it and was compared with what Yosys 0.70
(`synth_gowin -family gw2a`) made of a small Verilog module of that unit; the docstrings give both
numbers. They are estimates: placement, routing and another tool will change them.

Chapter: 12_fpga_pipeline.
"""

from dataclasses import dataclass
from typing import Literal

from helpers.fpga.placement import mux_luts

Requantizers = Literal["fabric", "dsp"]
CODE = 8  # bits of an activation
MULTIPLIER = 16  # bits of a requantization multiplier
SHIFT = 3  # bits of a channel's shift beyond the smallest of its layer
FIFO_DEPTH = 2


@dataclass(frozen=True)
class Logic:
    """Look-up tables, registers and hard multipliers of one unit."""

    luts: int = 0
    registers: int = 0
    multipliers: int = 0

    def __add__(self, other: "Logic") -> "Logic":
        return Logic(
            self.luts + other.luts,
            self.registers + other.registers,
            self.multipliers + other.multipliers,
        )

    def __mul__(self, n: int) -> "Logic":
        return Logic(n * self.luts, n * self.registers, n * self.multipliers)


def adder_tree(inputs: int, bits: int) -> tuple[int, int]:
    """(bits of all adders, bits of the sum) of a binary tree over `inputs` numbers of `bits` bits.

    Yosys: 52 of 52 for 4 products of 16 bits, 35 of 35 for 3, 204 of 198 for 12.

    >>> adder_tree(4, 16)
    (52, 18)
    """
    if inputs == 1:
        return 0, bits
    left, right = adder_tree(inputs - inputs // 2, bits), adder_tree(inputs // 2, bits)
    width = max(left[1], right[1]) + 1
    return left[0] + right[0] + width, width


def multiply_accumulate(inputs: int, weight_bits: int, accumulator: int) -> Logic:
    """One lane: `inputs` products per cycle, their sum, an accumulator that starts at the bias.

    A product waits in its multiplier's own output register. LUTs: the tree, per accumulator bit one
    to add, one to select bias or sum, and one through which the open flow feeds the register of the
    finished sum. Registers: tree, accumulator, finished sum, and the delayed flags "first" and
    "last", 2 and 5 per level of the tree. Yosys, without that last LUT: 48 LUTs and 50 registers
    for 1 input and 24 bits, 83 and 95 for 3, 100 and 112 for 4 (here the same).
    """
    tree, _ = adder_tree(inputs, CODE + weight_bits)
    flags = 2 + 5 * (inputs - 1).bit_length()
    return Logic(tree + 3 * accumulator, tree + 2 * accumulator + flags, inputs)


def fabric_multiplier(weight_bits: int) -> Logic:
    """A product of a code and a weight without a DSP: one row of 9 bits per weight bit.

    Yosys: 126 LUTs for 8 bits (here 127), 92 for 6, 58 for 4.
    """
    return Logic((weight_bits - 1) * (CODE + 1) + weight_bits * CODE)


def requantizer(accumulator: int, digits: int, unit: Requantizers = "fabric") -> Logic:
    """One unit that multiplies by a 16-bit integer, shifts, adds the zero-point and saturates.

    "fabric": `digits` bits of the multiplier per cycle, one adder and one row of AND each, the rest
    is loading, the shift of up to 7 and saturation. Yosys, accumulators of 22 bits: 151, 172, 258,
    434, 786 LUTs for 1, 2, 4, 8, 16 digits (here 153, 198, 288, 468, 828), 71 registers (here 71).
    "dsp": two products of 18 x 18 bits and their sum, one result per cycle. Yosys: 184 LUTs, 121
    registers, 2 MULT18X18.
    """
    if unit == "dsp":
        return Logic(184 + accumulator - 22, 121 + 2 * (accumulator - 22), 2)
    return Logic(
        digits * (2 * accumulator + 1) + 4 * accumulator + 20, 2 * accumulator + MULTIPLIER + 11
    )


def requantizers(
    outputs: int, steps: int, accumulator: int, unit: Requantizers
) -> tuple[Logic, str]:
    """The cheapest set of units that keeps up with a stage, and its description.

    A stage finishes `outputs` sums every `steps` = taps / inputs cycles. A unit of d digits takes
    ceil(16 / d) cycles for one, so it serves floor(steps / ceil(16 / d)) lanes; selecting among its
    lanes takes a multiplexer of the accumulator's width.
    """
    found = []
    for digits in (1, 2, 4, 8, 16) if unit == "fabric" else (16,):
        serves = min(outputs, steps // -(-MULTIPLIER // digits))
        if not serves:
            continue
        count = -(-outputs // serves)
        one = requantizer(accumulator, digits, unit)
        one += Logic(accumulator * mux_luts(serves))
        found.append((one.luts * count, count, digits, one * count))
    _, count, digits, logic = min(found, key=lambda item: item[:3])
    return logic, f"{count} of {digits} bits a cycle"


def control(window: bool) -> Logic:
    """Counters and addresses of one stage: position, channel group, tap, level of the line buffer.

    Yosys made 231 LUTs and 99 registers of a stage with 3 x 3 windows and padding on a 48 x 48 map,
    and 103 LUTs and 55 registers of one without windows. Taken for all such stages, any size.
    """
    return Logic(231, 99) if window else Logic(103, 55)


def fifo(width: int) -> Logic:
    """A FIFO of two words of `width` codes in registers, each behind a LUT, and its two flags."""
    bits = FIFO_DEPTH * CODE * width
    return Logic(bits + 10, bits + 4)
