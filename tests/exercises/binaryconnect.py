"""Typical wrong answers to the exercises of lab 03_binaryconnect, and unusual right ones."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def step_in_place(w: Tensor, gradient: Tensor, lr: float) -> Tensor:
    return w.sub_(lr * gradient).clamp_(-1, 1)


def boundary(gamma: float, beta: float, mean: float, deviation: float) -> float:
    return mean - beta * deviation / gamma


def threshold_turned_without_rounding_again(g: float, b: float, m: float, d: float) -> Any:
    t = math.ceil(boundary(g, b, m, d))
    return (1, t) if g > 0 else (-1, -t)


def threshold_strict(g: float, b: float, m: float, d: float) -> Any:
    t = boundary(g, b, m, d)
    return (1, math.floor(t) + 1) if g > 0 else (-1, math.floor(-t) + 1)


def threshold_beta_as_it_is(g: float, b: float, m: float, d: float) -> Any:
    t = m - b
    return (1, math.ceil(t)) if g > 0 else (-1, math.ceil(-t))


def differing(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(a ^ b).sum())


WRONG_ANSWERS = {
    "stochastic_sign": [
        ("the sigmoid", lambda w, u: torch.where(u < torch.sigmoid(w), 1.0, -1.0)),
        ("0 and 1", lambda w, u: (u < ((w + 1) / 2).clamp(0, 1)).float()),
        ("w as the probability", lambda w, u: torch.where(u < w, 1.0, -1.0)),
        ("turned round", lambda w, u: torch.where(u < (w + 1) / 2, -1.0, 1.0)),
        ("deterministic", lambda w, u: torch.where(w >= 0, 1.0, -1.0)),
        ("at or below", lambda w, u: torch.where(u <= ((w + 1) / 2).clamp(0, 1), 1.0, -1.0)),
        ("boolean", lambda w, u: u < (w + 1) / 2),
    ],
    "latent_step": [
        ("binarizes", lambda w, g, lr: torch.where(w - lr * g >= 0, 1.0, -1.0)),
        ("no clipping", lambda w, g, lr: w - lr * g),
        (
            "masks the gradient on the bound",
            lambda w, g, lr: (w - lr * g * (w.abs() < 1)).clamp(-1, 1),
        ),
        ("with the gradient", lambda w, g, lr: (w + lr * g).clamp(-1, 1)),
        (
            "steps from the binary weight",
            lambda w, g, lr: (torch.where(w >= 0, 1.0, -1.0) - lr * g).clamp(-1, 1),
        ),
        ("in place", step_in_place),
        ("clips first", lambda w, g, lr: w.clamp(-1, 1) - lr * g),
        ("clips the gradient", lambda w, g, lr: w - (lr * g).clamp(-1, 1)),
    ],
    "integer_threshold": [
        ("rounds down", lambda g, b, m, d: (1 if g > 0 else -1, math.floor(boundary(g, b, m, d)))),
        ("never turns", lambda g, b, m, d: (1, math.ceil(boundary(g, b, m, d)))),
        ("rounds before turning", threshold_turned_without_rounding_again),
        ("above, not at", threshold_strict),
        ("beta not scaled", threshold_beta_as_it_is),
        ("forgets beta", lambda g, b, m, d: (1, math.ceil(m)) if g > 0 else (-1, math.ceil(-m))),
        (
            "not a whole number",
            lambda g, b, m, d: (1 if g > 0 else -1, math.copysign(1, g) * boundary(g, b, m, d)),
        ),
    ],
    "xnor_sum": [
        ("XNOR counts the unused bits", lambda a, b, n: 2 * differing(a, ~b) - n),
        ("8 signs in every byte", lambda a, b, n: 8 * len(a) - 2 * differing(a, b)),
        ("counts differences once", lambda a, b, n: n - differing(a, b)),
        ("the other way round", lambda a, b, n: 2 * differing(a, b) - n),
        ("agreements only", lambda a, b, n: n - 2 * differing(a, b) if n % 8 else differing(a, ~b)),
        (
            "counts in a byte",
            lambda a, b, n: n - 2 * int(np.unpackbits(a ^ b).sum(dtype=np.uint8)),
        ),
        ("AND", lambda a, b, n: 2 * int(np.unpackbits(a & b).sum()) - n),
    ],
}

RIGHT_ANSWERS = {
    "stochastic_sign": [
        ("no clipping of the probability", lambda w, u: 2 * ((w + 1) / 2 > u).int() - 1),
        ("NumPy", lambda w, u: np.where(u.numpy() < np.clip((w.numpy() + 1) / 2, 0, 1), 1, -1)),
    ],
    "latent_step": [
        ("NumPy", lambda w, g, lr: np.clip(w.numpy() - lr * g.numpy(), -1, 1)),
        ("a hard tanh", lambda w, g, lr: torch.nn.functional.hardtanh(w - lr * g)),
    ],
    "integer_threshold": [
        (
            "floor",
            lambda g, b, m, d: [
                np.sign(g),
                np.sign(g) * (np.floor if g < 0 else np.ceil)(m - b * d / g),
            ],
        ),
    ],
    "xnor_sum": [
        ("agreements", lambda a, b, n: 2 * int(np.unpackbits(~(a ^ b))[:n].sum()) - n),
        (
            "products, a float",
            lambda a, b, n: np.dot(*(2.0 * np.unpackbits(c)[:n] - 1 for c in (a, b))),
        ),
    ],
}
