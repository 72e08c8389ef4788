"""The export folder: one integer model in every form that a tool chain asks for.

    model.json        schema version, layers, shapes, types, scales, memories, checksums of all files
    weights.npz       the integers and scales, read with allow_pickle=False
    memories/*.mem    $readmemh, beside *.coe (Xilinx) and *.mi (Gowin), one per memory
    weights.h         the same memories as C arrays
    model.onnx        QLinearConv and friends; left out, with a note, where onnx is not installed
    golden.npz        input codes and the logit codes of every mode; for testbenches
                      memories/golden_*.mem has every layer's codes of the first image

`export` writes to a temporary name, reads every file back, compares, and only then renames.
`helpers.fpga.folder` reads such a folder.

Chapter: 11_fpga_datapath.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from helpers.fpga import onnx_file
from helpers.fpga.arithmetic import MODES
from helpers.fpga.datapath import Codes, Datapath
from helpers.fpga.folder import (
    ARRAYS,
    PLAIN,
    SCHEMA,
    VERSION,
    load,
    load_golden,
    manifest_text,
    npz,
    read_manifest,
    sha256,
)
from helpers.fpga.integer_model import IntegerModel
from helpers.fpga.memories import (
    FORMATS,
    Memory,
    from_header,
    from_text,
    memories,
    to_header,
    to_text,
)

__all__ = ["export", "verify"]


def export(
    model: IntegerModel,
    folder: str | Path,
    *,
    golden_inputs: Codes,
    rounding: str = "half_up",
    multiplier_bits: int = 16,
) -> Path:
    """Write the folder, read it back, compare, and return its path.

    Args:
        model: the integer model.
        folder: must not exist yet, or be a folder that `export` has written (it is replaced).
        golden_inputs: int8 codes (N, C, H, W), N >= 1, that a testbench feeds in.
        rounding: mode of the datapath whose multipliers and shifts are written.
        multiplier_bits: width of those multipliers.

    Raises:
        ValueError: wrong golden inputs, a folder with other contents, or a file that reads back
            differently. Nothing is left behind under `folder` then.
    """
    target = Path(folder)
    model.check_input(golden_inputs)
    if len(golden_inputs) == 0:
        raise ValueError("golden_inputs must hold at least one image")
    if target.exists() and not (target / "model.json").is_file():
        raise ValueError(f"{target} exists and is no export folder: it is left alone")
    path = Datapath(model, rounding=rounding, multiplier_bits=multiplier_bits)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        _write(path, golden_inputs, temporary)
        verify(temporary, model)
        old = temporary.with_name(temporary.name + "-old")
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def verify(folder: str | Path, model: IntegerModel) -> None:
    """Read every file of a folder back and compare it with `model`; ValueError names the file."""
    root = Path(folder)
    manifest = read_manifest(root)
    _compare(load(root), model, root)
    path = Datapath(
        model, rounding=manifest["rounding"], multiplier_bits=manifest["multiplier_bits"]
    )
    golden = load_golden(root)
    expected = memories(path) + _golden_memories(path, golden["inputs"])
    described = [_describe(memory) for memory in expected]
    if manifest["memories"] != described:
        raise ValueError(f"{root / 'model.json'}: its memories differ from the model's")
    for memory in expected:
        for form in FORMATS:
            where = root / "memories" / f"{memory.name}.{form}"
            if memory.name.startswith("golden_") and form != "mem":
                continue
            try:
                words = from_text(where.read_text(), form, memory.width, memory.signed)
            except (ValueError, OSError) as error:
                raise ValueError(f"{where}: {error}") from error
            if not np.array_equal(words, memory.words):
                raise ValueError(f"{where}: its words differ from the model's")
    header = from_header((root / "weights.h").read_text())
    for memory in memories(path):
        _, values = header.pop(memory.name.replace(".", "_"), ("", np.empty(0)))
        if not np.array_equal(values, memory.words):
            raise ValueError(f"{root / 'weights.h'}: {memory.name} differs from the model's")
    if header:
        raise ValueError(f"{root / 'weights.h'}: unknown arrays {', '.join(header)}")
    for mode, logits in _golden(path, golden["inputs"]).items():
        if not np.array_equal(golden.get(mode, np.empty(0)), logits):
            raise ValueError(f"{root / 'golden.npz'}: {mode} differs from the datapath's logits")
    if manifest["onnx"] == "model.onnx" and onnx_file.available():
        onnx_file.check_file(model, root / "model.onnx")


def _compare(found: IntegerModel, model: IntegerModel, root: Path) -> None:
    if [layer.name for layer in found] != [layer.name for layer in model]:
        raise ValueError(f"{root / 'model.json'}: its layers differ from the model's")
    for a, b in zip(found, model, strict=True):
        for key in PLAIN:
            if getattr(a, key) != getattr(b, key):
                raise ValueError(f"{root / 'model.json'}: {key} of {a.name} differs")
        for key in ARRAYS:
            one, two = getattr(a, key), getattr(b, key)
            if (one is None) != (two is None) or not np.array_equal(one, two):
                raise ValueError(f"{root / 'weights.npz'}: {key} of {a.name} differs")


def _write(path: Datapath, inputs: Codes, root: Path) -> None:
    model = path.model
    arrays = {
        f"{layer.name}.{key}": getattr(layer, key)
        for layer in model
        for key in ARRAYS
        if getattr(layer, key) is not None
    }
    (root / "weights.npz").write_bytes(npz(arrays))
    (root / "golden.npz").write_bytes(npz({"inputs": inputs} | _golden(path, inputs)))
    (root / "memories").mkdir()
    found, golden = memories(path), _golden_memories(path, inputs)
    for memory in found + golden:
        for form in FORMATS if memory in found else ("mem",):
            (root / "memories" / f"{memory.name}.{form}").write_text(to_text(memory, form))
    (root / "weights.h").write_text(to_header(found))
    note = "left out: the package onnx is not installed"
    if onnx_file.available():
        note = "model.onnx"
        (root / note).write_bytes(onnx_file.to_onnx(model).SerializeToString())
    manifest = {
        "schema": SCHEMA,
        "version": VERSION,
        "rounding": path.rounding,
        "multiplier_bits": path.multiplier_bits,
        "onnx": note,
        "layers": [{key: getattr(layer, key) for key in PLAIN} for layer in model],
        "memories": [_describe(memory) for memory in found + golden],
        "files": {
            p.relative_to(root).as_posix(): sha256(p.read_bytes())
            for p in sorted(root.rglob("*"))
            if p.is_file()
        },
    }
    (root / "model.json").write_text(manifest_text(manifest), encoding="utf-8")


def _golden(path: Datapath, inputs: Codes) -> dict[str, Codes]:
    """Logit codes in every mode that the model allows."""
    found: dict[str, Codes] = {}
    for mode in MODES:
        try:
            other = Datapath(path.model, rounding=mode, multiplier_bits=path.multiplier_bits)
        except ValueError:
            if mode != "shift":
                raise
            continue  # only models with power-of-two factors have a shift mode
        found[mode] = other.run(inputs)
    return found


def _golden_memories(path: Datapath, inputs: Codes) -> list[Memory]:
    """Codes of every layer for the first golden image, as a testbench reads them."""
    trace = path.trace(inputs[:1])
    return [
        Memory(f"golden_{n}", 8, True, codes.astype(np.int64).ravel(), "codes of the first image")
        for n, codes in trace.items()
    ]


def _describe(memory: Memory) -> dict[str, Any]:
    return {
        "name": memory.name,
        "width": memory.width,
        "signed": memory.signed,
        "depth": len(memory.words),
        "content": memory.content,
    }
