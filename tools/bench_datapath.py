"""Images per second of the datapath beside ONNX Runtime and PyTorch float32.

    python tools/bench_datapath.py [--rounds 7] [--threads 2] [--images 2048]

One network (the small SeparableCNN), the same images, in one process: in each round every engine
has its turn, so that other load on the machine meets all of them; medians over all calls are
printed. First the logits are compared.

ONNX Runtime computes the same function with int8 activations, as the integer contract has them, and
with uint8 ones (every code and zero-point plus 128). On x86 processors without AMX or AVX-VNNI-INT8
its matrix products of int8 with int8 take a slow path, so uint8 is the fair peer there: both ratios
are printed. On processors without any VNNI uint8 gives wrong sums (onnxruntime issue 16105).
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper

from helpers import cost, data, zoo
from helpers.fpga.convert import from_quantized
from helpers.fpga.datapath import Datapath
from helpers.fpga.integer_model import IntegerModel
from helpers.fpga.onnx_file import to_onnx
from helpers.quantization.network import quantize_network

PEERS = ("ONNX Runtime int8", "ONNX Runtime uint8")


def ort_session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def unsigned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same function on uint8 activations: 128 is added to every code and zero-point."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.endswith((":zero_point", ":low", ":high")) and values.dtype == np.int8:
            tensor.CopyFrom(numpy_helper.from_array(plus_128(values), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.checker.check_model(proto, full_check=True)
    return proto


def plus_128(codes: np.ndarray) -> np.ndarray:
    return (codes.astype(np.int16) + 128).astype(np.uint8)


def engines(
    model: torch.nn.Module, x: torch.Tensor, threads: int
) -> dict[str, Callable[[slice], Any]]:
    """Name -> function of a slice of images, answers checked."""
    network = quantize_network(model, data.load().train.x[:500])
    integers = from_quantized(network)
    powers = from_quantized(quantize_network(model, data.load().train.x[:500], power_of_two=True))
    codes, codes_of_powers = (m.quantize_input(x.numpy()) for m in (integers, powers))
    file, codes_plus_128 = to_onnx(integers), plus_128(codes)
    sessions = [ort_session(f.SerializeToString(), threads) for f in (file, unsigned(file))]

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
    table[PEERS[0]] = lambda part: sessions[0].run(None, {"input": codes[part]})[0]
    table[PEERS[1]] = lambda part: sessions[1].run(None, {"input": codes_plus_128[part]})[0]
    table["PyTorch float32"] = float32
    ours, *theirs = (table[name](slice(None)) for name in ("datapath onnxruntime", *PEERS))
    for name, logits in zip(PEERS, (theirs[0], theirs[1].astype(np.int16) - 128), strict=True):
        print(f"onnxruntime mode equals {name} on {len(x)} images: {np.array_equal(ours, logits)}")
    if not np.array_equal(ours, theirs[0]):
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
        f"{arguments.threads} threads, {arguments.rounds} interleaved rounds, medians of calls"
    )
    table = engines(model, x, arguments.threads)
    for batch in (1, 256):
        images = min(len(x), 200 if batch == 1 else arguments.images) // batch * batch
        seconds: dict[str, list[float]] = {name: [] for name in table}
        for _ in range(arguments.rounds):
            for name, run in table.items():
                run(slice(0, batch))
                for first in range(0, images, batch):
                    start = time.perf_counter()
                    run(slice(first, first + batch))
                    seconds[name].append(time.perf_counter() - start)
        rate = {name: batch / float(np.median(times)) for name, times in seconds.items()}
        heads = "".join(f"{name.split()[-1]:>8}" for name in PEERS)
        print(f"\nbatch {batch:>3}             images/s   ratio to ONNX Runtime{heads}")
        for name, value in rate.items():
            ratios = "".join(f"{value / rate[peer]:>8.2f}" for peer in PEERS)
            print(f"  {name:<22}{value:>9,.0f}   {'':<21}{ratios}")


if __name__ == "__main__":
    main()
