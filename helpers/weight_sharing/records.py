"""One tensor of a compressed network as a record of bytes, and back, with every bit accounted for.

A record says its form, its shape, and then the numbers in the form that takes the fewest bytes:

    raw      every number                      biases, batch norms, networks neither pruned nor shared
    dense    codebook, one symbol a weight     shared but not pruned
    sparse   codebook, symbols and gaps        pruned and shared
    numbers  nonzero numbers and gaps          pruned only

Symbol 0 stands for the weight 0, symbol i for entry i - 1 of the codebook. Symbols and gaps are
Huffman-coded, or fields of equal width. Numbers are float32; where float16 holds all of them
exactly, float16. Integers are little-endian, bit fields start at the high bit.

Source: Deep Compression (Han et al. 2016), sections 2 to 4.

Chapter: 05_weight_sharing.
"""

import struct
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.pruning import sparse
from helpers.weight_sharing import huffman

Array = npt.NDArray[Any]
RAW, DENSE, SPARSE, NUMBERS = range(4)
FIXED, HUFFMAN = range(2)
TYPES = ("<f4", "<f2", "<i8")
LARGEST_BOOK = 1024  # a tensor with more distinct values is not shared
GAP_BITS = range(1, 9)


class Reader:
    """Takes a file's bytes from the front and counts under `parts` what each bit was for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0
        self.parts: Counter[str] = Counter()  # bits by kind

    def take(self, size: int, kind: str) -> bytes:
        """The next `size` bytes, counted as `kind`; ValueError where fewer are left."""
        left = len(self.content) - self.position
        if size > left:
            raise ValueError(f"truncated: the {kind} need {size} bytes, {left} are left")
        self.position += size
        self.parts[kind] += 8 * size
        return self.content[self.position - size : self.position]

    def numbers(self, layout: str, kind: str = "descriptions") -> tuple[int, ...]:
        """The whole numbers of a `struct` layout."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), kind))


