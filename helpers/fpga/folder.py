"""Reading an export folder: nothing is believed before its checksum and its schema are checked.

Chapter: 11_fpga_datapath.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.fpga.datapath import Codes
from helpers.fpga.integer_model import IntegerLayer, IntegerModel

SCHEMA = "integer-model"
VERSION = 1
ARRAYS = {"weight": np.int8, "weight_scale": np.float64, "bias": np.int32}
PLAIN = [field.name for field in fields(IntegerLayer) if field.name not in ARRAYS]


def load(folder: str | Path) -> IntegerModel:
    """The model of an export folder, after checksums, schema, shapes and ranges are checked.

    Raises:
        ValueError: naming the file, if one is missing, unknown or damaged, or if the schema or the
            model in it is not valid.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    where = root / "weights.npz"
    try:
        with np.load(where, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{where}: damaged ({error})") from error
    layers = []
    for entry in manifest["layers"]:
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()
        }
        if sorted(values) != sorted(PLAIN):
            raise ValueError(f"{root / 'model.json'}: layer fields must be {', '.join(PLAIN)}")
        for key, dtype in ARRAYS.items():
            array = arrays.pop(f"{entry['name']}.{key}", None)
            if array is not None and array.dtype != dtype:
                raise ValueError(f"{where}: {entry['name']}.{key} must be {np.dtype(dtype)}")
            values[key] = array
        layers.append(IntegerLayer(**values))
    if arrays:
        raise ValueError(f"{where}: holds arrays of no layer: {', '.join(sorted(arrays))}")
    try:
        return IntegerModel(tuple(layers))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{root / 'model.json'}: not a valid model: {error}") from error


def load_golden(folder: str | Path) -> dict[str, Codes]:
    """`inputs` and one array of logit codes per rounding mode, all int8, checksums checked."""
    root = Path(folder)
    read_manifest(root)
    with np.load(root / "golden.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def read_manifest(root: Path) -> dict[str, Any]:
    """The contents of model.json, with the checksums of all files compared."""
    where = root / "model.json"
    try:
        content = where.read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(content)
    except FileNotFoundError:
        raise ValueError(f"{where}: missing, so {root} is no export folder") from None
    except ValueError as error:
        raise ValueError(f"{where}: damaged, not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ValueError(f"{where}: schema must be {SCHEMA!r}")
    if manifest.get("version") != VERSION:
        raise ValueError(f"{where}: version {manifest.get('version')!r}, this code reads {VERSION}")
    if content != manifest_text(manifest):
        raise ValueError(f"{where}: damaged, its own checksum does not fit its contents")
    files = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    unknown = sorted(files - set(manifest["files"]) - {"model.json"})
    if unknown:
        raise ValueError(f"{root / unknown[0]}: not listed in model.json")
    for name, digest in manifest["files"].items():
        if name not in files:
            raise ValueError(f"{root / name}: missing")
        if sha256((root / name).read_bytes()) != digest:
            raise ValueError(f"{root / name}: damaged, its sha256 differs from model.json")
    return manifest


def manifest_text(manifest: dict[str, Any]) -> str:
    """model.json as text, one spelling for one content, its own checksum included."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    checksum = sha256(json.dumps(rest, sort_keys=True).encode())
    return json.dumps({"checksum": checksum} | rest, indent=1) + "\n"


def npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """An .npz file's bytes, the same for the same arrays (fixed dates in the archive)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), inner.getvalue()
            )
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    """The SHA-256 checksum of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
