"""Wrong answers that students really give in lab 11; each check must refuse each of them."""

import math

import numpy as np


def _floor(a, m, s, z, low, high):
    return np.clip((a * m >> s) + z, low, high)


def _half_even(a, m, s, z, low, high):
    return np.clip(np.rint(a * m / 2**s).astype(int) + z, low, high)


def _zero_point_first(a, m, s, z, low, high):
    return np.clip(((a + z) * m + ((1 << s) >> 1)) >> s, low, high)


def _no_clip(a, m, s, z, low, high):
    return ((a * m + ((1 << s) >> 1)) >> s) + z


def _int8_limits(a, m, s, z, low, high):
    return np.clip(((a * m + ((1 << s) >> 1)) >> s) + z, -128, 127)


def _truncate(a, m, s, z, low, high):
    return np.clip(np.trunc(a * m / 2**s + 0.5).astype(int) + z, low, high)


def _int32(a, m, s, z, low, high):
    product = (np.asarray(a, np.int64) * m + ((1 << s) >> 1) + 2**31) % 2**32 - 2**31
    return np.clip((product >> s) + z, low, high)[()]


def _half_of_one(a, m, s, z, low, high):
    return np.clip(((a * m + (1 << max(s - 1, 0))) >> s) + z, low, high)


def _formula(weights, bias, smallest, largest):
    return math.ceil(math.log2(len(weights) * 127 * 127)) + 1


def _same_code_everywhere(weights, bias, smallest, largest):
    ends = [bias + sum(weights) * c for c in (smallest, largest)]
    return 1 + max((max(e, -e - 1)).bit_length() for e in ends)


def _no_bias(weights, bias, smallest, largest):
    ends = [sum(f(w * smallest, w * largest) for w in weights) for f in (min, max)]
    return 1 + max((max(e, -e - 1)).bit_length() for e in ends)


def _symmetric(weights, bias, smallest, largest):
    high = bias + sum(max(w * smallest, w * largest) for w in weights)
    low = bias + sum(min(w * smallest, w * largest) for w in weights)
    return 1 + max(abs(high), abs(low)).bit_length()


def _no_sign_bit(weights, bias, smallest, largest):
    high = bias + sum(max(w * smallest, w * largest) for w in weights)
    low = bias + sum(min(w * smallest, w * largest) for w in weights)
    return max(max(high, 0).bit_length(), max(-low - 1, 0).bit_length())


def _convolution(padding="zero_point", dtype=np.int64, flip=False, centre=True):
    def function(codes, weight, bias, zero_point):
        k = len(weight)
        fill = {"zero_point": zero_point, "zero": 0}[padding]
        padded = np.pad(codes.astype(np.int64), k // 2, constant_values=fill)
        padded = padded - (zero_point if centre else 0)
        windows = np.lib.stride_tricks.sliding_window_view(padded.astype(dtype), (k, k))
        weight = (weight[::-1, ::-1] if flip else weight).astype(dtype)
        return (windows * weight).sum(axis=(2, 3)) + bias

    return function


def _valid_only(codes, weight, bias, zero_point):
    k = len(weight)
    if min(codes.shape) < k:
        return np.zeros((0, 0))
    windows = np.lib.stride_tricks.sliding_window_view(codes.astype(int) - zero_point, (k, k))
    return (windows * weight.astype(int)).sum(axis=(2, 3)) + bias


def _sum(inputs, weights):
    return sum(int(x) * int(w) for x, w in zip(inputs, weights, strict=True))


def _clip(code):
    return min(max(code, -128), 127)


def _wrap16(value):
    return (value + 2**15) % 2**16 - 2**15


WRONG_ANSWERS = {
    "requantize_half_up": [
        ("shifts without rounding", _floor),
        ("rounds half to even", _half_even),
        ("adds the zero-point before scaling", _zero_point_first),
        ("does not saturate", _no_clip),
        ("saturates at the limits of int8", _int8_limits),
        ("truncates toward zero", _truncate),
        ("keeps the product in 32 bits", _int32),
        ("adds a half at shift 0", _half_of_one),
    ],
    "accumulator_width": [
        ("uses the generic formula", _formula),
        ("the same code at every weight", _same_code_everywhere),
        ("forgets the bias", _no_bias),
        ("takes the two ends for symmetric", _symmetric),
        ("forgets the sign bit", _no_sign_bit),
    ],
    "padded_convolution": [
        ("pads with the code 0", _convolution("zero")),
        ("does not subtract the zero-point", _convolution(centre=False)),
        ("multiplies in int8", _convolution(dtype=np.int8)),
        ("turns the kernel round", _convolution(flip=True)),
        ("leaves out the border", _valid_only),
    ],
    "repaired_neuron": [
        ("unsigned bias", lambda x, w, b: _clip((((b % 256) << 7) + _sum(x, w) + 64) >> 7)),
        ("bias not aligned", lambda x, w, b: _clip((b + _sum(x, w) + 64) >> 7)),
        ("16-bit sum", lambda x, w, b: _clip((_wrap16((b << 7) + _sum(x, w)) + 64) >> 7)),
        ("no rounding", lambda x, w, b: _clip(((b << 7) + _sum(x, w)) >> 7)),
        ("no saturation", lambda x, w, b: ((b << 7) + _sum(x, w) + 64) >> 7),
        ("truncates like Verilog's /", lambda x, w, b: _clip(int(((b << 7) + _sum(x, w)) / 128))),
        ("keeps 14 fraction bits", lambda x, w, b: (b << 7) + _sum(x, w)),
    ],
}
