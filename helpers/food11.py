"""Food-11 from its course layout, a folder or a zip, decoded once into memory.

Chapter: 02_architecture.
"""

import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm.auto import tqdm

FOOD = (
    *("Bread", "Dairy product", "Dessert", "Egg", "Fried food", "Meat"),
    *("Noodles/Pasta", "Rice", "Seafood", "Soup", "Vegetable/Fruit"),
)
_Part = tuple[np.ndarray, list[int]]  # uint8 pixels (N, 3, size, size) and labels


def read_food11(root: Path, size: int) -> list[_Part]:
    """Training, validation and test images, resized to size x size, with their labels.

    `root` is the folder or the .zip that has training/, validation/ and evaluation/ (or testing/),
    perhaps one folder down, or a folder that holds it as food11 or food-11, with .zip or without.
    Files are named LABEL_NUMBER.jpg; those of testing/ may be NUMBER.jpg, and get label -1. A zip
    is read without unpacking anything. The full set has 9,866, 3,430 and 3,347 images.

    Raises FileNotFoundError for what is missing, ValueError naming a bad file or zip member.
    """
    places = [root / f"food{dash}11{end}" for dash in ("", "-") for end in ("", ".zip")]
    if root.suffix == ".zip" or (root / "training").is_dir():
        places.insert(0, root)
    source = next((place for place in places if place.exists()), None)
    if source is None:
        raise FileNotFoundError(
            f"food11 is not in {root}: give root= a folder with training/, validation/ and "
            "evaluation/ (or testing/) of LABEL_NUMBER.jpg files, or a .zip of them"
        )
    if source.is_dir():
        names = [p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()]
        return _decode(
            source, _parts(source, names), lambda name: (source / name).read_bytes(), size
        )
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            for name in names:
                parts = name.replace("\\", "/").split("/")
                if "\\" in name or parts[0] == "" or ":" in parts[0] or ".." in parts:
                    raise ValueError(f"{source}: refused, its member {name!r} points outside of it")
            return _decode(source, _parts(source, names), archive.read, size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{source}: expected a whole, readable zip file, but {error}") from error


def _parts(source: Path, names: list[str]) -> list[list[tuple[int, int, str]]]:
    """The (label, number, name) of each image of each split, sorted; every name is checked."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for name in names:
        path = PurePosixPath(name)
        part = path.parent.name
        if part not in ("training", "validation", "evaluation", "testing"):
            continue
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png") or path.name.startswith("."):
            continue
        match = re.fullmatch(r"(?:([0-9]+)_)?([0-9]+)", path.stem)
        label = int(match[1] or -1) if match else -1
        if match is None or label > 10 or (label < 0 and part != "testing"):
            raise ValueError(
                f"{source}: {name!r} has no valid label in its name; expected LABEL_NUMBER.jpg "
                "with a label from 0 to 10"
            )
        found.setdefault(part, []).append((label, int(match[2]), name))
    wanted = ("training", "validation", "evaluation" if "evaluation" in found else "testing")
    for part in wanted:
        if part not in found:
            raise FileNotFoundError(f"{source}: expected images in {part}/, found none")
    return [sorted(found[part]) for part in wanted]


def _decode(
    source: Path,
    parts: list[list[tuple[int, int, str]]],
    read: Callable[[str], bytes],
    size: int,
) -> list[_Part]:
    from PIL import Image

    def decode(item: tuple[int, int, str]) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(read(item[2]))) as image:
                small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{source}: {item[2]!r} is not a whole image ({error})") from error
        return np.asarray(small).transpose(2, 0, 1)

    decoded = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in parts:
            pixels = np.empty((len(part), 3, size, size), np.uint8)
            images = tqdm(pool.map(decode, part), "food11", len(part), unit="image", leave=False)
            for i, image in enumerate(images):
                pixels[i] = image
            decoded.append((pixels, [label for label, _, _ in part]))
    return decoded
