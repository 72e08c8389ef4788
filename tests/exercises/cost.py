"""Answers of students in lab 01: each check must refuse the wrong ones, and no right one."""

import math

import numpy as np
import torch


def _constant(value):
    return lambda *arguments, **named: value


def _flops(i, o, k, h, w, groups=1):
    return 2 * h * w * o * i // groups * k**2


def _no_groups(i, o, k, h, w, groups=1):
    return h * w * o * i * k**2


def _groups_twice(i, o, k, h, w, groups=1):
    return h * w * (o // groups) * (i // groups) * k**2


def _parameters_only(i, o, k, h, w, groups=1):
    return o * (i // groups) * k**2


def _square_map(i, o, k, h, w, groups=1):
    return h * h * o * (i // groups) * k**2


def _with_bias(i, o, k, h, w, groups=1):
    return h * w * o * (i // groups * k**2 + 1)


def _no_norm(i, o, k=3):
    return i * k * k + i + i * o + o


def _no_bias(i, o, k=3):
    return i * k * k + 2 * i + i * o


def _norm_of_outputs(i, o, k=3):
    return i * k * k + i + 2 * o + i * o + o


def _running_statistics(i, o, k=3):
    return i * k * k + i + 4 * i + i * o + o


def _full_convolution(i, o, k=3):
    return i * o * k * k + o + 2 * i


def _kernel_fixed(i, o, k=3):
    return i * 9 + i + 2 * i + i * o + o


def _floor(i, o, bits):
    return i * o * bits // 8 + 4 * o


def _float(i, o, bits):
    return i * o * bits / 8 + 4 * o


def _whole_bytes_per_weight(i, o, bits):
    return i * o * math.ceil(bits / 8) + 4 * o


def _row_by_row(i, o, bits):
    return o * math.ceil(i * bits / 8) + 4 * o


def _no_biases(i, o, bits):
    return math.ceil(i * o * bits / 8)


def _packed_biases(i, o, bits):
    return math.ceil((i + 1) * o * bits / 8)


def _in_bits(i, o, bits):
    return i * o * bits + 32 * o


def _rounded_float(i, o, bits):
    return float(math.ceil(i * o * bits / 8) + 4 * o)


WRONG_ANSWERS = {
    "grouped_macs": [
        ("two operations a MAC", _flops),
        ("groups ignored", _no_groups),
        ("groups divide both sides", _groups_twice),
        ("parameters instead of MACs", _parameters_only),
        ("height used twice", _square_map),
        ("bias counted", _with_bias),
        ("a constant", _constant(288_000)),
        ("nothing returned", _constant(None)),
    ],
    "separable_parameters": [
        ("batch norm forgotten", _no_norm),
        ("biases forgotten", _no_bias),
        ("batch norm of the outputs", _norm_of_outputs),
        ("running statistics counted", _running_statistics),
        ("a full convolution", _full_convolution),
        ("kernel size fixed", _kernel_fixed),
        ("a constant", _constant(736)),
    ],
    "layer_bytes": [
        ("rounded down", _floor),
        ("a fraction of a byte", _float),
        ("each weight in whole bytes", _whole_bytes_per_weight),
        ("each row in whole bytes", _row_by_row),
        ("biases forgotten", _no_biases),
        ("biases at b bits", _packed_biases),
        ("bits instead of bytes", _in_bits),
        ("a float", _rounded_float),
    ],
    "shortest_time": [
        ("one operation a MAC", lambda m, b, p, w: max(m / p, b / w)),
        ("added instead of overlapped", lambda m, b, p, w: 2 * m / p + b / w),
        ("the faster decides", lambda m, b, p, w: min(2 * m / p, b / w)),
        ("the rate, not the time", lambda m, b, p, w: min(p, 2 * m / b * w)),
        ("arithmetic alone", lambda m, b, p, w: 2 * m / p),
        ("transfers alone", lambda m, b, p, w: b / w),
        ("a constant", _constant(0.2)),
    ],
}

RIGHT_ANSWERS = {
    "grouped_macs": [
        ("divided as a float", lambda i, o, k, h, w, groups=1: h * w * o * k**2 * i / groups),
    ],
    "layer_bytes": [
        ("NumPy's int", lambda i, o, bits: np.int64(-(-i * o * bits // 8) + 4 * o)),
        ("really packed", lambda i, o, bits: np.packbits([False] * (i * o * bits)).size + 4 * o),
    ],
    "shortest_time": [
        ("from the rate", lambda m, b, p, w: 2 * m / min(p, 2 * m / b * w)),
        ("a float32", lambda m, b, p, w: np.float32(max(2 * m / p, b / w))),
        ("a tensor", lambda m, b, p, w: torch.tensor([2 * m / p, b / w]).max()),
    ],
}
