"""The starting network, the recipe's table, and the arithmetic of the published numbers."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import cost, data, models, training
from helpers.edge_recipe import pretrained, published, steps, task
from helpers.edge_recipe.published import Interval
from helpers.files import write_whole
from helpers.quantization import fold_batch_norm, quantize_network

# --- the starting network


def test_the_checkpoint_is_what_its_card_says() -> None:
    model, card = pretrained.load(), pretrained.card()
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == card["parameters"] == 31_878
    images = data.load()
    held = task.only(images.validation, task.source_classes())
    assert abs(training.evaluate(model, held) - card["validation_accuracy"]) < 0.005


def test_the_network_has_the_size_that_its_docstring_says() -> None:
    assert cost.count(pretrained.network(6), (1, 28, 28)).macs == 767_160
    one, two = pretrained.network(6, 1), pretrained.network(6, 1)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_network_written_is_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "new")
    with pytest.raises(
        FileNotFoundError, match=r"python -m helpers\.edge_recipe\.pretrained --write"
    ):
        pretrained.card()
    model = pretrained.network(6, 3)
    pretrained.write(model, {"validation_accuracy": 0.5})
    for key, value in pretrained.load().state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert sorted(p.suffix for p in (tmp_path / "new").iterdir()) == [".json", ".safetensors"]


def test_damage_is_noticed_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    pretrained.write(pretrained.network(6), {})
    path = tmp_path / f"{pretrained.NAME}.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    write_whole(tmp_path, {path.name: bytes(content)})
    with pytest.raises(ValueError, match="safetensors: damaged, its sha256"):
        pretrained.load()
    (tmp_path / f"{pretrained.NAME}.json").write_text(json.dumps(["no card"]))
    with pytest.raises(ValueError, match=r"json: damaged"):
        pretrained.load()


# --- the table


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = models.EdgeNet(in_channels=1, classes=3, first=4, first_stride=1, blocks=((6, 2),))
    return network.eval()


def noise() -> torch.Tensor:
    return torch.randn(20, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def test_a_float_row_agrees_with_the_folded_network(model: nn.Module) -> None:
    row = steps.step("float", model, (1, 12, 12), accuracy=0.5)
    folded = fold_batch_norm(model)
    assert row.parameters == sum(p.numel() for p in folded.parameters())
    assert row.macs == cost.count(model, (1, 12, 12)).macs
    assert (row.bytes, row.bits) == (4 * row.parameters, 32)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_an_integer_row_counts_codes_and_int32_biases(model: nn.Module, bits: int) -> None:
    quantized = quantize_network(model, noise(), weight_bits=bits)
    row = steps.step("int", quantized, (1, 12, 12), accuracy=0.5)
    plain = steps.step("float", model, (1, 12, 12), accuracy=0.5)
    # conv 4x9, depthwise 4x9, pointwise 6x4, dense 3x6; one bias for each of 4 + 4 + 6 + 3 outputs
    assert (row.weights, row.biases) == (36 + 36 + 24 + 18, 17)
    assert row.bytes == -(-114 * bits // 8) + 68
    assert (row.macs, row.parameters, row.bits) == (plain.macs, plain.parameters, bits)


def test_mixed_bits_are_averaged_over_the_weights(model: nn.Module) -> None:
    quantized = quantize_network(model, noise(), weight_bits={"fc": 4})
    row = steps.step("mixed", quantized, (1, 12, 12), accuracy=0)
    assert row.bits == pytest.approx((96 * 8 + 18 * 4) / 114)
    assert row.bytes == 96 + 9 + 68


def test_edge_net_at_full_size_has_the_published_size() -> None:
    row = steps.step("EdgeNet", models.EdgeNet(), (3, 96, 96), accuracy=0)
    assert (row.macs, row.weights, row.biases) == (8_285_952, 79_752, 1_234)
    assert row.weights + 4 * row.biases == 84_688


def test_rows_that_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="accuracy must be a fraction"):
        steps.step("per cent", model, (1, 12, 12), accuracy=97.05)
    quantized = quantize_network(model, noise())
    with pytest.raises(ValueError, match="input_shape must be"):
        steps.step("other size", quantized, (1, 10, 10), accuracy=0.5)


def test_table_has_a_row_a_step(model: nn.Module) -> None:
    rows = [steps.step(name, model, (1, 12, 12), accuracy=a) for name, a in (("a", 0.5), ("b", 1))]
    table = steps.table(rows)
    assert list(table.index) == ["a", "b"]
    assert table.loc["a", "test accuracy (%)"] == 50.0
    assert table.loc["b", "bytes"] == rows[1].bytes


@given(st.integers(1, 130), st.lists(st.integers(1, 3), max_size=6))
@settings(deadline=None)
def test_map_sides_are_those_of_convolutions(size: int, strides: list[int]) -> None:
    x = torch.empty(1, 1, size, size, device="meta")
    for stride, side in zip(strides, steps.map_sides(size, strides), strict=True):
        x = nn.functional.conv2d(x, torch.empty(1, 1, 3, 3, device="meta"), None, stride, 1)
        assert x.shape[-1] == side


def test_classifier_weights_are_those_of_a_layer() -> None:
    for side in (1, 3, 6):
        flat = nn.Linear(12 * side * side, 10, bias=False).weight.numel()
        assert steps.classifier_weights(12, side, 10, pooled=False) == flat
        assert steps.classifier_weights(12, side, 10, pooled=True) == 120
    with pytest.raises(ValueError, match="side must be at least 1"):
        steps.classifier_weights(12, 0, 10, pooled=True)
    with pytest.raises(ValueError, match="size and strides"):
        steps.map_sides(28, [1, 0])


# --- the published numbers

positive = st.fractions(min_value=Fraction(1, 100), max_value=100)


def interval(numbers: tuple[Fraction, Fraction, Fraction]) -> tuple[Interval, Fraction]:
    """An interval and a number in it."""
    low, middle, high = sorted(numbers)
    return Interval(low, high), middle


@given(st.tuples(positive, positive, positive), st.tuples(positive, positive, positive))
@settings(deadline=None)
def test_intervals_hold_every_result(
    first: tuple[Fraction, Fraction, Fraction], second: tuple[Fraction, Fraction, Fraction]
) -> None:
    (a, x), (b, y) = interval(first), interval(second)
    results = [(a + b, x + y), (a * b, x * y), (a / b, x / y)]
    if a.low >= b.high:
        results.append((a - b, x - y))
    for found, value in results:
        assert found.low <= value <= found.high


def test_interval_ends_are_reached() -> None:
    a, b = Interval(Fraction(2), Fraction(3)), Interval(Fraction(4), Fraction(5))
    assert b - a == Interval(Fraction(1), Fraction(3))
    assert a / b == Interval(Fraction(2, 5), Fraction(3, 4))
    assert a.meets(Interval(Fraction(3), Fraction(9)))
    assert not a.meets(b)
    with pytest.raises(ValueError, match="low <= high"):
        Interval(Fraction(2), Fraction(1))
    with pytest.raises(ValueError, match="must not hold 0"):
        a / Interval(Fraction(0), Fraction(1))


def test_rounded_gives_half_a_unit_either_way() -> None:
    assert published.rounded("366") == Interval(Fraction("365.5"), Fraction("366.5"))
    assert published.rounded("0.079") == Interval(Fraction("0.0785"), Fraction("0.0795"))
    assert published.rounded("0") == Interval(Fraction(0), Fraction("0.5"))


def test_relations_have_the_values_worked_out_by_hand() -> None:
    found = {(r.name, r.formula): r for r in published.relations()}
    expected = {
        ("pruned, float", "static + its loss"): 95.37,
        ("pruned, float", "trained + its loss"): 95.37,
        ("lost by layers, channels, input", "transferred - pruned"): 1.68,
        ("lost in all", "transferred - trained int8"): 2.45,
        ("bytes beside the weights", "size - parameters, KB = 1,000 B"): 4000,
        ("bytes beside the weights", "size - parameters, KB = 1,024 B"): 5992,
        ("block RAM of the device", "46 blocks x 18 Kbit / 8"): 103.5,
        ("throughput", "frame rate x operations"): 6.09024,
        ("efficiency", "throughput / power"): 8.5778,
        ("energy of a frame", "power / frame rate"): 1.9399,
        ("cycles for a frame", "54 MHz / frame rate"): 147540.98,
        ("operations per cycle", "operations / cycles"): 112.782,
        ("MACs per cycle", "operations / 2 / cycles"): 56.391,
        ("efficiency of the i7", "8.57 / 8.24"): 1.04005,
        ("efficiency of the 1080Ti", "8.57 / 47.61"): 0.180004,
        ("efficiency of the 4090", "8.57 / 19.11"): 0.44846,
        ("ceiling of 96 multipliers", "96 x 54 MHz / MACs"): 623.08,
    }
    for key, value in expected.items():
        assert found[key].value == pytest.approx(value, rel=2e-5), key
        assert found[key].low <= found[key].value <= found[key].high, key


def test_only_the_block_ram_does_not_follow() -> None:
    wrong = [(r.name, r.unit) for r in published.relations() if r.follows is False]
    assert wrong == [("block RAM of the device", "KiB")]
    assert all((r.printed is None) == (r.follows is None) for r in published.relations())


def test_a_wrong_digit_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.PRINTED, "frame rate", ("336", "frames/s", False))
    wrong = {r.name for r in published.relations() if r.follows is False}
    assert "efficiency" in wrong
