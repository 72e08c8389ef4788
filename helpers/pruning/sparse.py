"""Storing only the nonzeros: compressed sparse rows, and gaps in b bits with fillers.

All functions work on NumPy arrays. A zero is what compares equal to 0, so -0.0 comes back as 0.0;
every other value, NaN too, comes back with its own bits.

Sources: Han et al. 2016, Deep Compression (arXiv:1510.00149), section 2. Codes are gap - 1, counted
from position -1, as in its published decoder (Deep-Compression-AlexNet, `decode.py`).

Chapter: 04_pruning.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class CSR:
    """A matrix by rows: row r holds `values[pointers[r]:pointers[r + 1]]` in those `columns`."""

    values: NDArray  # (a,) in the dtype of the matrix
    columns: NDArray  # (a,) the narrowest unsigned integers that hold every column
    pointers: NDArray  # (rows + 1,) the narrowest unsigned integers that hold a
    shape: tuple[int, int]

    @property
    def numbers(self) -> int:
        """How many numbers are stored: 2a + n + 1 for a nonzeros in n rows."""
        return len(self.values) + len(self.columns) + len(self.pointers)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.columns.nbytes + self.pointers.nbytes


def to_csr(matrix: ArrayLike) -> CSR:
    """Compressed sparse rows of a matrix (rows, columns).

    >>> to_csr([[0, 5], [0, 0], [7, 8]]).pointers.tolist()
    [0, 1, 1, 3]
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have two dimensions, got shape {matrix.shape}")
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=matrix.shape[0])
    return CSR(
        matrix[rows, columns],
        columns.astype(np.min_scalar_type(max(matrix.shape[1] - 1, 0))),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.min_scalar_type(len(rows))),
        (matrix.shape[0], matrix.shape[1]),
    )


def from_csr(stored: CSR) -> NDArray:
    """The matrix of `to_csr`, bit for bit. Raises ValueError where the parts contradict each other."""
    rows, columns = stored.shape
    pointers, places = stored.pointers.astype(np.int64), stored.columns.astype(np.int64)
    if len(pointers) != rows + 1 or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        raise ValueError(f"pointers must rise from 0 in {rows + 1} entries, got {pointers}")
    if not len(stored.values) == len(places) == pointers[-1]:
        raise ValueError(
            f"pointers end at {pointers[-1]}, with {len(stored.values)} values and "
            f"{len(places)} columns"
        )
    if len(places) and not (places.min() >= 0 and places.max() < columns):
        raise ValueError(f"columns must lie in 0..{columns - 1}, got up to {places.max()}")
    matrix = np.zeros(stored.shape, dtype=stored.values.dtype)
    matrix[np.repeat(np.arange(rows), np.diff(pointers)), places] = stored.values
    return matrix


@dataclass(frozen=True, eq=False)
class Gaps:
    """Positions as distances, one entry for each nonzero and each filler, in order."""

    codes: NDArray  # (entries,) uint8 up to 8 bits, uint16 above: gap - 1, 0 .. 2**bits - 1
    filler: NDArray  # (entries,) bool: a step of 2**bits on which nothing but a zero is stored
    size: int  # how many positions there are
    bits: int

    @property
    def fillers(self) -> int:
        return int(self.filler.sum())


def gap_encode(kept: ArrayLike, size: int, bits: int) -> Gaps:
    """The distances between kept positions in fields of `bits` bits (1 to 16).

    `kept` is a bool mask with `size` entries (row by row), or the kept positions, strictly rising,
    in 0 .. size - 1. A gap runs from 1 to 2**bits, counted from position -1, and is stored as
    gap - 1. Where the next position is further away, a filler takes a step of 2**bits. Zeros after
    the last kept position cost nothing.

    >>> found = gap_encode([1, 4, 15], 16, 3)
    >>> (found.codes + 1).tolist(), found.filler.tolist()
    ([2, 3, 8, 3], [False, False, True, False])
    """
    _bits("bits", bits)
    kept = np.asarray(kept)
    if kept.dtype == np.bool_:
        if kept.size != size:
            raise ValueError(f"the mask has {kept.size} entries, size is {size}")
        positions = np.flatnonzero(kept)
    else:
        if kept.size and not np.issubdtype(kept.dtype, np.integer):
            raise ValueError(f"kept must be a bool mask or whole positions, got {kept.dtype}")
        positions = kept.reshape(-1).astype(np.int64)
        inside = not len(positions) or (positions[0] >= 0 and positions[-1] < size)
        if not inside or (np.diff(positions) <= 0).any():
            raise ValueError(f"kept must rise strictly within 0..{size - 1}, got {positions}")
    steps = np.diff(positions, prepend=-1) - 1  # gap - 1
    last = np.cumsum((steps >> bits) + 1) - 1  # where each kept position stands among the entries
    entries = int(last[-1]) + 1 if len(last) else 0
    codes = np.full(entries, 2**bits - 1, dtype=np.uint8 if bits <= 8 else np.uint16)
    codes[last] = steps & (2**bits - 1)
    filler = np.ones(entries, dtype=bool)
    filler[last] = False
    return Gaps(codes, filler, size, bits)


