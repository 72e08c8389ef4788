"""Integer arithmetic of the datapath: rounding, multiplier and shift, saturation, wrap-around.

Everything works on NumPy int64 arrays of any shape and is exact: an accumulator of at most 32 bits
times a multiplier of at most 31 bits, plus the rounding constant, stays below 2**63.

Sources: Jacob et al. 2018 (arXiv:1712.05877) section 2.2; gemmlowp `fixedpoint/fixedpoint.h`; ONNX
Runtime's `MlasRequantizeOutput`.

Chapter: 11_fpga_datapath.
"""

from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mode = Literal["half_up", "half_even", "shift", "onnxruntime"]
MODES: tuple[Mode, ...] = ("half_up", "half_even", "shift", "onnxruntime")
MAX_SHIFT = 62


def check_mode(mode: str) -> Mode:
    """Return `mode`, or raise ValueError naming the four that exist."""
    if mode not in MODES:
        raise ValueError(f"rounding must be one of {', '.join(MODES)}; got {mode!r}")
    return cast(Mode, mode)


def signed_bits(low: int, high: int) -> int:
    """Width of the smallest two's complement word that holds every integer in low..high.

    >>> signed_bits(-128, 127), signed_bits(0, 128)
    (8, 9)
    """
    if low > high:
        raise ValueError(f"low must not exceed high, got {low} and {high}")
    return 1 + max(
        int(high).bit_length() if high >= 0 else 0, int(~low).bit_length() if low < 0 else 0
    )


def saturate(value: npt.ArrayLike, low: int, high: int) -> Integers:
    """Clip to low..high, as a saturating register does."""
    return np.clip(np.asarray(value, dtype=np.int64), low, high)


def wrap(value: npt.ArrayLike, bits: int) -> Integers:
    """Keep the lowest `bits` bits and read them as two's complement, as a plain register does.

    >>> int(wrap(128, 8)), int(wrap(-129, 8))
    (-128, 127)
    """
    if not 2 <= bits <= MAX_SHIFT:
        raise ValueError(f"bits must be 2 to {MAX_SHIFT}, got {bits}")
    half = 1 << (bits - 1)
    return ((np.asarray(value, dtype=np.int64) + half) & ((1 << bits) - 1)) - half


def to_hex(value: npt.ArrayLike, bits: int) -> str:
    """One integer as the hexadecimal digits of its two's complement word, e.g. -2 in 8 bits: fe."""
    number = int(np.asarray(value))
    if not -(1 << (bits - 1)) <= number < (1 << bits):
        raise ValueError(f"{number} does not fit a word of {bits} bits")
    return format(number & ((1 << bits) - 1), f"0{(bits + 3) // 4}x")


def to_binary(value: npt.ArrayLike, bits: int) -> str:
    """One integer as the `bits` binary digits of its two's complement word, in groups of four."""
    digits = format(int(to_hex(value, bits), 16), f"0{bits}b")
    first = bits % 4
    groups = ([digits[:first]] if first else []) + [
        digits[i : i + 4] for i in range(first, bits, 4)
    ]
    return "_".join(groups)


def shift_right(value: npt.ArrayLike, shift: npt.ArrayLike, rounding: str) -> Integers:
    """value / 2**shift as an integer, with the rounding rule named.

    Args:
        value: integers below 2**62 in magnitude, any shape.
        shift: 0 to 62, broadcast against `value`.
        rounding: "half_up" adds one half and shifts, (value + 2**(shift-1)) >> shift: one adder.
            "half_even" does the same except that an exact tie goes to the even neighbour.
            "floor" only shifts, which is -0.5 on average.
    """
    v, s = np.asarray(value, dtype=np.int64), np.asarray(shift, dtype=np.int64)
    if s.size and not (s.min() >= 0 and s.max() <= MAX_SHIFT):
        raise ValueError(f"shift must be 0 to {MAX_SHIFT}, got {s.min()} to {s.max()}")
    half = (np.int64(1) << s) >> 1  # 0 where nothing is shifted out
    if rounding == "floor":
        return v >> s
    up = (v + half) >> s
    if rounding == "half_up":
        return up
    if rounding == "half_even":
        tie = (s > 0) & ((v & ((np.int64(1) << s) - 1)) == half)
        return up - (tie & ((up & 1) == 1))
    raise ValueError(f"rounding must be half_up, half_even or floor; got {rounding!r}")


