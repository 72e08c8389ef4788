"""Calibration: choose the range of an activation tensor from a stream of sample batches.

Five rules, one interface: `rule(batches, bits) -> (low, high)`, ready for `quantization.affine`.
`batches` is an iterable of tensors, or a `Summary` that has read them already, so that one pass
over the data serves all five.

Sources: Jacob et al. 2018 (arXiv:1712.05877) section 3.1 (moving average); Migacz 2017, "8-bit
inference with TensorRT" (Kullback-Leibler divergence); Krishnamoorthi 2018 (arXiv:1806.08342).

Chapter: 09_quantization.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from helpers.quantization.grids import affine, fake_quantize, numbers


class Summary:
    """What calibration remembers of a stream of batches: a range per batch and one histogram.

    The histogram has `2 * HALF` bins over [-reach, reach], zero on a bin edge. When a value lies
    outside, the reach doubles and neighbouring bins merge, so counts stay exact and no batch is
    kept. At least HALF / 2 bins lie between 0 and the largest magnitude seen.
    """

    HALF = 4096

    def __init__(self) -> None:
        self.lows: list[float] = []
        self.highs: list[float] = []
        self.reach = 0.0
        self.counts = torch.zeros(2 * self.HALF, dtype=torch.float64)

    def add(self, batch: Tensor) -> None:
        """Take in one batch of any shape."""
        values = numbers(batch, "the calibration batch").flatten()
        low, high = float(values.min()), float(values.max())
        self.lows.append(low)
        self.highs.append(high)
        largest = max(-low, high)
        if self.reach == 0.0:  # only zeros until now: they sit in the first bin at or above 0
            self.reach = largest
        while self.reach < largest:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts.zero_()
            self.counts[self.HALF // 2 : self.HALF // 2 * 3] = merged
            self.reach *= 2
        reach = self.reach or 1.0
        for part in values.split(1 << 18):  # the float64 copies stay small
            bins = torch.floor(part.to(torch.float64) * (self.HALF / reach)).to(torch.int64)
            bins = bins.add_(self.HALF).clamp_(0, 2 * self.HALF - 1)
            self.counts += torch.bincount(bins, minlength=2 * self.HALF)

    @property
    def low(self) -> float:
        return min(self.lows)

    @property
    def high(self) -> float:
        return max(self.highs)

    @property
    def width(self) -> float:
        """Width of one histogram bin."""
        return (self.reach or 1.0) / self.HALF

    def centres(self) -> Tensor:
        """The middle of each bin, float64, shape (2 * HALF,)."""
        return (torch.arange(2 * self.HALF, dtype=torch.float64) - self.HALF + 0.5) * self.width


Batches = Iterable[Tensor] | Summary


def summarize(batches: Batches) -> Summary:
    """Read the batches once into a `Summary` (a Summary passes through)."""
    summary = batches if isinstance(batches, Summary) else Summary()
    if not isinstance(batches, Summary):
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            summary.add(batch)
    if not summary.lows:
        raise ValueError("the calibration data is empty: at least one batch is needed")
    return summary


def min_max(batches: Batches, bits: int = 8) -> tuple[float, float]:
    """The smallest and the largest value seen. Nothing is clipped; one outlier sets the scale."""
    summary = summarize(batches)
    return summary.low, summary.high


def moving_average(
    batches: Batches, bits: int = 8, *, momentum: float = 0.9
) -> tuple[float, float]:
    """Exponential moving average of each batch's extremes (Jacob et al. 2018, section 3.1)."""
    summary = summarize(batches)
    low, high = summary.lows[0], summary.highs[0]
    for next_low, next_high in zip(summary.lows[1:], summary.highs[1:], strict=True):
        low += (1 - momentum) * (next_low - low)
        high += (1 - momentum) * (next_high - high)
    return low, high


def percentile(batches: Batches, bits: int = 8, *, keep: float = 99.99) -> tuple[float, float]:
    """The range that leaves out the highest and the lowest (100 - keep) percent of the values."""
    if not 50 < keep <= 100:
        raise ValueError(f"keep must be a percentage above 50 and at most 100, got {keep}")
    summary = summarize(batches)
    below = summary.counts.cumsum(0) / summary.counts.sum()
    edge = (torch.arange(2 * summary.HALF + 1, dtype=torch.float64) - summary.HALF) * summary.width
    first = int((below <= 1 - keep / 100).sum()) if keep < 100 else 0
    last = int((below < keep / 100).sum()) if keep < 100 else 2 * summary.HALF - 1
    return max(float(edge[first]), summary.low), min(float(edge[last + 1]), summary.high)


def mean_squared_error(batches: Batches, bits: int = 8, *, steps: int = 100) -> tuple[float, float]:
    """Shrink [low, high] by k/steps, k = 1..steps, and keep the range of least squared error.

    The error is that of `affine` at `bits` over the histogram: rounding inside, clipping outside.
    """
    summary = summarize(batches)
    used = summary.counts > 0
    values, counts = summary.centres()[used], summary.counts[used]
    best = (float("inf"), summary.low, summary.high)
    for k in range(steps, 0, -1):
        low, high = summary.low * k / steps, summary.high * k / steps
        error = fake_quantize(values, affine(low, high, bits)) - values
        best = min(best, (float((counts * error.square()).sum()), low, high), key=lambda t: t[0])
    return best[1:]


def kl_divergence(batches: Batches, bits: int = 8, *, candidates: int = 200) -> tuple[float, float]:
    """Clip |x| where the clipped and the quantized histogram differ least (Migacz 2017).

    P is the histogram of |x| up to the threshold with everything beyond it added to its last bin;
    Q is the histogram merged to 2**bits levels (2**(bits-1) when negative values occur) and spread
    again over the bins that were not empty; the threshold of least KL(P || Q) wins. The bin at 0
    takes its neighbour's count: after a ReLU it holds the exact zeros, which cost nothing.
    """
    summary = summarize(batches)
    half = summary.HALF
    levels = 2**bits if summary.low >= 0 else 2 ** (bits - 1)
    counts = summary.counts[half:] + summary.counts[:half].flip(0)
    counts[0] = counts[1]
    used = int(counts.nonzero().max()) + 1 if counts.any() else 0
    best = (float("inf"), used)
    edges = torch.linspace(used, min(levels, used), candidates).to(torch.int64).unique().flip(0)
    for edge in edges.tolist():
        kept = counts[:edge]
        if edge == 0 or kept[-1] == 0:  # P would have mass in a bin where Q has none
            continue
        p = kept.clone()
        p[-1] += counts[edge:].sum()
        group = torch.arange(edge) * levels // edge
        filled = kept > 0
        total = torch.zeros(levels, dtype=torch.float64).index_add_(0, group, kept)
        number = torch.zeros_like(total).index_add_(0, group, filled.to(torch.float64))
        q = torch.where(filled, (total / number.clamp(min=1))[group], 0.0)
        p, q = (p / p.sum())[p > 0], (q / q.sum())[p > 0]  # 0 log 0 = 0
        divergence = float((p * torch.log(p / q)).sum())
        best = min(best, (divergence, edge), key=lambda t: t[0])
    threshold = best[1] * summary.width if used else summary.high
    return max(summary.low, -threshold), min(summary.high, threshold)


CALIBRATION: dict[str, Callable[..., tuple[float, float]]] = {
    "min_max": min_max,
    "moving_average": moving_average,
    "percentile": percentile,
    "mean_squared_error": mean_squared_error,
    "kl_divergence": kl_divergence,
}
