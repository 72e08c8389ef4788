"""Learned bit-widths: the quantizer, its gradient, clamping, averaging, rounding, export."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import training
from helpers.data import Split
from helpers.qat import bits, prepare
from helpers.qat.bits import (
    NARROWEST,
    UNIT,
    WIDEST,
    final_bits,
    follow_,
    interpolated,
    learn_bits,
    learnable,
    learned_layers,
    mean_bits,
    plain,
    quantize_weight,
    round_half_up,
    settle,
    widths,
)
from helpers.quantization import fold_batch_norm, quantize_network, weight_only

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()


def images(count: int = 24, seed: int = 1) -> Split:
    x = draw(count, 1, 6, 6, seed=seed, dtype=torch.float32)
    return Split(x, torch.arange(count) % 3)


# The grids


def test_golden_weights_of_every_kind() -> None:
    w = torch.tensor([[0.9, -0.2, 0.1, 0.0], [0.0, -3.0, 1.0, 2.0]])
    assert torch.allclose(
        quantize_weight(w, 1), torch.tensor([[0.3, -0.3, 0.3, 0.3], [1.5, -1.5, 1.5, 1.5]])
    )
    assert torch.allclose(
        quantize_weight(w, 2), torch.tensor([[0.9, 0.0, 0.0, 0.0], [0.0, -3.0, 0.0, 3.0]])
    )
    assert torch.allclose(
        quantize_weight(w, 3), torch.tensor([[0.9, -0.3, 0.0, 0.0], [0.0, -3.0, 1.0, 2.0]])
    )


@pytest.mark.parametrize("width", range(2, 9))
def test_two_bits_up_are_the_grids_of_quantization(width: int) -> None:
    layer = nn.Linear(20, 5)
    expected = weight_only(layer, width).weight
    assert torch.equal(quantize_weight(layer.weight, width), expected)


@given(st.integers(0, 1000), st.floats(0.5, 2.0).filter(lambda factor: abs(factor - 1) > 1e-3))
def test_one_bit_has_the_least_squared_error(seed: int, factor: float) -> None:
    w = draw(2, 7, seed=seed)
    best = (quantize_weight(w, 1) - w).square().sum()
    assert (factor * quantize_weight(w, 1) - w).square().sum() > best
    assert (quantize_weight(w, 1).abs().std(1) < 1e-12).all()


def test_a_channel_of_zeros_stays_zero_at_every_width() -> None:
    w = torch.cat([torch.zeros(1, 6), draw(1, 6).float()])
    for width in range(1, 9):
        assert not quantize_weight(w, width)[0].any(), width


@pytest.mark.parametrize("width", [0, 9, -1, 2.0, True, "4", None])
def test_bad_widths_are_refused(width: object) -> None:
    with pytest.raises(ValueError, match="whole number from 1 to 8"):
        quantize_weight(torch.ones(1, 2), width)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"whole number from 1 to 8|from 1 to 8"):
        settle(small_network(), {"0": width})  # type: ignore[dict-item]


# Interpolation and its gradient


@pytest.mark.parametrize("width", range(1, 9))
def test_whole_alpha_is_that_many_bits_exactly(width: int) -> None:
    w = draw(4, 9)
    assert torch.equal(interpolated(w, torch.tensor(float(width))), quantize_weight(w, width))


@given(st.floats(1, 8), st.integers(0, 1000))
def test_values_lie_between_the_two_grids(alpha: float, seed: int) -> None:
    w, low = draw(3, 8, seed=seed), min(math.floor(alpha), 7)
    f = alpha - low
    expected = (1 - f) * quantize_weight(w, low) + f * quantize_weight(w, low + 1)
    found = interpolated(w, torch.tensor(alpha, dtype=torch.float64))
    assert torch.allclose(found, expected, atol=1e-12)


@given(st.floats(1, 8), st.integers(0, 1000))
def test_gradient_equals_that_of_autograd(alpha: float, seed: int) -> None:
    w, upstream = draw(3, 8, seed=seed), draw(3, 8, seed=seed + 1)
    low = min(math.floor(alpha), 7)
    by_autograd = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    f = by_autograd - low
    mixed = (1 - f) * quantize_weight(w, low) + f * quantize_weight(w, low + 1)
    (mixed * upstream).sum().backward()
    mine = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    leaf = w.clone().requires_grad_()
    (interpolated(leaf, mine) * upstream).sum().backward()
    assert torch.allclose(mine.grad, by_autograd.grad, atol=1e-12)  # type: ignore[arg-type]
    assert torch.equal(leaf.grad, upstream)  # type: ignore[arg-type]


def test_the_upper_pair_serves_whole_alphas_and_the_lower_pair_eight() -> None:
    w, upstream = draw(2, 9), draw(2, 9, seed=1)
    for value, pair in ((4.0, (4, 5)), (1.0, (1, 2)), (8.0, (7, 8))):
        alpha = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (interpolated(w, alpha) * upstream).sum().backward()
        difference = quantize_weight(w, pair[1]) - quantize_weight(w, pair[0])
        assert torch.allclose(alpha.grad, (upstream * difference).sum()), value  # type: ignore[arg-type]


def test_gradient_is_the_slope_between_whole_widths() -> None:
    w, upstream = draw(2, 9), draw(2, 9, seed=1)

    def loss(alpha: float) -> float:
        return float((interpolated(w, torch.tensor(alpha, dtype=torch.float64)) * upstream).sum())

    alpha = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    (interpolated(w, alpha) * upstream).sum().backward()
    assert float(alpha.grad) == pytest.approx((loss(2.6) - loss(2.4)) / 0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.99, 8.01, -1.0, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must lie in 1\.\.8"):
        interpolated(torch.ones(1, 2), torch.tensor(alpha))


# The layer: average, clamp, price


def test_forward_uses_the_average_and_hands_its_gradient_to_alpha() -> None:
    network = learnable(nn.Sequential(nn.Linear(6, 2, bias=False)), start=8.0)
    entry = learned_layers(network)["0"]
    entry.average.fill_(2.5)
    weight = network[0].parametrizations.weight.original  # type: ignore[index, union-attr]
    expected = (quantize_weight(weight, 2) + quantize_weight(weight, 3)) / 2
    x = draw(5, 6, dtype=torch.float32)
    assert torch.allclose(network(x), x @ expected.T, atol=1e-6)
    network(x).sum().backward()
    slope = (quantize_weight(weight, 3) - quantize_weight(weight, 2)) @ x.sum(0)
    assert float(entry.stored.grad) == pytest.approx(UNIT * float(slope.sum()), rel=1e-4)  # type: ignore[arg-type]


def test_average_follows_with_its_momentum_and_alpha_is_clamped() -> None:
    network = learnable(nn.Sequential(nn.Linear(6, 2)), start=4.0, momentum=0.75)
    entry = learned_layers(network)["0"]
    with torch.no_grad():
        entry.stored.fill_(6.0 / UNIT)
    follow_(network)
    assert widths(network)["0"] == pytest.approx(0.75 * 4 + 0.25 * 6)
    for value, limit in ((99.0, WIDEST), (-3.0, NARROWEST)):
        with torch.no_grad():
            entry.stored.fill_(value / UNIT)
        follow_(network)
        assert float(entry.alpha.detach()) == pytest.approx(limit)
    for _ in range(200):
        follow_(network)
    assert widths(network)["0"] == pytest.approx(1.0, abs=1e-5)
    assert widths(network)["0"] >= 1


def test_mean_bits_weighs_layers_by_their_weights() -> None:
    network = learnable(nn.Sequential(nn.Linear(10, 3), nn.Linear(3, 2)), start=4.0)
    first, second = learned_layers(network).values()
    with torch.no_grad():
        first.stored.fill_(2.0 / UNIT)
    price = mean_bits(network)
    assert float(price.detach()) == pytest.approx((30 * 2 + 6 * 4) / 36, rel=1e-6)
    price.backward()
    assert float(first.stored.grad) == pytest.approx(UNIT * 30 / 36)  # type: ignore[arg-type]
    assert float(second.stored.grad) == pytest.approx(UNIT * 6 / 36)  # type: ignore[arg-type]


def test_a_half_goes_up() -> None:
    assert [round_half_up(x) for x in (1, 1.49, 1.5, 2.5, 3.5, 7.5, 8)] == [1, 1, 2, 3, 4, 8, 8]
    for x in (0.9, 8.1, math.nan):
        with pytest.raises(ValueError, match=r"1\.\.8"):
            round_half_up(x)


def test_learnable_leaves_its_argument_alone_and_knows_its_layers() -> None:
    model = small_network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    network = learnable(model, layers=["3"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert list(learned_layers(network)) == ["3"]
    assert final_bits(network) == {"3": 8}
    for options, text in (
        ({"layers": ["9"]}, "unknown layers"),
        ({"layers": []}, "no convolution"),
        ({"start": 0.5}, "start must lie"),
        ({"start": 9}, "start must lie"),
        ({"momentum": 1.0}, "momentum"),
    ):
        with pytest.raises(ValueError, match=text):
            learnable(model, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="parametrized weight already"):
        learnable(network)
    with pytest.raises(ValueError, match="no learned widths"):
        widths(model)


def test_plain_gives_the_float_weights_back() -> None:
    model = small_network()
    again = plain(learnable(model, start=2.5))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    assert not hasattr(again[0], "parametrizations")  # type: ignore[index]


# Training


@pytest.fixture(scope="module")
def expensive() -> bits.Learned:
    return learn_bits(
        small_network(),
        images(),
        images(seed=2),
        price=1e3,
        epochs=3,
        batch_size=4,
        lr=2e-2,
        momentum=0.5,
        progress=False,
    )


def test_a_heavy_price_ends_at_one_bit_everywhere(expensive: bits.Learned) -> None:
    assert set(expensive.bits.values()) == {1}, expensive.path[-1]
    assert len(expensive.path) == 3 * 6 + 1
    assert all(1 <= width <= 8 for step in expensive.path for width in step.values())
    assert set(expensive.path[0].values()) == {8.0}


def test_without_a_price_a_useful_layer_gains_bits() -> None:
    # A linear layer that already holds its teacher's weights: every bit lowers the loss.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        model[1].weight.mul_(20)
    x = draw(256, 1, 6, 6, dtype=torch.float32)
    split = Split(x, model(x).argmax(1))
    found = learn_bits(
        model, split, split, price=0.0, epochs=4, start=2.0, batch_size=16, progress=False
    )
    assert found.path[-1]["1"] > 2.2, found.path[-1]


def test_the_last_step_counts_and_not_the_best_epoch(expensive: bits.Learned) -> None:
    assert {n: round_half_up(w) for n, w in expensive.path[-1].items()} == expensive.bits
    assert len(expensive.history) == 3
    assert expensive.history[-1]["penalty"] < expensive.history[0]["penalty"]
    assert not expensive.network.training


@pytest.mark.parametrize("price", [-1.0, math.nan, math.inf])
def test_bad_prices_are_refused(price: float) -> None:
    with pytest.raises(ValueError, match="price"):
        learn_bits(small_network(), images(), images(), price=price, epochs=1)


# On to integers

MIXED = {"0": 1, "3": 5, "8": 2}


def test_settled_weights_are_found_again_by_quantize_network() -> None:
    model = small_network()
    settled = settle(model, MIXED)
    assert torch.equal(settled[0].weight, quantize_weight(model[0].weight, 1))  # type: ignore[index]
    x = images().x
    network = quantize_network(settled, x, weight_bits={n: max(b, 2) for n, b in MIXED.items()})
    folded = dict(fold_batch_norm(settled).named_modules())
    for node in network.nodes:
        if node.weight_codes is not None:
            assert node.weight_parameters is not None
            scale = node.weight_parameters.scale.reshape(-1, *[1] * (node.weight_codes.ndim - 1))
            back = (node.weight_codes * scale).float()
            assert torch.allclose(back, folded[node.name].weight, rtol=1e-5), node.name
            assert int(node.weight_codes.abs().max()) == max(1, 2 ** (MIXED[node.name] - 1) - 1)


def test_folding_does_not_change_the_codes() -> None:
    model = small_network()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.3, -2.0, 1.0, 5.0]))  # type: ignore[index]
    folded, factor = fold_batch_norm(model), model[1].weight / (1 + 1e-5) ** 0.5  # type: ignore[index]
    for width in range(1, 9):
        first = quantize_weight(model[0].weight, width) * factor.reshape(-1, 1, 1, 1)  # type: ignore[index]
        assert torch.allclose(first, quantize_weight(folded[0].weight, width), atol=1e-5)  # type: ignore[index]


def test_prepare_computes_with_the_settled_weights() -> None:
    model, x = small_network(), images().x
    network = prepare(model, x, weight_bits=MIXED, activation_bits=None)
    found, expected = training.logits(network, x), training.logits(settle(model, MIXED), x)
    assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()


def test_settle_refuses_unknown_layers_and_changes_nothing() -> None:
    model = small_network()
    before = model[0].weight.clone()  # type: ignore[index]
    with pytest.raises(ValueError, match="unknown layers"):
        settle(model, {"7": 3})
    settle(model, {"0": 1})
    assert torch.equal(model[0].weight, before)  # type: ignore[index]
