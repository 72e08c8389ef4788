"""The operators of the datapath on blocks of centred codes, exact in floating point.

A block holds a few dozen images with the image index innermost: (C, H, W, N) or (F, N), and every
value is a centred code q - Z, so that padding is the number 0. Sums of products run through BLAS
matrix products; `exact_dtype` says which floating-point type holds every partial sum exactly.

Chapter: 11_fpga_datapath.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.integer_model import IntegerLayer, IntegerModel

Block = npt.NDArray[Any]
FloatType = type[np.floating[Any]]
Sums = Callable[[Block, "Workspace"], Block]


class Workspace:
    """Arrays by name, made once and used again for every block of the same size.

    They start as zeros, and a border of zeros that nothing overwrites stays: that is the padding.
    Arrays for two block sizes are kept, the usual one and the remainder's.
    """

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, tuple[int, ...], Any], Block] = {}
        self.sizes: set[int] = set()

    def begin(self, images: int) -> None:
        """Announce a block of `images`; a third size makes room by dropping the others."""
        if images not in self.sizes and len(self.sizes) == 2:
            self.arrays.clear()
            self.sizes.clear()
        self.sizes.add(images)

    def __call__(self, name: str, shape: tuple[int, ...], dtype: FloatType = np.float32) -> Block:
        key = (name, shape, dtype)
        if key not in self.arrays:
            self.arrays[key] = np.zeros(shape, dtype)
        return self.arrays[key]


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


def sums_of(model: IntegerModel, layer: IntegerLayer, whole_rows: bool) -> Sums:
    """The function that computes a layer's accumulators, without the bias, from a block.

    The result may be a view with any strides. `whole_rows` makes few large matrix products, right
    for a handful of images; otherwise one small product per output position (or row) is cheaper.
    """
    dtype = exact_dtype(model, layer)
    source = model.source(layer).shape
    if layer.op == "linear":
        return _matrix(layer, dtype)
    if layer.op == "global_avg_pool":
        return lambda x, _: x.sum(axis=(1, 2), dtype=dtype, keepdims=True)
    if layer.op == "avg_pool":
        return lambda x, workspace: window(x.astype(dtype, copy=False), layer, np.add, workspace)
    plain = layer.groups == 1 and layer.stride == (1, 1) and layer.padding == (0, 0)
    if plain and layer.kernel == (1, 1):
        return _matrix(layer, dtype)
    if layer.depthwise:
        return _depthwise(layer, source, dtype, source[1] if whole_rows else 1)
    return _convolution(layer, source, dtype, layer.shape[2] if whole_rows else 1)


def _matrix(layer: IntegerLayer, dtype: FloatType) -> Sums:
    """A linear layer or a 1x1 convolution: one matrix product for the whole block."""
    assert layer.weight is not None
    weight = layer.weight.reshape(len(layer.weight), -1).astype(dtype)

    def sums(x: Block, workspace: Workspace) -> Block:
        out = workspace(layer.name + ":sums", (len(weight), *x.shape[1:]), dtype)
        flat = x.reshape(len(x), -1).astype(dtype, copy=False)
        np.matmul(weight, flat, out=out.reshape(len(weight), -1))
        return out

    return sums


def _depthwise(layer: IntegerLayer, source: tuple[int, ...], dtype: FloatType, rows: int) -> Sums:
    """Each channel times a Toeplitz matrix that turns a band of input rows into `rows` output rows.

    The zeros of the matrix stand for the horizontal padding and for the pixels outside each window;
    bands that the vertical padding cuts use fewer columns of the same matrix.
    """
    assert layer.weight is not None
    channels, height, width = source
    (_, out_height, out_width), (kh, kw) = layer.shape, layer.kernel
    (sh, sw), (ph, pw) = layer.stride, layer.padding
    rows = min(rows, out_height)
    band = (rows - 1) * sh + kh
    toeplitz = np.zeros((channels, 1, rows, out_width, band, width), dtype)
    for r in range(rows):
        for i in range(kh):
            for x_out in range(out_width):
                for j in range(kw):
                    x_in = x_out * sw - pw + j
                    if 0 <= x_in < width:
                        toeplitz[:, 0, r, x_out, r * sh + i, x_in] = layer.weight[:, 0, i, j]
    pieces: list[list[int]] = []  # first output row, rows, bands, first and last input row, cut
    for top in range(0, out_height, rows):
        count = min(rows, out_height - top)
        start = top * sh - ph
        first = min(max(start, 0), height)
        last = max(first, min(start + (count - 1) * sh + kh, height))
        cut = first - start
        same = pieces and pieces[-1][1] == count and pieces[-1][5] == cut
        if same and last - first == pieces[-1][4] - pieces[-1][3]:
            pieces[-1][2] += 1
        else:
            pieces.append([top, count, 1, first, last, cut])
    blocks = [
        (
            piece,
            np.ascontiguousarray(
                toeplitz[:, :, : piece[1], :, piece[5] : piece[5] + piece[4] - piece[3]]
            ).reshape(channels, 1, piece[1] * out_width, -1),
        )
        for piece in pieces
    ]

    def sums(x: Block, workspace: Workspace) -> Block:
        images = x.shape[-1]
        x = np.ascontiguousarray(x, dtype=dtype)
        out = workspace(layer.name + ":sums", (channels, out_height, out_width, images), dtype)
        step = rows * sh * x.strides[1]
        for (top, count, bands, first, last, _), matrix in blocks:
            bands_in = np.ndarray(  # overlapping bands of the same memory
                (channels, bands, (last - first) * width, images),
                dtype,
                buffer=x,
                offset=first * x.strides[1],
                strides=(x.strides[0], step, x.strides[2], x.strides[3]),
            )
            bands_out = out[:, top : top + bands * count].reshape(channels, bands, -1, images)
            np.matmul(matrix, bands_in, out=bands_out)
        return out

    return sums


def _convolution(
    layer: IntegerLayer, source: tuple[int, ...], dtype: FloatType, columns: int
) -> Sums:
    """Any convolution: per group a matrix product for each output row and block of `columns`.

    The block's input columns are copied side by side (padding included), after which the rows that
    one output row needs are contiguous: overlapping output rows read overlapping memory.
    """
    assert layer.weight is not None
    groups, (_, height, width) = layer.groups, source
    (_, out_height, out_width), (kh, kw) = layer.shape, layer.kernel
    (sh, sw), (ph, pw) = layer.stride, layer.padding
    outputs, inputs = len(layer.weight) // groups, layer.weight.shape[1]
    blocks, span = out_width // columns, (columns - 1) * sw + kw
    weight = layer.weight.reshape(groups, outputs, inputs, kh, kw).astype(dtype)
    matrix = np.zeros((groups, columns, outputs, kh, inputs, span), dtype)
    for c in range(columns):
        matrix[:, c, :, :, :, c * sw : c * sw + kw] = weight.transpose(0, 1, 3, 2, 4)
    matrix = matrix.reshape(groups, 1, 1, columns * outputs, kh * inputs * span)

    def sums(x: Block, workspace: Workspace) -> Block:
        images = x.shape[-1]
        shape = (groups, blocks, height + 2 * ph, inputs, span, images)
        patches = workspace(layer.name + ":patches", shape, dtype)
        by_row = x.reshape(groups, inputs, height, width, images).transpose(0, 2, 1, 3, 4)
        for b in range(blocks):
            start = b * columns * sw - pw
            first = min(max(start, 0), width)
            last = max(first, min(start + span, width))
            patches[:, b, ph : ph + height, :, first - start : last - start] = by_row[
                :, :, :, first:last
            ]
        strides = patches.strides
        windows = np.ndarray(
            (groups, blocks, out_height, kh * inputs * span, images),
            dtype,
            buffer=patches,
            strides=(strides[0], strides[1], sh * strides[2], strides[4], strides[5]),
        )
        out = workspace(
            layer.name + ":sums", (groups, blocks, out_height, columns * outputs, images), dtype
        )
        np.matmul(matrix, windows, out=out)
        out = out.reshape(groups, blocks, out_height, columns, outputs, images)
        out = out.transpose(0, 4, 2, 1, 3, 5)  # groups, outputs, rows, blocks, columns, images
        out = out[:, :, :, :, 0] if columns == 1 else out[:, :, :, 0]
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
    for axis, step in ((1, "rows"), (2, "columns")):
        kernel, stride = layer.kernel[axis - 1], layer.stride[axis - 1]
        padding, size = layer.padding[axis - 1], layer.shape[axis]
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        result = workspace(f"{layer.name}:{step}", shape, x.dtype.type)
        before = (slice(None),) * axis
        if padding == 0 and kernel == 2:
            reach = (size - 1) * stride + 1
            first, second = ((*before, slice(k, k + reach, stride)) for k in (0, 1))
            x = combine(x[first], x[second], out=result)
            continue
        result.fill(-np.inf if combine is np.maximum else 0)
        for k in range(kernel):
            start = max(0, -((k - padding) // stride))  # first output whose tap k is inside
            stop = min(size, (x.shape[axis] - 1 - k + padding) // stride + 1)
            if stop > start:
                first_in = start * stride - padding + k
                last_in = first_in + (stop - start - 1) * stride
                inside = (*before, slice(first_in, last_in + 1, stride))
                target = (*before, slice(start, stop))
                combine(result[target], x[inside], out=result[target])
        x = result
    return x
