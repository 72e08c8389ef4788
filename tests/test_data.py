"""Data sets: shipped bytes, splits, exact normalization, generated stand-ins, and damage.

The network is never used. torchvision's loaders run on small generated files whose checksums stand
in for the published ones, and download from a server on this machine; that the published addresses
still answer is not tested.
"""

import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import pickle
import shutil
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import data
from helpers.food11 import FOOD

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = np.random.default_rng(0)


@pytest.fixture(scope="module")
def fashion() -> data.Dataset:
    return data.load()


def tool():
    spec = importlib.util.spec_from_file_location(
        "fashion_subset", ROOT / "tools/fashion_subset.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------ the embedded set


def test_embedded_splits(fashion):
    sizes = [len(split) for split in (fashion.train, fashion.validation, fashion.test)]
    assert sizes == [18000, 2000, 10000]
    for split in (fashion.train, fashion.validation, fashion.test):
        assert split.x.shape[1:] == (1, 28, 28)
        assert (split.x.dtype, split.y.dtype) == (torch.float32, torch.int64)
        assert split.y.bincount().tolist() == [len(split) // 10] * 10
    assert len(fashion.class_names) == 10
    assert fashion.class_names[9] == "Ankle boot"


def test_normalization_is_exact_and_leaves_hardware_a_subtraction(fashion):
    codes = fashion.pixels(fashion.test.x)
    original = data.read_idx(data.EMBEDDED / "t10k-images-idx3-ubyte.gz")
    assert torch.equal(codes[:, 0], torch.from_numpy(original.copy()))
    assert torch.equal(fashion.test.x, ((codes.double() - 73) / 90).float())
    assert (fashion.mean, fashion.std) == ((73 / 255,), (90 / 255,))
    scale, zero_point = 1 / 90, -55
    quantized = (fashion.test.x.double() / scale).round() + zero_point
    assert torch.equal(quantized, codes.double() - 128)


def test_constants_are_those_of_the_training_pixels(fashion):
    pixels = fashion.pixels(fashion.train.x).double()
    assert pixels.mean().item() == pytest.approx(73, abs=0.5)
    assert pixels.std().item() == pytest.approx(90, abs=0.5)


def test_validation_is_the_last_of_each_class_and_overlaps_nothing():
    y = torch.from_numpy(data.read_idx(data.EMBEDDED / "train-labels-idx1-ubyte.gz").copy())
    x = data.read_idx(data.EMBEDDED / "train-images-idx3-ubyte.gz")
    dataset = data.load(validation=500)
    held = set()
    for label in range(10):
        held |= set(np.flatnonzero(y.numpy() == label)[-50:].tolist())
    kept = [i for i in range(20000) if i not in held]
    assert torch.equal(dataset.validation.y, y[sorted(held)].long())
    assert torch.equal(dataset.train.y, y[kept].long())
    assert np.array_equal(dataset.pixels(dataset.validation.x)[:, 0].numpy(), x[sorted(held)])
    assert np.array_equal(dataset.pixels(dataset.train.x[:100])[:, 0].numpy(), x[kept[:100]])


@pytest.mark.parametrize("count", [10, 13, 999, 1790])
def test_held_out_counts_are_exact_and_in_proportion(count):
    y = torch.arange(1800).remainder(30).div(3, rounding_mode="floor").clamp(max=8)
    sizes = y.bincount()  # 180 each, and 360 of class 8
    mask = data._last_of_each_class(y, count)
    share = y[mask].bincount(minlength=9)
    assert int(mask.sum()) == count
    exact = sizes * count / 1800
    assert (share - exact).abs().max() < 1
    up = share > exact.floor()
    if up.any():  # the largest remainders are rounded up
        assert (exact % 1)[up].min() >= (exact % 1)[~up].max() - 1e-6


def test_licence_and_checksums_ship_with_the_data():
    assert "Zalando SE" in (data.EMBEDDED / "LICENSE").read_text()
    for name, sums in json.loads((data.EMBEDDED / "checksums.json").read_text()).items():
        content = (data.EMBEDDED / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sums["sha256"]
        assert hashlib.sha256(gzip.decompress(content)).hexdigest() == sums["content_sha256"]


def test_the_subset_is_what_the_originals_give(tmp_path, capsys):
    if not data.DEBIAN.is_dir():
        pytest.skip("the original files (Debian's dataset-fashion-mnist) are not installed")
    subset = tool()
    assert subset.main(["--check"]) == 0
    copy = tmp_path / "fashion_mnist"
    shutil.copytree(data.EMBEDDED, copy)
    content = bytearray(gzip.decompress((copy / "train-images-idx3-ubyte.gz").read_bytes()))
    content[5000] ^= 1
    (copy / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(content), 1))
    assert subset.main(["--check", "--embedded", str(copy)]) == 1
    assert "train-images-idx3-ubyte.gz holds other bytes" in capsys.readouterr().err
    assert subset.main(["--check", str(tmp_path / "nowhere")]) == 2


def test_embedded_images_are_the_first_of_each_class():
    """Against the originals, by a loop that shares nothing with the tool."""
    if not data.DEBIAN.is_dir():
        pytest.skip("the original files (Debian's dataset-fashion-mnist) are not installed")
    raw = gzip.decompress((data.DEBIAN / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((data.DEBIAN / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    ours = gzip.decompress((data.EMBEDDED / "train-images-idx3-ubyte.gz").read_bytes())
    counts, place = [0] * 10, 0
    for i, label in enumerate(labels):
        counts[label] += 1
        if counts[label] <= 2000:
            assert ours[16 + 784 * place : 800 + 784 * place] == raw[16 + 784 * i : 800 + 784 * i]
            place += 1
    assert place == 20000
    for stem in ("t10k-images-idx3", "t10k-labels-idx1"):
        name = f"{stem}-ubyte.gz"
        assert (data.DEBIAN / name).read_bytes() == (data.EMBEDDED / name).read_bytes()


def test_a_tampered_embedded_file_is_named(tmp_path, monkeypatch):
    shutil.copytree(data.EMBEDDED, tmp_path / "fashion_mnist")
    monkeypatch.setattr(data, "EMBEDDED", tmp_path / "fashion_mnist")
    labels = tmp_path / "fashion_mnist" / "train-labels-idx1-ubyte.gz"
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz.*sha256 is .*expected"):
        data.load()


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "imagenet"}, "imagenet.*fashion_mnist.*cifar10.*food11.*digits"),
        ({"validation": 9}, "validation.*10 to 19990.*9"),
        ({"validation": 20000}, "validation.*20000"),
        ({"size": 0}, "size.*0"),
        ({"name": "food11", "validation": 5}, "food11.*validation"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        data.load(**arguments)


def test_resized_pixels_stay_whole_codes():
    small = data.load("digits", size=16)
    assert small.train.x.shape[1:] == (1, 16, 16)
    codes = small.pixels(small.train.x)
    mean, std = small.mean[0] * 255, small.std[0] * 255
    assert torch.allclose(small.train.x.double() * std + mean, codes.double(), atol=1e-4)
    constant = data._normalize(
        torch.full((1, 3, 9, 9), 77, dtype=torch.uint8), torch.zeros(1), [0] * 3, [1 / 255] * 3, 4
    )
    assert (constant.x == 77).all()


def test_digits():
    digits = data.load("digits")
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1214, 134, 449]
    from sklearn.datasets import load_digits

    images = load_digits().images
    everything = torch.cat(
        [digits.pixels(s.x) for s in (digits.train, digits.validation, digits.test)]
    )
    assert int(everything.long().sum()) == int(images.sum() * 15)
    assert digits.train.x.mean().abs() < 0.02
    assert digits.train.x.std() == pytest.approx(1, abs=0.02)


# ------------------------------------------------------------------ IDX files


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def mnist_files(folder: Path, train: int = 60, test: int = 20, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", train), ("t10k", test)):
        images = GENERATOR.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{stem}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "mnist", "mnist/MNIST/raw", "MNIST/raw"])
def test_mnist_files_are_found_where_people_put_them(tmp_path, place, packed):
    folder = mnist_files(tmp_path / place, packed=packed)
    dataset = data.load("mnist", root=tmp_path, validation=20, download=False)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [40, 20, 20]
    suffix = ".gz" if packed else ""
    expected = data.read_idx(folder / f"t10k-images-idx3-ubyte{suffix}")
    assert np.array_equal(dataset.pixels(dataset.test.x)[:, 0].numpy(), expected)


def test_full_fashion_mnist():
    if not data.DEBIAN.is_dir():
        pytest.skip("the original files (Debian's dataset-fashion-mnist) are not installed")
    full = data.load("fashion_mnist_full", root="/nowhere", download=False)
    assert [len(s) for s in (full.train, full.validation, full.test)] == [54000, 6000, 10000]
    assert full.train.x.mean().abs() < 0.01


IMAGES = idx(np.zeros((3, 2, 2), np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.gz", gzip.compress(IMAGES)[:-9], "whole gzip"),
        ("a.gz", gzip.compress(IMAGES)[:-4] + b"abcd", "whole gzip"),
        ("a.gz", IMAGES, "whole gzip"),
        ("a", IMAGES[:-1], r"28 bytes for shape \(3, 2, 2\), got 27"),
        ("a", IMAGES + b"x", "28 bytes.*got 29"),
        ("a", IMAGES[:9], "header of 16"),
        ("a", b"", "nothing"),
        ("a", b"\x00\x00\x0d" + IMAGES[3:], "00 00 0d"),
        ("a", b"<html>not found</html>", "3c 68 74 6d"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, name, content, named):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name}: expected.*{named}"):
        data.read_idx(tmp_path / name)


def test_labels_must_belong_to_the_images(tmp_path):
    folder = mnist_files(tmp_path)
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(59, np.uint8))))
    with pytest.raises(ValueError, match=r"train-labels.*one label for each image"):
        data.load("mnist", root=tmp_path)
    path.write_bytes(gzip.compress(idx(np.full(60, 12, np.uint8))))
    with pytest.raises(ValueError, match=r"train-labels.*0 to 9, got 12"):
        data.load("mnist", root=tmp_path)


# ------------------------------------------------------------------ torchvision's sets


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server(tmp_path):
    """A folder, and the address at which a web server on this machine offers it."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def cifar_archive(monkeypatch, server: tuple[Path, str], kind: str) -> Path:
    """A small archive in CIFAR's format, and torchvision told its checksums and address."""
    from torchvision import datasets

    cls = getattr(datasets, kind)
    classes, key = (10, "labels") if kind == "CIFAR10" else (100, "fine_labels")
    files, per_file = {}, classes * 2
    for attribute in ("train_list", "test_list"):
        listed = []
        for file, _ in getattr(cls, attribute):
            pixels = GENERATOR.integers(0, 256, (per_file, 3072), dtype=np.uint8)
            labels = [i % classes for i in range(per_file)]
            files[file] = pickle.dumps({"data": pixels, key: labels})
            listed.append([file, md5(files[file])])
        monkeypatch.setattr(cls, attribute, listed)
    names = [f"class{i}" for i in range(classes)]
    files[cls.meta["filename"]] = pickle.dumps({cls.meta["key"]: names})
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(files[cls.meta["filename"]])})
    archive = server[0] / cls.filename
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{cls.base_folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(cls, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setattr(cls, "url", server[1] + archive.name)
    return archive


@pytest.mark.parametrize(
    ("kind", "classes", "train"), [("CIFAR10", 10, 100), ("CIFAR100", 100, 200)]
)
def test_cifar_downloads_and_loads(tmp_path, server, monkeypatch, kind, classes, train):
    archive = cifar_archive(monkeypatch, server, kind)
    root, name = tmp_path / "root", kind.lower()
    dataset = data.load(name, root=root, validation=classes)
    assert len(dataset.train) == train - classes
    assert dataset.test.x.shape == (classes * 2, 3, 32, 32)
    assert dataset.class_names[-1] == f"class{classes - 1}"
    assert [path.name for path in root.iterdir()] == [name]
    with tarfile.open(archive) as tar:  # channels first, as CIFAR stores them
        file = "test_batch" if kind == "CIFAR10" else "test"
        member = tar.extractfile(f"{tar.getnames()[0].split('/')[0]}/{file}")
        stored = pickle.loads(member.read())["data"].reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.pixels(dataset.test.x).numpy(), stored)
    archive.unlink()  # a second call needs no network
    assert torch.equal(data.load(name, root=root, validation=classes).train.x, dataset.train.x)
    batch = next((root / name).rglob("*train*" if classes == 100 else "data_batch_3"))
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{name}.*damaged.*expected"):
        data.load(name, root=root)


def test_svhn_loads_and_puts_zero_first(tmp_path, server, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    listed = {}
    for part, count in (("train", 50), ("test", 20)):
        path = server[0] / f"{part}_32x32.mat"
        pixels = GENERATOR.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1)[:, None]  # SVHN writes 10 for the digit 0
        savemat(path, {"X": pixels, "y": labels})
        listed[part] = [server[1] + path.name, path.name, md5(path.read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    dataset = data.load("svhn", root=tmp_path / "root", validation=10)
    assert dataset.train.x.shape == (40, 3, 32, 32)
    assert dataset.test.y.tolist() == [*range(1, 10), 0] * 2
    assert np.array_equal(
        dataset.pixels(dataset.test.x)[0].numpy(), pixels[..., 0].transpose(2, 0, 1)
    )


def test_mnist_downloads_once(tmp_path, server, monkeypatch):
    from torchvision import datasets

    folder = mnist_files(server[0])
    resources = [(p.name, md5(p.read_bytes())) for p in sorted(folder.iterdir())]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server[1]])
    first = data.load("mnist", root=tmp_path / "root", validation=10)
    shutil.rmtree(folder)
    assert torch.equal(
        data.load("mnist", root=tmp_path / "root", validation=10).test.x, first.test.x
    )


def test_a_failed_or_truncated_download_leaves_nothing(tmp_path, server, monkeypatch):
    archive = cifar_archive(monkeypatch, server, "CIFAR10")
    root = tmp_path / "root"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(
        RuntimeError, match=r"cifar10 could not be downloaded.*Offline: put.*cifar10"
    ):
        data.load("cifar10", root=root)
    assert list(root.iterdir()) == []
    archive.unlink()
    with pytest.raises(RuntimeError, match=r"Offline.*load\('fashion_mnist'\)"):
        data.load("cifar10", root=root)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn"])
def test_without_download_the_message_says_what_to_put_where(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"put .* into {tmp_path / name}.*fashion_mnist"):
        data.load(name, root=tmp_path, download=False)
    (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / name}: expected"):
        data.load(name, root=tmp_path)


def test_torchvision_is_imported_only_where_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it now raises
    assert len(data.load("digits").class_names) == 10
    assert len(data.load().test) == 10000


# ------------------------------------------------------------------ Food-11


def jpeg(color: tuple[int, int, int], side: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), color).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def food_files(last: str = "evaluation") -> dict[str, bytes]:
    files = {}
    for part, per_class in (("training", 2), ("validation", 1), (last, 1)):
        for label in range(11):
            for n in range(per_class):
                files[f"{part}/{label}_{n}.jpg"] = jpeg((20 * label, 100, 10 + n))
    return files


