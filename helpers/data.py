"""Data sets as tensors ready for training: one call, `load(name)`, for all of them.

The default, "fashion_mnist", ships with the package and needs no network: 20,000 training images
(2,000 of each class, the first ones in the original file) and all 10,000 test images.

Chapter: 01_cost.
"""

import gzip
import hashlib
import json
import math
import shutil
import socket
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.food11 import FOOD, read_food11

EMBEDDED = Path(__file__).parent / "embedded" / "fashion_mnist"
CACHE = Path.home() / ".cache" / "network-compression-fpga"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist

_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# Mean and standard deviation of each channel, for pixels in 0..1. Fashion-MNIST's are whole pixel
# codes; digits' are measured; food11's are ImageNet's, for transfer; the rest are the usual ones.
NORMALIZATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fashion_mnist": ((73 / 255,), (90 / 255,)),
    "fashion_mnist_full": ((73 / 255,), (90 / 255,)),
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "food11": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "digits": ((0.2883,), (0.3535,)),
}
NAMES = tuple(NORMALIZATION)
# torchvision's class, what it leaves in its root folder, and what to put there by hand.
_TORCHVISION = {
    "fashion_mnist_full": ("FashionMNIST", "FashionMNIST/raw", "the four IDX files (.gz or not)"),
    "mnist": ("MNIST", "MNIST/raw", "the four IDX files (.gz or not)"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", "the folder cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python", "the folder cifar-100-python"),
    "svhn": ("SVHN", "train_32x32.mat", "train_32x32.mat and test_32x32.mat"),
}
_IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")

_Raw = tuple[Tensor, Tensor]  # uint8 pixels (N, C, H, W) and int64 labels (N,)


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
        """Undo the normalization exactly: uint8 codes of the same shape as `x`, (..., C, H, W)."""
        mean = torch.tensor(self.mean, dtype=torch.float64).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float64).view(-1, 1, 1)
        return ((x.double() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def load(
    name: str = "fashion_mnist",
    *,
    root: str | Path | None = None,
    validation: int | None = None,
    size: int | None = None,
    download: bool = True,
) -> Dataset:
    """Load a data set by name, whole, into memory.

    `validation` is the number of training images held out: the last ones of each class, in
    proportion (default: a tenth of them, 2,000 for "fashion_mnist"; "food11" has its own split and
    takes None only). `size` resizes to size x size pixels (default: as stored; "food11" 128).
    `root` is the folder of the files (default: a cache in the home folder). For "food11" it is a
    folder or .zip with training/LABEL_NUMBER.jpg, validation/ and evaluation/ (or testing/, labels
    -1 where its file names carry none); the whole set takes 3.3 GB at size 128. With `download`
    torchvision's sets are fetched when missing.

    For "fashion_mnist" x = (p - 73) / 90 with p the pixel code from 0 to 255. The two whole
    numbers keep hardware simple: an int8 input with scale 1/90 and zero-point -55 is exactly
    p - 128, so the machine only subtracts 128 from each pixel. "digits" has p = 15 x level.

    Raises ValueError for bad arguments and for damaged files (naming the file and what was
    expected), FileNotFoundError for missing ones, RuntimeError when a download fails. A failed
    download leaves nothing behind.

    >>> len(load().train), len(load().validation), len(load().test)
    (18000, 2000, 10000)
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(NAMES)}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    folder = CACHE if root is None else Path(root).expanduser()
    class_names: tuple[str, ...] = FOOD
    if name == "food11":
        if validation is not None:
            raise ValueError(f"food11 has its own validation split, got validation={validation}")
        parts = read_food11(folder, 128 if size is None else size)
        train, held, test = (_raw(*part) for part in parts)
    else:
        train, test, class_names = _read(name, folder, download)
        count = len(train[1]) // 10 if validation is None else validation
        mask = _last_of_each_class(train[1], count)
        train, held = (train[0][~mask], train[1][~mask]), (train[0][mask], train[1][mask])
    mean, std = NORMALIZATION[name]
    return Dataset(
        name,
        train=_normalize(*train, mean, std, size),
        validation=_normalize(*held, mean, std, size),
        test=_normalize(*test, mean, std, size),
        mean=mean,
        std=std,
        class_names=class_names,
    )


def balanced(split: Split, count: int, *, skip: int = 0) -> Split:
    """`count` images of `split`, equally many of each class, class after class.

    They are the first of each class, or those after the first `skip` (of all classes together).
    Raises ValueError where a class has too few.
    """
    classes = int(split.y.max()) + 1
    share, skipped = count // classes, skip // classes
    places = [(split.y == c).nonzero()[skipped : skipped + share, 0] for c in range(classes)]
    if share < 1 or any(len(p) < share for p in places):
        raise ValueError(
            f"count must be at least {classes} and leave enough images in each class after "
            f"skip={skip}, got {count}; the smallest class has {int(split.y.bincount().min())}"
        )
    chosen = torch.cat(places)
    return Split(split.x[chosen], split.y[chosen])


def _read(name: str, root: Path, download: bool) -> tuple[_Raw, _Raw, tuple[str, ...]]:
    """Training and test images of every set but food11, with the class names."""
    if name == "fashion_mnist":
        return *_idx_set(EMBEDDED, json.loads((EMBEDDED / "checksums.json").read_text())), _FASHION
    if name == "digits":
        return *_digits(), _DIGITS
    folder = _torchvision_folder(name, root, download)
    if name in ("mnist", "fashion_mnist_full"):
        return *_idx_set(folder), _DIGITS if name == "mnist" else _FASHION
    try:
        train, test = (_torchvision_part(name, folder, part) for part in ("train", "test"))
    except Exception as error:
        raise ValueError(
            f"{folder}: the files of {name} are damaged or incomplete ({error}); expected "
            f"{_TORCHVISION[name][2]} as torchvision downloads them"
        ) from error
    if name == "svhn":
        return _raw(train.data, train.labels), _raw(test.data, test.labels), _DIGITS
    train_x, test_x = (part.data.transpose(0, 3, 1, 2) for part in (train, test))
    return _raw(train_x, train.targets), _raw(test_x, test.targets), tuple(train.classes)


def _raw(pixels: np.ndarray, labels: Any) -> _Raw:
    return torch.tensor(pixels, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64)


def _digits() -> tuple[_Raw, _Raw]:
    """scikit-learn's 8x8 digits, levels 0..16 as codes 0, 15 .. 240; the last quarter for test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = _raw(digits.images[:, None] * 15, digits.target)
    mask = _last_of_each_class(y, len(y) // 4)
    return (x[~mask], y[~mask]), (x[mask], y[mask])


def read_idx(path: str | Path, sha256: str | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzip or not; ValueError names what was expected."""
    path = Path(path)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(f"{path}: damaged, its sha256 is {found}, expected {sha256}")
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole gzip file, but {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes (it starts with 00 00 08 and the "
            f"number of dimensions), got {content[:4].hex(' ') or 'nothing'}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: expected a header of {start} bytes, got {len(content)} bytes")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{path}: expected {expected:,} bytes for shape {shape}, got {len(content):,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _idx_set(folder: Path, checksums: dict[str, dict[str, str]] | None = None) -> tuple[_Raw, _Raw]:
    """The four IDX files of an MNIST-shaped set: training and test images with their labels."""
    paths = [_idx_path(folder, stem) for stem in _IDX]
    sums = [checksums[path.name]["sha256"] if checksums else None for path in paths]
    arrays = [read_idx(path, found) for path, found in zip(paths, sums, strict=True)]
    for i in (0, 2):
        if arrays[i].ndim != 3 or arrays[i + 1].shape != arrays[i].shape[:1]:
            raise ValueError(
                f"{paths[i + 1]}: expected one label for each image of {paths[i].name}, got "
                f"shape {arrays[i + 1].shape} for images of shape {arrays[i].shape}"
            )
        if arrays[i + 1].max(initial=0) > 9:
            raise ValueError(f"{paths[i + 1]}: expected labels 0 to 9, got {arrays[i + 1].max()}")
    train_x, train_y, test_x, test_y = arrays
    return _raw(train_x[:, None], train_y), _raw(test_x[:, None], test_y)


def _idx_path(folder: Path, stem: str) -> Path:
    plain = folder / f"{stem}-ubyte"
    return plain if plain.is_file() else folder / f"{stem}-ubyte.gz"


def _torchvision_folder(name: str, root: Path, download: bool) -> Path:
    """The folder that holds the set's files (of MNIST's kind: the IDX files), fetched if missing."""
    _, marker, needed = _TORCHVISION[name]
    folders = [root / name, root]
    if marker.endswith("/raw"):
        folders = [folder / part for folder in folders for part in (marker, "")]
        folders += [DEBIAN] if name == "fashion_mnist_full" else []
    for folder in folders:
        paths = (
            [_idx_path(folder, s) for s in _IDX] if marker.endswith("/raw") else [folder / marker]
        )
        if all(path.exists() for path in paths):
            return folder
    if (root / name).exists():
        raise FileNotFoundError(f"{root / name}: expected {needed} in it; complete or remove it")
    offline = (
        f"put {needed} into {root / name}, or use load('fashion_mnist'), which ships with the "
        "package and needs no network"
    )
    if not download:
        raise FileNotFoundError(f"{name} is not in {root} and download is False: {offline}")
    _download(name, root, offline)
    return root / name / marker if marker.endswith("/raw") else root / name


def _torchvision_part(name: str, root: Path, part: str, download: bool = False) -> Any:
    """torchvision's data set object of one part, "train" or "test"; its files are checked by MD5."""
    from torchvision import datasets

    option = {"split": part} if name == "svhn" else {"train": part == "train"}
    return getattr(datasets, _TORCHVISION[name][0])(root, download=download, **option)


def _download(name: str, root: Path, offline: str) -> None:
    """Let torchvision fetch and verify the files in a temporary folder, then rename that folder."""
    root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(60)
        for part in ("train", "test"):
            _torchvision_part(name, temporary, part, download=True)
        for archive in temporary.rglob("*gz"):
            archive.unlink()
        temporary.rename(root / name)
    except Exception as error:
        raise RuntimeError(
            f"{name} could not be downloaded ({error}). Offline: {offline}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(temporary, ignore_errors=True)


def _last_of_each_class(y: Tensor, count: int) -> Tensor:
    """A mask of `count` images: the last ones of each class, in proportion to the classes."""
    sizes = torch.bincount(y)
    if not len(sizes) <= count <= len(y) - len(sizes):
        raise ValueError(
            f"validation must be from {len(sizes)} to {len(y) - len(sizes)} (one image of each "
            f"class on either side), got {count}"
        )
    share = sizes * count // len(y)
    rest = (sizes * count % len(y)).argsort(descending=True, stable=True)
    share[rest[: count - int(share.sum())]] += 1
    mask = torch.zeros(len(y), dtype=torch.bool)
    for label, n in enumerate(share.tolist()):
        places = (y == label).nonzero()[:, 0]
        mask[places[len(places) - n :]] = True
    return mask


def _normalize(
    pixels: Tensor, y: Tensor, mean: Sequence[float], std: Sequence[float], size: int | None
) -> Split:
    """uint8 codes to float32, resized first (to whole codes, so that `pixels` stays exact)."""
    if size is not None and tuple(pixels.shape[2:]) != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    x = pixels.float()
    x -= torch.tensor([255 * m for m in mean]).view(-1, 1, 1)
    x /= torch.tensor([255 * s for s in std]).view(-1, 1, 1)
    return Split(x, y)
