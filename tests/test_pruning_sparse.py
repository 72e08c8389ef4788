"""Sparse storage: golden vectors, exact round trips, SciPy as the oracle, damaged input."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from helpers.pruning import (
    CSR,
    Gaps,
    csr_bytes,
    dense_bytes,
    expected_fillers,
    from_csr,
    gap_bytes,
    gap_decode,
    gap_encode,
    pack,
    scatter,
    to_csr,
    unpack,
    with_fillers,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")
values = st.one_of(st.just(0.0), st.just(0.0), st.floats(-10, 10, width=32))
matrices = npst.arrays(np.float32, st.tuples(st.integers(0, 8), st.integers(0, 9)), elements=values)
positions = st.lists(st.integers(0, 3000), unique=True, max_size=60).map(sorted)
widths = st.integers(1, 16)


@given(matrices)
def test_csr_round_trip_is_exact_and_equals_scipy(matrix: np.ndarray) -> None:
    stored = to_csr(matrix)
    assert np.array_equal(from_csr(stored), matrix)
    assert stored.numbers == 2 * np.count_nonzero(matrix) + matrix.shape[0] + 1
    other = scipy.sparse.csr_matrix(matrix)
    assert stored.values.tolist() == other.data.tolist()
    assert stored.columns.tolist() == other.indices.tolist()
    assert stored.pointers.tolist() == other.indptr.tolist()


def test_csr_golden_vector_and_types() -> None:
    stored = to_csr(np.array([[0, 5, 0], [0, 0, 0], [7, 0, 8]], np.float16))
    assert (stored.values.tolist(), stored.columns.tolist()) == ([5, 7, 8], [1, 0, 2])
    assert stored.pointers.tolist() == [0, 1, 1, 3]
    assert (stored.values.dtype, stored.columns.dtype) == (np.float16, np.uint8)
    assert stored.numbers == 2 * 3 + 3 + 1
    assert stored.nbytes == 3 * 2 + 3 + 4
    wide = to_csr(np.ones((1, 300), np.float32))
    assert (wide.columns.dtype, wide.pointers.dtype) == (np.uint16, np.uint16)
    assert to_csr(np.ones((1, 256))).columns.dtype == np.uint8  # the last column is 255
    assert from_csr(to_csr(np.zeros((3, 2)))).tolist() == [[0, 0]] * 3


def test_special_values_keep_their_bits_but_minus_zero() -> None:
    matrix = np.array([[np.nan, np.inf, -0.0, 1e-45]], np.float32)
    back = from_csr(to_csr(matrix))
    assert (
        back.view(np.uint32)[0, [0, 1, 3]].tolist() == matrix.view(np.uint32)[0, [0, 1, 3]].tolist()
    )
    assert not np.signbit(back[0, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pointers": [0, 1]}, "pointers must rise"),
        ({"pointers": [1, 1, 2]}, "pointers must rise"),
        ({"pointers": [0, 2, 1]}, "pointers must rise"),
        ({"pointers": [0, 1, 3]}, "pointers end at 3"),
        ({"values": [1.0]}, "pointers end at 2, with 1 values"),
        ({"columns": [0, 3]}, "columns must lie in 0..2"),
        ({"columns": [-1, 2]}, "columns must lie in 0..2"),
    ],
)
def test_contradicting_parts_are_refused(change: dict, message: str) -> None:
    parts = {"values": [1.0, 2.0], "columns": [0, 2], "pointers": [0, 1, 2]} | change
    arrays = {name: np.array(part) for name, part in parts.items()}
    with pytest.raises(ValueError, match=message):
        from_csr(CSR(**arrays, shape=(2, 3)))


def test_a_matrix_has_two_dimensions() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        to_csr(np.zeros(3))


def slow_gaps(kept: list[int], bits: int) -> list[tuple[int, bool]]:
    """Deep Compression's figure 2, entry by entry, counted from position -1."""
    entries, at = [], -1
    for position in kept:
        while position - at > 2**bits:
            entries.append((2**bits, True))
            at += 2**bits
        entries.append((position - at, False))
        at = position
    return entries


def test_gap_golden_vector() -> None:
    gaps = gap_encode([1, 4, 15], 16, 3)
    assert (gaps.codes + 1).tolist() == [2, 3, 8, 3]
    assert gaps.filler.tolist() == [False, False, True, False]
    assert gaps.fillers == 1
    assert gap_decode(gaps.codes, 16).tolist() == [1, 4, 12, 15]
    assert with_fillers([3.4, 0.9, 1.7], gaps).tolist() == [3.4, 0.9, 0.0, 1.7]
    assert gap_encode([0], 1, 3).codes.tolist() == [0]  # an element at index 0 can be coded


@pytest.mark.parametrize(
    ("position", "bits", "gaps"),
    [
        (7, 3, [8]),
        (8, 3, [8, 1]),
        (15, 3, [8, 8]),
        (16, 3, [8, 8, 1]),
        (2, 1, [2, 1]),
        (255, 8, [256]),
    ],
)
def test_gaps_at_the_limit(position: int, bits: int, gaps: list[int]) -> None:
    assert (gap_encode([position], position + 1, bits).codes.astype(int) + 1).tolist() == gaps


