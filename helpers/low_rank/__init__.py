"""Low rank: a matrix of weights as a product of two thin ones, a layer as two layers.

- `dense`: truncated SVD of a dense layer, energy, break-even rank;
- `convolution`: a K x K convolution as K x 1 to D channels, then 1 x K;
- `ranks`: whole networks, and choosing the rank of each layer under a budget.

Chapter: 06_low_rank.
"""

from helpers.low_rank.convolution import (
    as_matrix,
    break_even_channels,
    from_matrix,
    per_kernel,
    separable_conv,
    separable_cost,
)
from helpers.low_rank.dense import (
    break_even_rank,
    energy,
    factors,
    rank_for_energy,
    svd_linear,
)
from helpers.low_rank.ranks import (
    choose_ranks,
    energy_losses,
    factorizable,
    factorize,
    measured_losses,
    spectrum,
    uniform_energy,
)

__all__ = [
    "as_matrix",
    "break_even_channels",
    "break_even_rank",
    "choose_ranks",
    "energy",
    "energy_losses",
    "factorizable",
    "factorize",
    "factors",
    "from_matrix",
    "measured_losses",
    "per_kernel",
    "rank_for_energy",
    "separable_conv",
    "separable_cost",
    "spectrum",
    "svd_linear",
    "uniform_energy",
]
