"""A compressed network in one file, which says all that is needed to build the network again.

    magic, version, length of the file                     header
    network and sizes, as JSON, with its length            header
    one record for each tensor of the network, in order    see `records`
    sha256 of everything before                            checksum

The names of the tensors are those of the network's state, so the file does not repeat them. The
weights come back bit for bit (a weight of -0.0 as 0.0), so the logits do too.

Chapter: 05_weight_sharing.
"""

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from helpers import models
from helpers.files import write_whole
from helpers.weight_sharing import codebook, records

MAGIC = b"NCF5"
VERSION = 1
LARGEST = 1 << 26  # numbers in a network that a file may ask for: 256 MiB as float32
KINDS = (
    "values", "indices", "fillers", "codebooks", "code tables", "biases", "other tensors",
    "descriptions", "header", "checksum", "padding",
)  # fmt: skip


def write(
    path: str | Path,
    model: nn.Module,
    *,
    sizes: Mapping[str, Any] | None = None,
    huffman: bool = True,
) -> int:
    """Store a network of `helpers.models` in `path` and return the file's bytes.

    Each weight takes its shortest form: pruned weights only their nonzeros, shared ones a codebook;
    nothing is rounded here. `sizes` are the arguments the network was made with (default: those of
    `models.small`). With `huffman=False`, symbols and gaps are fields of equal width. The file is
    read back and compared before it gets its name, so a file under that name is always whole.

    Raises ValueError for a network that is not one of `helpers.models`, for sizes that do not fit
    it, and for weights that are not finite or not float32.
    """
    network = type(model).__name__
    if network not in models.SMALL:
        raise ValueError(f"model must be one of {', '.join(models.SMALL)}, got {network}")
    sizes = dict(models.SMALL[network] if sizes is None else sizes)
    coder = records.HUFFMAN if huffman else records.FIXED
    state, body = {}, []
    for name, shape in _shapes(network, sizes).items():
        value = state[name] = _tensor(model, name)
        if value.shape != shape:
            raise ValueError(f"sizes give {name} the shape {shape}, it has {tuple(value.shape)}")
        try:
            body.append(records.encode(value.numpy(), coder=coder))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    description = json.dumps({"network": network, "sizes": sizes}, separators=(",", ":")).encode()
    front = struct.pack("<H", len(description)) + description + b"".join(body)
    length = len(MAGIC) + 5 + len(front) + 32
    content = MAGIC + struct.pack("<BI", VERSION, length) + front
    content += hashlib.sha256(content).digest()
    again = _parse(content)[0].state_dict()
    if any(not torch.equal(again[name], value) for name, value in state.items()):
        raise AssertionError("the file does not give the same weights back")
    write_whole(Path(path).parent, {Path(path).name: content})
    return length


def read(path: str | Path) -> nn.Module:
    """The network in a file of `write`, in eval mode, built from the file alone.

    Raises ValueError, naming the file and what is wrong, for anything else than such a file:
    truncated, longer, changed in any byte, or made to ask for what does not fit together.
    """
    return _open(path)[0].eval()


def accounting(path: str | Path) -> pd.DataFrame:
    """What every byte of a file of `write` is for: layers as rows, kinds as columns, in bytes.

    Bits of codes count as eighths of a byte, so "total (bytes)" sums to the file's size exactly.
    "fillers" are the values and gaps of entries that only carry a gap; "descriptions" are forms,
    shapes and counts; "padding" fills up the last bytes. The row "file" is what no layer owns.
    """
    parts = _open(path)[1]
    table = pd.DataFrame(
        [[bits[kind] / 8 for kind in KINDS] for bits in parts.values()],
        index=pd.Index(parts, name="layer"),
        columns=list(KINDS),
    )
    table["total (bytes)"] = table.sum(axis=1)
    return table


def half(model: nn.Module) -> nn.Module:
    """A plain copy whose numbers are rounded to float16: biases, batch norms, weights, codebooks.

    Its file stores them in two bytes each; the arithmetic stays float32. Raises ValueError for
    numbers beyond float16's range.
    """
    model = codebook.plain(model)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(records.half(value.cpu().numpy())))
    return model


def _open(path: str | Path) -> tuple[nn.Module, dict[str, Counter[str]]]:
    try:
        return _parse(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(content: bytes) -> tuple[nn.Module, dict[str, Counter[str]]]:
    """The network and, for each layer and for the file, the bits of each kind."""
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"not a compressed network: it does not begin with {MAGIC!r}")
    reader = records.Reader(content)
    reader.take(len(MAGIC), "header")
    version, length = reader.numbers("BI", "header")
    if version != VERSION:
        raise ValueError(f"version {version} of the format, this code reads {VERSION}")
    if length != len(content):
        wrong = "truncated" if length > len(content) else "too long"
        raise ValueError(f"{wrong}: the header says {length} bytes, the file has {len(content)}")
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise ValueError("damaged: the sha256 at its end does not fit the bytes before")
    reader.content = content[:-32]
    (size,) = reader.numbers("H", "header")
    network, sizes = _description(reader.take(size, "header"))
    parts: dict[str, Counter[str]] = {}
    state = {}
    file, reader.parts = reader.parts, Counter()
    for name, shape in _shapes(network, sizes).items():
        layer, _, leaf = name.rpartition(".")
        reader.parts = parts.setdefault(layer, Counter())
        try:
            array = records.decode(reader, shape, _kind(leaf, shape))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        state[name] = torch.from_numpy(array)
    if reader.position != len(reader.content):
        raise ValueError(f"{len(reader.content) - reader.position} bytes after the last tensor")
    file["checksum"] = 8 * 32
    model = _empty(network, sizes)
    for name, value in model.state_dict().items():
        if state[name].dtype != value.dtype:
            raise ValueError(f"{name}: must be {value.dtype}, got {state[name].dtype}")
    model.load_state_dict(state, assign=True)
    return model, {**parts, "file": file}


def _kind(leaf: str, shape: tuple[int, ...]) -> str:
    """What the numbers of a tensor count as where its record is raw."""
    return "values" if len(shape) > 1 else "biases" if leaf == "bias" else "other tensors"


def _description(content: bytes) -> tuple[str, dict[str, Any]]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"the description is not JSON ({error})") from error
    if not isinstance(found, dict) or sorted(found) != ["network", "sizes"]:
        raise ValueError("the description must hold network and sizes")
    if found["network"] not in tuple(models.SMALL) or not isinstance(found["sizes"], dict):
        raise ValueError(f"network must be one of {', '.join(models.SMALL)}, with its sizes")
    return found["network"], found["sizes"]


def _empty(network: str, sizes: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its numbers (on PyTorch's "meta" device)."""
    try:
        with torch.device("meta"):
            return getattr(models, network)(**sizes)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"sizes do not fit {network}: {error}") from error


def _shapes(network: str, sizes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a network in the order of its state; ValueError where it is too large."""
    shapes = {key: tuple(value.shape) for key, value in _empty(network, sizes).state_dict().items()}
    total = sum(math.prod(shape) for shape in shapes.values())
    if total > LARGEST:
        raise ValueError(f"sizes ask for {total} numbers, at most {LARGEST} are read")
    return shapes


def _tensor(model: nn.Module, name: str) -> Tensor:
    """A tensor of the state by its plain name, also where a parametrization computes it."""
    layer, _, leaf = name.rpartition(".")
    value = getattr(model.get_submodule(layer), leaf, None)
    if not isinstance(value, Tensor):
        raise ValueError(f"model has no tensor {name}")
    return value.detach().cpu()