@given(positions, widths)
def test_gaps_equal_the_slow_loop_and_decode(kept: list[int], bits: int) -> None:
    gaps = gap_encode(np.array(kept, int), 3001, bits)
    assert list(zip((gaps.codes.astype(int) + 1).tolist(), gaps.filler.tolist(), strict=True)) == (
        slow_gaps(kept, bits)
    )
    assert gap_decode(gaps.codes, 3001)[~gaps.filler].tolist() == kept
    assert gaps.codes.dtype == (np.uint8 if bits <= 8 else np.uint16)
    mask = np.zeros(3001, bool)
    mask[kept] = True
    assert gap_encode(mask, 3001, bits).codes.tolist() == gaps.codes.tolist()
    wide = gap_encode(mask.reshape(1, 3001), 3001, 16)
    assert wide.fillers == 0


@given(npst.arrays(np.float32, npst.array_shapes(max_dims=4, max_side=5), elements=values), widths)
def test_a_gap_coded_array_comes_back_exactly(array: np.ndarray, bits: int) -> None:
    gaps = gap_encode(array != 0, array.size, bits)
    entries = with_fillers(array[array != 0], gaps)
    content = pack(gaps.codes, bits)
    assert gap_bytes(gaps) == 4 * len(entries) + len(content)
    codes = unpack(content, bits, len(entries))
    assert codes.tolist() == gaps.codes.tolist()
    assert np.array_equal(scatter(entries, codes, array.shape), array)
    assert scatter(entries, codes, array.shape).dtype == np.float32


@given(st.lists(st.integers(0, 65535), max_size=40), widths)
def test_packing_equals_a_string_of_bits(codes: list[int], bits: int) -> None:
    codes = [code % 2**bits for code in codes]
    text = "".join(f"{code:0{bits}b}" for code in codes)
    text += "0" * (-len(text) % 8)
    expected = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    assert pack(codes, bits) == expected
    assert unpack(expected, bits, len(codes)).tolist() == codes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gap_encode([1], 4, 0), "bits must be a whole number from 1 to 16"),
        (lambda: gap_encode([1], 4, 17), "bits must be"),
        (lambda: gap_encode([1], 4, 3.0), "bits must be"),
        (lambda: gap_encode([1, 1], 4, 3), "rise strictly"),
        (lambda: gap_encode([2, 1], 4, 3), "rise strictly"),
        (lambda: gap_encode([4], 4, 3), "rise strictly within 0..3"),
        (lambda: gap_encode([-1, 2], 4, 3), "rise strictly"),
        (lambda: gap_encode([0.5], 4, 3), "bool mask or whole positions"),
        (lambda: gap_encode(np.ones(3, bool), 4, 3), "the mask has 3 entries"),
        (lambda: gap_decode([7, 0], 8), "beyond 7"),
        (lambda: scatter([1.0], [0, 0], (4,)), "1 entries do not go with 2 codes"),
        (lambda: with_fillers([1.0], gap_encode([1, 2], 4, 3)), "one entry for each of 2"),
        (lambda: pack([8], 3), "codes must lie in 0..7"),
        (lambda: pack([-1], 3), "codes must lie in 0..7"),
        (lambda: unpack(b"ab", 3, 9), "9 numbers of 3 bits take 4 bytes, got 2"),
        (lambda: expected_fillers(0, 3), "density must be above 0"),
        (lambda: dense_bytes(-1), "count must be 0 or more"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_kept() -> None:
    gaps = gap_encode(np.zeros((2, 3), bool), 6, 4)
    assert (len(gaps.codes), gaps.fillers, gap_bytes(gaps)) == (0, 0, 0)
    assert scatter(np.zeros(0, np.float32), gaps.codes, (2, 3)).tolist() == [[0.0] * 3] * 2
    assert gap_decode([], 6).tolist() == []
    assert (pack([], 5), unpack(b"", 5, 0).tolist()) == (b"", [])


def test_bytes_of_each_format() -> None:
    # LeNet-300-100's first layer at the published density of 8 %.
    kept = round(0.08 * 235_200)
    assert kept == 18_816
    assert dense_bytes(235_200) == 940_800
    assert csr_bytes(kept, 300) == 4 * (2 * kept + 301)
    assert csr_bytes(kept, 300, index_bits=16) == 4 * kept + 2 * kept + 4 * 301
    # Value and index at b bits each: half of the weights is the break-even.
    assert csr_bytes(500, 0) - csr_bytes(0, 0) == dense_bytes(1000)
    spread = gap_encode(np.arange(0, 235_200, 12), 235_200, 5)
    assert (spread.fillers, len(spread.codes)) == (0, 19_600)
    assert gap_bytes(spread) == 4 * 19_600 + 19_600 * 5 // 8
    assert gap_bytes(spread, value_bits=6) == 19_600 * 6 // 8 + 19_600 * 5 // 8


@pytest.mark.parametrize(("density", "bits"), [(0.08, 3), (0.08, 5), (0.02, 4), (0.5, 1)])
def test_expected_fillers_of_a_random_mask(density: float, bits: int) -> None:
    mask = np.random.default_rng(0).random(400_000) < density
    gaps = gap_encode(mask, mask.size, bits)
    expected = expected_fillers(density, bits) * mask.sum()
    assert abs(gaps.fillers - expected) < 5 * np.sqrt(expected) + 10


def test_expected_fillers_at_full_density() -> None:
    assert expected_fillers(1.0, 3) == 0


def test_gaps_need_one_value_an_entry() -> None:
    gaps = Gaps(np.array([1, 7], np.uint8), np.array([False, True]), 16, 3)
    assert with_fillers([2.5], gaps).tolist() == [2.5, 0.0]
