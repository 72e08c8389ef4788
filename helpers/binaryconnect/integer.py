"""A network of bits and thresholds, evaluated by additions, subtractions and comparisons.

Nothing here multiplies or divides, and nothing is a float: pixels are whole numbers, a binary weight
says whether one is added or subtracted, and a batch norm has become thresholds
(`helpers.binaryconnect.export.fold`). Shifts and exclusive-ors are wires and gates.

Sources: Courbariaux et al. 2016 (arXiv:1602.02830), XNOR and popcount; Umuroglu et al.
2017 (arXiv:1612.07119).

Chapter: 03_binaryconnect.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[Any]  # of whole numbers: uint8, int16 or int32
POPULATION = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Packed signs and the whole numbers that the sums are compared with.

    `sizes`: units of each layer, inputs first. `activation`: "codes" (the codes 0, 1, 2 ... are the
    values) or "sign" (the code 0 stands for -1, 1 for +1). `bits`: for each layer uint8 (N_o,
    ceil(N_i / 8)), 1 for +1, first weight in the highest bit, unused bits 0. `thresholds`: for each
    hidden layer (N_o, levels), rising along a row; a unit's code is the number of its thresholds
    that its sum reaches. `offsets`: (classes,), added to the output's shifted sums.
    """

    sizes: tuple[int, ...]
    activation: str
    bits: tuple[NDArray[np.uint8], ...]
    thresholds: tuple[Integers, ...]
    offsets: Integers

    def arrays(self) -> dict[str, Integers]:
        """Every stored number by name."""
        found: dict[str, Integers] = {f"bits{i}": b for i, b in enumerate(self.bits, 1)}
        found |= {f"thresholds{i}": t for i, t in enumerate(self.thresholds, 1)}
        return {**found, "offsets": self.offsets}


def rank_bits(classes: int) -> int:
    """Bits that hold the numbers 0 to classes - 1, at least one."""
    return max(1, (classes - 1).bit_length())


def pack(values: Integers) -> NDArray[np.uint8]:
    """Rows of +1 and -1 as bits, (N, n) -> uint8 (N, ceil(n / 8)); ValueError for other values."""
    fits = np.isin(values, (-1, 1))
    if not fits.all():
        raise ValueError(f"values must be +1 or -1 to fit into a bit, got {values[~fits][:3]}")
    return np.packbits(values > 0, axis=1)


def unpack(bits: NDArray[np.uint8], inputs: int) -> NDArray[np.bool_]:
    """The first `inputs` bits of each row, True for +1: (N, bytes) -> (N, inputs)."""
    return np.unpackbits(bits, axis=1, count=inputs).astype(bool)


def signed_sums(bits: NDArray[np.uint8], values: Integers) -> NDArray[np.int32]:
    """Sums of +-values: (N_o, bytes) and whole numbers (N, n) -> (N, N_o) int32.

    What has a +1 is added, the rest subtracted: chosen - (total - chosen).
    """
    columns = values.T.astype(np.int32)
    total = np.add.reduce(columns, axis=0)
    sums = np.empty_like(columns, shape=(len(bits), columns.shape[1]))
    for row, plus in enumerate(unpack(bits, len(columns))):
        chosen = np.add.reduce(columns[plus], axis=0)
        sums[row] = chosen - (total - chosen)
    return sums.T


def xnor_sums(bits: NDArray[np.uint8], inputs: NDArray[np.uint8], count: int) -> NDArray[np.int32]:
    """Sums of products of signs, both packed: (N_o, bytes) and (N, bytes) -> (N, N_o) int32.

    Of `count` pairs of signs, popcount(XOR) differ and the rest agree: the sum is
    count - 2 popcount(XOR). Unused bits are 0 on both sides, so they never differ.
    """
    differ = np.empty_like(inputs, shape=(len(inputs), len(bits)), dtype=np.int32)
    for row, weights in enumerate(bits):
        differ[:, row] = np.add.reduce(POPULATION[inputs ^ weights], axis=1, dtype=np.int32)
    return np.int32(count) - (differ + differ)


def codes(sums: NDArray[np.int32], thresholds: Integers) -> NDArray[np.uint8]:
    """How many of its unit's thresholds each sum reaches: (N, N_o), (N_o, levels) -> (N, N_o)."""
    count = np.zeros_like(sums, dtype=np.uint8)
    for edges in thresholds.T:
        count += sums >= edges
    return count


def run(
    network: IntegerNetwork, pixels: Integers, *, popcount: bool = False, batch_size: int = 500
) -> tuple[NDArray[np.int32], list[NDArray[np.uint8]]]:
    """Keys of the classes, (N, classes), the largest wins; and the codes of each hidden layer.

    `pixels` are whole numbers from 0 to 255, (N, inputs). With `popcount` the layers after the first
    take packed bits and use XNOR, which needs sign activations. Raises ValueError for bad input.
    """
    if pixels.ndim != 2 or pixels.shape[1] != network.sizes[0] or len(pixels) == 0:
        raise ValueError(f"pixels must be (N, {network.sizes[0]}), N >= 1, got {pixels.shape}")
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"pixels must be whole numbers from 0 to 255, got {pixels.dtype} from "
            f"{pixels.min()} to {pixels.max()}"
        )
    if popcount and network.activation != "sign":
        raise ValueError(f"popcount=True needs sign activations, got {network.activation!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    parts = [
        _run(network, pixels[i : i + batch_size], popcount)
        for i in range(0, len(pixels), batch_size)
    ]
    hidden = [np.concatenate(layer) for layer in zip(*(h for _, h in parts), strict=True)]
    return np.concatenate([keys for keys, _ in parts]), hidden


def _run(
    network: IntegerNetwork, values: Integers, popcount: bool
) -> tuple[NDArray[np.int32], list[NDArray[np.uint8]]]:
    hidden: list[NDArray[np.uint8]] = []
    for i, bits in enumerate(network.bits):
        if hidden and popcount:
            sums = xnor_sums(bits, np.packbits(hidden[-1], axis=1), network.sizes[i])
        else:
            sums = signed_sums(bits, values)
        if i < len(network.thresholds):
            hidden.append(codes(sums, network.thresholds[i]))
            values = hidden[-1].astype(np.int32)
            if network.activation == "sign":
                values = values + values - np.int32(1)
    return (sums << rank_bits(network.sizes[-1])) + network.offsets.astype(np.int32), hidden
