"""Pruning: fewer weights, and files that hold only those that are left.

- `magnitude`: masks by magnitude, masks that survive the optimizer, rounds of pruning;
- `penalty`: the density-diversity penalty with its sorted subgradient;
- `sparse`: compressed sparse rows, gaps in b bits with fillers, bytes of each.

Chapter: 04_pruning.
"""

from helpers.pruning.magnitude import (
    apply_masks,
    apply_masks_,
    density,
    global_masks,
    iterative,
    layer_densities,
    magnitude_mask,
    masks,
)
from helpers.pruning.penalty import (
    DensityDiversity,
    density_diversity,
    pair_coefficients,
    pair_sum,
)
from helpers.pruning.sparse import (
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

__all__ = [
    "CSR",
    "DensityDiversity",
    "Gaps",
    "apply_masks",
    "apply_masks_",
    "csr_bytes",
    "dense_bytes",
    "density",
    "density_diversity",
    "expected_fillers",
    "from_csr",
    "gap_bytes",
    "gap_decode",
    "gap_encode",
    "global_masks",
    "iterative",
    "layer_densities",
    "magnitude_mask",
    "masks",
    "pack",
    "pair_coefficients",
    "pair_sum",
    "scatter",
    "to_csr",
    "unpack",
    "with_fillers",
]
