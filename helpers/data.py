"""Data sets as tensors ready for training: one call, `load(name)`, for all of them.

The default, "fashion_mnist", ships with the package and needs no network: 20,000 training images
(2,000 of each class, the first ones in the original file) and all 10,000 test images.

Chapter: 01_cost.
"""

import gzip
import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

EMBEDDED = Path(__file__).parent / "embedded" / "fashion_mnist"
CACHE = Path.home() / ".cache" / "network-compression-fpga"

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# Mean and deviation of each channel, in pixel codes (0 to 255).
_FASHION_CODES = ((73.0,), (90.0,))
NORMALIZATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fashion_mnist": _FASHION_CODES,
    "fashion_mnist_full": _FASHION_CODES,
}
NAMES = ("fashion_mnist",)


@dataclass(frozen=True)
class Split:
    """Images `x`, float32 (N, C, H, W), normalized, and their labels `y`, int64 (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Dataset:
    """Three splits and what is needed to read them; `mean` and `std` are for pixels in 0..1."""

    name: str
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def pixels(self, x: Tensor) -> Tensor:
        """Undo the normalization exactly: uint8 codes of the same shape as `x` (..., C, H, W)."""
        mean = torch.tensor(self.mean, dtype=torch.float64).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float64).view(-1, 1, 1)
        codes = ((x.double() * std + mean) * 255).round()
        return codes.clamp(0, 255).to(torch.uint8)


def load(
    name: str = "fashion_mnist",
    *,
    root: str | Path | None = None,
    validation: int | None = None,
    size: int | None = None,
    download: bool = True,
) -> Dataset:
    """Load a data set by name into memory.

    For "fashion_mnist" x = (p - 73) / 90 with p the pixel code from 0 to 255. The two whole
    numbers make hardware simple: an int8 input with scale 1/90 and zero-point -55 is exactly
    p - 128, so the machine only subtracts 128 from each pixel.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(NAMES)}")
    x, y, test_x, test_y = _embedded()
    held = _held_out(y, 2000 if validation is None else validation)
    return Dataset(
        name,
        train=_split(x[~held], y[~held], name, size),
        validation=_split(x[held], y[held], name, size),
        test=_split(test_x, test_y, name, size),
        mean=tuple(m / 255 for m in NORMALIZATION[name][0]),
        std=tuple(s / 255 for s in NORMALIZATION[name][1]),
        class_names=FASHION,
    )


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzip or not; ValueError names what was expected."""
    path = Path(path)
    return _parse_idx(_unpack(path, path.read_bytes()), path)


def _unpack(path: Path, content: bytes) -> bytes:
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, but {error}") from error


def _parse_idx(content: bytes, path: Path) -> np.ndarray:
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes (it starts with 00 00 08 and the "
            f"number of dimensions), got {content[:4].hex(' ') or 'nothing'}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: expected a header of {start} bytes, got {len(content)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], dtype=">u4"))
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{path}: expected {expected:,} bytes for shape {shape}, got {len(content):,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _embedded(folder: Path | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The shipped files, each checked against its sha256."""
    folder = EMBEDDED if folder is None else folder
    checksums = json.loads((folder / "checksums.json").read_text())
    arrays = []
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = folder / f"{stem}-ubyte.gz"
        content = path.read_bytes()
        found, expected = hashlib.sha256(content).hexdigest(), checksums[path.name]["sha256"]
        if found != expected:
            raise ValueError(
                f"{path}: damaged, its sha256 is {found} and expected was {expected}; "
                "install the package again"
            )
        arrays.append(torch.from_numpy(_parse_idx(_unpack(path, content), path).copy()))
    return arrays[0][:, None], arrays[1].long(), arrays[2][:, None], arrays[3].long()


def _held_out(y: Tensor, count: int) -> Tensor:
    """A mask of `count` images for validation: the last ones of each class, in proportion."""
    sizes = torch.bincount(y)
    share = torch.div(sizes * count, len(y), rounding_mode="floor")
    rest = (sizes * count) % len(y)
    share[rest.argsort(descending=True, stable=True)[: count - int(share.sum())]] += 1
    held = torch.zeros(len(y), dtype=torch.bool)
    for label, n in enumerate(share.tolist()):
        if n:
            held[(y == label).nonzero()[-n:, 0]] = True
    return held


def _split(pixels: Tensor, y: Tensor, name: str, size: int | None) -> Split:
    """Normalize uint8 images (N, C, H, W), in place once they are float32."""
    x = pixels.float()
    mean, std = NORMALIZATION[name]
    x.sub_(torch.tensor(mean).view(-1, 1, 1)).div_(torch.tensor(std).view(-1, 1, 1))
    return Split(x, y)
