"""BinaryConnect: from real weights to sign bits, and a network that never multiplies.

- `weights`: binarization rules, straight-through gradients, clipping, the binary layer;
- `network`: a perceptron of such layers, with activations that are real, small codes or signs;
- `export`: batch norm folded into thresholds, and the packed file;
- `integer`: evaluation by additions and comparisons, or by XNOR and popcount.

Chapter: 03_binaryconnect.
"""

from helpers.binaryconnect.export import fold, read, write
from helpers.binaryconnect.integer import (
    IntegerNetwork,
    codes,
    pack,
    run,
    signed_sums,
    unpack,
    xnor_sums,
)
from helpers.binaryconnect.network import BinaryMLP, Codes, Sign
from helpers.binaryconnect.weights import (
    RULES,
    BinaryLinear,
    binarize,
    binary_layers,
    clip_,
    glorot_bound,
    hard_sigmoid,
    reestimate_batch_norm,
    sign,
    squared_hinge,
    straight_through,
    with_test_rule,
)

__all__ = [
    "RULES",
    "BinaryLinear",
    "BinaryMLP",
    "Codes",
    "IntegerNetwork",
    "Sign",
    "binarize",
    "binary_layers",
    "clip_",
    "codes",
    "fold",
    "glorot_bound",
    "hard_sigmoid",
    "pack",
    "read",
    "reestimate_batch_norm",
    "run",
    "sign",
    "signed_sums",
    "squared_hinge",
    "straight_through",
    "unpack",
    "with_test_rule",
    "write",
    "xnor_sums",
]
