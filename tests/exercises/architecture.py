"""Typical wrong answers to the exercises of lab 02_architecture, and unusual right ones."""

import math
from typing import Any

import numpy as np
from torch import Tensor, nn

Pair = tuple[Any, Any]


def shape_without_groups(i: int, o: int, k: int, g: int) -> tuple[int, ...] | None:
    return None if i % g or o % g else (o, i, k, k)


def shape_both_divided(i: int, o: int, k: int, g: int) -> tuple[int, ...] | None:
    return None if i % g or o % g else (o // g, i // g, k, k)


def shape_inputs_first(i: int, o: int, k: int, g: int) -> tuple[int, ...] | None:
    return None if i % g or o % g else (i, o // g, k, k)


def shape_rounds_outputs(i: int, o: int, k: int, g: int) -> tuple[int, ...] | None:
    return None if i % g else (o, i // g, k, k)


def shape_rounds_inputs(i: int, o: int, k: int, g: int) -> tuple[int, ...] | None:
    return None if o % g else (o, i // g, k, k)


def composed(d: Tensor, d_bias: Tensor, p: Tensor, p_bias: Tensor) -> Pair:
    return p * d[:, 0], p.flatten(1) @ d_bias + p_bias


def composed_forgets_inner_bias(d, d_bias, p, p_bias):  # type: ignore[no-untyped-def]
    return p * d[:, 0], p_bias


def composed_adds_biases(d, d_bias, p, p_bias):  # type: ignore[no-untyped-def]
    return p * d[:, 0], p_bias + d_bias.sum()


def composed_sums_inputs(d, d_bias, p, p_bias):  # type: ignore[no-untyped-def]
    weight = (p * d[:, 0]).sum(1, keepdim=True).expand(-1, len(d), -1, -1)
    return weight, composed(d, d_bias, p, p_bias)[1]


def composed_flips(d, d_bias, p, p_bias):  # type: ignore[no-untyped-def]
    weight, bias = composed(d, d_bias, p, p_bias)
    return weight.flip(2, 3), bias


def composed_inputs_first(d, d_bias, p, p_bias):  # type: ignore[no-untyped-def]
    weight, bias = composed(d, d_bias, p, p_bias)
    return weight.transpose(0, 1), bias


def multiplier_with_equality(out_channels: int, kernel_size: int) -> int:
    return int(kernel_size**2 * out_channels / (kernel_size**2 + out_channels))


def multiplier_as_ratio(out_channels: int, kernel_size: int) -> int:
    return int(1 / (1 / out_channels + 1 / kernel_size**2))


def merged_forgets_inner_bias(mix, mix_bias, weight, bias):  # type: ignore[no-untyped-def]
    return weight @ mix.flatten(1), bias


def merged_adds_bias(mix, mix_bias, weight, bias):  # type: ignore[no-untyped-def]
    return weight @ mix.flatten(1), bias + mix_bias.sum()


def merged_wrong_order(mix, mix_bias, weight, bias):  # type: ignore[no-untyped-def]
    return mix.flatten(1) @ weight, bias


def merged_transposed(mix, mix_bias, weight, bias):  # type: ignore[no-untyped-def]
    return (weight @ mix.flatten(1)).flip(1), weight @ mix_bias + bias


def width_rounds(width: int, alpha: float, divisor: int) -> int:
    return max(divisor, round(alpha * width / divisor) * divisor)


def width_floors(width: int, alpha: float, divisor: int) -> int:
    return max(divisor, int(alpha * width) // divisor * divisor)


def width_ceils(width: int, alpha: float, divisor: int) -> int:
    return max(divisor, -(-int(alpha * width) // divisor) * divisor)


def width_without_minimum(width: int, alpha: float, divisor: int) -> int:
    chosen = int(alpha * width + divisor / 2) // divisor * divisor
    return chosen + divisor if 0 < chosen < 0.9 * alpha * width else chosen


def width_without_tenth(width: int, alpha: float, divisor: int) -> int:
    return max(divisor, int(alpha * width + divisor / 2) // divisor * divisor)


WRONG_ANSWERS = {
    "grouped_shape": [
        ("groups ignored", shape_without_groups),
        ("outputs divided too", shape_both_divided),
        ("inputs first", shape_inputs_first),
        ("any number of outputs", shape_rounds_outputs),
        ("any number of inputs", shape_rounds_inputs),
    ],
    "one_convolution": [
        ("inner bias forgotten", composed_forgets_inner_bias),
        ("inner biases added up", composed_adds_biases),
        ("summed over the inputs", composed_sums_inputs),
        ("kernels flipped", composed_flips),
        ("inputs first", composed_inputs_first),
    ],
    "saving_multiplier": [
        ("equality taken for a saving", multiplier_with_equality),
        ("the ratio itself", multiplier_as_ratio),
        ("number of outputs ignored", lambda out_channels, kernel_size: kernel_size**2 - 1),
        (
            "a float",
            lambda out_channels, kernel_size: (
                kernel_size**2 * out_channels / (kernel_size**2 + out_channels)
            ),
        ),
    ],
    "merged_classifier": [
        ("inner bias forgotten", merged_forgets_inner_bias),
        ("inner biases added up", merged_adds_bias),
        ("product in the wrong order", merged_wrong_order),
        ("channels reversed", merged_transposed),
    ],
    "scaled_width": [
        ("no multiple", lambda width, alpha, divisor: int(alpha * width)),
        ("half to even, no tenth", width_rounds),
        ("rounds down", width_floors),
        ("rounds up", width_ceils),
        ("can reach zero", width_without_minimum),
        ("loses more than a tenth", width_without_tenth),
    ],
}


def shape_of_a_layer(i: int, o: int, k: int, g: int) -> tuple[int, ...] | None:
    try:
        return nn.Conv2d(i, o, k, groups=g).weight.shape
    except ValueError:
        return None


def composed_layer(d: Tensor, d_bias: Tensor, p: Tensor, p_bias: Tensor) -> list[Tensor]:
    full = nn.Conv2d(d.shape[0], p.shape[0], d.shape[-1])  # float32, with gradients
    full.weight.data, full.bias.data = (part.float() for part in composed(d, d_bias, p, p_bias))
    return [full.weight, full.bias]


def width_by_search(width: int, alpha: float, divisor: int) -> Any:
    multiples = divisor * np.arange(1, 100)
    allowed = multiples[multiples >= 0.9 * alpha * width]
    return allowed[np.argmin(np.abs(allowed - alpha * width) - 1e-9 * allowed)]


RIGHT_ANSWERS = {
    "grouped_shape": [
        ("the layer itself", shape_of_a_layer),
        ("a list", lambda i, o, k, g: None if i % g or o % g else [o, i // g, k, k]),
    ],
    "one_convolution": [
        ("a layer's parameters, in a list", composed_layer),
        ("NumPy", lambda *parts: tuple(part.numpy() for part in composed(*parts))),
    ],
    "saving_multiplier": [
        ("a ceiling", lambda o, k: math.ceil(k * k * o / (k * k + o)) - 1),
        ("NumPy", lambda o, k: np.flatnonzero(np.arange(k * k) * (k * k + o) < k * k * o)[-1]),
    ],
    "merged_classifier": [
        ("a list", lambda m, m_b, w, b: [w @ m[:, :, 0, 0], w @ m_b + b]),
        ("float32", lambda m, m_b, w, b: ((w @ m.flatten(1)).float(), (w @ m_b + b).float())),
    ],
    "scaled_width": [("by search, NumPy's int", width_by_search)],
}
