"""What a design would take of a part: multipliers, logic, registers and memory, layer by layer.

These are estimates, built from the units of `helpers.fpga.logic` and the whole blocks of
`helpers.fpga.placement`. Not counted: the camera's interface, the final comparison of the logits,
clocks and pins. Only synthesis, placement and routing of a whole design could confirm the totals.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pandas as pd

from helpers.fpga.devices import Device
from helpers.fpga.integer_model import IntegerLayer, IntegerModel, accumulator_bits
from helpers.fpga.logic import (
    CODE,
    MULTIPLIER,
    SHIFT,
    Logic,
    Requantizers,
    control,
    fabric_multiplier,
    fifo,
    multiply_accumulate,
    requantizer,
    requantizers,
)
from helpers.fpga.pipeline.folding import Design, check_design, folded, lanes
from helpers.fpga.pipeline.windows import buffer_pixels, source_map
from helpers.fpga.placement import Memory, Place, place


def memories(
    model: IntegerModel,
    design: Design,
    *,
    weight_bits: int | Mapping[str, int] | None = None,
    buffers: Mapping[str, int] | None = None,
) -> list[Memory]:
    """Every memory of a design.

    Weights: one word per cycle, outputs x inputs of them. Channel constants: bias (as wide as the
    accumulator), multiplier and shift, read in up to eight words while a sum is formed. Line
    buffers: `buffer_pixels` pixels, or `buffers` of them; taps of different pixels that are read in
    one cycle need a memory each, and so do the lanes of a depthwise layer a wider one. Sums: what a
    global average pool has added up so far.
    """
    return [
        memory
        for layer in model
        if layer.op not in ("input", "flatten")
        for memory in layer_memories(model, layer, design, weight_bits=weight_bits, buffers=buffers)
    ]


def layer_memories(
    model: IntegerModel,
    layer: IntegerLayer,
    design: Design,
    *,
    weight_bits: int | Mapping[str, int] | None = None,
    buffers: Mapping[str, int] | None = None,
) -> list[Memory]:
    """The memories of one stage; `design` need not hold more than its folding."""
    found = []
    pixels = (buffers or {}).get(layer.name, buffer_pixels(model, layer))
    for i in range(len(layer.inputs)):
        codes = pixels * source_map(model, layer, i)[0]
        word, copies = _access(model, layer, design)
        what = "line buffer" if i == 0 else f"line buffer {i + 1}"
        found.append(Memory(layer.name, what, CODE * word, -(-codes // (word * copies)), copies))
    if layer.op == "global_avg_pool":
        found.append(Memory(layer.name, "sums", _sum_bits(layer), layer.shape[0]))
    if layer.weight is None:
        return found
    folding, bits = design[layer.name], bits_of(layer, weight_bits)
    words = layer.weight.size // folding.multipliers
    found.append(Memory(layer.name, "weights", folding.multipliers * bits, words, constant=True))
    per_channel = narrowed(model, layer, weight_bits) + MULTIPLIER + SHIFT
    width, groups = folding.outputs * per_channel, len(layer.weight) // folding.outputs
    steps = min(8, layer.taps // folding.inputs)
    constants = Memory(layer.name, "channel constants", width, groups, constant=True, cycles=steps)
    return [*found, constants]


def _sum_bits(layer: IntegerLayer) -> int:
    """Bits of an average pool's sum of `taps` codes."""
    return CODE + (layer.taps - 1).bit_length()


