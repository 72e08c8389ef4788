"""The GW2A accelerator paper's printed numbers, and what follows from them.

A printed number stands for an interval: "0.71" W is anything from 0.705 to 0.715. `relations` works
every figure out from the others with such intervals, so that "does not follow" is told from "was
rounded".

Source: Meng et al. 2024; the device's figures are those of its data sheet.

Chapter: 10_edge_recipe.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

# Text as printed, unit, and whether it is exact (a count or a nominal figure, not a measurement).
PRINTED: dict[str, tuple[str, str, bool]] = {
    "ImageNet accuracy": ("67.18", "%", False),
    "transferred": ("97.05", "%", False),
    "static int8": ("92.79", "%", False),
    "static loss": ("2.58", "points", False),
    "trained int8": ("94.60", "%", False),
    "trained loss": ("0.77", "points", False),
    "operations": ("16.64", "million", False),
    "parameters": ("0.079", "million", False),
    "size": ("83", "KB", False),
    "frame rate": ("366", "frames/s", False),
    "clock": ("54", "MHz", True),
    "power": ("0.71", "W", False),
    "efficiency": ("8.57", "GOPS/W", False),
    "over i7": ("8.24", "times", False),
    "over 1080Ti": ("47.61", "times", False),
    "over 4090": ("19.11", "times", False),
    "multipliers": ("48", "of 18x18", True),
    "block RAM": ("828", "KB as printed", True),
}
SIZES = {"float32 byte": 4, "block RAM blocks": 46, "bits of a block": 18 * 1024}


@dataclass(frozen=True)
class Interval:
    """All numbers from `low` to `high`; sums, differences, products and quotients of positive ones."""

    low: Fraction
    high: Fraction

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"an interval needs 0 <= low <= high, got {self.low}, {self.high}")

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: "Interval") -> "Interval":
        return Interval(self.low - other.high, self.high - other.low)

    def __mul__(self, other: "Interval") -> "Interval":
        return Interval(self.low * other.low, self.high * other.high)

    def __truediv__(self, other: "Interval") -> "Interval":
        if other.low <= 0:
            raise ValueError("the divisor's interval must not hold 0")
        return Interval(self.low / other.high, self.high / other.low)

    def meets(self, other: "Interval") -> bool:
        """Whether some number lies in both."""
        return self.low <= other.high and other.low <= self.high


def rounded(text: str) -> Interval:
    """What a number printed as `text` may have been before it was rounded to its last digit.

    >>> rounded("0.71") == Interval(Fraction("0.705"), Fraction("0.715"))
    True
    """
    value, half = Fraction(text), Fraction(1, 2 * 10 ** len(text.partition(".")[2]))
    return Interval(max(Fraction(0), value - half), value + half)


def exact(value: int | str | Fraction) -> Interval:
    """One number as an interval without width."""
    return Interval(Fraction(value), Fraction(value))


Values = Mapping[str, Interval]


@dataclass(frozen=True)
class Relation:
    """A figure worked out from printed ones. `printed` is what the paper says about it, if anything."""

    name: str
    formula: str
    unit: str
    value: float  # from the printed numbers as they stand
    low: float  # and as they may have been before rounding
    high: float
    printed: str | None = None
    follows: bool | None = None  # None where the paper prints nothing


def _relation(
    name: str,
    formula: str,
    unit: str,
    compute: Callable[[Values], Interval],
    printed: str | None = None,
) -> Relation:
    wide = {k: exact(t) if whole else rounded(t) for k, (t, _, whole) in PRINTED.items()}
    sharp = {k: exact(t) for k, (t, _, _) in PRINTED.items()}
    found, value = compute(wide), compute(sharp).low
    follows = None if printed is None else found.meets(rounded(printed))
    return Relation(
        name, formula, unit, float(value), float(found.low), float(found.high), printed, follows
    )


def relations() -> list[Relation]:
    """Every figure of the paper that others determine, worked out. Operations are two a MAC."""
    n = exact
    block_bits = n(SIZES["block RAM blocks"] * SIZES["bits of a block"])
    per_frame: Callable[[Values], Interval] = lambda p: p["clock"] * n(10**6) / p["frame rate"]  # noqa: E731
    gops: Callable[[Values], Interval] = lambda p: p["frame rate"] * p["operations"] / n(1000)  # noqa: E731
    macs: Callable[[Values], Interval] = lambda p: p["operations"] / n(2)  # noqa: E731
    from_static: Callable[[Values], Interval] = lambda p: p["static int8"] + p["static loss"]  # noqa: E731
    return [
        _relation("pruned, float", "static + its loss", "%", from_static, "95.37"),
        _relation(
            "pruned, float",
            "trained + its loss",
            "%",
            lambda p: p["trained int8"] + p["trained loss"],
            "95.37",
        ),
        _relation(
            "lost by layers, channels, input",
            "transferred - pruned",
            "points",
            lambda p: p["transferred"] - from_static(p),
        ),
        _relation(
            "lost in all",
            "transferred - trained int8",
            "points",
            lambda p: p["transferred"] - p["trained int8"],
        ),
        _relation(
            "bytes beside the weights",
            "size - parameters, KB = 1,000 B",
            "B",
            lambda p: p["size"] * n(1000) - p["parameters"] * n(10**6),
        ),
        _relation(
            "bytes beside the weights",
            "size - parameters, KB = 1,024 B",
            "B",
            lambda p: p["size"] * n(1024) - p["parameters"] * n(10**6),
        ),
        _relation(
            "block RAM of the device",
            "46 blocks x 18 Kbit / 8",
            "KiB",
            lambda p: block_bits / n(8 * 1024),
            "828",
        ),
        _relation("block RAM of the device", "46 x 18", "Kbit", lambda p: n(46 * 18), "828"),
        _relation(
            "share of block RAM for 83 KiB",
            "size / 103.5",
            "%",
            lambda p: p["size"] * n(100) / n("103.5"),
        ),
        _relation("throughput", "frame rate x operations", "GOPS", gops),
        _relation(
            "efficiency", "throughput / power", "GOPS/W", lambda p: gops(p) / p["power"], "8.57"
        ),
        _relation(
            "energy of a frame",
            "power / frame rate",
            "mJ",
            lambda p: p["power"] * n(1000) / p["frame rate"],
        ),
        _relation("cycles for a frame", "54 MHz / frame rate", "", per_frame),
        _relation(
            "operations per cycle",
            "operations / cycles",
            "",
            lambda p: p["operations"] * n(10**6) / per_frame(p),
        ),
        _relation(
            "MACs per cycle",
            "operations / 2 / cycles",
            "",
            lambda p: macs(p) * n(10**6) / per_frame(p),
        ),
        _relation(
            "ceiling of 48 multipliers",
            "48 x 54 MHz / MACs",
            "frames/s",
            lambda p: p["multipliers"] * p["clock"] / macs(p),
        ),
        _relation(
            "ceiling of 96 multipliers",
            "96 x 54 MHz / MACs",
            "frames/s",
            lambda p: n(2) * p["multipliers"] * p["clock"] / macs(p),
        ),
        *(
            _relation(
                f"efficiency of the {name}",
                f"8.57 / {PRINTED['over ' + name][0]}",
                "GOPS/W",
                lambda p, key="over " + name: p["efficiency"] / p[key],  # type: ignore[misc]
            )
            for name in ("i7", "1080Ti", "4090")
        ),
    ]


# Where the paper says something that cannot be meant: (as printed, what must be meant, why).
SLIPS = (
    ("clock of 54 Hz", "54 MHz", "366 frames/s at 54 Hz would be 0.15 cycles a frame"),
    ("828 KB of block RAM", "828 Kbit", "46 blocks of 18 Kbit are 103.5 KiB, an eighth of it"),
    (
        "conv13 and conv14 are the shallowest layers",
        "the deepest",
        "MobileNet v1 counts them from the input; they stand before the classifier",
    ),
    ("16.64 MOPS, FLOPS", "16.64 M operations", "a count for one image, not a rate"),
    ("8.57 GOPS/W", "8.57 or 8.58", "8.578 from the printed inputs: cut off, or from finer ones"),
    ("0.079 M parameters and 83 KB", "both", "4 to 6 KB of int32 biases and scales lie between"),
    (
        "48 multipliers",
        "96 of 9x9 bits, or look-up tables",
        "56.4 MACs a cycle are more than 48 multipliers can make",
    ),
    ("half of the inter-layer buffer saved", "at stride 1", "in general s^2 / (1 + s^2)"),
    (
        "the input's size hardly affects the convolutions",
        "their hardware units",
        "their operations fall with the square of the side",
    ),
    ("67.18 % on the test set", "on validation images", "ImageNet's test labels are not public"),
    ("GTX 4090, i7-1165", "RTX 4090, i7-1165G7 perhaps", "no such product names"),
)
