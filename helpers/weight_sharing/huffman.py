"""Huffman coding: short codes for frequent symbols, read back without looking at single bits.

A symbol is a whole number from 0; its index in `counts` and in `lengths`. The length of every code
says everything: the canonical code follows from the lengths, so a file stores only those.

Source: Huffman 1952; Cormen et al., Introduction to Algorithms, section "Huffman codes"; Deep
Compression (Han et al. 2016), section 4.

Chapter: 05_weight_sharing.
"""

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LONGEST = 57  # bits of a code: with up to 7 bits before it, it still fits a 64-bit word
_TABLE = 16  # up to this length, one table look-up tells the length of a code
_CHUNK = 1 << 15  # bits decoded together: small enough that the jumps stay in the fast caches
_DOUBLINGS = 6  # the longest jump is over 2**6 codes


def entropy(counts: npt.ArrayLike) -> float:
    """Shannon's bound: the bits per symbol below which no code of single symbols gets.

    H = -sum p log2 p over the symbols that occur; 0 for one symbol and for none.

    >>> round(entropy([45, 13, 12, 16, 9, 5]), 4)
    2.2199
    """
    found = _counts(counts)
    p = found[found > 0] / max(1, found.sum())
    return max(0.0, -float(p @ np.log2(p)))


def code_lengths(counts: npt.ArrayLike) -> Array:
    """The length of each symbol's code in bits, uint8 (K,), from the symbols' counts (K,).

    The two rarest groups of symbols join again and again, and every join puts one more bit before
    the codes of its symbols. A symbol that does not occur has length 0. A single symbol gets one
    bit: a code of no bits could not say how often it occurs. No symbols, no lengths.

    Ties are joined in the order of the symbols, joined groups last, so the same counts give the
    same lengths everywhere. Raises ValueError for counts that are not whole numbers from 0, and
    where a code would be longer than 57 bits (that takes over 10**11 symbols).

    >>> code_lengths([45, 13, 12, 16, 9, 5]).tolist()
    [1, 3, 3, 3, 4, 4]
    """
    found = _counts(counts)
    used = np.flatnonzero(found)
    lengths = np.zeros(len(found), dtype=np.uint8)
    if len(used) == 1:
        lengths[used] = 1
    if len(used) < 2:
        return lengths
    heap = [(int(found[symbol]), node) for node, symbol in enumerate(used)]
    heapq.heapify(heap)
    parent = [0] * (2 * len(used) - 1)  # the leaves first, then the joined groups; the root last
    for joined in range(len(used), len(parent)):
        (first, a), (second, b) = heapq.heappop(heap), heapq.heappop(heap)
        parent[a] = parent[b] = joined
        heapq.heappush(heap, (first + second, joined))
    depth = [0] * len(parent)
    for node in range(len(parent) - 2, -1, -1):  # a parent comes after its children
        depth[node] = depth[parent[node]] + 1
    if max(depth) > LONGEST:
        raise ValueError(f"counts are too skewed: a code would have {max(depth)} bits of {LONGEST}")
    lengths[used] = depth[: len(used)]
    return lengths


def canonical_codes(lengths: npt.ArrayLike) -> Array:
    """The canonical code of each symbol, uint64 (K,): its bits as a number, the first one highest.

    Codes of one length are consecutive numbers in the order of the symbols, and shorter codes come
    first. Symbols of length 0 have no code (0 here). Raises ValueError for lengths that are not
    those of a complete prefix-free code.

    >>> [f"{code:0{n}b}" for code, n in zip(canonical_codes([2, 1, 2]), [2, 1, 2])]
    ['10', '0', '11']
    """
    bits = _lengths(lengths)
    codes = np.zeros(len(bits), dtype=np.uint64)
    following, before = 0, 0
    for symbol in _order(bits):
        following <<= int(bits[symbol]) - before
        codes[symbol] = following
        following, before = following + 1, int(bits[symbol])
    return codes


