"""Quantization: from real numbers to codes, for a tensor and for a whole network.

- `grids`: the integer grid, the rounding rules, weight-only quantization;
- `calibration`: choosing the range of an activation from data;
- `folding`: batch norm into the convolution before it;
- `graph`: a network as a list of layers;
- `network`: weights, biases and activations together, a `QuantizedNetwork`, from which
  `helpers.fpga` starts.

Chapter: 09_quantization.
"""

from helpers.quantization.calibration import (
    CALIBRATION,
    Summary,
    kl_divergence,
    mean_squared_error,
    min_max,
    moving_average,
    percentile,
    summarize,
)
from helpers.quantization.folding import fold_batch_norm
from helpers.quantization.graph import Node, trace
from helpers.quantization.grids import (
    ROUNDING,
    QuantizationParameters,
    affine,
    dequantize,
    fake_quantize,
    integer_range,
    quantize,
    symmetric,
    weight_only,
)
from helpers.quantization.network import (
    QuantizedNetwork,
    QuantizedNode,
    observe,
    quantize_network,
    run_float,
)

__all__ = [
    "CALIBRATION",
    "ROUNDING",
    "Node",
    "QuantizationParameters",
    "QuantizedNetwork",
    "QuantizedNode",
    "Summary",
    "affine",
    "dequantize",
    "fake_quantize",
    "fold_batch_norm",
    "integer_range",
    "kl_divergence",
    "mean_squared_error",
    "min_max",
    "moving_average",
    "observe",
    "percentile",
    "quantize",
    "quantize_network",
    "run_float",
    "summarize",
    "symmetric",
    "trace",
    "weight_only",
]