def _access(model: IntegerModel, layer: IntegerLayer, design: Design) -> tuple[int, int]:
    """(codes in a word, memories that must be read at once) of a stage's line buffer."""
    if layer.weight is None:
        return lanes(model, design, layer.name), 1
    folding = design[layer.name]
    if layer.depthwise:
        return folding.outputs, folding.inputs
    channels = source_map(model, layer)[0] // layer.groups
    return min(folding.inputs, channels), -(-folding.inputs // channels)


def bits_of(layer: IntegerLayer, weight_bits: int | Mapping[str, int] | None) -> int:
    """Bits of a layer's weights: those of the model, or those asked for, 2 to 8."""
    if weight_bits is None:
        return layer.weight_bits
    bits = (
        weight_bits
        if isinstance(weight_bits, int)
        else weight_bits.get(layer.name, layer.weight_bits)
    )
    if type(bits) is not int or not 2 <= bits <= 8:
        raise ValueError(
            f"weight_bits of {layer.name!r} must be an integer from 2 to 8, got {bits!r}"
        )
    return bits


def narrowed(
    model: IntegerModel, layer: IntegerLayer, weight_bits: int | Mapping[str, int] | None
) -> int:
    """The accumulator's width: the exact one, less a bit for each bit taken from the weights."""
    return accumulator_bits(model, layer.name) - layer.weight_bits + bits_of(layer, weight_bits)


@dataclass(frozen=True, eq=False)
class Report:
    """A design on a part: what each layer and all of them take, and how each memory is built."""

    device: Device
    layers: dict[str, Logic]
    units: dict[str, str]  # requantizers of a layer, in words
    memories: dict[Memory, Place]
    totals: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        logic = sum(self.layers.values(), Logic())
        object.__setattr__(
            self,
            "totals",
            {
                "multipliers": logic.multipliers,
                "LUTs": logic.luts + sum(p.luts for p in self.memories.values()),
                "registers": logic.registers,
                "block RAM": sum(p.blocks for p in self.memories.values()),
                "LUT RAM": sum(p.lut_rams for p in self.memories.values()),
            },
        )

    @property
    def utilization(self) -> dict[str, float]:
        """The fraction of each resource; infinity where the part has none of it."""
        limits = self.device.limits
        return {
            name: used / limits[name] if limits[name] else (float("inf") if used else 0.0)
            for name, used in self.totals.items()
        }

    @property
    def binding(self) -> str:
        """The resource that is used the most."""
        return max(self.utilization, key=lambda name: self.utilization[name])

    @property
    def fits(self) -> bool:
        return max(self.utilization.values()) <= 1

    def check(self) -> "Report":
        """This report, or a ValueError that names every resource that does not suffice."""
        over = [
            f"{name}: needs {self.totals[name]:,}, has {self.device.limits[name]:,}"
            for name, part in self.utilization.items()
            if part > 1
        ]
        if over:
            raise ValueError(f"the design does not fit the {self.device.name}: {'; '.join(over)}")
        return self

    def table(self) -> pd.DataFrame:
        """One row a layer, the memories of the layer included, and the total."""
        rows = {}
        for name, logic in self.layers.items():
            own = [place for memory, place in self.memories.items() if memory.layer == name]
            rows[name] = {
                "multipliers": logic.multipliers,
                "LUTs": logic.luts + sum(p.luts for p in own),
                "registers": logic.registers,
                "block RAM": sum(p.blocks for p in own),
                "LUT RAM": sum(p.lut_rams for p in own),
            }
        return pd.DataFrame({**rows, "total": self.totals}).T

    def by_kind(self) -> pd.DataFrame:
        """Bits, blocks, LUT RAMs and LUTs by kind of memory."""
        rows = [
            {"memory": m.what, "bits": m.bits, "block RAM": p.blocks, "LUT RAM": p.lut_rams,
             "LUTs": p.luts}
            for m, p in self.memories.items()
        ]  # fmt: skip
        return pd.DataFrame(rows).groupby("memory", sort=False).sum()


def estimate(
    model: IntegerModel,
    design: Design,
    part: Device,
    *,
    weight_bits: int | Mapping[str, int] | None = None,
    requantize: Requantizers = "fabric",
    fabric: Collection[str] = (),
    buffers: Mapping[str, int] | None = None,
    share: bool = True,
) -> Report:
    """What `design` takes of `part`; whether it fits is the report's to say (`fits`, `check`).

    Args:
        model: the integer model; its weights' values play no part beyond accumulator widths.
        design: the folding of every conv and linear layer.
        part: the device.
        weight_bits: 2 to 8, for all layers or by name, where it differs from the model's.
        requantize: multiplications of the requantization in logic ("fabric", a few bits a cycle) or
            in hard multipliers ("dsp").
        fabric: layers whose multipliers are built of LUTs.
        buffers: pixels of line buffer by layer name, where they differ from `buffer_pixels`.
        share: whether two ROMs may use the two ports of one block.
    """
    check_design(model, design)
    if requantize not in ("fabric", "dsp"):
        raise ValueError(f"requantize must be 'fabric' or 'dsp', got {requantize!r}")
    names = [layer.name for layer in folded(model)]
    if unknown := [name for name in fabric if name not in names]:
        raise ValueError(f"fabric names {unknown}; layers with multipliers are {names}")
    layers, units = {}, {}
    for layer in model:
        if layer.op in ("input", "flatten"):
            continue
        logic, units[layer.name] = stage_logic(model, layer, design, weight_bits, requantize, part)
        if layer.name in fabric:
            count = design[layer.name].multipliers
            one = fabric_multiplier(bits_of(layer, weight_bits))
            logic += one * count + Logic(multipliers=-count)
        layers[layer.name] = logic
    kept = memories(model, design, weight_bits=weight_bits, buffers=buffers)
    taken = sum(logic.luts for logic in layers.values())
    return Report(part, layers, units, place(kept, part, taken, share=share))


def stage_logic(
    model: IntegerModel,
    layer: IntegerLayer,
    design: Design,
    weight_bits: int | Mapping[str, int] | None,
    requantize: Requantizers,
    part: Device,
) -> tuple[Logic, str]:
    """Logic and multipliers of one stage with its output FIFO, memories not counted."""
    width, window = lanes(model, design, layer.name), max(layer.kernel) > 1
    if layer.weight is None:
        average = layer.op.endswith("avg_pool")
        bits = _sum_bits(layer) if average else CODE
        unit = requantizer(bits, 4) if average or layer.op == "add" else Logic()
        return fifo(width) + control(window) + (Logic(2 * bits, bits) + unit) * width, ""
    folding, steps = design[layer.name], layer.taps // design[layer.name].inputs
    bits, accumulator = bits_of(layer, weight_bits), narrowed(model, layer, weight_bits)
    lane = multiply_accumulate(folding.inputs, bits, accumulator)
    unit, text = requantizers(folding.outputs, steps, accumulator, requantize)
    unit = Logic(unit.luts, unit.registers, unit.multipliers * max(1, part.wide))
    return fifo(width) + control(window) + lane * folding.outputs + unit, text
