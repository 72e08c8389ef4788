"""Binarization rules, straight-through gradients, clipping and the change of unit."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from helpers import training
from helpers.binaryconnect import (
    BinaryLinear,
    BinaryMLP,
    Codes,
    Sign,
    binarize,
    binary_layers,
    clip_,
    glorot_bound,
    hard_sigmoid,
    reestimate_batch_norm,
    sign,
    squared_hinge,
    straight_through,
    with_test_rule,
)
from helpers.data import Split

settings.register_profile("course", deadline=None)
settings.load_profile("course")
arrays = npst.arrays("float32", st.integers(1, 30), elements=st.floats(-3, 3, width=32))
GRID = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.0, 1e-40, 0.5, 1.0, 2.0])


def coin(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_golden_values() -> None:
    assert sign(GRID).tolist() == [-1, -1, -1, 1, 1, 1, 1, 1, 1]
    assert hard_sigmoid(GRID).tolist() == [0, 0, 0.25, 0.5, 0.5, 0.5, 0.75, 1, 1]
    assert glorot_bound(784, 256) == math.sqrt(6 / 1040) / 2
    assert binarize(GRID, "real") is GRID


@given(arrays)
def test_both_rules_give_signs_of_the_same_shape_and_type(values: object) -> None:
    w = torch.as_tensor(values)
    for rule in ("deterministic", "stochastic"):
        binary = binarize(w, rule, coin())
        assert binary.shape == w.shape
        assert binary.dtype == w.dtype
        assert (binary.abs() == 1).all()
    certain = w.abs() >= 1
    assert torch.equal(binarize(w, "stochastic", coin())[certain], sign(w)[certain])
    assert binarize(w.double()).dtype == torch.float64


def test_the_stochastic_mean_is_the_clipped_weight() -> None:
    w = torch.tensor([-1.5, -0.9, -0.25, 0.0, 0.6, 1.0])
    draws = binarize(w.repeat(40_000, 1), "stochastic", coin()).double()
    assert torch.allclose(draws.mean(0), w.clamp(-1, 1).double(), atol=0.03)  # six sigma
    assert torch.allclose(draws.var(0), 1 - w.clamp(-1, 1).double() ** 2, atol=0.03)


def test_draws_come_from_the_generator() -> None:
    w = torch.zeros(200)
    assert torch.equal(binarize(w, "stochastic", coin()), binarize(w, "stochastic", coin()))
    assert not torch.equal(binarize(w, "stochastic", coin()), binarize(w, "stochastic", coin(1)))
    training.set_seed(5)
    first = binarize(w, "stochastic")
    training.set_seed(5)
    assert torch.equal(first, binarize(w, "stochastic"))


@pytest.mark.parametrize("rule", ["sign", "", None, "Deterministic"])
def test_unknown_rules_are_refused(rule: str) -> None:
    model = BinaryMLP((4, 3, 2))
    for attempt in (
        lambda: binarize(GRID, rule),
        lambda: BinaryLinear(2, 3, rule=rule),
        lambda: with_test_rule(model, rule),
    ):
        with pytest.raises(ValueError, match="rule must be one of deterministic, stochastic, real"):
            attempt()


@given(arrays)
def test_straight_through_is_exact_forwards_and_the_identity_backwards(values: object) -> None:
    w = torch.as_tensor(values).requires_grad_()
    for value in (sign(w), -sign(w)):
        out = straight_through(w, value)
        assert torch.equal(out, value)
        (gradient,) = torch.autograd.grad((out * torch.arange(len(w))).sum(), w)
        assert torch.equal(gradient, torch.arange(len(w)).float())


def test_squared_hinge_against_torch() -> None:
    outputs, labels = torch.randn(40, 7, generator=coin()), torch.arange(40) % 7
    target = 2.0 * F.one_hot(labels, 7) - 1
    expected = F.hinge_embedding_loss(target * outputs, -torch.ones(40, 7), reduction="none")
    assert torch.allclose(squared_hinge(outputs, labels), expected.square().mean())
    assert squared_hinge(torch.tensor([[1.0, -1.0], [-5.0, 5.0]]), torch.tensor([0, 1])) == 0
    assert squared_hinge(torch.tensor([[0.0, 0.0]]), torch.tensor([0])) == 1


def test_a_layer_multiplies_with_signs_and_its_gradient_is_that_of_the_signs() -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(5, 3, bias=True, divisor=2.0)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    x = torch.randn(4, 5)
    binary = sign(layer.weight.detach()).requires_grad_()
    expected = x @ binary.T / 2 + layer.bias.detach()
    assert torch.allclose(layer(x), expected)
    expected.square().sum().backward()
    layer(x).square().sum().backward()
    assert torch.allclose(layer.weight.grad, binary.grad / layer.bound)


def test_modes_and_test_rules() -> None:
    torch.manual_seed(0)
    layers = {
        rule: BinaryLinear(30, 20, rule=rule) for rule in ("deterministic", "stochastic", "real")
    }
    for rule, layer in layers.items():
        assert layer.weight.abs().max() <= layer.bound == glorot_bound(30, 20)
        assert layer.latent().abs().max() > 0.9
        layer.eval()
        real = rule != "deterministic"
        assert torch.equal(layer.used(), layer.latent() if real else sign(layer.weight)), rule
        layer.train()
        assert ((layer.used().abs() == 1).all()) == (rule != "real")
    random = layers["stochastic"]
    assert not torch.equal(random.used(), random.used())
    assert torch.equal(with_test_rule(random, "deterministic").used(), sign(random.weight))
    assert random.test_rule == "real", "with_test_rule must return a copy"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: BinaryLinear(2, 2, bound=0.0), "bound must be positive and finite, got 0.0"),
        (lambda: BinaryLinear(2, 2, bound=math.inf), "bound"),
        (lambda: BinaryLinear(2, 2, divisor=-1.0), "divisor must be positive"),
        (lambda: glorot_bound(0, 3), "fan_in and fan_out must be positive, got 0 and 3"),
        (lambda: BinaryMLP((4,)), "sizes must be two or more positive integers"),
        (lambda: BinaryMLP((4, 0, 2)), "sizes"),
        (
            lambda: BinaryMLP((4, 2), activation="tanh"),
            "activation must be one of relu, codes, sign",
        ),
        (lambda: Codes(0), "levels must be a whole number of 1 or more, got 0"),
        (lambda: Codes(3, 0.3), "step must be a power of two, got 0.3"),
        (lambda: Codes(3, 0.0), "step"),
        (lambda: clip_(nn.Linear(2, 2)), "Linear has no BinaryLinear layer"),
        (lambda: reestimate_batch_norm(BinaryMLP((4, 3, 2)), torch.zeros(1, 4)), "two images"),
    ],
)
def test_bad_arguments_are_refused(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()  # type: ignore[operator]


def test_clipping_leaves_real_layers_and_what_is_inside_alone() -> None:
    for rule in ("deterministic", "stochastic", "real"):
        model = BinaryMLP((6, 5, 3), rule=rule)
        before = {n: p.clone() for n, p in model.named_parameters()}
        with torch.no_grad():
            model.hidden.fc1.weight[0] = torch.tensor([9.0, -9.0, 0.01, -0.01, 0.0, 1.0])
        clip_(model)
        row, c = model.hidden.fc1.weight[0], model.hidden.fc1.bound
        expected = [9, -9, 0.01, -0.01, 0, 1] if rule == "real" else [c, -c, 0.01, -0.01, 0, c]
        assert torch.allclose(row, torch.tensor(expected, dtype=torch.float32))
        assert torch.equal(model.hidden.fc1.weight[1:], before["hidden.fc1.weight"][1:])
        assert torch.equal(model.hidden.bn1.weight, before["hidden.bn1.weight"])


@pytest.mark.parametrize(("name", "power"), [("SGD", 2), ("Adam", 1)])
def test_the_bound_scales_the_step_as_the_paper_does(name: str, power: int) -> None:
    """One layer stored in units of c against one in [-1, 1] whose step is scaled by 1 / c**power."""
    options = {"eps": 0.0} if name == "Adam" else {}
    steps = []
    for scaled in (False, True):
        torch.manual_seed(1)
        layer = BinaryLinear(40, 30, bound=1.0 if scaled else None).double()
        c = glorot_bound(40, 30)
        start = 0.5 * (2 * torch.rand(30, 40, generator=coin(), dtype=torch.float64) - 1)
        with torch.no_grad():
            layer.weight.copy_(start * layer.bound)
        lr = 1e-4 / c**power if scaled else 1e-4
        optimizer = getattr(torch.optim, name)(layer.parameters(), lr=lr, **options)
        for i in range(10):
            x = torch.randn(8, 40, generator=coin(i), dtype=torch.float64)
            optimizer.zero_grad()
            (layer(x) - 1).square().mean().backward()
            optimizer.step()
            clip_(layer)
        steps.append((layer.latent().detach(), start))
    (w, start), (other, _) = steps
    assert (w - start).abs().max() > 1e-4, "nothing moved"
    assert torch.allclose(w, other, atol=1e-12)


def test_codes_and_signs() -> None:
    x = torch.tensor([-1.0, 0.0, 0.2499, 0.25, 0.7499, 0.75, 1.25, 9.0])
    step = Codes(3, 0.5)
    assert step.edges == [0.25, 0.75, 1.25]
    assert step(x).tolist() == [0, 0, 0, 0.5, 0.5, 1.0, 1.5, 1.5]
    assert [sum(v >= e for e in step.edges) / 2 for v in x.tolist()] == step(x).tolist()
    assert Sign()(torch.tensor([-2.0, -0.0, 0.0, 0.1])).tolist() == [-1, 1, 1, 1]


def test_gradients_of_codes_and_signs_pass_inside_only() -> None:
    for module, inside in ((Codes(3, 0.5), (0.1, 1.4)), (Sign(), (-0.9, 0.9))):
        x = torch.tensor([-1.6, *inside, 1.6], requires_grad=True)
        module(x).sum().backward()
        assert x.grad.tolist() == [0, 1, 1, 0]


def test_batch_norm_is_estimated_again_from_all_images_at_once() -> None:
    torch.manual_seed(0)
    model = BinaryMLP((6, 5, 4, 3), activation="codes")
    x = torch.randn(60, 6) * 3 + 1
    again = reestimate_batch_norm(model, x)
    with torch.no_grad():
        inner = again.hidden.fc1(x)
        second = again.hidden.fc2(
            Codes()((inner - inner.mean(0)) / torch.sqrt(inner.var(0, unbiased=False) + 1e-5))
        )
    assert torch.allclose(again.hidden.bn1.running_mean, inner.mean(0), atol=1e-6)
    assert torch.allclose(again.hidden.bn1.running_var, inner.var(0), rtol=1e-5)
    assert torch.allclose(again.hidden.bn2.running_var, second.var(0), rtol=1e-5)
    assert not again.training
    assert again.hidden.bn1.momentum == 0.1
    assert (model.hidden.bn1.running_mean == 0).all(), "the model itself must stay as it was"


def test_a_network_trains_with_the_ordinary_loop_and_keeps_its_bounds() -> None:
    generator = coin(3)
    x = torch.randn(240, 12, generator=generator)
    split = Split(x, (x[:, :3].argmax(1)))
    for rule in ("deterministic", "stochastic"):
        torch.manual_seed(0)
        start = BinaryMLP((12, 32, 3), rule=rule)
        model, history = training.fit(
            start, split, split, epochs=8, lr=2e-2, batch_size=30, loss=squared_hinge,
            after_step=clip_, progress=False,
        )  # fmt: skip
        assert history[-1]["loss"] < 0.8 * history[0]["loss"], (rule, history)
        assert history[-1]["validation_accuracy"] > 0.6, (rule, history)
        for layer in binary_layers(model).values():
            assert layer.weight.abs().max() <= layer.bound
            assert layer.weight.unique().numel() > 4, "latent weights stay real"
