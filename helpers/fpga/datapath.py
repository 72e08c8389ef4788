"""The datapath: an integer model computed exactly, and fast, in plain NumPy.

`Datapath` gives the codes that hardware would give, bit for bit, in one of four requantization
modes. How it is fast: images lie innermost in memory; every sum of products is a BLAS product in
floating point whose sums are proved exact (`operators`); the bias and the rounding constant are
one addition in a float requantization proved equal to the integer rule (`requantizer`); a max-pool
works on accumulators, of which it leaves a quarter to requantize; memory that a layer has finished
with serves the next. A handful of images goes another way (`few`).

Chapter: 11_fpga_datapath.
"""

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from helpers.fpga.arithmetic import Integers, check_mode, wrap
from helpers.fpga.few import FewImages
from helpers.fpga.integer_model import IntegerLayer, IntegerModel, accumulator_bits
from helpers.fpga.operators import Block, Workspace, exact_dtype, sums_of, window
from helpers.fpga.requantizer import FloatSteps, Requantizer, prove, requantizer
from helpers.fpga.residual import Addition, addition

Codes = npt.NDArray[np.int8]
FEW = 8  # up to this many images, the channel innermost is faster than the image innermost


class Datapath:
    """Run `model` on int8 codes.

    Args:
        model: the integer model.
        rounding: "half_up" (one adder and a shift), "half_even", "shift" (all factors are powers of
            two, no multiplier, half up; other models are refused) or "onnxruntime" (float32 product,
            equal to that runtime on every element).
        multiplier_bits: width of the unsigned requantization multiplier; not used by the last two.
        accumulator_bits: None for 32; or one width, or one per layer name, of accumulators that
            wrap around as a register of that width does.
        threads: Python threads, each with its own block of images.
        chunk: images per block.

    >>> # codes = model.quantize_input(images); Datapath(model).run(codes)  # (N, classes) int8
    """

    def __init__(
        self,
        model: IntegerModel,
        *,
        rounding: str = "half_up",
        multiplier_bits: int = 16,
        accumulator_bits: int | Mapping[str, int] | None = None,
        threads: int = 1,
        chunk: int = 64,
    ) -> None:
        self.model, self.rounding = model, check_mode(rounding)
        if threads < 1 or chunk < 1:
            raise ValueError(f"threads and chunk must be positive, got {threads} and {chunk}")
        self.threads, self.chunk, self.multiplier_bits = threads, chunk, multiplier_bits
        self.requantizers: dict[str, Requantizer] = {}
        self.additions: dict[str, Addition] = {}
        for layer in model:
            if layer.has_accumulator:
                self.requantizers[layer.name] = requantizer(
                    model, layer, self.rounding, multiplier_bits
                )
            elif layer.op == "add":
                self.additions[layer.name] = addition(model, layer, self.rounding, multiplier_bits)
        self.accumulator_bits = _register_widths(model, accumulator_bits)
        self.steps: dict[str, FloatSteps | None] = {
            name: None
            if name in self.accumulator_bits
            else prove(model, model[name], rule, exact_dtype(model, model[name]))
            for name, rule in self.requantizers.items()
        }
        self._pooled_first = self._find_pools()
        self._last_read = {model.output.name: len(model.layers)}
        for number, layer in enumerate(model):
            self._last_read |= dict.fromkeys(layer.inputs, number)
        self._sums = {name: sums_of(model, model[name]) for name in self.steps}
        self._spaces: queue.SimpleQueue[Workspace] = queue.SimpleQueue()
        for _ in range(threads):
            self._spaces.put(Workspace())
        self._blas = ThreadpoolController()
        self._few: dict[int, FewImages] = {}

    def _find_pools(self) -> dict[str, str]:
        """Max-pools that may work on accumulators: the only reader of a layer that has them."""
        readers: dict[str, list[IntegerLayer]] = {layer.name: [] for layer in self.model}
        for layer in self.model:
            for name in layer.inputs:
                readers[name].append(layer)
        return {
            name: readers[name][0].name
            for name, steps in self.steps.items()
            if steps is not None and [r.op for r in readers[name]] == ["max_pool"]
        }

    def run(self, codes: Codes) -> Codes:
        """Logit codes (N, classes) int8 of input codes (N, C, H, W) int8."""
        self.model.check_input(codes)
        if 0 < len(codes) <= FEW and (runner := self._runner(len(codes))):
            return runner.run(codes)
        out = np.empty((len(codes), *self.model.output.shape), np.int8)

        def block(start: int) -> None:
            part = slice(start, start + self.chunk)
            out[part] = self._block(codes[part], None)

        self._each_block(len(codes), block)
        return out

    def predict(self, codes: Codes) -> Integers:
        """Class indices (N,): the first largest logit code, as a chain of comparators gives it."""
        return self.run(codes).argmax(axis=1)

    def trace(self, codes: Codes) -> dict[str, Codes]:
        """The codes of every layer, each (N, ...) int8, input and logits included."""
        return self._collect(codes, "codes", np.int8)

    def accumulators(self, codes: Codes) -> dict[str, npt.NDArray[np.int32]]:
        """The accumulators, bias included, of the layers that have them, each (N, ...) int32."""
        return self._collect(codes, "accumulators", np.int32)

    def _collect(self, codes: Codes, what: str, dtype: Any) -> dict[str, Any]:
        self.model.check_input(codes)
        names = [n.name for n in self.model if what == "codes" or n.has_accumulator]
        out = {n: np.empty((len(codes), *self.model[n].shape), dtype) for n in names}

        def block(start: int) -> None:
            part = slice(start, start + self.chunk)

            def keep(name: str, kind: str, values: Block) -> None:
                if kind == what:
                    out[name][part] = np.moveaxis(values, -1, 0)

            self._block(codes[part], keep)

        self._each_block(len(codes), block)
        return out

    def _each_block(self, images: int, block: Callable[[int], None]) -> None:
        starts = range(0, images, self.chunk)
        if len(starts) <= 1:
            for start in starts:
                block(start)
            return
        with self._blas.limit(limits=1, user_api="blas"):
            if self.threads == 1:
                for start in starts:
                    block(start)
                return
            with ThreadPoolExecutor(self.threads) as pool:
                for _ in pool.map(block, starts):
                    pass

    def _block(self, codes: Codes, keep: Callable[[str, str, Block], None] | None) -> Codes:
        """Run one block of images; `keep` receives every layer's codes and accumulators."""
        workspace = self._spaces.get()
        try:
            values: dict[str, Block] = {}  # centred codes, images last, float32
            done: set[str] = set()
            workspace.release([])
            for number, layer in enumerate(self.model):
                if layer.name in done:
                    continue
                if layer.op == "input":
                    first = workspace.take((*layer.shape, len(codes)))
                    np.subtract(np.moveaxis(codes, 0, -1), np.float32(layer.zero_point), out=first)
                    values[layer.name] = first
                else:
                    pooled = None if keep else self._pooled_first.get(layer.name)
                    result = self._layer(layer, values, workspace, pooled, keep)
                    values[layer.name] = result
                    if pooled is not None:
                        values[pooled] = result
                        done.add(pooled)
                workspace.release(
                    x for n, x in values.items() if self._last_read.get(n, 0) > number
                )
                if keep:
                    keep(layer.name, "codes", values[layer.name] + layer.zero_point)
            last = self.model.output
            return (values[last.name] + last.zero_point).astype(np.int8).T
        finally:
            self._spaces.put(workspace)

    def _runner(self, images: int) -> FewImages | None:
        """What runs a few images; None where a layer has no proved float requantization."""
        if images in self._few:
            return self._few[images]
        steps: dict[str, FloatSteps] = {}
        for name, found in self.steps.items():
            if found is not None and found.rest is not None:
                # float64 for all channels costs one image less than picking out the coarse ones
                found = prove(self.model, self.model[name], self.requantizers[name], np.float64)
            if found is None:
                return None
            steps[name] = found
        runner = FewImages(self.model, steps, self.additions, self._pooled_first, images)
        return self._few.setdefault(images, runner)

    def _layer(
        self,
        layer: IntegerLayer,
        values: dict[str, Block],
        workspace: Workspace,
        pooled: str | None,
        keep: Callable[[str, str, Block], None] | None,
    ) -> Block:
        x = values[layer.inputs[0]]
        if layer.op == "flatten":
            return x.reshape(-1, x.shape[-1])
        if layer.op == "max_pool":
            return window(x, layer, np.maximum, workspace)
        if layer.op == "add":
            return self.additions[layer.name](x, values[layer.inputs[1]])
        total = self._sums[layer.name](x, workspace)
        steps, rule = self.steps[layer.name], self.requantizers[layer.name]
        if keep or steps is None:
            exact = total.astype(np.int64)
            if layer.bias is not None:
                exact += layer.bias.reshape((-1,) + (1,) * (exact.ndim - 1))
            if layer.name in self.accumulator_bits:
                exact = wrap(exact, self.accumulator_bits[layer.name])
            if keep:
                keep(layer.name, "accumulators", exact)
            return (rule(exact, axis=0) - layer.zero_point).astype(np.float32)
        if pooled is not None:
            total = window(total, self.model[pooled], np.maximum, workspace)
        # In place where the next layer can read it so: less memory to pass through the caches.
        whole = total.flags.c_contiguous
        out = total if whole else workspace.take(total.shape, total.dtype)
        out = steps(total, out)
        return out.astype(np.float32, copy=False)


def _register_widths(model: IntegerModel, widths: int | Mapping[str, int] | None) -> dict[str, int]:
    """Accumulator widths that are narrower than a layer needs; wider ones change nothing."""
    names = [layer.name for layer in model if layer.has_accumulator]
    if widths is None:
        return {}
    table = dict.fromkeys(names, widths) if isinstance(widths, int) else dict(widths)
    for name, bits in table.items():
        if name not in names:
            raise ValueError(f"accumulator_bits names {name!r}; accumulators have {names}")
        if not 2 <= bits <= 32:
            raise ValueError(f"accumulator_bits of {name!r} must be 2 to 32, got {bits}")
    return {name: bits for name, bits in table.items() if bits < accumulator_bits(model, name)}
