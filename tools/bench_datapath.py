"""Images per second of the datapath beside ONNX Runtime int8 and PyTorch float32.

    python tools/bench_datapath.py [--rounds 7] [--threads 2] [--images 2048]

One network (the small SeparableCNN), the same images, in one process: each round times every
engine once, in turn, so that other load on the machine meets all of them; medians over the rounds
are printed with their ratio to ONNX Runtime int8. First every engine's logits are compared.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnxruntime
import torch

from helpers import cost, data, zoo
from helpers.fpga.convert import from_quantized
from helpers.fpga.datapath import Datapath
from helpers.fpga.integer_model import IntegerModel
from helpers.fpga.onnx_file import to_onnx
from helpers.quantization.network import quantize_network

BASE = "ONNX Runtime int8"


def ort_session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def engines(
    model: torch.nn.Module, x: torch.Tensor, threads: int
) -> dict[str, Callable[[slice], Any]]:
    """Name -> function of a slice of images, answers checked."""
    network = quantize_network(model, data.load().train.x[:500])
    integers = from_quantized(network)
    powers = from_quantized(quantize_network(model, data.load().train.x[:500], power_of_two=True))
    codes, codes_of_powers = (m.quantize_input(x.numpy()) for m in (integers, powers))
    session = ort_session(to_onnx(integers).SerializeToString(), threads)

    def datapath(m: IntegerModel, mode: str, inputs: np.ndarray) -> Callable[[slice], Any]:
        path = Datapath(m, rounding=mode, threads=threads)
        return lambda part: path.run(inputs[part])

    def float32(part: slice) -> Any:
        with torch.inference_mode():
            return model(x[part])

    table = {
        f"datapath {mode}": datapath(integers, mode, codes)
        for mode in ("half_up", "half_even", "onnxruntime")
    }
    table["datapath shift"] = datapath(powers, "shift", codes_of_powers)
    table[BASE] = lambda part: session.run(None, {"input": codes[part]})[0]
    table["PyTorch float32"] = float32
    exact = np.array_equal(table["datapath onnxruntime"](slice(None)), table[BASE](slice(None)))
    print(f"onnxruntime mode equals ONNX Runtime on {len(x)} images: {exact}")
    if not exact:
        raise SystemExit("the datapath differs from ONNX Runtime: no benchmark of wrong answers")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--images", type=int, default=2048)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = zoo.load("SeparableCNN")
    x = data.load().test.x[: arguments.images]
    print(
        f"SeparableCNN, {cost.count(model, (1, 28, 28)).operations:,} MAC per image, "
        f"{arguments.threads} threads, {arguments.rounds} interleaved rounds, medians"
    )
    table = engines(model, x, arguments.threads)
    for batch in (1, 256):
        images = min(len(x), 200 if batch == 1 else arguments.images) // batch * batch
        seconds: dict[str, list[float]] = {name: [] for name in table}
        for _ in range(arguments.rounds):
            for name, run in table.items():
                run(slice(0, batch))
                start = time.perf_counter()
                for first in range(0, images, batch):
                    run(slice(first, first + batch))
                seconds[name].append(time.perf_counter() - start)
        rate = {name: images / float(np.median(times)) for name, times in seconds.items()}
        print(f"\nbatch {batch:>3}             images/s   ratio to {BASE}")
        for name, value in rate.items():
            print(f"  {name:<22}{value:>9,.0f}   {value / rate[BASE]:.2f}")


if __name__ == "__main__":
    main()
