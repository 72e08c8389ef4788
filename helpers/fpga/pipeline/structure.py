"""The stages of a design and what connects them, before the first cycle.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from helpers.fpga.arithmetic import Integers
from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.pipeline.folding import Design, check_design, lanes, map_shape
from helpers.fpga.pipeline.windows import (
    CHANNELWISE,
    Windows,
    buffer_pixels,
    source_map,
    stream,
    whole_frame,
    windows,
)

Edge = tuple[str, str]  # producer, consumer
Depths = int | None | Mapping[Edge, int | None]  # None: a FIFO that is never full


@dataclass(frozen=True, eq=False)
class Stage:
    """One layer as hardware: what arrives in words, how often it computes, what leaves in words.

    A window is computed in `groups` turns of `lanes` channels, each of `steps` cycles. `ready`
    (windows, groups), one per input, counts the words of a frame that must be in the line buffer
    before that turn. Stages without inputs are the camera.
    """

    layer: IntegerLayer
    sources: tuple[str, ...]
    lanes: int
    steps: int
    groups: int
    windows: Windows | None
    ready: tuple[Integers, ...]
    channels: int  # of an input pixel
    word: tuple[int, ...]  # channels in a word of each input
    buffer: int  # pixels of line buffer, for each input

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def words_in(self) -> tuple[int, ...]:
        """Words that arrive per frame from each input."""
        pixels = self.windows.pixels if self.windows else 0
        return tuple(pixels * self.channels // word for word in self.word)

    @property
    def turns(self) -> int:
        """Turns per frame: windows times groups; for the camera its words."""
        return self.groups * (self.windows.count if self.windows else self.pixels_out)

    @property
    def pixels_out(self) -> int:
        """Output positions of a frame."""
        _, height, width = map_shape(self.layer)
        return height * width

    @property
    def words_out(self) -> int:
        """Words that leave per frame. Only a global average pool has more turns than words."""
        return self.pixels_out * self.groups


def buffer_bytes(stages: list[Stage]) -> dict[str, int]:
    """Bytes of line buffer by stage, one byte per code; an add has two."""
    return {s.name: s.buffer * s.channels * len(s.sources) for s in stages if s.sources}


def build(
    model: IntegerModel,
    design: Design,
    *,
    buffers: Mapping[str, int] | None = None,
    hold: Collection[str] = (),
) -> list[Stage]:
    """The stages of `model` under `design`, the camera first.

    Args:
        model: the integer model.
        design: a folding for each conv and linear layer.
        buffers: pixels of line buffer by layer name, where they differ from `buffer_pixels`.
        hold: layers that start a frame only when all of it has arrived.

    Raises:
        ValueError: a folding does not divide its layer, a name is unknown, a buffer is smaller than
            one window, or an add joins a flattened map with another one.
    """
    check_design(model, design)
    names = [layer.name for layer in model if layer.op not in ("input", "flatten")]
    for argument, given in (("buffers", buffers or ()), ("hold", hold)):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"{argument} names {unknown}; the stages are {names}")
    stages = []
    for layer in model:
        if layer.op == "flatten":
            continue
        width, channels = lanes(model, design, layer.name), map_shape(layer)[0]
        groups = channels // width
        if layer.op == "input":
            stages.append(Stage(layer, (), width, 1, groups, None, (), 0, (), 0))
            continue
        maps = [source_map(model, layer, i) for i in range(len(layer.inputs))]
        if len(set(maps)) > 1:
            raise ValueError(f"layer {layer.name!r} joins streams of different maps {maps}")
        found = windows(model, layer)
        if layer.name in hold:
            found = whole_frame(found)
        usual = max(buffer_pixels(model, layer), found.span)
        buffer = (buffers or {}).get(layer.name, usual)
        if buffer < found.span:
            raise ValueError(
                f"buffers[{layer.name!r}] must be at least {found.span} pixels, the reach of one"
                f" window, got {buffer}"
            )
        sources = tuple(stream(model, name).name for name in layer.inputs)
        word = tuple(lanes(model, design, name) for name in sources)
        stages.append(
            Stage(
                layer,
                sources,
                width,
                layer.taps // design[layer.name].inputs if layer.weight is not None else 1,
                groups,
                found,
                tuple(_ready(layer, found, maps[0][0], groups, width, n) for n in word),
                maps[0][0],
                word,
                buffer,
            )
        )
    return stages


def _ready(
    layer: IntegerLayer, found: Windows, channels: int, groups: int, width: int, word: int
) -> Integers:
    """Words of `word` channels that must have arrived before each turn, (windows, groups).

    A turn waits for all pixels of its window but the last, and for those channels of the last that
    it reads: all of them in a dense convolution, its own in a depthwise one.
    """
    if layer.op in CHANNELWISE:
        last = (np.arange(groups) + 1) * width
    else:
        outputs = map_shape(layer)[0]
        block = ((np.arange(groups) + 1) * width - 1) * layer.groups // outputs
        last = (block + 1) * (channels // layer.groups)
    words = -(-last // word)
    need = found.need[:, None]
    return np.where(need < 0, 0, need * (channels // word) + words)


def edges(stages: list[Stage], fifo: Depths) -> dict[Edge, int | None]:
    """The depth of every FIFO, in words. A mapping overrides the usual 2 for the edges it names.

    Two is the least depth for a word per cycle: a FIFO says whether it has room from a register, so
    with depth 1 it can take the next word only in the cycle after the last one left.
    """
    found = [(source, stage.name) for stage in stages for source in stage.sources]
    if len(set(found)) < len(found):
        twice = next(edge for edge in found if found.count(edge) > 1)
        raise ValueError(f"layer {twice[1]!r} reads {twice[0]!r} twice; a stream has one FIFO each")
    given = fifo if isinstance(fifo, Mapping) else dict.fromkeys(found, fifo)
    for edge, depth in given.items():
        if edge not in found:
            raise ValueError(f"fifo names {edge}; the edges are {found}")
        if depth is not None and (type(depth) is not int or depth < 1):
            raise ValueError(f"the depth of FIFO {edge} must be at least 1 word, got {depth!r}")
    return {edge: given.get(edge, 2) for edge in found}
