"""The operators of the datapath on blocks of centred codes, exact in floating point.

A block holds a few dozen images with the image index innermost: (C, H, W, N) or (F, N), and every
value is a centred code q - Z, so that padding is the number 0. Sums of products run through BLAS
matrix products; `exact_dtype` says which floating-point type holds every partial sum exactly.

Chapter: 11_fpga_datapath.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.integer_model import IntegerLayer, IntegerModel

Block = npt.NDArray[Any]
FloatType = type[np.floating[Any]]
Sums = Callable[[Block, "Workspace"], Block]


class Workspace:
    """Arrays that are made once and used again for every block.

    Memory that a block has finished with serves its next layer: what is read and written stays in
    the processor's cache, which is where the time of large blocks goes.
    """

    def __init__(self) -> None:
        self.buffers: list[Block] = []  # bytes
        self.taken: list[Block] = []  # those of them in use
        self.bordered: dict[tuple[str, tuple[int, ...]], Block] = {}

    def take(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Block:
        """An array of any content, of this block until `release` finds it no longer kept."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        used = {id(buffer) for buffer in self.taken}
        fitting = [b for b in self.buffers if len(b) >= size and id(b) not in used]
        buffer = min(fitting, key=len, default=None)
        if buffer is None:
            buffer = np.empty(size, np.uint8)
            self.buffers.append(buffer)
        self.taken.append(buffer)
        return buffer[:size].view(dtype).reshape(shape)

    def release(self, kept: Iterable[Block]) -> None:
        """Give back what was taken, but for the memory of the arrays in `kept`."""
        held = {id(array.base) for array in kept}
        self.taken = [buffer for buffer in self.taken if id(buffer) in held]

    def zeros(self, name: str, shape: tuple[int, ...], dtype: FloatType) -> Block:
        """An array by name whose border, which nothing overwrites, stays zero: the padding.

        Two sizes of block are kept, the usual one and the remainder's.
        """
        if (name, shape) not in self.bordered:
            sizes = {known[-1] for _, known in self.bordered} | {shape[-1]}
            if len(sizes) > 2:
                self.bordered.clear()
            self.bordered[name, shape] = np.zeros(shape, dtype)
        return self.bordered[name, shape]


def exact_dtype(model: IntegerModel, layer: IntegerLayer) -> FloatType:
    """float32 where no partial sum of products can pass 2**24 in magnitude, else float64.

    Bounded with the actual weights: sum of |w| times the largest |q - Z|. Such sums are exact in
    any order and with fused multiply-adds. float64 is exact up to 2**53, which int32 never passes.
    """
    source = model.source(layer)
    largest = max(source.high - source.zero_point, source.zero_point - source.low)
    if layer.weight is None:
        total = layer.taps
    else:
        total = int(
            np.abs(layer.weight.reshape(len(layer.weight), -1).astype(np.int64)).sum(1).max()
        )
    return np.float32 if total * largest <= 2**24 else np.float64


def sums_of(model: IntegerModel, layer: IntegerLayer) -> Sums:
    """The function that computes a layer's accumulators, without the bias, from a block.

    The result may be a view with any strides.
    """
    dtype = exact_dtype(model, layer)
    source = model.source(layer).shape
    if layer.op == "linear":
        return _matrix(layer, dtype)
    if layer.op == "global_avg_pool":
        # One product with a row of ones for each channel: faster than NumPy's sum over an axis.
        ones = np.ones((1, layer.taps), dtype)
        return lambda x, _: np.matmul(ones, x.reshape(len(x), layer.taps, -1))[:, :, None]
    if layer.op == "avg_pool":
        return lambda x, workspace: window(x.astype(dtype, copy=False), layer, np.add, workspace)
    plain = layer.groups == 1 and layer.stride == (1, 1) and layer.padding == (0, 0)
    if plain and layer.kernel == (1, 1):
        return _matrix(layer, dtype)
    if layer.depthwise:
        return _depthwise(layer, source, dtype)
    return _convolution(layer, source, dtype)


def _matrix(layer: IntegerLayer, dtype: FloatType) -> Sums:
    """A linear layer or a 1x1 convolution: one matrix product for the whole block."""
    assert layer.weight is not None
    weight = layer.weight.reshape(len(layer.weight), -1).astype(dtype)

    def sums(x: Block, workspace: Workspace) -> Block:
        out = workspace.take((len(weight), *x.shape[1:]), dtype)
        flat = x.reshape(len(x), -1).astype(dtype, copy=False)
        np.matmul(weight, flat, out=out.reshape(len(weight), -1))
        return out

    return sums


