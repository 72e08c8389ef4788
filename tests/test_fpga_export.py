"""The export folder: what is written reads back, and any damage is found and named."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fpga_networks import integer_models, random_codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.fpga import folder, onnx_file
from helpers.fpga.datapath import Datapath
from helpers.fpga.export import export, load, load_golden, verify
from helpers.fpga.integer_model import IntegerLayer, IntegerModel


def small_model():
    grid = {"scale": 0.5, "zero_point": -128}
    return IntegerModel(
        (
            IntegerLayer("input", "input", (), (1, 4, 4), 0.25, 3),
            IntegerLayer(
                "features.conv", "conv", ("input",), (2, 3, 3), **grid,
                weight=np.array([[[[1, -2], [3, -4]]], [[[-7, 7], [0, 5]]]], np.int8),
                weight_scale=np.array([0.5, 0.3]), weight_bits=4,
                bias=np.array([-9, 100], np.int32), kernel=(2, 2),
            ),
            IntegerLayer("flatten", "flatten", ("features.conv",), (18,), **grid),
            IntegerLayer(
                "fc", "linear", ("flatten",), (3,), 1.5, -4,
                weight=np.arange(54, dtype=np.int8).reshape(3, 18) - 27,
                weight_scale=np.full(3, 0.01), bias=np.array([1, -2, 3], np.int32),
            ),
        )
    )  # fmt: skip


@pytest.fixture
def exported(tmp_path):
    model = small_model()
    return model, export(model, tmp_path / "out", golden_inputs=random_codes(model, 3, 0))


def test_an_export_reads_back_as_the_same_model(exported):
    model, root = exported
    found = load(root)
    verify(root, model)
    golden = load_golden(root)
    for mode in ("half_up", "half_even", "onnxruntime"):
        logits = Datapath(found, rounding=mode).run(golden["inputs"])
        np.testing.assert_array_equal(logits, golden[mode])
        np.testing.assert_array_equal(logits, Datapath(model, rounding=mode).run(golden["inputs"]))
    assert "shift" not in golden  # its factors are no powers of two
    assert sorted(p.name for p in root.parent.iterdir()) == ["out"]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.one_of(integer_models(), integer_models(power_of_two=True)), st.integers(12, 31))
def test_random_networks_survive_the_folder(tmp_path_factory, model, bits):
    codes = random_codes(model, 2, 0)
    root = tmp_path_factory.mktemp("export") / "model"
    export(model, root, golden_inputs=codes, multiplier_bits=bits)
    np.testing.assert_array_equal(Datapath(load(root)).run(codes), Datapath(model).run(codes))


def test_the_memory_files_are_what_the_tools_read(exported):
    _, root = exported
    words = (root / "memories/features.conv.weight.mem").read_text().splitlines()[1:]
    assert words == ["1", "e", "3", "c", "9", "7", "0", "5"]  # 4-bit two's complement
    assert (root / "memories/features.conv.bias.mem").read_text().split()[-2:] == [
        "fffffff7",
        "00000064",
    ]
    coe = (root / "memories/features.conv.weight.coe").read_text()
    assert coe.endswith("memory_initialization_vector=\n1,\ne,\n3,\nc,\n9,\n7,\n0,\n5;\n")
    assert (root / "memories/features.conv.bias.mi").read_text().splitlines() == [
        "#File_format=Hex", "#Address_depth=2", "#Data_width=32", "fffffff7", "00000064",
    ]  # fmt: skip
    header = (root / "weights.h").read_text()
    assert (
        "static const int8_t features_conv_weight[8] = {\n    1, -2, 3, -4, -7, 7, 0, 5,\n};"
        in header
    )
    golden = load_golden(root)
    stored = (root / "memories/golden_fc.mem").read_text().splitlines()[1:]
    assert stored == [f"{code & 0xFF:02x}" for code in golden["half_up"][0].tolist()]


def every_file(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_a_flipped_byte_in_any_file_is_found_and_the_file_named(exported):
    _, root = exported
    names = every_file(root)
    assert {"model.json", "weights.npz", "weights.h", "model.onnx", "golden.npz"} < set(names)
    for name in names:
        content = (root / name).read_bytes()
        for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
            damaged = bytearray(content)
            damaged[place] ^= 0x01
            (root / name).write_bytes(bytes(damaged))
            with pytest.raises(ValueError, match=re.escape(str(root / name))):
                load(root)
        (root / name).write_bytes(content)
    load(root)


def test_a_missing_or_an_extra_file_is_named(exported):
    _, root = exported
    for name in every_file(root):
        content = (root / name).read_bytes()
        (root / name).unlink()
        with pytest.raises(ValueError, match=re.escape(str(root / name)) + ".*missing"):
            load(root)
        (root / name).write_bytes(content)
    (root / "memories" / "extra.mem").write_text("00\n")
    with pytest.raises(ValueError, match=r"extra\.mem: not listed"):
        load(root)
    with pytest.raises(ValueError, match="is no export folder"):
        load(root / "nothing")


def rewrite(root, change):
    """Change the manifest and make all checksums fit again, as a wrong program would."""
    manifest = json.loads((root / "model.json").read_text())
    change(manifest)
    for name in manifest["files"]:
        manifest["files"][name] = folder.sha256((root / name).read_bytes())
    (root / "model.json").write_text(folder.manifest_text(manifest))


def layer_of(manifest, index):
    return manifest["layers"][index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema="other"), "schema must be 'integer-model'"),
        (lambda m: m.update(version=2), "version 2, this code reads 1"),
        (lambda m: layer_of(m, 1).update(op="softmax"), "features.conv.*unknown operator"),
        (lambda m: layer_of(m, 1).update(shape=[2, 4, 4]), r"shape must be \(2, 3, 3\)"),
        (lambda m: layer_of(m, 1).update(zero_point=200), "zero_point <= high <= 127"),
        (lambda m: layer_of(m, 1).update(scale=-1.0), "scale must be positive"),
        (lambda m: layer_of(m, 1).update(weight_bits=3), r"weights of 3 bits must lie in -3\.\.3"),
        (lambda m: layer_of(m, 1).update(inputs=["nobody"]), "which no earlier layer produces"),
        (lambda m: layer_of(m, 1).update(stride=[0, 1]), "stride must be two integers"),
        (lambda m: layer_of(m, 1).pop("kernel"), "layer fields must be"),
        (lambda m: m["layers"].pop(0), "first layer .* must be its input"),
        (lambda m: m["layers"].pop(), "holds arrays of no layer: fc"),
    ],
)
def test_a_wrong_manifest_with_fitting_checksums_is_refused(exported, change, message):
    _, root = exported
    rewrite(root, change)
    with pytest.raises(ValueError, match=message):
        load(root)


def test_pickled_weights_are_not_read(exported):
    _, root = exported
    np.savez(root / "weights.npz", evil=np.array([{"a": 1}], dtype=object))
    rewrite(root, lambda m: None)
    with pytest.raises(ValueError, match=r"weights\.npz: damaged.*allow_pickle"):
        load(root)


def test_files_that_do_not_belong_to_the_model_are_found(exported):
    """Checksums fit, but a memory, the header, ONNX file or golden vectors are another model's."""
    model, root = exported
    for name, old, new in [
        ("memories/fc.weight.mem", "e5", "e6"),
        ("memories/fc.weight.coe", "e5", "e6"),
        ("memories/fc.weight.mi", "e5", "e6"),
        ("memories/golden_fc.mem", "\n", "\n "),
        ("weights.h", "-27", "-26"),
    ]:
        content = (root / name).read_text()
        (root / name).write_text(
            content.replace(old, new, 1) if "golden" not in name else content + "00\n"
        )
        rewrite(root, lambda m: None)
        with pytest.raises(ValueError, match=re.escape(name.split("/")[-1])):
            verify(root, model)
        (root / name).write_text(content)
    other = IntegerModel((*model.layers[:-1], replace(model.output, zero_point=-5)))
    content = (root / "model.onnx").read_bytes()
    (root / "model.onnx").write_bytes(onnx_file.to_onnx(other).SerializeToString())
    rewrite(root, lambda m: None)
    with pytest.raises(ValueError, match=r"model\.onnx: the array 'fc:zero_point' differs"):
        verify(root, model)
    (root / "model.onnx").write_bytes(content)
    rewrite(root, lambda m: None)
    verify(root, model)
    with pytest.raises(ValueError, match=r"zero_point of fc differs"):
        verify(root, other)


