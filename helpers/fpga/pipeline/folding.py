"""How much of a layer works at once: foldings, and the cycles that follow from them.

A streaming accelerator has one stage per layer, and all stages work at the same time, each on its
own part of the picture. A stage with `outputs` x `inputs` multipliers computes `outputs` channels
of one position at once and adds `inputs` products to each of them in a cycle (FINN calls them PE
and SIMD). What does not fit side by side is done one after the other: the layer is folded.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from helpers.fpga.integer_model import IntegerLayer, IntegerModel

Shape = tuple[int, int, int]
CLOCK = 54e6  # Hz, the clock of the GW2A accelerator paper


@dataclass(frozen=True, order=True)
class Folding:
    """What a stage does in one cycle: `inputs` products for each of `outputs` output channels."""

    outputs: int = 1
    inputs: int = 1

    @property
    def multipliers(self) -> int:
        """Multipliers that the stage has: outputs x inputs."""
        return self.outputs * self.inputs


Design = Mapping[str, Folding]  # by the name of each conv and linear layer


def map_shape(layer: IntegerLayer) -> Shape:
    """The output of a layer as a map (C, H, W); a flat tensor of F values is (F, 1, 1)."""
    if len(layer.shape) == 3:
        return (layer.shape[0], layer.shape[1], layer.shape[2])
    return (layer.shape[0], 1, 1)


def folded(model: IntegerModel) -> list[IntegerLayer]:
    """The layers that have multipliers, in order: conv and linear."""
    return [layer for layer in model if layer.weight is not None]


def divisors(n: int) -> list[int]:
    """All divisors of n, rising.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [d for d in range(1, n + 1) if n % d == 0]


def options(layer: IntegerLayer) -> list[Folding]:
    """Every folding of a layer: `outputs` divides its channels, `inputs` its products per output."""
    if layer.weight is None:
        raise ValueError(f"layer {layer.name!r} ({layer.op}) has no multipliers to fold")
    return [
        Folding(outputs, inputs)
        for outputs in divisors(len(layer.weight))
        for inputs in divisors(layer.taps)
    ]


def check(layer: IntegerLayer, folding: Folding) -> None:
    """Refuse a folding that does not divide the layer evenly; the message names what would."""
    if layer.weight is None:
        raise ValueError(f"layer {layer.name!r} ({layer.op}) has no multipliers to fold")
    for name, value, whole, what in (
        ("outputs", folding.outputs, len(layer.weight), "output channels"),
        ("inputs", folding.inputs, layer.taps, "products per output"),
    ):
        if type(value) is not int or value < 1 or whole % value:
            raise ValueError(
                f"layer {layer.name!r}: {name} must divide its {whole} {what}, one of"
                f" {divisors(whole)}, got {value!r}"
            )


def check_design(model: IntegerModel, design: Design) -> None:
    """Refuse a design that leaves out a conv or linear layer, names another, or folds one unevenly."""
    names = [layer.name for layer in folded(model)]
    missing = [name for name in names if name not in design]
    unknown = [name for name in design if name not in names]
    if missing or unknown:
        raise ValueError(
            f"design must fold exactly the conv and linear layers {names};"
            f" missing {missing}, unknown {unknown}"
        )
    for layer in folded(model):
        check(layer, design[layer.name])


def lanes(model: IntegerModel, design: Design, name: str) -> int:
    """Channels in one word of the stream that a layer produces.

    The camera delivers whole pixels; a folded layer its `outputs` channels; pools and flatten keep
    the words of their input, an add those of its wider input.
    """
    layer = model[name]
    if layer.op == "input":
        return map_shape(layer)[0]
    if layer.weight is not None:
        return design[name].outputs
    if layer.op == "flatten":  # a dense layer follows, whose weights are stored in stream order
        return lanes(model, design, layer.inputs[0])
    return max(lanes(model, design, source) for source in layer.inputs)


def stage_cycles(model: IntegerModel, layer: IntegerLayer, folding: Folding) -> int:
    """Cycles of work per frame of one conv or linear stage.

        H_out * W_out * (C_out / outputs) * (taps / inputs)

    This is what the stage needs when it never waits. Padding costs nothing: a multiplexer feeds the
    zero-point. Loading costs nothing more either, since the line buffer has a write port of its own
    and takes a word of the producer per cycle: the producer needed at least that cycle to make it.
    """
    check(layer, folding)
    channels, height, width = map_shape(layer)
    folds = (channels // folding.outputs) * (layer.taps // folding.inputs)
    return height * width * folds


def cycles(model: IntegerModel, design: Design) -> dict[str, int]:
    """Cycles of work per frame of every stage, by layer name; flatten is wires and has none.

    The input takes a cycle per pixel. Pools and adds handle one word per cycle: a window pool a
    word per output, a global average pool a word per input.
    """
    check_design(model, design)
    table = {}
    for layer in model:
        if layer.op == "flatten":
            continue
        if layer.weight is not None:
            table[layer.name] = stage_cycles(model, layer, design[layer.name])
            continue
        shape = layer if layer.op != "global_avg_pool" else model.source(layer)
        channels, height, width = map_shape(shape)
        table[layer.name] = height * width * (channels // lanes(model, design, layer.name))
    return table


def frame_interval(model: IntegerModel, design: Design) -> int:
    """Cycles from one frame to the next when the FIFOs are deep enough: the slowest stage's work.

    No schedule is faster, since every frame passes every stage.
    """
    return max(cycles(model, design).values())


def frames_per_second(interval: int, clock: float = CLOCK) -> float:
    """Frames per second at `clock` Hz.

    >>> round(frames_per_second(147_541))
    366
    """
    if interval < 1 or clock <= 0:
        raise ValueError(f"interval and clock must be positive, got {interval} and {clock}")
    return clock / interval


def multipliers(design: Design) -> int:
    """Multipliers of a whole design, those of the requantization not counted."""
    return sum(folding.multipliers for folding in design.values())
