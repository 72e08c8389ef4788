"""Rounding, multiplier and shift against exact fractions and published golden values."""

from fractions import Fraction

import fpga_reference as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fpga.arithmetic import (
    MAX_SHIFT,
    decompose,
    decompose_power_of_two,
    requantize,
    requantize_float32,
    requantize_gemmlowp,
    shift_right,
    signed_bits,
    to_binary,
    to_hex,
    wrap,
)
from helpers.fpga.integer_model import generic_accumulator_bits

INT32 = st.integers(-(2**31), 2**31 - 1)


def test_the_golden_factor_of_jacob_et_al():
    multiplier, shift = decompose(0.007247427341846, 31)
    assert (int(multiplier), int(shift)) == (1992157658, 31 + 7)


@given(st.floats(1e-15, 1000), st.integers(10, 31))
def test_a_factor_is_its_nearest_normalized_multiplier(factor, bits):
    multiplier, shift = (int(v) for v in decompose(factor, bits))
    assert (multiplier, shift) == reference.multiplier_and_shift(factor, bits)
    if shift < MAX_SHIFT:
        assert 2 ** (bits - 1) <= multiplier < 2**bits
        assert abs(Fraction(multiplier, 2**shift) / Fraction(factor) - 1) <= Fraction(1, 2**bits)


def test_a_multiplier_that_rounds_up_to_a_power_of_two_moves_the_shift():
    multiplier, shift = decompose(1 - 2.0**-20, 8)
    assert (int(multiplier), int(shift)) == (128, 7)


@given(INT32, st.integers(0, 2**31 - 1), st.integers(0, MAX_SHIFT))
def test_one_rounding_of_the_whole_product(accumulator, multiplier, shift):
    exact = Fraction(accumulator * multiplier, 2**shift)
    product = accumulator * multiplier
    assert int(shift_right(product, shift, "half_up")) == reference.half_up(exact)
    assert int(shift_right(product, shift, "half_even")) == reference.half_even(exact)
    assert int(shift_right(product, shift, "floor")) == exact.__floor__()


@given(INT32, st.floats(2.0**-20, 1), st.integers(-128, 127))
def test_float32_rule_equals_correctly_rounded_steps(accumulator, factor, zero_point):
    scale = reference.float32(factor)
    rounded = reference.half_even(
        Fraction(reference.float32(reference.float32(accumulator) * scale))
    )
    expected = reference.clip(rounded + zero_point, -128, 127)
    assert (
        int(requantize_float32(accumulator, np.float32(scale), zero_point, -128, 127)) == expected
    )


def gemmlowp_reference(x, m0, n):
    """SaturatingRoundingDoublingHighMul and RoundingDivideByPOT as gemmlowp writes them in C."""
    product = x * m0
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)  # C division truncates
    mask = 2**n - 1
    return (high >> n) + ((high & mask) > (mask >> 1) + (high < 0))


@given(INT32, st.integers(2**30, 2**31 - 1), st.integers(0, 20))
def test_gemmlowp_rounds_twice(accumulator, multiplier, n):
    found = requantize_gemmlowp(accumulator, multiplier, 31 + n)
    assert int(found) == gemmlowp_reference(accumulator, multiplier, n)


def test_how_often_the_rules_differ():
    """The counts behind the chapter's table: one step each, more for fewer multiplier bits."""
    factor = 0.007247427341846
    x = np.random.default_rng(0).integers(-20000, 20000, 200_000)
    exact = np.rint(x * factor).astype(np.int64)
    multiplier, shift = decompose(factor, 31)
    single = shift_right(x * multiplier, shift, "half_up")
    double = requantize_gemmlowp(x, multiplier, shift)
    counts = {}
    for bits in (8, 12, 16):
        m, s = decompose(factor, bits)
        difference = shift_right(x * m, s, "half_up") - exact
        assert np.abs(difference).max() <= 1
        counts[bits] = int((difference != 0).sum())
    assert (single == exact).all()
    assert 0 < (double != exact).sum() < 2000
    assert np.abs(double - exact).max() == 1
    assert counts[8] > 10 * counts[12] > 100 * counts[16] > 0, counts
    floor = shift_right(x * multiplier, shift, "floor")
    assert abs((floor - x * factor).mean() + 0.5) < 0.01


@given(INT32, st.integers(2, 32))
def test_wrapping_is_addition_modulo_the_register(value, bits):
    found = int(wrap(value, bits))
    assert (found - value) % 2**bits == 0
    assert -(2 ** (bits - 1)) <= found < 2 ** (bits - 1)
    assert (found == value) == (signed_bits(value, value) <= bits)


@given(
    st.integers(2, 40).flatmap(
        lambda b: st.tuples(st.just(b), st.integers(-(2 ** (b - 1)), 2 ** (b - 1) - 1))
    )
)
def test_hexadecimal_and_binary_are_the_same_word(case):
    bits, value = case
    word = int(to_hex(value, bits), 16)
    assert word == int(to_binary(value, bits).replace("_", ""), 2) == value % 2**bits


def test_the_generic_bound_of_the_literature():
    taps = (9, 75, 576, 1152, 2304, 4608, 8192, 25088)
    assert [generic_accumulator_bits(k) for k in taps] == [19, 22, 25, 26, 27, 28, 28, 30]


def test_numpy_overflows_silently_where_the_datapath_does_not():
    a, b = np.array([100], np.int8), np.array([100], np.int8)
    assert (a * b)[0] == 16  # 10000 modulo 256
    assert int(requantize(10_000, 1, 0, 0, -128, 127)) == 127


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decompose(0.0), "positive"),
        (lambda: decompose(float("nan")), "finite"),
        (lambda: decompose(0.5, 32), "multiplier_bits must be 2 to 31, got 32"),
        (lambda: decompose(1e9, 16), "above 16 bits"),
        (lambda: decompose_power_of_two([0.5, 0.3]), r"0\.3.*power_of_two=True"),
        (lambda: shift_right(1, 63, "half_up"), "shift must be 0 to 62"),
        (lambda: shift_right(1, 1, "up"), "half_up, half_even or floor"),
        (lambda: wrap(1, 1), "bits must be"),
        (lambda: to_hex(300, 8), "does not fit a word of 8 bits"),
        (lambda: signed_bits(2, 1), "low must not exceed high"),
        (lambda: requantize_gemmlowp(1, 2**30, 30), "factors below 1"),
        (lambda: generic_accumulator_bits(0), "must be positive"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=50)
@given(st.integers(-40, 30))
def test_a_power_of_two_needs_no_multiplier(exponent):
    multiplier, shift = decompose_power_of_two(2.0**exponent)
    assert Fraction(int(multiplier), 2 ** int(shift)) == Fraction(2) ** exponent
    assert int(multiplier) == 1 or int(shift) == 0