def as_folder(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def as_zip(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("last", ["evaluation", "testing"])
@pytest.mark.parametrize("store", ["folder", "zip", "nested zip", "in root", "zip in root"])
def test_food11(tmp_path, store, last):
    files = {**food_files(last), "training/.DS_Store": b"x", "readme.txt": b"x"}
    if store == "nested zip":
        files = {f"food-11/{name}": content for name, content in files.items()}
    if "zip" in store:
        root = as_zip(files, tmp_path / "food-11.zip")
    else:
        root = as_folder(files, tmp_path / "food-11")
    food = data.load("food11", root=tmp_path if "in root" in store else root, size=8)
    assert [len(s) for s in (food.train, food.validation, food.test)] == [22, 11, 11]
    assert food.train.y.tolist() == [label for label in range(11) for _ in range(2)]
    assert food.class_names == FOOD
    assert food.test.x.shape == (11, 3, 8, 8)
    red = food.pixels(food.test.x)[:, 0].float().mean((1, 2))
    assert torch.allclose(red, torch.arange(11) * 20.0, atol=4)
    assert [path.name for path in tmp_path.iterdir()] == [root.name]  # nothing was unpacked


def test_food11_default_size_and_unlabelled_testing_images(tmp_path):
    files = {k: v for k, v in food_files().items() if not k.startswith("evaluation")}
    files |= {f"testing/{n:04}.jpg": jpeg((n, n, n)) for n in range(3)}
    food = data.load("food11", root=as_folder(files, tmp_path))
    assert food.train.x.shape[1:] == (3, 128, 128)
    assert food.test.y.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("name", ["x_1.jpg", "11_1.jpg", "-1_1.jpg", "12.jpg", "1_a.jpg", "1_.png"])
def test_a_wrong_label_in_a_file_name_is_named(tmp_path, name):
    files = {**food_files(), f"training/{name}": jpeg((0, 0, 0))}
    for root in (as_folder(files, tmp_path / "food"), as_zip(files, tmp_path / "food.zip")):
        with pytest.raises(ValueError, match=f"training/{name}.*label from 0 to 10"):
            data.load("food11", root=root, size=4)


@pytest.mark.parametrize(
    "name",
    [
        "../training/0_9.jpg",
        "/training/0_9.jpg",
        "training/../../0_9.jpg",
        "..\\evil.txt",
        "C:/evil",
    ],
)
def test_escaping_zip_members_are_refused_before_anything_is_read(tmp_path, monkeypatch, name):
    root = as_zip({**food_files(), name: b"x"}, tmp_path / "food.zip")
    read = []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *a: read.append(a))
    with pytest.raises(ValueError, match=r"refused.*points outside"):
        data.load("food11", root=root, size=4)
    assert read == []
    assert [path.name for path in tmp_path.iterdir()] == ["food.zip"]


def test_damaged_food11_is_named(tmp_path):
    files = {**food_files(), "training/3_7.jpg": jpeg((1, 2, 3))[:-300]}
    with pytest.raises(ValueError, match=r"training/3_7\.jpg.*not a whole image"):
        data.load("food11", root=as_folder(files, tmp_path / "a"), size=4)
    whole = as_zip(food_files(), tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-200])
    with pytest.raises(ValueError, match=r"cut\.zip.*whole"):
        data.load("food11", root=tmp_path / "cut.zip", size=4)
    changed = bytearray(whole)
    changed[200] ^= 255
    (tmp_path / "changed.zip").write_bytes(changed)
    with pytest.raises(ValueError, match=r"changed\.zip"):
        data.load("food11", root=tmp_path / "changed.zip", size=4)
    some = {k: v for k, v in food_files().items() if not k.startswith("validation")}
    with pytest.raises(FileNotFoundError, match="images in validation/"):
        data.load("food11", root=as_zip(some, tmp_path / "some.zip"), size=4)
    with pytest.raises(FileNotFoundError, match=r"food11 is not in .*LABEL_NUMBER"):
        data.load("food11", root=tmp_path / "nowhere")


def test_a_balanced_part_has_equally_many_of_each_class():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    whole = data.Split(torch.arange(9).float().reshape(-1, 1, 1, 1), labels)
    part = data.balanced(whole, 6)
    assert part.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert part.x.flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert data.balanced(whole, 3, skip=6).x.flatten().tolist() == [6, 7, 8]
    for count, skip in ((2, 0), (12, 0), (3, 9)):
        with pytest.raises(ValueError, match="at least 3"):
            data.balanced(whole, count, skip=skip)
