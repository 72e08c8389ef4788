"""Shared weights: what the indices stand for, and the gradient of the table against autograd."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import data as datasets
from helpers import training, zoo
from helpers.data import Split
from helpers.weight_sharing import (
    SharedLayer,
    codebook_gradient,
    compression_rate,
    kmeans,
    look_up,
    plain,
    put_,
    share,
    share_weight,
    shared_layers,
)

# Han et al. 2016, figure 3: weights, gradient, and what the paper makes of them
WEIGHT = [
    [2.09, -0.98, 1.48, 0.09],
    [0.05, -0.14, -1.08, 2.12],
    [-0.91, 1.92, 0, -1.03],
    [1.87, 0, 1.53, 1.49],
]
GRADIENT = [
    [-0.03, -0.01, 0.03, 0.02],
    [-0.01, 0.01, -0.02, 0.12],
    [-0.01, 0.02, 0.04, 0.01],
    [-0.07, -0.02, 0.01, -0.02],
]
INDEX = [[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]]
SUMS = [-0.03, 0.04, 0.02, 0.04]  # in rising order of the centroids -1, 0, 1.5, 2


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5), nn.Linear(5, 4)
    )


def pruned(density=0.3):
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(torch.rand(p.shape) < density)
    return model


def batch(n=40):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    return Split(x, torch.randint(0, 4, (n,), generator=generator))


def test_the_papers_gradient_and_update():
    found = kmeans(np.ravel(WEIGHT), 4, start="linear")
    assert found.assignment.reshape(4, 4).tolist() == INDEX
    sums = codebook_gradient(GRADIENT, INDEX, 4)
    np.testing.assert_allclose(sums, SUMS, atol=1e-12)
    np.testing.assert_allclose(found.centroids - sums, [-0.97, -0.04, 1.48, 1.96], atol=1e-12)
    assert compression_rate(16, 4) == 3.2


def test_autograd_sums_as_the_paper_does():
    codebook = torch.tensor([-1.0, 0.0, 1.5, 2.0], dtype=torch.float64, requires_grad=True)
    index = torch.tensor(INDEX, dtype=torch.uint8) + 1
    (look_up(codebook, index) * torch.tensor(GRADIENT, dtype=torch.float64)).sum().backward()
    np.testing.assert_allclose(codebook.grad, SUMS, atol=1e-12)


@pytest.mark.parametrize("layer", ["0", "3", "4"])
def test_codebook_gradient_of_a_network_is_the_sum_over_its_weights(layer):
    model = pruned().double()
    shared, data = share(model, 3), batch()
    flat = plain(shared)
    for m in (shared, flat):
        F.cross_entropy(m(data.x.double()), data.y).backward()
    found = shared_layers(shared)[layer]
    manual = codebook_gradient(
        flat.get_submodule(layer).weight.grad, found.index, len(found.codebook) + 1
    )
    book = shared.get_submodule(layer).parametrizations.weight.original
    np.testing.assert_allclose(book.grad, manual[1:], rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda b: look_up(b, found.index).square().sum(), [book.detach().clone().requires_grad_()]
    )


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_share_moves_each_nonzero_weight_to_its_nearest_centroid(bits):
    model = pruned()
    before = copy.deepcopy(model.state_dict())
    shared = share(model, bits)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "argument changed"
    for name, layer in shared_layers(shared).items():
        weight = model.get_submodule(name).weight.detach()
        assert layer.index.dtype == torch.uint8
        assert layer.index.shape == weight.shape
        assert torch.equal(layer.index == 0, weight == 0)
        assert len(layer.codebook) <= 2**bits - 1
        assert int(layer.index.max()) == len(layer.codebook)
        distance = (weight[..., None] - layer.codebook).abs()
        own = (weight - layer.weight()).abs()
        kept = weight != 0
        assert (own[kept] <= distance.amin(-1)[kept] + 1e-6).all()
        assert torch.equal(shared.get_submodule(name).weight, layer.weight())
    assert torch.equal(shared[0].bias, model[0].bias)


def test_enough_centroids_change_nothing():
    model = pruned(0.5)  # under 255 distinct values in the small layers
    shared = share(model, {"0": 8, "4": 8})
    x = batch().x
    assert torch.equal(shared(x), model(x))
    assert list(shared_layers(shared)) == ["0", "4"]


def test_training_moves_centroids_and_nothing_else():
    model, data = pruned(), batch()
    shared = share(model, 2)
    trained, _ = training.fit(
        shared, data, data, epochs=3, lr=0.05, weight_decay=0.1, batch_size=8, progress=False
    )
    moved = 0
    for name, layer in shared_layers(trained).items():
        start = shared_layers(shared)[name]
        assert torch.equal(layer.index, start.index), "an index moved"
        assert torch.equal(layer.weight() == 0, model.get_submodule(name).weight == 0)
        moved += int((layer.codebook != start.codebook).sum())
        assert len(torch.unique(layer.weight())) <= 4
    assert moved > 0


def test_plain_has_the_same_bits_and_ordinary_parameters():
    shared = share(pruned(), 3)
    flat, x = plain(shared), batch().x
    assert torch.equal(flat(x), shared(x))
    assert set(flat.state_dict()) == set(network().state_dict())
    assert shared_layers(shared), "plain changed its argument"
    assert not shared_layers(flat)
    assert [n for n, _ in flat.named_parameters()] == [n for n, _ in network().named_parameters()]
    assert type(flat[0]) is nn.Conv2d
    flat.load_state_dict(plain(flat).state_dict())


def test_state_dict_round_trip():
    shared = share(pruned(), 3)
    other = share(pruned(), 3)
    other.load_state_dict(shared.state_dict())
    assert torch.equal(other(batch().x), shared(batch().x))
    assert torch.equal(copy.deepcopy(shared)(batch().x), shared(batch().x))


def test_put_back_what_was_taken_out():
    shared, bare = share(pruned(), 3), network(seed=9)
    for name, layer in shared_layers(shared).items():
        put_(bare.get_submodule(name), layer)
    for p, q in zip((0, 3, 4), (0, 3, 4), strict=True):
        bare[p].bias.data = shared[q].bias.data
    assert torch.equal(bare(batch().x), shared(batch().x))
    with pytest.raises(ValueError, match="index has shape"):
        put_(network()[3], shared_layers(shared)["4"])
    too_high = SharedLayer(torch.full((4, 5), 3, dtype=torch.uint8), torch.zeros(2))
    with pytest.raises(ValueError, match="index goes up to 3, the codebook has 2"):
        put_(network()[4], too_high)


def test_all_zero_layer_can_be_shared_and_trained():
    model, data = network(), batch()
    with torch.no_grad():
        model[3].weight.zero_()
    shared = share(model, 4)
    layer = shared_layers(shared)["3"]
    assert layer.codebook.shape == (0,)
    assert not layer.index.any()
    assert not layer.weight().any()
    trained, _ = training.fit(shared, data, data, epochs=1, progress=False)
    assert not plain(trained)[3].weight.any()


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 5), (5, 1), (1, 1)])
def test_layers_with_one_input_or_output(inputs, outputs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs))
    shared = share(model, 8)
    assert torch.equal(shared[0].weight, model[0].weight)
    one = share(model, 1)
    assert len(shared_layers(one)["0"].codebook) == 1
    assert torch.allclose(one[0].weight, model[0].weight.mean().expand(outputs, inputs))


@given(st.lists(st.sampled_from([0.0, -0.0, 0.25, -1.5, 3.0]), min_size=1, max_size=12))
def test_exact_when_the_values_are_few(values):
    weight = torch.tensor(values)
    layer = share_weight(weight, 2)
    assert torch.equal(layer.weight(), weight)
    assert len(layer.codebook) == len({v for v in values if v})


def test_float64_layers_keep_their_dtype():
    shared = share(pruned().double(), 3)
    assert shared[3].weight.dtype == torch.float64


def test_bad_input_is_refused():
    model = network()
    for bad in (0, 9, 2.0, True, "4"):
        with pytest.raises(ValueError, match="bits must be a whole number from 1 to 8"):
            share(model, bad)
    with pytest.raises(ValueError, match=r"unknown layers \['fc9'\]; the layers are \['0', '3'"):
        share(model, {"fc9": 4})
    with pytest.raises(ValueError, match="'0' shares its weights already"):
        share(share(model, 4), 4)
    with torch.no_grad():
        model[3].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer '3': values holds 1 numbers that are NaN"):
        share(model, 4)
    with pytest.raises(ValueError, match="gradient has 4 entries, index 3"):
        codebook_gradient([1, 2, 3, 4], [0, 0, 0], 1)
    with pytest.raises(ValueError, match="index must be from 0 to 1"):
        codebook_gradient([1, 2], [0, 2], 2)


def test_compression_rate():
    assert compression_rate(9, 3) == pytest.approx(9 * 32 / (9 * 2 + 3 * 32))
    assert compression_rate(9, 3, codebook=False) == 16
    assert compression_rate(1000, 1, codebook=False) == float("inf")
    assert compression_rate(1000, 1) == 1000
    assert compression_rate(10**6, 16) == pytest.approx(8, rel=2e-4)
    assert compression_rate(256, 256, bits=16) < 1, "a codebook can be larger than what it replaces"
    for bad in ((0, 1), (4, 0), (4, 5)):
        with pytest.raises(ValueError, match=r"must (be at least|not exceed)"):
            compression_rate(*bad)


def test_accuracy_of_a_real_network_survives_five_bits():
    model = zoo.load("LeNet300100")
    test = datasets.load().test
    part = Split(test.x[:1000], test.y[:1000])
    exact, five = training.evaluate(model, part), training.evaluate(share(model, 5), part)
    assert abs(exact - five) < 0.02, (exact, five)
