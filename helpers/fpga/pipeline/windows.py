"""Which pixels a window reads, how long each must stay, and how much memory that takes.

Pixels arrive one after the other, row by row. A window can be computed once its last pixel is
there; a pixel may be overwritten once the last window that reads it is done. Both follow from the
geometry alone, and so does the size of the line buffer between the two.

Chapter: 12_fpga_pipeline.
"""

from dataclasses import dataclass, replace

import numpy as np

from helpers.fpga.arithmetic import Integers
from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.pipeline.folding import Shape, map_shape

CHANNELWISE = ("max_pool", "avg_pool", "global_avg_pool", "add")


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one stage on one frame, in the order of computation (row by row).

    `taps` (windows, positions) holds pixel numbers of the frame, -1 for padding. `need` (windows,)
    is the last pixel that a window reads, -1 if it reads padding only. `keep` (windows,) is the
    oldest pixel that it or any later window of the frame reads.
    """

    pixels: int  # of one input frame
    width: int  # of its rows
    stride: tuple[int, int]
    taps: Integers
    need: Integers
    keep: Integers

    @property
    def count(self) -> int:
        """Windows in a frame."""
        return len(self.need)

    @property
    def span(self) -> int:
        """Pixels of memory without which a window could never be complete.

        For a K x K window that slides along rows of W pixels: (K - 1) W + K, less what the padding
        saves in maps that are hardly larger than the window.
        """
        return max(1, int((self.need - self.keep).max()) + 1)


def source_map(model: IntegerModel, layer: IntegerLayer, index: int = 0) -> Shape:
    """The map (C, H, W) that a layer reads; a flatten between the two is looked through."""
    return map_shape(stream(model, layer.inputs[index]))


def stream(model: IntegerModel, name: str) -> IntegerLayer:
    """The layer whose words really arrive where `name` is read: flatten is no more than a name."""
    layer = model[name]
    return stream(model, layer.inputs[0]) if layer.op == "flatten" else layer


def windows(model: IntegerModel, layer: IntegerLayer) -> Windows:
    """The windows of a layer. A dense layer's only window is the whole map; an add and a global
    average pool take one pixel after the other."""
    _, height, width = source_map(model, layer)
    if layer.op in ("add", "global_avg_pool"):
        kernel, stride, padding, out = (1, 1), (1, 1), (0, 0), (height, width)
    elif layer.op == "linear":
        kernel, stride, padding, out = (height, width), (height, width), (0, 0), (1, 1)
    else:
        kernel, stride, padding = layer.kernel, layer.stride, layer.padding
        out = map_shape(layer)[1:]
    rows, columns = (
        np.arange(out[axis])[:, None] * stride[axis] - padding[axis] + np.arange(kernel[axis])
        for axis in (0, 1)
    )
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    pixel = rows[:, None, :, None] * width + columns[None, :, None, :]
    inside = inside_rows[:, None, :, None] & inside_columns[None, :, None, :]
    taps = np.where(inside, pixel, -1).reshape(out[0] * out[1], -1)
    first = np.where(taps < 0, height * width, taps).min(axis=1)
    keep = np.minimum.accumulate(first[::-1])[::-1]
    return Windows(height * width, width, stride, taps, taps.max(axis=1), keep)


def whole_frame(slots: Windows) -> Windows:
    """The same windows for a stage that starts a frame only when all of it has arrived."""
    return replace(slots, need=np.full_like(slots.need, slots.pixels - 1))


def buffer_pixels(model: IntegerModel, layer: IntegerLayer) -> int:
    """Pixels of the line buffer that a stage gets unless told otherwise.

    The span, plus what arrives while a window is computed: one step to the right; and with stride
    s, where multipliers must not wait while rows pass that complete no window, s - 1 rows more.
    """
    slots = windows(model, layer)
    rows = slots.stride[0] - 1 if layer.weight is not None else 0
    return slots.span + rows * slots.width + slots.stride[1]