def coded_bits(counts: npt.ArrayLike, lengths: npt.ArrayLike) -> int:
    """The bits that symbols with these counts (K,) take in a code with these lengths (K,).

    Raises ValueError where a symbol that occurs has no code.
    """
    found, bits = _counts(counts), _lengths(lengths)
    if len(found) != len(bits) or np.any(bits[found > 0] == 0):
        raise ValueError("lengths must hold a code for every symbol that counts says occurs")
    return int(found @ bits.astype(np.int64))


def encode(symbols: npt.ArrayLike, lengths: npt.ArrayLike) -> bytes:
    """The codes of `symbols` (n,) one after another, the last byte filled up with zero bits.

    Raises ValueError for a symbol without a code.
    """
    values = _whole("symbols", symbols)
    bits, codes = _lengths(lengths), canonical_codes(lengths)
    if values.size and (values.max() >= len(bits) or np.any(bits[values] == 0)):
        wrong = next(int(v) for v in values if v >= len(bits) or bits[v] == 0)
        raise ValueError(f"symbols holds {wrong}, which has no code in lengths")
    size = bits[values].astype(np.int64)
    end = np.cumsum(size)
    stream = np.zeros(int(end[-1]) if size.size else 0, dtype=np.uint8)
    place, rest = end - 1, codes[values]
    for back in range(int(bits.max(initial=0))):  # the last bit of every code, the one before, ...
        if back:
            longer = size > back
            size, place, rest = size[longer], place[longer] - 1, rest[longer] >> np.uint64(1)
        stream[place] = rest & np.uint64(1)
    return np.packbits(stream).tobytes()


def decode(content: bytes, lengths: npt.ArrayLike, count: int) -> Array:
    """The `count` symbols that `encode` wrote into `content`, int64 (count,).

    Where a code ends is known only once it is read, so a plain decoder goes bit by bit. Here a
    table answers for *every* bit position at once: "if a code began here, how long would it be?".
    Each position then points to a next one. Joining the pointers with themselves (`jump[jump]`)
    gives jumps over 2, 4, 8 ... codes; the longest jumps run ahead, the shorter ones fill in.

    Raises ValueError for a stream that is too short or too long, that holds a code which does not
    exist, or whose last byte is not filled up with zeros. A changed bit that leaves another valid
    stream of the same length is beyond a code without redundancy: a checksum is for that.

    >>> decode(encode([3, 0, 1, 3], [1, 2, 0, 2]), [1, 2, 0, 2], 4).tolist()
    [3, 0, 1, 3]
    """
    bits = _lengths(lengths)
    if count < 0:
        raise ValueError(f"count must be 0 or more, got {count}")
    if not bits.any():
        if count or content:
            raise ValueError(f"lengths holds no code, for {count} symbols in {len(content)} bytes")
        return np.zeros(0, dtype=np.int64)
    if count > 8 * len(content):
        raise ValueError(f"truncated: {len(content)} bytes cannot hold {count} symbols")
    longest = int(bits.max(initial=0))
    order = _order(bits)
    # In `longest` bits, a code of n bits is the first of 2**(longest - n) equal beginnings.
    widths = np.int64(1) << (longest - bits[order].astype(np.int64))
    starts = np.cumsum(widths) - widths
    size = np.append(bits[order], 0).astype(np.int64)  # no code: -1, the last entry, 0 bits
    table = steps = None
    if longest <= _TABLE:
        table = _read(np.arange(1 << longest, dtype=np.int64), starts, widths)
        steps = size[table]
    padded = np.frombuffer(content + bytes(16), dtype=np.uint8)
    parts, position, missing = [np.zeros(0, dtype=np.int64)], 0, count
    while missing:
        window = _windows(padded, position, longest)
        step = size[_read(window, starts, widths)] if steps is None else steps[window]
        jump = np.arange(_CHUNK + longest, dtype=np.int64)  # beyond the chunk, stay where you are
        jump[:_CHUNK] += step
        jumps = [jump]  # by 1 code, 2, 4, 8 ... codes
        for _ in range(_DOUBLINGS):
            jumps.append(jumps[-1][jumps[-1]])
        walk = [0]
        while walk[-1] < _CHUNK:
            walk.append(int(jumps[-1][walk[-1]]))
            if walk[-1] == walk[-2]:
                raise ValueError(f"damaged: no code fits at bit {position + walk[-1]}")
        path = np.array(walk[:-1])
        for jump in reversed(jumps[:-1]):  # the beginnings half-way between those known
            path = np.stack([path, jump[path]], axis=1).reshape(-1)
        taken = min(int(np.searchsorted(path, _CHUNK)), missing)
        found = window[path[:taken]]
        parts.append(order[_read(found, starts, widths) if table is None else table[found]])
        last = int(path[taken - 1])
        position += last + int(step[last])
        missing -= taken
        if position > 8 * len(content):
            raise ValueError(f"truncated: {len(content)} bytes end before {count} symbols")
    if 8 * len(content) - position >= 8:
        raise ValueError(f"too long: {count} symbols end at bit {position} of {8 * len(content)}")
    if position % 8 and content[-1] & ((1 << (8 - position % 8)) - 1):
        raise ValueError("damaged: the last byte is not filled up with zeros")
    return np.concatenate(parts)


