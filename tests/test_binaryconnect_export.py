"""Thresholds, packed bits and the evaluation without multiplications against exact oracles."""

import ast
import copy
import math
from decimal import Decimal, getcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import nn

from helpers import cost
from helpers.binaryconnect import (
    BinaryLinear,
    BinaryMLP,
    IntegerNetwork,
    codes,
    fold,
    integer,
    pack,
    read,
    reestimate_batch_norm,
    run,
    sign,
    signed_sums,
    unpack,
    with_test_rule,
    write,
    xnor_sums,
)
from helpers.binaryconnect.export import first_reached, reaches

settings.register_profile("course", deadline=None)
settings.load_profile("course")
getcontext().prec = 60
SIZES = (21, 13, 9, 5)
SMALL = (5, 6, 4, 3)


def random_network(activation: str, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> BinaryMLP:
    """A network with every kind of batch norm: gammas of both signs and zero, tiny variances."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = BinaryMLP(sizes, activation=activation)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator))
            norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator) / 2)
            norm.weight[0] = 0.0
        model.output.bias.copy_(torch.randn(sizes[-1], generator=generator) / 10)
    x = (torch.from_numpy(random_pixels(300, seed, sizes[0])) - 73.0) / 90
    model = reestimate_batch_norm(model, x)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.running_var[1] = 0.0
    return model


def random_pixels(count: int, seed: int = 0, inputs: int = SIZES[0]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, inputs), dtype=np.uint8)


def exactly(
    model: BinaryMLP, pixels: list[int], zero: int = 73, scale: int = 90
) -> tuple[int, list[list[int]]]:
    """One image through the network in 60-digit decimals: the class and every hidden code."""
    values = [Decimal(p - zero) / Decimal(scale) for p in pixels]
    hidden = []
    children = list(model.hidden)[1:]
    for layer, norm, step in zip(children[0::3], children[1::3], children[2::3], strict=True):
        signs = sign(layer.weight.detach()).int().tolist()
        sums = [sum(s * v for s, v in zip(row, values, strict=True)) for row in signs]
        terms = [
            t.detach().double().tolist()
            for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        ]
        outputs = [
            Decimal(g) * (x - Decimal(m)) / (Decimal(v) + Decimal(norm.eps)).sqrt() + Decimal(b)
            for x, g, b, m, v in zip(sums, *terms, strict=True)
        ]
        found = [sum(y >= Decimal(edge) for edge in step.edges) for y in outputs]
        hidden.append(found)
        values = [
            Decimal(c) * Decimal(step.step) if hasattr(step, "step") else Decimal(2 * c - 1)
            for c in found
        ]
    signs = sign(model.output.weight.detach()).int().tolist()
    scores = [
        sum(s * v for s, v in zip(row, values, strict=True)) / Decimal(model.output.divisor)
        + Decimal(b)
        for row, b in zip(signs, model.output.bias.tolist(), strict=True)
    ]
    return max(range(len(scores)), key=lambda k: (scores[k], -k)), hidden


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40), st.integers(1, 6))
def test_sums_are_products_with_signs(seed: int, images: int, inputs: int, outputs: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.choice((-1, 1), (outputs, inputs))
    values = generator.integers(0, 256, (images, inputs), dtype=np.uint8)
    sums = signed_sums(pack(weights), values)
    assert sums.dtype == np.int32
    assert np.array_equal(sums, values.astype(np.int64) @ weights.T)
    signs = generator.choice((-1, 1), (images, inputs))
    expected = signs @ weights.T
    assert np.array_equal(signed_sums(pack(weights), signs), expected)
    assert np.array_equal(xnor_sums(pack(weights), pack(signs), inputs), expected)


def test_popcounts_of_long_rows() -> None:
    ones = pack(np.ones((1, 1000), dtype=int))
    assert xnor_sums(ones, pack(-np.ones((1, 1000), dtype=int)), 1000).tolist() == [[-1000]]
    assert xnor_sums(ones, ones, 1000).tolist() == [[1000]]


def test_bits_golden() -> None:
    values = np.array([[1, -1, -1, 1, 1, 1, -1, 1, 1, -1]])
    assert pack(values).tolist() == [[0b10011101, 0b10000000]]
    assert unpack(pack(values), 10).tolist() == [(values[0] > 0).tolist()]
    assert [integer.POPULATION[i] for i in (0, 1, 3, 128, 255)] == [0, 1, 2, 1, 8]


@pytest.mark.parametrize("bad", [0, 2, 0.5, float("nan")])
def test_what_is_not_a_sign_is_not_packed(bad: float) -> None:
    with pytest.raises(ValueError, match=r"values must be \+1 or -1"):
        pack(np.array([[1, -1, bad]]))


def test_codes_count_thresholds_reached() -> None:
    sums = np.array([[-4, 3], [-3, 4], [5, 9]], dtype=np.int32)
    thresholds = np.array([[-3, 0, 5], [4, 4, 10]])
    assert codes(sums, thresholds).tolist() == [[0, 0], [1, 2], [3, 2]]


@given(st.integers(-30, 30), st.integers(0, 40), st.integers(-40, 60))
def test_first_reached(low: int, width: int, edge: int) -> None:
    high = low + width
    expected = next((s for s in range(low, high + 1) if s >= edge), high + 1)
    assert first_reached(lambda s: s >= edge, low, high) == expected


numbers = st.fractions(-4, 4, max_denominator=8)


@given(
    numbers,
    numbers,
    numbers,
    numbers,
    numbers,
    st.fractions(Fraction(1, 16), 9, max_denominator=16),
)
def test_reaches_against_sixty_digits(x, edge, gamma, beta, mean, variance) -> None:  # type: ignore[no-untyped-def]
    root = Fraction((Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt())
    left, right = gamma * (x - mean), (edge - beta) * root
    close = abs(left - right) < Fraction(1, 10**40)
    assert reaches(x, edge, gamma, beta, mean, variance) == (close or left > right)


@pytest.mark.parametrize(("gamma", "on"), [(2.0, [0, 0, 1, 1]), (-2.0, [1, 1, 1, 0])])
def test_a_sum_exactly_on_the_edge_is_on(gamma: float, on: list[int]) -> None:
    # One unit with weight +1: batch norm is gamma (s - 5) with var + eps = 1, so s = 5 gives 0.
    model = BinaryMLP((1, 1, 2), activation="sign").eval()
    norm = model.hidden.bn1
    norm.eps = 0.5
    with torch.no_grad():
        model.hidden.fc1.weight.fill_(0.01)
        norm.weight.fill_(gamma)
        norm.running_mean.fill_(5.0)
        norm.running_var.fill_(0.5)
    net = fold(model, zero=0, scale=1)
    assert net.thresholds[0].tolist() == [[5 if gamma > 0 else -5]]
    _, hidden = run(net, np.array([[3], [4], [5], [6]]))
    assert hidden[0][:, 0].tolist() == on


def test_golden_thresholds() -> None:
    # gamma s / sqrt(8 + 8) reaches the edges 1/4, 3/4 and 5/4 at s = 1, 3 and 5 for gamma 1.
    model = BinaryMLP((6, 2, 2), activation="codes").eval()
    norm = model.hidden.bn1
    norm.eps = 8.0
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -0.5]))
        norm.running_var.fill_(8.0)
    assert fold(model, zero=0, scale=1).thresholds[0].tolist() == [[1, 3, 5], [2, 6, 10]]


@pytest.mark.parametrize(("beta", "code"), [(-0.3, 0), (0.25, 1), (0.7, 1), (0.75, 2), (5.0, 3)])
def test_gamma_zero_gives_a_constant(beta: float, code: int) -> None:
    model = BinaryMLP((4, 2, 2), activation="codes").eval()
    with torch.no_grad():
        model.hidden.bn1.weight[0] = 0.0
        model.hidden.bn1.bias[0] = beta
    _, hidden = run(fold(model), random_pixels(50, inputs=4))
    assert (hidden[0][:, 0] == code).all()


@pytest.mark.parametrize("activation", ["codes", "sign"])
@pytest.mark.parametrize("seed", range(4))
def test_every_code_and_decision_against_sixty_digits(activation: str, seed: int) -> None:
    model = random_network(activation, seed, SMALL)
    pixels = random_pixels(40, seed, SMALL[0])
    keys, hidden = run(fold(model), pixels)
    for image, (row, decided) in enumerate(zip(pixels.tolist(), keys.argmax(1), strict=True)):
        expected, inner = exactly(model, row)
        assert [h[image].tolist() for h in hidden] == inner
        assert decided == expected


@pytest.mark.parametrize("activation", ["codes", "sign"])
def test_the_float_network_agrees(activation: str) -> None:
    model = random_network(activation, 7)
    pixels = random_pixels(500, 7)
    keys, hidden = run(fold(model), pixels, batch_size=77)
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        x = (torch.from_numpy(pixels).double() - 73) / 90
        outputs = double(x)
        activations = double.hidden(x).numpy()
    unit, shift = (0.5, 0) if activation == "codes" else (2.0, -1)
    assert np.array_equal(unit * hidden[-1] + shift, activations)
    assert np.array_equal(keys.argmax(1), outputs.argmax(1).numpy())
    assert len(np.unique(keys.argmax(1))) > 1


def test_other_normalizations_fold_too() -> None:
    model = random_network("codes", 2, SMALL)
    pixels = random_pixels(20, 2, SMALL[0])
    keys, _ = run(fold(model, zero=-3, scale=7), pixels)
    expected = [exactly(model, row, -3, 7)[0] for row in pixels.tolist()]
    assert keys.argmax(1).tolist() == expected


def test_without_hidden_layers_only_the_offsets_decide() -> None:
    model = random_network("codes", 4, (6, 4))
    pixels = random_pixels(30, 4, 6)
    keys, hidden = run(fold(model), pixels)
    assert hidden == []
    assert keys.argmax(1).tolist() == [exactly(model, row)[0] for row in pixels.tolist()]


def test_equal_outputs_go_to_the_first_class() -> None:
    model = BinaryMLP((4, 6), activation="sign").eval()
    with torch.no_grad():
        model.output.weight.fill_(0.1)
        model.output.bias.copy_(torch.tensor([0.25, 0.5, 0.25, 0.5, 0.125, 0.5]))
    keys, _ = run(fold(model), random_pixels(5, inputs=4))
    assert (keys.argmax(1) == 1).all()
    assert (np.diff(np.sort(keys, axis=1), axis=1) > 0).all(), "keys never tie"


@pytest.mark.parametrize("seed", range(3))
def test_popcount_equals_additions(seed: int) -> None:
    net = fold(random_network("sign", seed))
    pixels = random_pixels(60, seed)
    added, counted = run(net, pixels), run(net, pixels, popcount=True, batch_size=7)
    assert np.array_equal(added[0], counted[0])
    assert all(np.array_equal(a, b) for a, b in zip(added[1], counted[1], strict=True))


def test_the_source_neither_multiplies_nor_divides() -> None:
    tree = ast.parse(Path(integer.__file__).read_text())
    operators = {type(n.op) for n in ast.walk(tree) if isinstance(n, ast.BinOp | ast.AugAssign)}
    assert operators <= {ast.Add, ast.Sub, ast.LShift, ast.BitXor, ast.BitOr}, operators
    called = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not called & {"dot", "matmul", "multiply", "prod", "einsum", "tensordot", "inner"}
    kinds = {a.dtype.kind for a in fold(random_network("codes")).arrays().values()}
    assert kinds <= {"i", "u"}


def test_nothing_is_changed() -> None:
    model, pixels = random_network("codes"), random_pixels(5)
    state, before = copy.deepcopy(model.state_dict()), pixels.copy()
    net = fold(model.train())
    run(net, pixels)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items())
    assert np.array_equal(pixels, before)


def test_arrays_have_the_size_that_the_chapter_counts() -> None:
    net = fold(BinaryMLP((784, 256, 256, 10), activation="codes").eval())
    weights = 784 * 256 + 256 * 256 + 256 * 10
    assert sum(b.nbytes for b in net.bits) == cost.storage_bytes(weights, 1) == weights // 8
    assert net.thresholds[1].dtype == np.int16


@pytest.mark.parametrize("activation", ["codes", "sign"])
def test_files_round_trip(tmp_path: Path, activation: str) -> None:
    net = fold(random_network(activation))
    path = tmp_path / "network"
    write(path, net)
    again = read(path)
    assert (again.sizes, again.activation) == (net.sizes, net.activation)
    for name, array in net.arrays().items():
        assert again.arrays()[name].dtype == array.dtype
        assert np.array_equal(again.arrays()[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["network"]


def damaged(net: IntegerNetwork, path: Path, change: str) -> None:
    write(path, net)
    arrays = load_file(path)
    header = {"format": "binary network 1", "activation": "codes", "sizes": "21 13 9 5"}
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-3])
        return
    if change == "format":
        header["format"] = "binary network 9"
    elif change == "activation":
        header["activation"] = "relu"
    elif change == "sizes":
        header["sizes"] = "21"
    elif change == "no sizes":
        del header["sizes"]
    elif change == "missing":
        del arrays["thresholds2"]
    elif change == "float":
        arrays["offsets"] = arrays["offsets"].astype(np.float32)
    elif change == "unused bits":
        arrays["bits1"][0, -1] |= 1
    elif change == "shape":
        arrays["bits1"] = arrays["bits1"][:-1].copy()
    elif change == "falling":
        arrays["thresholds1"] = arrays["thresholds1"][:, ::-1].copy()
    elif change == "offsets":
        arrays["offsets"] = arrays["offsets"][:-1].copy()
    save_file(arrays, path, header)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("cut", "not a whole safetensors file"),
        ("format", "expected the format"),
        ("activation", "expected the format"),
        ("sizes", "units of two or more layers"),
        ("no sizes", "units of two or more layers"),
        ("missing", "whole numbers called 'thresholds2'"),
        ("float", "whole numbers called 'offsets'"),
        ("unused bits", "do not fit 21 to 13"),
        ("shape", "do not fit 21 to 13"),
        ("falling", "thresholds must rise along 13 rows"),
        ("offsets", "expected 5 offsets"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: str, text: str) -> None:
    path = tmp_path / "network"
    damaged(fold(random_network("codes")), path, change)
    with pytest.raises(ValueError, match=text) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "network"
    path.write_text("old")
    net = fold(random_network("codes"))
    broken = IntegerNetwork(net.sizes, net.activation, net.bits, net.thresholds, np.array(["x"]))
    with pytest.raises(Exception, match=r"."):
        write(path, broken)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["network"]


@pytest.mark.parametrize(
    ("pixels", "options", "text"),
    [
        (np.zeros((2, 20), np.uint8), {}, r"pixels must be \(N, 21\)"),
        (np.zeros((0, 21), np.uint8), {}, r"pixels must be \(N, 21\)"),
        (np.zeros(21, np.uint8), {}, "pixels must be"),
        (np.zeros((2, 21)), {}, "whole numbers from 0 to 255, got float64"),
        (np.full((2, 21), 256), {}, "whole numbers from 0 to 255"),
        (np.full((2, 21), -1), {}, "whole numbers from 0 to 255"),
        (np.zeros((2, 21), np.uint8), {"popcount": True}, "popcount=True needs sign activations"),
        (np.zeros((2, 21), np.uint8), {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_refused(pixels: np.ndarray, options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        run(fold(random_network("codes")), pixels, **options)


def not_finite() -> BinaryMLP:
    model = random_network("codes")
    model.hidden.bn1.running_var[2] = math.nan
    return model


def far_away() -> BinaryMLP:
    model = random_network("codes")
    with torch.no_grad():
        model.output.bias[0] = 1e12
    return model


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (lambda: random_network("relu"), {}, "activations must be 'codes' or 'sign'"),
        (lambda: with_test_rule(random_network("codes"), "real"), {}, "not all"),
        (lambda: BinaryMLP(SIZES, activation="sign", rule="stochastic"), {}, "test_rule='real'"),
        (not_finite, {}, "not finite"),
        (far_away, {}, "more than 32 bits"),
        (lambda: random_network("codes"), {"zero": 0.5}, "zero and scale must be whole numbers"),
        (lambda: random_network("codes"), {"scale": 0}, "zero and scale must be whole numbers"),
    ],
)
def test_what_cannot_be_folded_is_refused(make: object, options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fold(make(), **options)  # type: ignore[operator]


def test_layers_count_as_dense_layers_in_the_cost() -> None:
    counted = cost.count(BinaryMLP((784, 256, 256, 10)), (1, 28, 28))
    assert counted.macs == 784 * 256 + 256 * 256 + 256 * 10
    assert isinstance(BinaryMLP((4, 2)).output, BinaryLinear)
