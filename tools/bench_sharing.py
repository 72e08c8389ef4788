"""k-means beside scikit-learn and the optimum, Huffman decoding beside bitarray.

    python tools/bench_sharing.py [--rounds 3] [--weights 1000000]

Each round runs every engine once, in turn, so that other load on the machine meets all of them;
medians over the rounds are printed. scikit-learn's KMeans gets the same starting centroids
(`init=array, n_init=1`) and keeps its own stopping rule; ours goes on until no weight changes its
cluster. The optimum is kmeans1d's, exact but slow, so a thirtieth of the
weights must do.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import kmeans1d
import numpy as np
from bitarray import bitarray
from bitarray.util import huffman_code
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from helpers import zoo
from helpers.weight_sharing import STARTS, huffman, kmeans

CLUSTERS = (16, 32, 64, 256)
TIMED = [(k, "linear") for k in CLUSTERS] + [(16, "density"), (32, "density")]


def layer_like(count: int) -> np.ndarray:
    """`count` float32 weights from the smoothed distribution of LeNet5's large dense layer."""
    weights = zoo.load("LeNet5").get_parameter("fc1.weight").detach().numpy().ravel()
    rng = np.random.default_rng(0)
    drawn = rng.choice(weights, count)
    return (drawn + rng.normal(scale=0.02 * weights.std(), size=count)).astype(np.float32)


def interleaved(
    table: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds and last answer of each function."""
    seconds: dict[str, list[float]] = {name: [] for name in table}
    answers: dict[str, Any] = {}
    for _ in range(rounds):
        for name, run in table.items():
            begin = time.perf_counter()
            answers[name] = run()
            seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(times)) for name, times in seconds.items()}, answers


def clustering(weights: np.ndarray, rounds: int) -> None:
    ordered = np.sort(weights).astype(np.float64)
    column = weights[:, None]
    print(f"k-means on {len(weights):,} float32 weights, {rounds} interleaved rounds, medians")
    print("   k  start       ours (s)  scikit-learn (s)   times faster   WCSS / scikit-learn's")
    for k, start in TIMED:
        begin = STARTS[start](ordered, k)
        other = KMeans(k, init=begin[:, None].astype(np.float32), n_init=1)
        seconds, found = interleaved(
            {
                "ours": lambda k=k, begin=begin: kmeans(weights, k, start=begin),  # type: ignore[misc]
                "theirs": lambda other=other: other.fit(column),  # type: ignore[misc]
            },
            rounds,
        )
        error = np.square(weights - other.cluster_centers_.astype(float)[other.labels_, 0]).sum()
        print(
            f"{k:>4}  {start:<10}{seconds['ours']:>10.3f}{seconds['theirs']:>18.2f}"
            f"{seconds['theirs'] / seconds['ours']:>15.1f}{found['ours'].wcss / error:>24.4f}"
        )


def optimum(weights: np.ndarray) -> None:
    print(f"\nWCSS over the optimum (kmeans1d) on {len(weights):,} weights")
    print("   k  " + "".join(f"{start:>10}" for start in STARTS) + "   dynamic (s)   kmeans1d (s)")
    for k in CLUSTERS:
        begin = time.perf_counter()
        best = kmeans1d.cluster(weights.tolist(), k)
        exact = time.perf_counter() - begin
        least = float(np.square(weights - np.array(best.centroids)[np.array(best.clusters)]).sum())
        ratios = [kmeans(weights, k, start=start).wcss / least for start in STARTS]
        begin = time.perf_counter()
        kmeans(weights, k)
        ours = time.perf_counter() - begin
        print(f"{k:>4}  " + "".join(f"{r:>10.4f}" for r in ratios) + f"{ours:>14.2f}{exact:>15.2f}")


def bit_by_bit(content: bytes, lengths: np.ndarray, count: int) -> list[int]:
    """The loop that a first attempt writes, as a yardstick."""
    codes = huffman.canonical_codes(lengths)
    table = {(int(n), int(c)): s for s, (n, c) in enumerate(zip(lengths, codes, strict=True)) if n}
    out, word, size = [], 0, 0
    for byte in content:
        for place in range(7, -1, -1):
            word, size = word << 1 | byte >> place & 1, size + 1
            symbol = table.get((size, word))
            if symbol is not None:
                out.append(symbol)
                word, size = 0, 0
                if len(out) == count:
                    return out
    return out


def decoding(count: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    print(f"\nHuffman decoding of {count:,} symbols, million symbols per second")
    print("symbols      ours  bitarray  bit by bit    ours / bitarray")
    for k in (16, 32, 256):
        symbols = np.clip(rng.normal(k / 2, k / 7, count), 0, k - 1).astype(np.int64)
        counts = np.bincount(symbols, minlength=k)
        lengths = huffman.code_lengths(counts)
        content = huffman.encode(symbols, lengths)
        code = huffman_code({s: int(c) for s, c in enumerate(counts) if c})
        packed = bitarray()
        packed.encode(code, symbols.tolist())
        part = symbols[: count // 20]
        short = huffman.encode(part, lengths)
        seconds, found = interleaved(
            {
                "ours": lambda: huffman.decode(content, lengths, count),  # noqa: B023
                "bitarray": lambda: list(packed.decode(code)),  # noqa: B023
                "loop": lambda: bit_by_bit(short, lengths, len(part)),  # noqa: B023
            },
            rounds,
        )
        same = np.array_equal(found["ours"], symbols) and found["bitarray"] == symbols.tolist()
        if not (same and found["loop"] == part.tolist()):
            raise SystemExit("a decoder is wrong: no benchmark of wrong answers")
        rate = {n: (len(part) if n == "loop" else count) / t / 1e6 for n, t in seconds.items()}
        print(
            f"{k:>7}{rate['ours']:>10.1f}{rate['bitarray']:>10.1f}{rate['loop']:>12.2f}"
            f"{rate['ours'] / rate['bitarray']:>19.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", type=int, default=1_000_000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    weights = layer_like(arguments.weights)
    clustering(weights, arguments.rounds)
    optimum(weights[: arguments.weights // 30].astype(np.float64))
    decoding(arguments.weights, arguments.rounds)


if __name__ == "__main__":
    main()
