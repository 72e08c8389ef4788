"""A handful of images through the datapath, where NumPy's calls cost more than the arithmetic.

The sums are those of `operators`, exact for the same reason, but laid out for one image instead of
dozens: the channel lies innermost, (N, H, W, C), so that a row of pixels with all its channels is
one run in memory. Every array and view is made once; what runs is a list of NumPy calls.

Chapter: 11_fpga_datapath.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.operators import Block, FloatType, Workspace, exact_dtype, window_calls
from helpers.fpga.requantizer import FloatSteps
from helpers.fpga.residual import Addition

Codes = npt.NDArray[np.int8]


class FewImages:
    """The datapath for exactly `images` images; `run` gives their logit codes.

    Args:
        model: the integer model.
        steps: a float requantization for every layer that has accumulators, without a `rest`.
        additions: the rule of every residual add.
        pooled: max-pools, by the layer on whose accumulators they may work.
        images: how many images every call brings.
    """

    def __init__(
        self,
        model: IntegerModel,
        steps: Mapping[str, FloatSteps],
        additions: Mapping[str, Addition],
        pooled: Mapping[str, str],
        images: int,
    ) -> None:
        self.model, self.images = model, images
        self.lock, self.workspace = threading.Lock(), Workspace()
        self.calls: list[Callable[[], Any]] = []
        self.values: dict[str, Block] = {}  # centred codes, float32, (N, H, W, C) or (N, F)
        self.borders: dict[str, tuple[int, int]] = {}  # zeros around them: the readers' padding
        for layer in model:
            if layer.name in pooled.values():
                continue  # done with the layer before it
            if layer.op == "input":
                self._tensor(layer)
                continue
            x = self.values[layer.inputs[0]]
            if layer.op == "flatten":
                self._flatten(layer, x)
            elif layer.op == "max_pool":
                self._then(np.copyto, self._tensor(layer), self._window(x, layer, np.maximum))
            elif layer.op == "add":
                out, both = self._tensor(layer), (x, self.values[layer.inputs[1]])
                self._then(_copy_result, out, additions[layer.name], *both)
            else:
                total, place = self._sums(layer, x), layer
                if layer.name in pooled:
                    place = model[pooled[layer.name]]
                    total = self._window(total, place, np.maximum)
                self._requantize(total, steps[layer.name], self._tensor(place))

    def run(self, codes: Codes) -> Codes:
        """Logit codes (images, classes) int8 of input codes (images, C, H, W) int8."""
        first, last = self.model.input, self.model.output
        with self.lock:
            channels_last = codes.transpose(0, 2, 3, 1) if codes.ndim == 4 else codes
            np.subtract(channels_last, np.float32(first.zero_point), out=self.values[first.name])
            for call in self.calls:
                call()
            return (self.values[last.name] + last.zero_point).astype(np.int8)

    def _then(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        self.calls.append(partial(function, *arguments, **named))

    def _tensor(self, layer: IntegerLayer) -> Block:
        """Room for a layer's centred codes, inside the border that its readers' windows reach."""
        readers = [r for r in self.model if layer.name in r.inputs and r.op == "conv"]
        (top, left) = (max([r.padding[axis] for r in readers], default=0) for axis in (0, 1))
        if len(layer.shape) == 1:
            self.values[layer.name] = np.zeros((self.images, *layer.shape), np.float32)
            return self.values[layer.name]
        channels, height, width = layer.shape
        whole = np.zeros((self.images, height + 2 * top, width + 2 * left, channels), np.float32)
        self.borders[layer.name] = top, left
        self.values[layer.name] = whole[:, top : top + height, left : left + width]
        return self.values[layer.name]

    def _plain(self, x: Block, dtype: FloatType) -> Block:
        """`x` itself where it is one run of memory of that type, else a copy made in every run."""
        if x.flags.c_contiguous and x.dtype == dtype:
            return x
        copied = np.empty(x.shape, dtype)
        self._then(np.copyto, copied, x)
        return copied

    def _flatten(self, layer: IntegerLayer, x: Block) -> None:
        ordered = self._plain(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x, np.float32)
        self.values[layer.name] = ordered.reshape(self.images, -1)

    def _window(self, x: Block, layer: IntegerLayer, combine: Callable[..., Block]) -> Block:
        calls, result = window_calls(x, layer, combine, self.workspace)
        self.calls += calls
        return result

    def _sums(self, layer: IntegerLayer, x: Block) -> Block:
        """The layer's sums of products, without the bias, (N, H_out, W_out, C_out) or (N, F_out)."""
        dtype = exact_dtype(self.model, layer)
        if layer.op == "avg_pool":
            return self._window(self._plain(x, dtype), layer, np.add)
        channels, *sides = layer.shape
        total = np.empty((self.images, *sides, channels), dtype)
        if layer.op == "global_avg_pool":
            self._then(np.add.reduce, x, axis=(1, 2), dtype=dtype, out=total, keepdims=True)
        elif layer.op == "linear":
            assert layer.weight is not None
            self._then(np.matmul, self._plain(x, dtype), layer.weight.T.astype(dtype), out=total)
        elif layer.depthwise:
            self._depthwise(layer, self._windows(layer, x), total)
        else:
            self._convolution(layer, self._windows(layer, x), total)
        return total

    def _windows(self, layer: IntegerLayer, x: Block) -> Block:
        """A view of the windows, (N, H_out, W_out, K_h, K_w, C_in): overlapping, nothing copied."""
        (top, left), (ph, pw) = self.borders[layer.inputs[0]], layer.padding
        whole = x.base if x.base is not None else x
        start = whole[:, top - ph :, left - pw :]
        n, row, column, channel = start.strides
        (sh, sw) = layer.stride
        shape = (self.images, *layer.shape[1:], *layer.kernel, x.shape[-1])
        return as_strided(
            start, shape, (n, sh * row, sw * column, row, column, channel), writeable=False
        )

    def _depthwise(self, layer: IntegerLayer, windows: Block, total: Block) -> None:
        """All products in one call, tap by tap, then one sum over the taps.

        The weights are repeated for every pixel of a row, so that NumPy's innermost loop runs over
        a row with all its channels instead of over the few channels of one pixel.
        """
        assert layer.weight is not None
        taps = windows.transpose(3, 4, 0, 1, 2, 5)  # K_h, K_w, N, H_out, W_out, C
        weight = layer.weight[:, 0].transpose(1, 2, 0)[:, :, None, None, None, :]
        repeated = np.repeat(weight.astype(total.dtype), taps.shape[4], axis=4)
        products = np.empty(taps.shape, total.dtype)
        self._then(np.multiply, taps, repeated, out=products)
        flat = products.reshape(layer.taps, -1)
        self._then(np.add.reduce, flat, axis=0, out=total.reshape(-1))

    def _convolution(self, layer: IntegerLayer, windows: Block, total: Block) -> None:
        """One matrix product. Groups are zeros in the matrix, which change no sum.

        Windows are copied row by row of taps and channels, or, with one or two channels, tap by
        tap: NumPy copies fast only where the innermost run is long.
        """
        assert layer.weight is not None
        outputs, each = layer.weight.shape[:2]
        weight = np.zeros((outputs, each * layer.groups, *layer.kernel), total.dtype)
        for group in range(layer.groups):
            out = slice(group * outputs // layer.groups, (group + 1) * outputs // layer.groups)
            weight[out, group * each : (group + 1) * each] = layer.weight[out]
        matrix = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(-1, outputs)
        if windows.shape[-1] <= 2:
            taps = self._plain(windows.transpose(3, 4, 5, 0, 1, 2), total.dtype.type)
            rows = taps.reshape(len(matrix), -1).T
        else:
            rows = self._plain(windows, total.dtype.type).reshape(-1, len(matrix))
        self._then(np.matmul, rows, matrix, out=total.reshape(-1, outputs))

    def _requantize(self, total: Block, steps: FloatSteps, out: Block) -> None:
        """`steps` with its parameters repeated for every pixel: each call is one long loop."""
        kind = steps.factor.dtype
        work = total if total.dtype == kind else np.empty(total.shape, kind)
        x, flat = total.reshape(-1), work.reshape(-1)
        operations = ((np.add, steps.bias), (np.multiply, steps.factor), (np.add, steps.offset))
        for operation, parameter in operations:
            if parameter is not None:
                self._then(operation, x, np.broadcast_to(parameter, total.shape).ravel(), out=flat)
                x = flat
        self._then(np.rint, flat, out=flat)
        # The method and arrays without a dimension: half the time of np.clip with numbers.
        low, high = np.array(steps.low, kind), np.array(steps.high, kind)
        self._then(work.clip, low, high, out=out)


def _copy_result(out: Block, rule: Callable[[Block, Block], Block], a: Block, b: Block) -> None:
    np.copyto(out, rule(a, b))
