"""The memories of the hardware: names, word widths, contents, and the text formats that hold them.

A memory is a list of words. `.mem` is Verilog's `$readmemh`, `.coe` is for Xilinx block memories,
`.mi` for Gowin's; all three hold the same words in hexadecimal two's complement.

Chapter: 11_fpga_datapath.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from helpers.fpga.arithmetic import Integers, to_hex
from helpers.fpga.datapath import Datapath

FORMATS = ("mem", "coe", "mi")


@dataclass(frozen=True, eq=False)
class Memory:
    """`words` (int64, one-dimensional) in `width` bits each; `name` is the stem of its files."""

    name: str
    width: int
    signed: bool
    words: Integers
    content: str

    def __post_init__(self) -> None:
        low = -(1 << (self.width - 1)) if self.signed else 0
        high = (1 << (self.width - int(self.signed))) - 1
        if self.words.size == 0 or self.words.min() < low or self.words.max() > high:
            raise ValueError(f"memory {self.name!r} needs words in {low}..{high} and at least one")


def memories(path: Datapath) -> list[Memory]:
    """Every memory of a datapath, in layer order.

    Weights lie as in C: output channel, input channel, row, column, the last index fastest.
    Multipliers and shifts are per output channel; an add has one multiplier per input and one shift.
    In the onnxruntime mode there are no integer multipliers to store.
    """
    found: list[Memory] = []

    def add(name: str, width: int, signed: bool, words: npt.ArrayLike, content: str) -> None:
        found.append(Memory(name, width, signed, np.asarray(words, np.int64).ravel(), content))

    for layer in path.model:
        name = layer.name
        if layer.weight is not None and layer.bias is not None:
            shape = "x".join(map(str, layer.weight.shape))
            add(f"{name}.weight", layer.weight_bits, True, layer.weight, f"weights {shape}")
            add(f"{name}.bias", 32, True, layer.bias, "bias, one per output channel")
        if path.rounding == "onnxruntime":
            continue
        if layer.name in path.requantizers:
            rule = path.requantizers[name]
            width = _width(rule.multiplier)
            add(f"{name}.multiplier", width, False, rule.multiplier, "requantization multiplier")
            add(f"{name}.shift", 6, False, rule.shift, "requantization right shift")
        if layer.name in path.additions:
            both = path.additions[name]
            multipliers = np.array(both.multipliers)
            add(f"{name}.multiplier", _width(multipliers), False, multipliers, "one per input")
            add(f"{name}.shift", 6, False, [both.shift], "common right shift")
    names = [memory.name.replace(".", "_") for memory in found]
    if len(set(names)) < len(names):
        raise ValueError(f"layer names {[layer.name for layer in path.model]} clash as C names")
    return found


def _width(values: Integers) -> int:
    return max(1, int(values.max()).bit_length())


def to_text(memory: Memory, form: str) -> str:
    """The contents of a `.mem`, `.coe` or `.mi` file."""
    words = [to_hex(word, memory.width) for word in memory.words.tolist()]
    if form == "mem":
        head = f"// {memory.name}: {memory.content}; {len(words)} words of {memory.width} bits\n"
        return head + "\n".join(words) + "\n"
    if form == "coe":
        head = "memory_initialization_radix=16;\nmemory_initialization_vector=\n"
        return f"; {memory.name}: {memory.content}\n{head}" + ",\n".join(words) + ";\n"
    if form == "mi":
        head = f"#File_format=Hex\n#Address_depth={len(words)}\n#Data_width={memory.width}\n"
        return head + "\n".join(words) + "\n"
    raise ValueError(f"form must be one of {', '.join(FORMATS)}; got {form!r}")


def from_text(text: str, form: str, width: int, signed: bool) -> Integers:
    """The words of such a file; ValueError where the text is not what the format asks for."""
    if form == "mem":
        words = re.sub(r"//[^\n]*", "", text).split()
    elif form == "coe":
        body = re.sub(r"^;[^\n]*\n", "", text, flags=re.MULTILINE)
        match = re.fullmatch(
            r"memory_initialization_radix=16;\s*memory_initialization_vector=([^;]*);\s*", body
        )
        if match is None:
            raise ValueError("not a memory initialization of radix 16")
        words = [word.strip() for word in match[1].split(",")]
    elif form == "mi":
        match = re.fullmatch(
            r"#File_format=Hex\n#Address_depth=(\d+)\n#Data_width=(\d+)\n((?:\w+\n)*)", text
        )
        if match is None:
            raise ValueError("not a hexadecimal memory file")
        words = match[3].split()
        if int(match[1]) != len(words) or int(match[2]) != width:
            raise ValueError(f"depth {match[1]} and width {match[2]} do not fit the words")
    else:
        raise ValueError(f"form must be one of {', '.join(FORMATS)}; got {form!r}")
    if any(re.fullmatch(r"[0-9a-f]+", word) is None for word in words):
        raise ValueError("a word is not hexadecimal")
    numbers = np.array([int(word, 16) for word in words], np.int64)
    if numbers.size and numbers.max() >= 1 << width:
        raise ValueError(f"a word is wider than {width} bits")
    return numbers - (((numbers >> (width - 1)) & 1) << width if signed else 0)


def to_header(found: list[Memory]) -> str:
    """A C header with one constant array per memory, in the smallest standard integer type."""
    lines = ["/* Integer model: weights, biases, multipliers and shifts. */", "#pragma once"]
    lines += ["#include <stdint.h>", ""]
    for memory in found:
        name = memory.name.replace(".", "_")
        values = memory.words.tolist()
        rows = [", ".join(map(str, values[i : i + 16])) for i in range(0, len(values), 16)]
        lines += [
            f"/* {memory.content} */",
            f"static const {_c_type(memory)} {name}[{len(values)}] = {{",
        ]
        lines += [f"    {row}," for row in rows] + ["};", ""]
    return "\n".join(lines)


def from_header(text: str) -> dict[str, tuple[str, Integers]]:
    """C name -> (type, values) of every array in such a header."""
    pattern = r"static const (u?int\d+_t) (\w+)\[(\d+)\] = \{([^}]*)\};"
    found = {}
    for kind, name, count, body in re.findall(pattern, text):
        values = np.array(
            [int(v) for v in body.replace("\n", " ").split(",") if v.strip()], np.int64
        )
        if len(values) != int(count):
            raise ValueError(f"array {name} announces {count} values and holds {len(values)}")
        found[name] = (kind, values)
    return found


def _c_type(memory: Memory) -> str:
    size = next(n for n in (8, 16, 32, 64) if memory.width <= n)
    return f"{'' if memory.signed else 'u'}int{size}_t"