def decompose(factor: npt.ArrayLike, multiplier_bits: int = 16) -> tuple[Integers, Integers]:
    """Write real factors M as multiplier * 2**-shift with a multiplier of `multiplier_bits` bits.

    The multiplier is positive and normalized, 2**(bits-1) <= multiplier < 2**bits, so 16 bits
    (unsigned) fit the 18-bit signed port of a DSP slice, and 31 bits are the M_0 of Jacob et al.
    A factor so small that the shift would pass 62 keeps fewer bits.

    >>> m, s = decompose(0.007247427341846, 31)
    >>> int(m), int(s) - 31
    (1992157658, 7)
    """
    m = np.asarray(factor, dtype=np.float64)
    if not 2 <= multiplier_bits <= 31:
        raise ValueError(f"multiplier_bits must be 2 to 31, got {multiplier_bits}")
    if not (np.isfinite(m).all() and (m > 0).all()):
        raise ValueError(f"factor must be positive and finite, got {m}")
    mantissa, exponent = np.frexp(m)  # m = mantissa * 2**exponent, 0.5 <= mantissa < 1
    multiplier = np.rint(np.ldexp(mantissa, multiplier_bits)).astype(np.int64)
    shift = multiplier_bits - exponent.astype(np.int64)
    carried = multiplier == 1 << multiplier_bits  # rounding went up to the next power of two
    multiplier, shift = np.where(carried, multiplier >> 1, multiplier), shift - carried
    if (shift < 0).any():
        raise ValueError(f"factor {m.max()} needs a multiplier above {multiplier_bits} bits")
    tiny = shift > MAX_SHIFT
    small = np.rint(np.ldexp(np.where(tiny, m, 0.0), MAX_SHIFT)).astype(np.int64)
    return np.where(tiny, small, multiplier), np.where(tiny, MAX_SHIFT, shift)


def decompose_power_of_two(
    factor: npt.ArrayLike, name: str = "factor"
) -> tuple[Integers, Integers]:
    """The same for factors that are powers of two: (1, shift), or (2**k, 0) for a left shift.

    Raises:
        ValueError: some factor is no power of two; the message names `name` and the way out.
    """
    m = np.asarray(factor, dtype=np.float64)
    mantissa, exponent = np.frexp(m)
    if not (mantissa == 0.5).all():
        bad = float(m.ravel()[np.argmax((mantissa != 0.5).ravel())])
        raise ValueError(
            f"{name} is {bad!r}, which is no power of two, so a shift cannot replace the multiplier."
            " Quantize with quantize_network(..., power_of_two=True) or use another rounding mode"
        )
    shift = 1 - exponent.astype(np.int64)
    if (shift > MAX_SHIFT).any() or (shift < -30).any():
        raise ValueError(f"{name} must lie in 2**-{MAX_SHIFT} to 2**30, got {m.min()} to {m.max()}")
    return np.int64(1) << np.maximum(-shift, 0), np.maximum(shift, 0)


def requantize(
    accumulator: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int,
    low: int,
    high: int,
    rounding: str = "half_up",
) -> Integers:
    """Codes clip(round(accumulator * multiplier / 2**shift) + zero_point, low, high), in int64.

    One multiplication, one rounding, then the zero-point, then saturation. All of ReLU and ReLU6
    is in `low` and `high`. `multiplier` and `shift` broadcast against the int32 accumulators.
    """
    product = np.asarray(accumulator, dtype=np.int64) * np.asarray(multiplier, dtype=np.int64)
    return saturate(shift_right(product, shift, rounding) + zero_point, low, high)


def requantize_float32(
    accumulator: npt.ArrayLike, scale: npt.ArrayLike, zero_point: int, low: int, high: int
) -> Integers:
    """ONNX Runtime's rule: the float32 product rounded half to even, then the zero-point, clip.

    `scale` is float32, (S_x * S_w) / S_y with both operations in float32.
    """
    product = np.asarray(accumulator, dtype=np.int64).astype(np.float32) * np.asarray(
        scale, dtype=np.float32
    )
    return saturate(np.rint(product.astype(np.float64)) + zero_point, low, high)


def requantize_gemmlowp(accumulator: npt.ArrayLike, multiplier: Any, shift: Any) -> Integers:
    """gemmlowp's two roundings, without zero-point and clipping, for comparison.

    SaturatingRoundingDoublingHighMul by a 31-bit multiplier, then RoundingDivideByPOT by
    `shift` - 31, each half away from zero. `multiplier` and `shift` come from `decompose(M, 31)`.
    """
    product = np.asarray(accumulator, dtype=np.int64) * np.asarray(multiplier, dtype=np.int64)
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.sign(nudged) * (np.abs(nudged) >> 31)  # C's division truncates toward zero
    n = np.asarray(shift, dtype=np.int64) - 31
    if (n < 0).any():
        raise ValueError("gemmlowp's rule needs factors below 1 (a shift of at least 31)")
    mask = (np.int64(1) << n) - 1
    threshold = (mask >> 1) + (high < 0)
    return (high >> n) + ((high & mask) > threshold)
