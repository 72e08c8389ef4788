"""Huffman coding against bitarray, against entropy, and against damaged streams."""

import itertools

import numpy as np
import pytest
from bitarray import bitarray
from bitarray.util import canonical_decode, huffman_code
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.weight_sharing import huffman
from helpers.weight_sharing.huffman import (
    canonical_codes,
    code_lengths,
    coded_bits,
    decode,
    encode,
    entropy,
)

CLRS = [45, 13, 12, 16, 9, 5]  # the letters a to f, Cormen et al.
COUNTS = st.lists(st.integers(0, 10**6), max_size=300)
SYMBOLS = st.lists(st.integers(0, 40), max_size=400)


def fibonacci(terms: int) -> list[int]:
    counts = [1, 1]
    while len(counts) < terms:
        counts.append(counts[-1] + counts[-2])
    return counts


def skewed(symbols: int, count: int, seed: int) -> np.ndarray:
    p = np.random.default_rng(seed).exponential(size=symbols) ** 3
    return np.random.default_rng(seed + 1).choice(symbols, count, p=p / p.sum())


def test_the_example_of_cormen_et_al() -> None:
    lengths = code_lengths(CLRS)
    assert lengths.tolist() == [1, 3, 3, 3, 4, 4]
    assert coded_bits(CLRS, lengths) == 224
    assert entropy(CLRS) == pytest.approx(2.2199, abs=5e-5)
    codes = [f"{code:0{n}b}" for code, n in zip(canonical_codes(lengths), lengths, strict=True)]
    assert codes == ["0", "100", "101", "110", "1110", "1111"]
    assert encode([5, 0, 2], lengths) == bytes([0b11110101])


@given(COUNTS)
def test_total_bits_are_those_of_an_independent_code(counts: list[int]) -> None:
    lengths = code_lengths(counts)
    used = {symbol: count for symbol, count in enumerate(counts) if count}
    assert (lengths > 0).tolist() == [count > 0 for count in counts]
    if used:
        code = huffman_code(used)
        total = sum(len(code[symbol]) * count for symbol, count in used.items())
        assert coded_bits(counts, lengths) == total


@given(COUNTS.filter(lambda counts: sum(count > 0 for count in counts) > 1))
def test_mean_length_lies_between_entropy_and_one_bit_more(counts: list[int]) -> None:
    lengths = code_lengths(counts)
    mean = coded_bits(counts, lengths) / sum(counts)
    assert entropy(counts) - 1e-9 <= mean < entropy(counts) + 1
    assert mean <= np.ceil(np.log2(sum(count > 0 for count in counts)))
    assert sum(0.5 ** int(n) for n in lengths if n) == 1


@given(COUNTS)
def test_no_code_begins_another(counts: list[int]) -> None:
    lengths = code_lengths(counts)
    texts = sorted(
        f"{code:0{n}b}" for code, n in zip(canonical_codes(lengths), lengths, strict=True) if n
    )
    # Sorted texts: if one begins any other, it begins its neighbour.
    assert not any(after.startswith(text) for text, after in itertools.pairwise(texts))


def test_canonical_codes_rise_with_length_then_symbol() -> None:
    lengths = [3, 1, 0, 3, 2]
    codes = canonical_codes(lengths).tolist()
    assert [codes[i] for i in (1, 4, 0, 3)] == [0b0, 0b10, 0b110, 0b111]


