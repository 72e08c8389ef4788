"""Magnitude pruning against torch.nn.utils.prune, sorting, and a small training run."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn
from torch.nn.utils import prune

from helpers import training
from helpers.data import Split
from helpers.models import LeNet300100, small, weight_layers
from helpers.pruning import (
    apply_masks,
    apply_masks_,
    density,
    global_masks,
    iterative,
    layer_densities,
    magnitude_mask,
    masks,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")
# Whole numbers give many ties.
tied = npst.arrays(
    np.float32,
    npst.array_shapes(max_dims=4, max_side=6),
    elements=st.integers(-3, 3).map(float),
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(tied, st.floats(0, 1))
def test_sparsity_drops_exactly_so_many_of_the_smallest(array: np.ndarray, sparsity: float) -> None:
    weight = torch.from_numpy(array)
    mask = magnitude_mask(weight, sparsity=sparsity)
    assert mask.shape == weight.shape
    assert mask.dtype == torch.bool
    assert int((~mask).sum()) == round(sparsity * weight.numel())
    if mask.any() and not mask.all():
        assert weight.abs()[mask].min() >= weight.abs()[~mask].max()
    assert torch.equal(mask, magnitude_mask(weight, sparsity=sparsity))


@given(tied, st.floats(0, 1))
def test_sparsity_equals_numpys_stable_sort(array: np.ndarray, sparsity: float) -> None:
    order = np.argsort(np.abs(array).reshape(-1), kind="stable")
    expected = np.ones(array.size, bool)
    expected[order[: round(sparsity * array.size)]] = False
    mask = magnitude_mask(torch.from_numpy(array), sparsity=sparsity)
    assert mask.flatten().tolist() == expected.tolist()


@given(tied, st.floats(0, 4, width=32))
def test_threshold_keeps_what_reaches_it(array: np.ndarray, threshold: float) -> None:
    mask = magnitude_mask(torch.from_numpy(array), threshold=threshold)
    assert np.array_equal(mask.numpy(), np.abs(array) >= threshold)


def test_ties_at_the_limit_are_not_over_pruned() -> None:
    weight = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    assert magnitude_mask(weight, sparsity=0.4).tolist() == [False, False, True, True, True]
    limit = weight.abs().kthvalue(2).values  # the classic: everything equal to the limit goes too
    assert int((weight.abs() > limit).sum()) == 1


def test_deviations_are_population_standard_deviations() -> None:
    weight = torch.tensor([1.0, -1.0, 3.0, -3.0])  # std with n: sqrt(5) = 2.236; with n - 1: 2.58
    assert magnitude_mask(weight, deviations=1.0).tolist() == [False, False, True, True]
    assert magnitude_mask(weight, deviations=1.2).tolist() == [False, False, True, True]
    assert magnitude_mask(weight, deviations=1.35).tolist() == [False] * 4
    shifted = weight + 100  # the spread counts, not the size
    assert magnitude_mask(shifted, deviations=1.0).all()
    assert magnitude_mask(torch.tensor([0.5]), deviations=2.0).all()  # one weight has no spread


def test_degenerate_weights() -> None:
    zeros = torch.zeros(2, 3)
    assert int(magnitude_mask(zeros, sparsity=0.5).sum()) == 3
    assert magnitude_mask(zeros, threshold=0).all()
    assert not magnitude_mask(zeros, threshold=1e-9).any()
    assert magnitude_mask(zeros, deviations=3).all()
    assert magnitude_mask(torch.zeros(0, 3), sparsity=0.5).shape == (0, 3)
    assert magnitude_mask(torch.zeros(0), deviations=1.0).shape == (0,)
    weight = drawn(4, 4)
    assert magnitude_mask(weight, sparsity=0).all()
    assert not magnitude_mask(weight, sparsity=1).any()


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({}, "exactly one"),
        ({"sparsity": 0.5, "threshold": 0.1}, "exactly one"),
        ({"sparsity": -0.1}, "sparsity must be a number from 0 to 1"),
        ({"sparsity": 1.1}, "sparsity must be"),
        ({"sparsity": float("nan")}, "sparsity must be"),
        ({"sparsity": True}, "sparsity must be"),
        ({"threshold": -1}, "threshold must be"),
        ({"threshold": float("inf")}, "threshold must be"),
        ({"deviations": float("nan")}, "deviations must be"),
    ],
)
def test_bad_criteria_are_refused(criteria: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        magnitude_mask(drawn(3), **criteria)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        magnitude_mask(torch.tensor([1.0, float("nan")]), sparsity=0.5)


@pytest.mark.parametrize("amount", [0.0, 0.13, 0.5, 0.92, 1.0])
def test_layer_and_global_masks_equal_torchs_pruning(amount: float) -> None:
    model = LeNet300100()
    layers = weight_layers(model).values()
    # All sizes differ, so that no tie is left to each library's own taste.
    order = torch.randperm(266_200, generator=torch.Generator().manual_seed(0)) + 1.0
    signed = (order * drawn(266_200).sign()).split([layer.weight.numel() for layer in layers])
    for layer, values in zip(layers, signed, strict=True):
        layer.weight.data = values.reshape(layer.weight.shape)
    ours = masks(model, 1 - amount)
    for name, layer in weight_layers(model).items():
        other = prune.l1_unstructured(copy.deepcopy(layer), "weight", amount)
        assert torch.equal(ours[name], other.weight_mask.bool()), name
    twin = copy.deepcopy(model)
    prune.global_unstructured(
        [(layer, "weight") for layer in weight_layers(twin).values()],
        pruning_method=prune.L1Unstructured,
        amount=amount,
    )
    everywhere = global_masks(model, 1 - amount)
    for name, layer in weight_layers(twin).items():
        assert torch.equal(everywhere[name], layer.weight_mask.bool()), name


def test_a_global_limit_may_empty_a_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[1].weight.fill_(1.0)
    kept = global_masks(model, 0.5)
    assert [int(mask.sum()) for mask in kept.values()] == [0, 16]
    assert [int(mask.sum()) for mask in masks(model, 0.5).values()] == [8, 8]
    assert global_masks(nn.ReLU(), 0.5) == {}


def test_only_weights_of_convolutions_and_dense_layers_are_pruned() -> None:
    model = small("SeparableCNN")
    pruned = apply_masks(model, masks(model, 0.0))
    for name, value in pruned.state_dict().items():
        layer = name.rsplit(".", 1)[0]
        if layer in weight_layers(model) and name.endswith(".weight"):
            assert not value.any(), name
        else:
            assert torch.equal(value, model.state_dict()[name]), name


def test_applying_masks_copies_and_fills_with_plus_zero() -> None:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 2.0, -3.0]]))
    kept = {"": torch.tensor([[False, True, False]])}
    pruned = apply_masks(model, kept)
    assert model.weight.tolist() == [[-1.0, 2.0, -3.0]]
    assert pruned.weight.tolist() == [[0.0, 2.0, 0.0]]
    assert not torch.signbit(pruned.weight).any()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    apply_masks_(model, kept)
    assert model.weight.tolist() == [[0.0, 2.0, 0.0]]


def test_densities() -> None:
    model = LeNet300100()
    pruned = apply_masks(model, masks(model, {"fc1": 0.08, "fc2": 0.09}))
    assert layer_densities(pruned) == {"fc1": 18816 / 235200, "fc2": 2700 / 30000, "fc3": 1.0}
    assert density(pruned) == (18816 + 2700 + 1000) / 266200
    assert density(nn.ReLU()) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: masks(m, 1.5), "density of 'fc1' must be a number from 0 to 1"),
        (lambda m: masks(m, {"fc9": 0.5}), r"unknown layers \['fc9'\]; the layers are"),
        (lambda m: global_masks(m, -1), "density must be a number from 0 to 1"),
        (lambda m: apply_masks(m, {"fc9": torch.ones(1, dtype=torch.bool)}), "unknown layer 'fc9'"),
        (lambda m: apply_masks(m, {"fc3": torch.ones(10, 100)}), "must be bool of shape"),
        (lambda m: apply_masks(m, {"fc3": torch.ones(100, 10) > 0}), "must be bool of shape"),
        (lambda m: iterative(m, SPLIT, SPLIT, [], epochs=1, lr=1e-3), "schedule is empty"),
        (lambda m: iterative(m, SPLIT, SPLIT, [0.1, 0.5], epochs=1, lr=1e-3), "rise"),
        (lambda m: iterative(m, SPLIT, SPLIT, [{"fc1": 0.1}, {}], epochs=1, lr=1e-3), "rise"),
        (lambda m: iterative(m, SPLIT, SPLIT, [2], epochs=1, lr=1e-3), "schedule must be"),
        (lambda m: iterative(m, SPLIT, SPLIT, [{"a": 1}], epochs=1, lr=1e-3), "unknown layers"),
        (lambda m: iterative(m, SPLIT, SPLIT, [1], epochs=1, lr=1e-3, scope="net"), "scope must"),
        (
            lambda m: iterative(m, SPLIT, SPLIT, [{"fc1": 1}], epochs=1, lr=1e-3, scope="global"),
            "must hold numbers with scope",
        ),
        (
            lambda m: iterative(m, SPLIT, SPLIT, [1], epochs=1, lr=1e-3, after_step=print),
            "after_step",
        ),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(LeNet300100())


def blobs(count: int, seed: int) -> Split:
    """Four classes of 8x8 pictures: one bright quarter each, with noise."""
    y = torch.arange(count) % 4
    x = drawn(count, 1, 8, 8, seed=seed)
    for label in range(4):
        top, left = 4 * (label // 2), 4 * (label % 2)
        x[y == label, :, top : top + 4, left : left + 4] += 1.0
    return Split(x, y)


SPLIT = blobs(256, 1)


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_survive_moments_and_weight_decay(scope: str) -> None:
    dense, _ = training.fit(tiny(), SPLIT, SPLIT, epochs=3, lr=1e-2, batch_size=16, progress=False)
    options = {"epochs": 2, "lr": 1e-2, "weight_decay": 0.1, "batch_size": 16, "progress": False}
    pruned, history = iterative(dense, SPLIT, SPLIT, [0.5, 0.25], scope=scope, **options)
    assert density(pruned) == 0.25
    assert (layer_densities(pruned) == {"1": 0.25, "3": 0.25}) == (scope == "layer")
    assert density(dense) == 1.0
    assert [(h["round"], h["epoch"]) for h in history] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert history[0]["density"] > history[-1]["density"] == density(pruned)
    assert history[-1]["validation_accuracy"] > 0.8
    assert 0 <= history[-1]["validation_before"] <= 1
    # A pruned weight of the first round is still zero after the second.
    first, _ = iterative(dense, SPLIT, SPLIT, [0.5], scope=scope, **options)
    for before, after in zip(first.parameters(), pruned.parameters(), strict=True):
        if before.ndim == 2:
            assert not after[before == 0].any()
    assert pruned[1].bias.all(), "biases are trained, not pruned"


def test_masking_the_gradient_alone_does_not_hold() -> None:
    """The mistake that the lab shows: moments and weight decay move what the gradient leaves."""
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(5):
        nn.functional.cross_entropy(model(SPLIT.x), SPLIT.y).backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = masks(model, {"1": 0.1})
    apply_masks_(model, kept)
    nn.functional.cross_entropy(model(SPLIT.x), SPLIT.y).backward()
    model[1].weight.grad.masked_fill_(~kept["1"], 0.0)
    optimizer.step()
    assert layer_densities(model)["1"] > 0.9
    apply_masks_(model, kept)
    assert layer_densities(model)["1"] <= 0.1
