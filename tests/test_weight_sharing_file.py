"""The compressed file: bit for bit back, every byte named, anything else refused."""

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bitarray.util import huffman_code
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn
from torch.nn.utils import parametrize

from helpers import models
from helpers.weight_sharing import codebook, file, records

TINY = {
    "LeNet300100": {"in_features": 4, "classes": 1},
    "LeNet5": {"in_channels": 1, "size": 16, "classes": 2},
    "StandardCNN": {"in_channels": 1, "size": 8, "classes": 2, "channels": [3, 1], "hidden": [1]},
    "SeparableCNN": {"in_channels": 1, "classes": 2, "widths": [3, 4], "pools": 1},
    "VGGSmall": {"in_channels": 1, "size": 8, "classes": 2, "channels": [2, 3], "hidden": 4},
}
INPUTS = {"LeNet300100": (1, 2, 2), "LeNet5": (1, 16, 16)}


def network(name: str = "SeparableCNN", *, density: float = 0.3, levels: int = 4) -> nn.Module:
    """A small network whose weights are pruned by size and rounded to a few levels; 0 for "not"."""
    torch.manual_seed(1)
    model = getattr(models, name)(**TINY[name]).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim >= 2:
                if levels:
                    value.copy_(((value / value.abs().max() * levels).floor() + 0.5) / 7)
                if density:
                    value[torch.rand(value.shape) >= density] = 0.0
            elif "bn" in key:
                value.uniform_(0.5, 1.5)
    for key, value in model.named_buffers():
        value.copy_(torch.tensor(7) if key.endswith("tracked") else torch.rand(value.shape))
    return model


def written(path: Path, model: nn.Module, **options: bool) -> bytes:
    size = file.write(path, model, sizes=TINY[type(model).__name__], **options)
    content = path.read_bytes()
    assert len(content) == size
    return content


def sealed(content: bytes) -> bytes:
    """The content with the checksum and the length that belong to it."""
    content = content[:5] + struct.pack("<I", len(content)) + content[9:-32]
    return content + hashlib.sha256(content).digest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.ncf"


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize(("density", "levels"), [(0, 0), (0.2, 0), (0.2, 3), (0, 3), (0.02, 1)])
@pytest.mark.parametrize("name", TINY)
def test_round_trip(name: str, density: float, levels: int, huffman: bool, path: Path) -> None:
    model = network(name, density=density, levels=levels)
    content = written(path, model, huffman=huffman)
    again = file.read(path)
    assert type(again) is type(model)
    assert not again.training
    for key, value in model.state_dict().items():
        other = again.state_dict()[key]
        assert other.dtype == value.dtype
        assert torch.equal(other, value), key
    x = torch.randn(5, *INPUTS.get(name, (1, 8, 8)))
    assert torch.equal(again(x), model(x))
    assert all(parameter.requires_grad for parameter in again.parameters())
    table = file.accounting(path)
    assert table["total (bytes)"].sum() == len(content)
    assert list(table.columns) == [*file.KINDS, "total (bytes)"]
    assert (table >= 0).all().all()
    if name == "LeNet5" and density and levels:
        dense = 4 * sum(value.numel() for value in model.parameters())
        assert len(content) < dense, "pruned and shared, yet larger than float32"


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("name", ["LeNet300100", "LeNet5"])
def test_layers_that_are_all_zero(name: str, huffman: bool, path: Path) -> None:
    model = network(name)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    written(path, model, huffman=huffman)
    assert all(not value.any() for value in file.read(path).parameters())
    assert file.accounting(path)[["values", "indices", "fillers"]].sum().sum() == 0


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1), (2, 1, 3, 3), (1, 2, 1, 5)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("coder", [records.FIXED, records.HUFFMAN])
def test_records_of_thin_layers(shape: tuple[int, ...], density: float, coder: int) -> None:
    rng = np.random.default_rng(0)
    array = np.where(rng.random(shape) < density, rng.choice([-1.5, 0.1], shape), 0)
    reader = records.Reader(records.encode(array.astype(np.float32), coder=coder))
    assert np.array_equal(records.decode(reader, shape, "values"), array.astype(np.float32))


WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, -0.1, 3e38, 1e-40, 65504.0, 65520.0])
    | st.floats(-1, 1, width=32),
)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, st.sampled_from([records.FIXED, records.HUFFMAN]))
def test_any_record_comes_back_and_every_bit_is_counted(array: np.ndarray, coder: int) -> None:
    content = records.encode(array, coder=coder)
    reader = records.Reader(content)
    again = records.decode(reader, array.shape, "biases")
    assert again.dtype == np.float32
    assert np.array_equal(again, array)
    assert reader.position == len(content)
    assert sum(reader.parts.values()) == 8 * len(content)
    assert min(reader.parts.values()) >= 0
    assert len(content) <= 3 + 4 * array.ndim + 4 * array.size


def test_a_record_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nonzeros 1, 4 and 15 with 3-bit gaps are 2, 3, 8 (filler), 3: the example of the paper."""
    monkeypatch.setattr(records, "GAP_BITS", (3,))
    array = np.zeros((40, 50), dtype=np.float32)
    array.reshape(-1)[[1, 4, 15]] = [0.2, 0.2, 0.1]
    reader = records.Reader(records.encode(array, coder=records.FIXED))
    assert np.array_equal(records.decode(reader, array.shape, "values"), array)
    assert reader.parts == {
        "values": 3 * 2,  # symbols 0 (filler), 1 and 2 in 2 bits
        "indices": 3 * 3,
        "fillers": 2 + 3,
        "codebooks": 2 * 32,
        "descriptions": 8 * (1 + 1 + 8 + 4 + 2 + 1 + 2 + 2),
        "padding": (8 - 4 * 2) + (16 - 4 * 3),
    }


def test_coded_values_take_what_an_independent_code_takes() -> None:
    rng = np.random.default_rng(2)
    array = rng.choice([0, 0.1, 0.2, 0.3], (60, 50), p=[0.0, 0.7, 0.2, 0.1]).astype(np.float32)
    reader = records.Reader(records.encode(array))
    records.decode(reader, array.shape, "values")
    levels, times = (part.tolist() for part in np.unique(array, return_counts=True))
    counts = dict(zip(levels, times, strict=True))
    code = huffman_code(counts)
    assert reader.parts["values"] == sum(len(code[value]) * n for value, n in counts.items())
    assert reader.parts["indices"] == reader.parts["fillers"] == 0, "dense needs no indices"


def test_the_stages_shrink(path: Path) -> None:
    torch.manual_seed(0)
    model = models.LeNet300100(in_features=100, classes=5)
    options = {"sizes": {"in_features": 100, "classes": 5}}
    sizes = [file.write(path, model, **options)]
    with torch.no_grad():
        for layer in (model.fc1, model.fc2, model.fc3):
            layer.weight[torch.rand(layer.weight.shape) > 0.1] = 0
    sizes.append(file.write(path, model, **options, huffman=False))
    with torch.no_grad():
        for layer in (model.fc1, model.fc2, model.fc3):
            layer.weight.copy_((layer.weight * 60).round() / 60 + (layer.weight != 0) * 1e-4)
    sizes.append(file.write(path, model, **options, huffman=False))
    sizes.append(file.write(path, model, **options))
    sizes.append(file.write(path, file.half(model), **options))
    assert sizes == sorted(sizes, reverse=True), sizes
    assert len(set(sizes)) == 5, sizes


def test_half_rounds_every_number_and_changes_no_argument(path: Path) -> None:
    model = network(levels=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rounded = file.half(model)
    written(path, rounded)
    assert file.accounting(path)["biases"].sum() == 2 * sum(
        value.numel() for key, value in before.items() if key.endswith("bias")
    )
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value)
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(rounded.state_dict()[key], expected)
    with pytest.raises(ValueError, match="65504"):
        records.half(np.float32([7e4]))


def test_a_parametrized_network_is_stored_as_what_it_computes(path: Path) -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    model = network()
    expected = 2 * model.fc.weight.detach().clone()
    parametrize.register_parametrization(model.fc, "weight", Doubled())
    written(path, model)
    assert torch.equal(file.read(path).fc.weight, expected)


def test_a_shared_network_is_rounded_with_its_codebooks(path: Path) -> None:
    model = codebook.share(network(levels=0), 2)
    rounded = file.half(model)
    for name, layer in codebook.shared_layers(model).items():
        assert torch.equal(rounded.get_submodule(name).weight, layer.weight().half().float())
    assert codebook.shared_layers(model), "the argument is left as it was"
    content = written(path, model)
    assert len(written(path, rounded)) < len(content)
    assert torch.equal(file.read(path).fc.weight, rounded.fc.weight)


def test_negative_zeros_come_back_as_zeros(path: Path) -> None:
    model = network()
    zeros = model.features.conv1.weight == 0
    with torch.no_grad():
        model.features.conv1.weight[zeros] = -0.0
    assert records.encode(model.features.conv1.weight.detach().numpy())[0] != records.RAW
    written(path, model)
    assert not file.read(path).features.conv1.weight[zeros].signbit().any()


READ = """
import sys, numpy as np, torch
from helpers.weight_sharing import file
x = torch.from_numpy(np.load(sys.argv[2], allow_pickle=False))
np.save(sys.argv[3], file.read(sys.argv[1])(x).detach().numpy())
"""


def test_a_fresh_process_computes_the_same_logits(path: Path, tmp_path: Path) -> None:
    model = network("LeNet5")
    written(path, model)
    x = torch.randn(64, 1, 16, 16)
    names = [str(tmp_path / "x.npy"), str(tmp_path / "logits.npy")]
    np.save(names[0], x.numpy())
    root = Path(file.__file__).parents[2]
    subprocess.run([sys.executable, "-c", READ, str(path), *names], check=True, cwd=root)
    threads = torch.get_num_threads()
    found = np.load(names[1], allow_pickle=False)
    assert found.tobytes() == model(x).detach().numpy().tobytes(), f"{threads} threads here"


def test_a_change_of_any_byte_is_refused(path: Path) -> None:
    content = written(path, network())
    for place in range(len(content)):
        for mask in (1, 0x80, 0xFF):
            changed = bytearray(content)
            changed[place] ^= mask
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=r"network\.ncf: .*\w{4}"):
                file.read(path)


def test_any_other_length_is_refused(path: Path) -> None:
    content = written(path, network())
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"truncated|not a compressed network"):
            file.read(path)
    for more in (b"\0", content):
        path.write_bytes(content + more)
        with pytest.raises(ValueError, match="too long"):
            file.accounting(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    where = tmp_path_factory.mktemp("whole") / "network.ncf"
    return where, written(where, network())


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_forged_checksum_does_not_help(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    """Whatever the bytes say: a whole network, or a ValueError, never another error."""
    where, content = whole
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(9, len(changed) - 33))
        changed[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(40, len(changed) - 32))
        del changed[cut : cut + data.draw(st.integers(0, 40))]
    where.write_bytes(sealed(bytes(changed)))
    try:
        model = file.read(where)
    except ValueError:
        return
    assert all(value.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ({"in_channels": 1, "classes": 2, "widths": [3, 10**8], "pools": 1}, "sizes ask for"),
        ({"in_channels": 1, "classes": 10**30, "widths": [3, 4]}, "sizes do not fit"),
        ({"in_channels": 1, "classes": 2.5, "widths": [3, 4]}, "sizes do not fit"),
        ({"in_channels": 1, "colours": 2}, "sizes do not fit"),
        ({"in_channels": 1, "classes": 3, "widths": [3, 4], "pools": 1}, "needs"),
        ([3], "with its sizes"),
    ],
)
def test_sizes_in_the_file_are_not_believed(sizes, what: str, path: Path) -> None:
    content = written(path, network())
    old = struct.unpack("<H", content[9:11])[0]
    text = json.dumps({"network": "SeparableCNN", "sizes": sizes}).encode()
    path.write_bytes(
        sealed(content[:9] + struct.pack("<H", len(text)) + text + content[11 + old :])
    )
    with pytest.raises(ValueError, match=what):
        file.read(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"network":"Other","sizes":{}}', b"\xff"])
def test_the_description_is_not_believed(text: bytes, path: Path) -> None:
    content = written(path, network())
    old = struct.unpack("<H", content[9:11])[0]
    path.write_bytes(
        sealed(content[:9] + struct.pack("<H", len(text)) + text + content[11 + old :])
    )
    with pytest.raises(ValueError, match=r"description|network must be one of"):
        file.read(path)


def test_versions_and_other_files(path: Path) -> None:
    content = written(path, network())
    path.write_bytes(sealed(content[:4] + b"\2" + content[5:]))
    with pytest.raises(ValueError, match="version 2 of the format, this code reads 1"):
        file.read(path)
    path.write_bytes(b"PK\3\4 an archive")
    with pytest.raises(ValueError, match="not a compressed network"):
        file.read(path)
    with pytest.raises(FileNotFoundError):
        file.read(path.with_name("missing"))


def test_bytes_that_belong_to_no_tensor(path: Path) -> None:
    content = written(path, network())
    path.write_bytes(sealed(content[:-32] + b"\0\0" + content[-32:]))
    with pytest.raises(ValueError, match="2 bytes after the last tensor"):
        file.read(path)


def record(*parts: bytes) -> records.Reader:
    return records.Reader(b"".join(parts))


def test_records_that_do_not_fit_together() -> None:
    shape = struct.pack("<BII", 2, 4, 5)
    sparse, dense, numbers = bytes([2]) + shape, bytes([1]) + shape, bytes([3]) + shape
    book = struct.pack("<HBf", 1, 0, 0.5)
    fixed = bytes([0, 1])
    cases = {
        "the network needs": record(b"\0", struct.pack("<BII", 2, 4, 6)),
        "form 4": record(b"\4", shape),
        "21 entries for 20": record(sparse, struct.pack("<I", 21)),
        "codebooks need 260000": record(dense, struct.pack("<HB", 65000, 0)),
        "number type 3": record(b"\0", shape, b"\3"),
        "not finite": record(dense, struct.pack("<HBf", 1, 0, float("nan"))),
        "coder 2": record(dense, book, bytes([2, 1])),
        "fields of 17": record(dense, book, bytes([0, 17])),
        "symbol 3 is beyond": record(dense, book, bytes([0, 2]), b"\xff" * 5),
        "the padding need 3": record(dense, book, fixed, b"\xff"),
        "no Huffman code": record(dense, book, struct.pack("<BBHI", 1, 1, 3, 0), b"\xe0"),
        "beyond 19": record(sparse, struct.pack("<I", 20), book, fixed, bytes(3), fixed, b"\xff" * 3),
        "floating-point": record(numbers, struct.pack("<IB", 1, 2), bytes(8)),
        "cannot hold 20": record(dense, book, struct.pack("<BBHI", 1, 1, 2, 1), b"\xc0\0"),
    }  # fmt: skip
    for what, reader in cases.items():
        with pytest.raises(ValueError, match=what):
            records.decode(reader, (4, 5), "biases")


def test_what_cannot_be_stored(path: Path) -> None:
    cases: list[tuple[nn.Module, dict, str]] = [
        (nn.Linear(2, 2), {}, "model must be one of LeNet300100, .*, got Linear"),
        (network().double(), {"sizes": TINY["SeparableCNN"]}, "float32 or int64, got float64"),
        (network(), {}, r"sizes give features.conv1.weight the shape \(16, 1, 3, 3\)"),
        (network(), {"sizes": {"widths": []}}, "sizes do not fit SeparableCNN"),
    ]
    broken = network()
    with torch.no_grad():
        broken.fc.bias[0] = float("nan")
    cases.append((broken, {"sizes": TINY["SeparableCNN"]}, "fc.bias: .* not finite"))
    for model, options, what in cases:
        with pytest.raises(ValueError, match=what):
            file.write(path, model, **options)
    assert list(path.parent.iterdir()) == [], "a refused network leaves no file"


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(path, network())

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        written(path, network(levels=2))
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_every_copy_of_a_file_is_the_same(path: Path) -> None:
    assert written(path, network()) == written(path, network())
