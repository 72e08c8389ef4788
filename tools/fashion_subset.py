"""Rebuild the embedded Fashion-MNIST from the original IDX files, or prove it identical.

    python tools/fashion_subset.py [--check] [ORIGINALS]

ORIGINALS is the folder with the four original .gz files (default: where Debian's package
dataset-fashion-mnist puts them). The subset is the first 2,000 training images of each class in
the order of the original file, and the test files byte for byte. With --check nothing is written.
"""

import argparse
import gzip
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from helpers.data import DEBIAN, EMBEDDED, read_idx  # noqa: E402
from helpers.files import write_whole  # noqa: E402

PER_CLASS = 2000
ORIGINALS = {  # sha256 of the files as Zalando published them
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the first `per_class` images of each class, in the order of the file."""
    kept = [np.flatnonzero(labels == label)[:per_class] for label in range(10)]
    return np.sort(np.concatenate(kept))


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of uint8 as an IDX file: magic number, big-endian sizes, bytes."""
    sizes = np.array(array.shape, dtype=">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def rebuild(originals: Path) -> dict[str, bytes]:
    """What the four files hold, unpacked, from the verified originals."""
    for name, expected in ORIGINALS.items():
        found = hashlib.sha256((originals / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{originals / name}: sha256 is {found}, expected {expected}")
    kept = first_of_each_class(read_idx(originals / "train-labels-idx1-ubyte.gz"), PER_CLASS)
    return {
        name: idx_bytes(
            read_idx(originals / name)[kept if name.startswith("train") else slice(None)]
        )
        for name in ORIGINALS
    }


def write(contents: dict[str, bytes], originals: Path, folder: Path) -> None:
    """Write the files and checksums.json, or leave the old ones as they are."""
    files, checksums = {}, {}
    for name, content in contents.items():
        if name.startswith("train"):
            files[name] = gzip.compress(content, compresslevel=9, mtime=0)
        else:
            files[name] = (originals / name).read_bytes()  # the original bytes
        checksums[name] = {
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "content_sha256": hashlib.sha256(content).hexdigest(),
        }
    files["checksums.json"] = (json.dumps(checksums, indent=2) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder, files)


def differences(contents: dict[str, bytes], originals: Path, folder: Path) -> list[str]:
    """What differs: test files by their bytes, training files by their content, the checksums."""
    found = []
    for name, content in contents.items():
        try:
            packed = (folder / name).read_bytes()
            unpacked = gzip.decompress(packed)
            listed = json.loads((folder / "checksums.json").read_text())[name]
        except (OSError, EOFError, ValueError, KeyError) as error:
            found.append(f"{name} cannot be read: {error}")
            continue
        if unpacked != content:
            found.append(f"{name} holds other bytes than the originals give")
        if not name.startswith("train") and packed != (originals / name).read_bytes():
            found.append(f"{name} is not the original file")
        sums = (hashlib.sha256(packed).hexdigest(), hashlib.sha256(unpacked).hexdigest())
        if sums != (listed["sha256"], listed["content_sha256"]):
            found.append(f"{name} does not match checksums.json")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rebuild or check the embedded Fashion-MNIST.")
    parser.add_argument("originals", nargs="?", type=Path, default=DEBIAN)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--embedded", type=Path, default=EMBEDDED, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        contents = rebuild(options.originals)
    except (OSError, ValueError) as error:
        print(f"cannot rebuild from {options.originals}: {error}", file=sys.stderr)
        return 2
    if not options.check:
        write(contents, options.originals, options.embedded)
    found = differences(contents, options.originals, options.embedded)
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{options.embedded.name}: 20,000 training and 10,000 test images, identical")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
