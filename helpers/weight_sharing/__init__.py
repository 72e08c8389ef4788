"""Weight sharing: few distinct weights, and a code for each.

- `kmeans`: clusters of numbers, from the inside; `intervals`: the best start;
- `codebook`: a network whose layers hold indices into a small trained table;
- `huffman`: short codes for frequent symbols;
- `file`: one compressed file of a network (`records`: one array of it), every byte accounted for.

Chapter: 05_weight_sharing.
"""

from helpers.weight_sharing.codebook import (
    SharedLayer,
    codebook_gradient,
    compression_rate,
    look_up,
    plain,
    put_,
    share,
    share_weight,
    shared_layers,
)
from helpers.weight_sharing.kmeans import STARTS, Clustering, kmeans

__all__ = [
    "STARTS",
    "Clustering",
    "SharedLayer",
    "codebook_gradient",
    "compression_rate",
    "kmeans",
    "look_up",
    "plain",
    "put_",
    "share",
    "share_weight",
    "shared_layers",
]