def _windows(padded: Array, position: int, longest: int) -> Array:
    """The `longest` bits from each of the _CHUNK bit positions from `position` on, int64."""
    first, offset = divmod(position, 8)
    need = _CHUNK // 8 + 9
    part = padded[first : first + need]
    part = np.concatenate([part, np.zeros(need - len(part), dtype=np.uint8)])
    words = np.zeros(_CHUNK // 8 + 1, dtype=np.uint64)
    for k in range(8):
        words = words << np.uint64(8) | part[k : k + len(words)].astype(np.uint64)
    shifts = (64 - longest - np.arange(8)).astype(np.uint64)
    window = (words[:, None] >> shifts) & np.uint64((1 << longest) - 1)
    return window.reshape(-1)[offset : offset + _CHUNK].astype(np.int64)


def _read(window: Array, starts: Array, widths: Array) -> Array:
    """Which code (its place in the canonical order) each window begins with; -1 for none."""
    place = np.searchsorted(starts, window, side="right") - 1
    return np.where(window < starts[place] + widths[place], place, -1)


def _order(bits: Array) -> Array:
    """The symbols that have a code, the shortest codes first, then in the order of the symbols."""
    used = np.flatnonzero(bits)
    return used[np.argsort(bits[used], kind="stable")]


def _whole(name: str, values: npt.ArrayLike) -> Array:
    """`values` as a flat int64 array of whole numbers from 0; ValueError otherwise."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be a list of whole numbers, got {array.dtype} of shape {array.shape}"
        )
    array = array.astype(np.int64)
    if np.any(array < 0):
        raise ValueError(f"{name} must be 0 or more, got {int(array.min())}")
    return array


def _counts(counts: npt.ArrayLike) -> Array:
    return _whole("counts", counts)


def _lengths(lengths: npt.ArrayLike) -> Array:
    """Code lengths, checked: a complete prefix-free code (Kraft's sum is 1), or one symbol's bit."""
    bits = _whole("lengths", lengths)
    if np.any(bits > LONGEST):
        raise ValueError(f"lengths must be at most {LONGEST} bits, got {int(bits.max())}")
    used = bits[bits > 0]
    kraft = sum(1 << (LONGEST - int(n)) for n in used)  # 2**LONGEST times the sum of 2**-length
    if not (used.size == 0 or kraft == 1 << LONGEST or used.tolist() == [1]):
        raise ValueError(
            "lengths belong to no Huffman code: their sum of 2**-length is "
            f"{kraft / (1 << LONGEST):.6g}, not 1"
        )
    return bits