def _depthwise(layer: IntegerLayer, source: tuple[int, ...], dtype: FloatType) -> Sums:
    """Each channel times a Toeplitz matrix that turns K_h input rows into one output row.

    The zeros of the matrix stand for the horizontal padding and for the pixels outside each window;
    rows that the vertical padding cuts use fewer columns of the same matrix.
    """
    assert layer.weight is not None
    channels, height, width = source
    (_, out_height, out_width), (kh, kw) = layer.shape, layer.kernel
    (sh, sw), (ph, pw) = layer.stride, layer.padding
    toeplitz = np.zeros((channels, 1, out_width, kh, width), dtype)
    for x_out in range(out_width):
        for j in range(kw):
            x_in = x_out * sw - pw + j
            if 0 <= x_in < width:
                toeplitz[:, 0, x_out, :, x_in] = layer.weight[:, 0, :, j]
    pieces: list[list[int]] = []  # first output row, rows, first input row, its tap, taps
    for top in range(out_height):
        start = top * sh - ph
        first = min(max(start, 0), height)
        taps = max(first, min(start + kh, height)) - first
        if pieces and pieces[-1][3:] == [first - start, taps]:
            pieces[-1][1] += 1  # rows with the same taps inside the map go through one product
        else:
            pieces.append([top, 1, first, first - start, taps])
    matrices = [
        np.ascontiguousarray(toeplitz[..., tap : tap + taps, :]).reshape(channels, 1, out_width, -1)
        for *_, tap, taps in pieces
    ]

    def sums(x: Block, workspace: Workspace) -> Block:
        images = x.shape[-1]
        x = np.ascontiguousarray(x, dtype=dtype)
        out = workspace.take((channels, out_height, out_width, images), dtype)
        pixel = images * x.itemsize  # x.strides says nothing of an axis with one element
        row = width * pixel
        for (top, rows, first, _, taps), matrix in zip(pieces, matrices, strict=True):
            bands = np.ndarray(  # overlapping bands of the same memory
                (channels, rows, taps * width, images),
                dtype,
                buffer=x,
                offset=first * row,
                strides=(height * row, sh * row, pixel, x.itemsize),
            )
            np.matmul(matrix, bands, out=out[:, top : top + rows])
        return out

    return sums


def _convolution(layer: IntegerLayer, source: tuple[int, ...], dtype: FloatType) -> Sums:
    """Any convolution: per group a matrix product for each output position.

    The input columns of each output column are copied side by side (padding included), after which
    the rows that one output needs are contiguous: overlapping outputs read overlapping memory.
    """
    assert layer.weight is not None
    groups, (_, height, width) = layer.groups, source
    (_, out_height, out_width), (kh, kw) = layer.shape, layer.kernel
    (sh, sw), (ph, pw) = layer.stride, layer.padding
    outputs, inputs = len(layer.weight) // groups, layer.weight.shape[1]
    weight = layer.weight.reshape(groups, 1, 1, outputs, inputs, kh, kw).astype(dtype)
    matrix = weight.transpose(0, 1, 2, 3, 5, 4, 6).reshape(groups, 1, 1, outputs, -1)

    def sums(x: Block, workspace: Workspace) -> Block:
        images = x.shape[-1]
        shape = (groups, out_width, height + 2 * ph, inputs, kw, images)
        patches = workspace.zeros(layer.name, shape, dtype)
        by_row = x.reshape(groups, inputs, height, width, images).transpose(0, 2, 1, 3, 4)
        for column in range(out_width):
            start = column * sw - pw
            first = min(max(start, 0), width)
            last = max(first, min(start + kw, width))
            patches[:, column, ph : ph + height, :, first - start : last - start] = by_row[
                :, :, :, first:last
            ]
        strides = patches.strides
        windows = np.ndarray(
            (groups, out_width, out_height, kh * inputs * kw, images),
            dtype,
            buffer=patches,
            strides=(strides[0], strides[1], sh * strides[2], strides[4], strides[5]),
        )
        out = workspace.take((groups, out_width, out_height, outputs, images), dtype)
        np.matmul(matrix, windows, out=out)
        out = out.transpose(0, 3, 2, 1, 4)  # groups, outputs, rows, columns, images
        return out[0] if groups == 1 else out.reshape(-1, out_height, out_width, images)

    return sums


def window(
    x: Block, layer: IntegerLayer, combine: Callable[..., Block], workspace: Workspace
) -> Block:
    """Maximum or sum over windows, first along the rows and then along the columns.

    `combine` is np.maximum or np.add. Positions outside the map are left out: for a sum they count
    as 0, the padding's centred code. A maximum of accumulators is as good as one of codes, since
    requantization is monotone.
    """
    calls, result = window_calls(x, layer, combine, workspace)
    for call in calls:
        call()
    return result


def window_calls(
    x: Block, layer: IntegerLayer, combine: Callable[..., Block], workspace: Workspace
) -> tuple[list[Callable[[], Any]], Block]:
    """The NumPy calls of `window` in their order, and the array that they fill."""
    calls: list[Callable[[], Any]] = []
    for axis in (1, 2):
        kernel, stride = layer.kernel[axis - 1], layer.stride[axis - 1]
        padding, size = layer.padding[axis - 1], layer.shape[axis]
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        # The result lies in memory in the order of `x`: NumPy's innermost loops are then long.
        order = np.argsort([-step for step in x.strides], kind="stable").tolist()
        made = workspace.take(tuple(shape[a] for a in order), x.dtype)
        result = made.transpose(np.argsort(order))
        before = (slice(None),) * axis
        if padding == 0 and kernel == 2:
            reach = (size - 1) * stride + 1
            first, second = ((*before, slice(k, k + reach, stride)) for k in (0, 1))
            calls.append(partial(combine, x[first], x[second], out=result))
            x = result
            continue
        calls.append(partial(result.fill, -np.inf if combine is np.maximum else 0))
        for k in range(kernel):
            start = max(0, -((k - padding) // stride))  # first output whose tap k is inside
            stop = min(size, (x.shape[axis] - 1 - k + padding) // stride + 1)
            if stop > start:
                first_in = start * stride - padding + k
                last_in = first_in + (stop - start - 1) * stride
                inside = (*before, slice(first_in, last_in + 1, stride))
                outputs = (*before, slice(start, stop))
                calls.append(partial(combine, result[outputs], x[inside], out=result[outputs]))
        x = result
    return calls, x