def gap_decode(codes: ArrayLike, size: int) -> NDArray:
    """The position of every entry, fillers included, int64: cumsum(code + 1) - 1.

    Raises ValueError where a position falls outside 0 .. size - 1.
    """
    positions = np.cumsum(np.asarray(codes).reshape(-1).astype(np.int64) + 1) - 1
    if len(positions) and (positions[-1] >= size or (np.diff(positions, prepend=-1) < 1).any()):
        raise ValueError(f"the codes lead to position {positions.max()}, beyond {size - 1}")
    return positions


def with_fillers(values: ArrayLike, gaps: Gaps) -> NDArray:
    """One value an entry: the kept values in order, and a zero for each filler."""
    values = np.asarray(values).reshape(-1)
    kept = len(gaps.codes) - gaps.fillers
    if len(values) != kept:
        raise ValueError(f"values must have one entry for each of {kept} gaps, got {len(values)}")
    entries = np.zeros(len(gaps.codes), dtype=values.dtype)
    entries[~gaps.filler] = values
    return entries


def scatter(entries: ArrayLike, codes: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    """The dense array of `shape` from entries (zeros for fillers) and their gap codes."""
    entries = np.asarray(entries).reshape(-1)
    size = int(np.prod(shape, dtype=np.int64))
    positions = gap_decode(codes, size)
    if len(entries) != len(positions):
        raise ValueError(f"{len(entries)} entries do not go with {len(positions)} codes")
    dense = np.zeros(size, dtype=entries.dtype)
    dense[positions] = entries
    return dense.reshape(shape)


def pack(codes: ArrayLike, bits: int) -> bytes:
    """Whole numbers below 2**bits in fields of `bits` bits, high bit first, zeros up to a byte."""
    _bits("bits", bits)
    codes = np.asarray(codes).reshape(-1)
    if codes.size and not (codes.min() >= 0 and codes.max() < 2**bits):
        raise ValueError(f"codes must lie in 0..{2**bits - 1}, got {codes.min()}..{codes.max()}")
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    fields = (codes.astype(np.uint16)[:, None] >> shifts) & 1
    return np.packbits(fields.astype(np.uint8).reshape(-1)).tobytes()


def unpack(content: bytes, bits: int, count: int) -> NDArray:
    """The `count` numbers that `pack` stored, uint8 up to 8 bits, uint16 above."""
    _bits("bits", bits)
    if len(content) != -(-count * bits // 8):
        raise ValueError(
            f"{count} numbers of {bits} bits take {-(-count * bits // 8)} bytes, got {len(content)}"
        )
    fields = np.unpackbits(np.frombuffer(content, np.uint8), count=count * bits)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    codes = (fields.reshape(count, bits) * weights).sum(1, dtype=np.uint16)
    return codes.astype(np.uint8) if bits <= 8 else codes


def dense_bytes(size: int, value_bits: int = 32) -> int:
    """Bytes of `size` numbers, zeros or not."""
    return _bytes(size, value_bits)


def csr_bytes(
    nonzeros: int, rows: int, *, value_bits: int = 32, index_bits: int = 32, pointer_bits: int = 32
) -> int:
    """Bytes of the 2a + n + 1 numbers of a CSR matrix, each kind packed by itself."""
    return (
        _bytes(nonzeros, value_bits) + _bytes(nonzeros, index_bits) + _bytes(rows + 1, pointer_bits)
    )


def gap_bytes(gaps: Gaps, *, value_bits: int = 32) -> int:
    """Bytes of a gap-coded array: each entry, filler or not, has a value and a gap."""
    return _bytes(len(gaps.codes), value_bits) + _bytes(len(gaps.codes), gaps.bits)


def expected_fillers(density: float, bits: int) -> float:
    """Fillers for each kept weight if every weight is kept with chance `density`, by itself.

    A gap is longer than m * 2**bits with chance (1 - density)**(m * 2**bits); the sum over m is
    q / (1 - q) with q = (1 - density)**(2**bits).
    """
    _bits("bits", bits)
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density!r}")
    q = (1 - density) ** (2**bits)
    return q / (1 - q)


def _bytes(count: int, bits: int) -> int:
    if count < 0 or isinstance(bits, bool) or not 1 <= bits <= 64:
        raise ValueError(f"count must be 0 or more and bits 1 to 64, got {count!r} and {bits!r}")
    return -(-count * bits // 8)


def _bits(name: str, bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not 1 <= bits <= 16:
        raise ValueError(f"{name} must be a whole number from 1 to 16, got {bits!r}")
