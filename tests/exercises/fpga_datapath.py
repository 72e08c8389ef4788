"""Wrong answers that students really give in lab 11, which a check must refuse, and unusual right ones."""

import math
from fractions import Fraction

import numpy as np
import torch
from torch.nn import functional


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


def _exact_fractions(a, m, s, z, low, high):
    codes = [
        min(max(math.floor(Fraction(int(x) * m, 2**s) + Fraction(1, 2)) + z, low), high)
        for x in np.ravel(a).tolist()
    ]
    return codes if np.ndim(a) else codes[0]


def _half_from_the_dropped_bit(a, m, s, z, low, high):
    product = np.asarray(a, np.int64) * m
    last = (product >> (s - 1)) & 1 if s else 0
    return np.clip((product >> s) + last + z, low, high)


def _in_float64(a, m, s, z, low, high):
    product = torch.as_tensor(a, dtype=torch.float64) * m
    return torch.clamp(torch.floor(product / 2**s + 0.5) + z, low, high)


def _width_by_trying(weights, bias, smallest, largest):
    w = np.array(weights)
    high = bias + (np.clip(w, 0, None) * largest + np.clip(w, None, 0) * smallest).sum()
    low = bias + (np.clip(w, 0, None) * smallest + np.clip(w, None, 0) * largest).sum()
    bits = np.arange(1, 64)
    return bits[(-(2.0 ** (bits - 1)) <= low) & (high <= 2.0 ** (bits - 1) - 1)][0]


def _width_by_logarithm(weights, bias, smallest, largest):
    high = bias + sum(max(w * smallest, w * largest) for w in weights)
    low = bias + sum(min(w * smallest, w * largest) for w in weights)
    return 1.0 + math.ceil(math.log2(max(high + 1, -low, 1)))


def _convolution_in_torch(codes, weight, bias, zero_point):
    x = torch.tensor(codes).double()[None, None] - zero_point
    y = functional.conv2d(x, torch.tensor(weight.copy()).double()[None, None], padding="same")
    return y[0, 0] + bias


def _convolution_in_lists(codes, weight, bias, zero_point):
    (rows, columns), k = codes.shape, len(weight)
    p, c, w = k // 2, codes.tolist(), weight.tolist()
    return [
        [
            bias
            + sum(
                w[i][j] * (c[y + i - p][x + j - p] - zero_point)
                for i in range(k)
                for j in range(k)
                if 0 <= y + i - p < rows and 0 <= x + j - p < columns
            )
            for x in range(columns)
        ]
        for y in range(rows)
    ]


def _neuron_in_numpy(inputs, weights, bias):
    total = np.dot(np.array(inputs, np.int64), np.array(weights, np.int64)) + np.int64(bias) * 128
    return np.clip((total + 64) // 128, -128, 127)


def _neuron_in_real_numbers(inputs, weights, bias):
    real = sum(x / 128 * w / 128 for x, w in zip(inputs, weights, strict=True)) + bias / 128
    return max(-128.0, min(127.0, math.floor(real * 128 + 0.5)))


RIGHT_ANSWERS = {
    "requantize_half_up": [
        ("exact fractions, a list for an array", _exact_fractions),
        ("adds the highest bit that is dropped", _half_from_the_dropped_bit),
        ("floor in float64, a tensor", _in_float64),
    ],
    "accumulator_width": [
        ("tries every width, a NumPy integer", _width_by_trying),
        ("a logarithm, a float", _width_by_logarithm),
    ],
    "padded_convolution": [
        ("PyTorch in float64", _convolution_in_torch),
        ("lists of Python integers", _convolution_in_lists),
    ],
    "repaired_neuron": [
        ("NumPy, floor division", _neuron_in_numpy),
        ("real numbers, a float", _neuron_in_real_numbers),
    ],
}