def test_without_onnx_the_folder_says_so(tmp_path, monkeypatch):
    model = small_model()
    monkeypatch.setattr(onnx_file, "available", lambda: False)
    root = export(model, tmp_path / "out", golden_inputs=random_codes(model, 1, 0))
    assert not (root / "model.onnx").exists()
    assert "not installed" in json.loads((root / "model.json").read_text())["onnx"]
    assert load(root).output.name == "fc"


def test_a_failure_leaves_the_old_folder_and_nothing_else(exported, monkeypatch):
    model, root = exported
    before = {name: (root / name).read_bytes() for name in every_file(root)}

    def fail(*_):
        raise ValueError("broken")

    monkeypatch.setattr("helpers.fpga.export.verify", fail)
    with pytest.raises(ValueError, match="broken"):
        export(model, root, golden_inputs=random_codes(model, 1, 1))
    assert {name: (root / name).read_bytes() for name in every_file(root)} == before
    assert [p.name for p in root.parent.iterdir()] == ["out"]


def test_export_refuses_bad_input(tmp_path):
    model = small_model()
    codes = random_codes(model, 1, 0)
    with pytest.raises(ValueError, match="at least one image"):
        export(model, tmp_path / "a", golden_inputs=codes[:0])
    with pytest.raises(ValueError, match="int8"):
        export(model, tmp_path / "a", golden_inputs=codes.astype(np.int32))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(ValueError, match="left alone"):
        export(model, tmp_path / "mine", golden_inputs=codes)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