@settings(max_examples=60, deadline=None)
@given(SYMBOLS)
def test_round_trip(symbols: list[int]) -> None:
    counts = np.bincount(np.array(symbols, dtype=int))
    lengths = code_lengths(counts)
    content = encode(symbols, lengths)
    assert len(content) == -(-coded_bits(counts, lengths) // 8)
    assert decode(content, lengths, len(symbols)).tolist() == symbols


@pytest.mark.parametrize("symbols", [2, 3, 16, 300, 5000])
def test_decodes_what_bitarray_decodes(symbols: int) -> None:
    """Many chunks of the decoder, codes of up to 25 bits, an independent canonical decoder."""
    drawn = skewed(symbols, 60_000, symbols)
    lengths = code_lengths(np.bincount(drawn, minlength=symbols))
    content = encode(drawn, lengths)
    assert np.array_equal(decode(content, lengths, len(drawn)), drawn)
    bits = bitarray()
    bits.frombytes(content)
    order = sorted(np.flatnonzero(lengths).tolist(), key=lambda s: (lengths[s], s))
    per_length = np.bincount(lengths[lengths > 0]).tolist()
    used = bits[: coded_bits(np.bincount(drawn, minlength=symbols), lengths)]
    assert list(canonical_decode(used, per_length, order)) == drawn.tolist()


@pytest.mark.parametrize("table", [16, 0])
def test_codes_longer_than_the_table(table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huffman, "_TABLE", table)
    counts = fibonacci(26)
    lengths = code_lengths(counts)
    assert lengths.max() == 25
    drawn = np.random.default_rng(0).integers(0, 26, 20_000)  # long codes often
    assert np.array_equal(decode(encode(drawn, lengths), lengths, len(drawn)), drawn)


def test_the_longest_codes_that_are_read() -> None:
    lengths = code_lengths(fibonacci(58))
    assert lengths.max() == 57
    drawn = np.arange(58).repeat(40)
    assert np.array_equal(decode(encode(drawn, lengths), lengths, len(drawn)), drawn)
    with pytest.raises(ValueError, match="58 bits of 57"):
        code_lengths(fibonacci(59))


def test_one_symbol_takes_one_bit() -> None:
    lengths = code_lengths([0, 0, 7])
    assert lengths.tolist() == [0, 0, 1]
    assert encode([2] * 7, lengths) == b"\0"
    assert decode(b"\0", lengths, 7).tolist() == [2] * 7
    assert decode(bytes(12_500), lengths, 100_000).tolist() == [2] * 100_000
    with pytest.raises(ValueError, match="no code fits at bit 3"):
        decode(b"\x10", lengths, 7)


def test_nothing_takes_nothing() -> None:
    for counts in ([], [0, 0]):
        lengths = code_lengths(counts)
        assert lengths.tolist() == counts
        assert canonical_codes(lengths).tolist() == counts
        assert entropy(counts) == 0
        assert encode([], lengths) == b""
        assert decode(b"", lengths, 0).tolist() == []
    assert decode(b"", [1, 1], 0).tolist() == []


def test_equal_counts_give_equal_fields_and_ties_are_settled() -> None:
    assert code_lengths([5] * 8).tolist() == [3] * 8
    assert code_lengths([1, 1, 1]).tolist() == [2, 2, 1]
    assert code_lengths([2, 1, 1]).tolist() == [1, 2, 2]


def test_a_stream_that_is_cut_short_or_goes_on() -> None:
    drawn = skewed(20, 50_000, 3)
    lengths = code_lengths(np.bincount(drawn, minlength=20))
    content = encode(drawn, lengths)
    for cut in (0, 1, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(ValueError, match="truncated"):
            decode(content[:cut], lengths, len(drawn))
    for count in (0, 1, len(drawn) - 20):
        with pytest.raises(ValueError, match="too long"):
            decode(content, lengths, count)
    for more in (b"\0", b"\xff" * 3):
        with pytest.raises(ValueError, match="too long"):
            decode(content + more, lengths, len(drawn))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=30), SYMBOLS, st.integers(0, 300))
def test_any_stream_is_read_back_the_same_or_refused(
    content: bytes, symbols: list[int], count: int
) -> None:
    lengths = code_lengths(np.bincount(np.array(symbols, dtype=int)))
    try:
        found = decode(content, lengths, count)
    except ValueError:
        return
    assert encode(found, lengths) == content


def test_the_last_byte_is_filled_up_with_zeros() -> None:
    with pytest.raises(ValueError, match="not filled up with zeros"):
        decode(b"\x01", [1, 1], 7)


@pytest.mark.parametrize(
    ("lengths", "what"),
    [
        ([1, 1, 1], "1.5, not 1"),
        ([1, 2], "0.75, not 1"),
        ([2], "0.25, not 1"),
        ([58, 1], "at most 57"),
        ([-1, 1], "0 or more"),
        ([[1], [1]], "list of whole numbers"),
        ([1.0, 1.0], "list of whole numbers"),
    ],
)
def test_lengths_of_no_code(lengths: list, what: str) -> None:
    for call in (
        lambda: canonical_codes(lengths),
        lambda: encode([0], lengths),
        lambda: decode(b"\0", lengths, 1),
    ):
        with pytest.raises(ValueError, match=what):
            call()


def test_other_bad_input() -> None:
    with pytest.raises(ValueError, match="counts must be 0 or more"):
        code_lengths([3, -1])
    with pytest.raises(ValueError, match="counts must be a list of whole numbers"):
        entropy([0.5, 0.5])
    for symbols in ([3], [0, 2]):
        with pytest.raises(ValueError, match="which has no code"):
            encode(symbols, [1, 1, 0])
    with pytest.raises(ValueError, match="a code for every symbol"):
        coded_bits([1, 1, 1], [1, 1, 0])
    with pytest.raises(ValueError, match="count must be 0 or more"):
        decode(b"", [1, 1], -1)
    with pytest.raises(ValueError, match="holds no code"):
        decode(b"", [0, 0], 2)
    with pytest.raises(ValueError, match="holds no code"):
        decode(b"\0", [], 0)
    with pytest.raises(ValueError, match="truncated"):
        decode(b"\0", [1, 1], 10**15)  # refused before anything of that size is made