def encode(array: Array, *, coder: int = HUFFMAN) -> bytes:
    """The shortest record of a float32 or int64 array; finite numbers only.

    Only float32 arrays with two or more dimensions (weights) take another form than raw. Raises
    ValueError for other types, and for numbers that are not finite.
    """
    array = np.asarray(array)
    if array.dtype not in (np.float32, np.int64) or array.ndim > 255:
        raise ValueError(f"array must be float32 or int64, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("array holds numbers that are not finite")
    if coder not in (FIXED, HUFFMAN):
        raise ValueError(f"coder must be {FIXED} or {HUFFMAN}, got {coder!r}")
    shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    flat = np.ascontiguousarray(array).reshape(-1)
    records = [bytes([RAW]) + shape + _encode_numbers(flat)]
    if array.ndim >= 2 and array.dtype == np.float32:
        kept = flat != 0
        book, places = np.unique(flat[kept], return_inverse=True)
        shared, table = len(book) <= LARGEST_BOOK, b""
        if shared:
            table = struct.pack("<H", len(book)) + _encode_numbers(book)
            symbols = np.zeros(flat.size, dtype=np.int64)
            symbols[kept] = places + 1
            records.append(bytes([DENSE]) + shape + table + _encode_symbols(symbols, coder))
        for bits in GAP_BITS:
            gaps = sparse.gap_encode(kept, flat.size, bits)
            entries, indices = (
                struct.pack("<I", len(gaps.codes)),
                _encode_symbols(gaps.codes, coder),
            )
            values = _encode_numbers(sparse.with_fillers(flat[kept], gaps))
            records.append(bytes([NUMBERS]) + shape + entries + values + indices)
            if shared:
                values = _encode_symbols(sparse.with_fillers(places + 1, gaps), coder)
                records.append(bytes([SPARSE]) + shape + entries + table + values + indices)
    return min(records, key=len)


def decode(reader: Reader, shape: tuple[int, ...], kind: str) -> Array:
    """The array of the record at the reader's position, which must have the given shape.

    `kind` is what raw numbers count as ("biases", say). Sizes are compared with `shape` and with
    the bytes that are left before anything of that size is made. Raises ValueError for a record
    whose parts do not fit together.
    """
    form, dimensions = reader.numbers("BB")
    found = reader.numbers(f"{dimensions}I")
    if found != shape:
        raise ValueError(f"the record has shape {found}, the network needs {shape}")
    size = int(np.prod(shape, dtype=np.int64))
    if form == RAW:
        return _decode_numbers(reader, size, kind).reshape(shape)
    if form not in (DENSE, SPARSE, NUMBERS):
        raise ValueError(f"form {form} is not known")
    entries = size
    if form != DENSE:
        (entries,) = reader.numbers("I")
        if entries > size:
            raise ValueError(f"{entries} entries for {size} weights")
    if form == NUMBERS:
        before = reader.parts["values"]
        values = _decode_numbers(reader, entries, "values")
        if values.dtype != np.float32:
            raise ValueError("weights must be floating-point numbers")
        bits = np.full(entries, (reader.parts["values"] - before) // max(1, entries))
        reader.parts["values"] = before
    else:
        (count,) = reader.numbers("H")
        book = np.append(np.float32(0), _decode_numbers(reader, count, "codebooks"))
        symbols, bits = _decode_symbols(reader, entries)
        if symbols.size and symbols.max() > count:
            raise ValueError(f"symbol {symbols.max()} is beyond the codebook's {count} entries")
        values = book.astype(np.float32)[symbols]
    if form == DENSE:
        reader.parts["values"] += int(bits.sum())
        return values.reshape(shape)
    gaps, gap_bits = _decode_symbols(reader, entries)
    filler = values == 0
    reader.parts["values"] += int(bits[~filler].sum())
    reader.parts["indices"] += int(gap_bits[~filler].sum())
    reader.parts["fillers"] += int(bits[filler].sum() + gap_bits[filler].sum())
    return sparse.scatter(values, gaps, shape)


def half(values: Array) -> Array:
    """float32 numbers rounded to the nearest that float16 holds; ValueError where it holds none.

    >>> half(np.float32([0.1])).tolist()
    [0.0999755859375]
    """
    with np.errstate(over="ignore"):
        rounded = np.asarray(values, dtype=np.float32).astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError("values are beyond the range of float16, 65504")
    return rounded


def _encode_numbers(values: Array) -> bytes:
    """A byte for the type, then the numbers."""
    kind = 2
    if values.dtype == np.float32:
        with np.errstate(over="ignore"):
            kind = int(np.array_equal(values, values.astype(np.float16).astype(np.float32)))
    return bytes([kind]) + values.astype(TYPES[kind]).tobytes()


def _decode_numbers(reader: Reader, count: int, kind: str) -> Array:
    (code,) = reader.numbers("B")
    if code >= len(TYPES):
        raise ValueError(f"number type {code} is not known")
    content = reader.take(count * np.dtype(TYPES[code]).itemsize, kind)
    values = np.frombuffer(content, dtype=TYPES[code])
    values = values.astype(np.int64 if code == 2 else np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"the {kind} hold numbers that are not finite")
    return values


def _encode_symbols(symbols: Array, coder: int) -> bytes:
    """A byte for the coder, then either the field width and fields, or code lengths and codes."""
    largest = int(symbols.max(initial=0))
    if coder == FIXED:
        width = max(1, largest.bit_length())
        return bytes([FIXED, width]) + sparse.pack(symbols, width)
    lengths = huffman.code_lengths(np.bincount(symbols))  # of 0 to the largest symbol
    width = max(1, int(lengths.max(initial=0)).bit_length())
    stream = huffman.encode(symbols, lengths)
    start = struct.pack("<BBHI", HUFFMAN, width, len(lengths), len(stream))
    return start + sparse.pack(lengths, width) + stream


def _decode_symbols(reader: Reader, count: int) -> tuple[Array, Array]:
    """`count` symbols and the bits that each of them took; padding is counted on the way."""
    coder, width = reader.numbers("BB")
    if coder not in (FIXED, HUFFMAN) or not 1 <= width <= 16:
        raise ValueError(f"coder {coder} with fields of {width} bits is not known")
    if coder == FIXED:
        size = -(-count * width // 8)
        symbols = sparse.unpack(reader.take(size, "padding"), width, count).astype(np.int64)
        bits = np.full(count, width)
    else:
        alphabet, size = reader.numbers("HI")
        table = reader.take(-(-alphabet * width // 8), "code tables")
        lengths = sparse.unpack(table, width, alphabet)
        reader.parts["code tables"] -= -(alphabet * width) % 8
        reader.parts["padding"] += -(alphabet * width) % 8
        symbols = huffman.decode(reader.take(size, "padding"), lengths, count)
        bits = lengths[symbols].astype(np.int64)
    reader.parts["padding"] -= int(bits.sum())
    return symbols, bits
