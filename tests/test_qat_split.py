"""Integer backbone, float head: the published sizes, the bounds, the network."""

import math
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import training
from helpers.models import small
from helpers.qat.split import Part, bits_for_bytes, parts, ratio, split_bytes, split_network, vgg16
from helpers.quantization import quantize_network

SIDES = (Part(14_714_688, 15_346_630_656), Part(123_642_856, 123_633_664))


def test_vgg16_has_the_published_sizes() -> None:
    backbone, head = parts(vgg16(), (3, 224, 224))
    assert (backbone, head) == SIDES
    assert backbone.parameters + head.parameters == 138_357_544
    assert round(4 * 138_357_544 / 2**20, 1) == 527.8
    assert backbone.macs / (backbone.macs + head.macs) == pytest.approx(0.992, abs=5e-4)
    assert parts(vgg16(10), (3, 224, 224))[1].parameters == 123_642_856 - 990 * 4097


def test_the_claim_of_81_times_is_impossible_and_8_6_is_not() -> None:
    assert ratio(*SIDES, 0) == pytest.approx(1.119, abs=5e-4)
    assert 528 / 6.5 > 32 > ratio(*SIDES, 0)
    nothing = Part(0, 0)
    for unit, bits, times in ((2**20, 3.71, 8.6), (10**6, 3.53, 9.1)):
        assert bits_for_bytes(*SIDES, 6.5 * unit) is None
        found = bits_for_bytes(SIDES[0], nothing, 6.5 * unit)
        assert found == pytest.approx(bits, abs=0.005)
        assert found is not None
        assert 32 / found == pytest.approx(times, abs=0.05)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.1, 32))
def test_bytes_and_bits_are_inverse_and_the_head_bounds_the_ratio(
    backbone: int, head: int, bits: float
) -> None:
    sides = Part(backbone, 0), Part(head, 0)
    size = split_bytes(*sides, bits)
    found = bits_for_bytes(*sides, size)
    assert found is not None
    assert found == pytest.approx(bits, rel=1e-3, abs=1e-3 * head / backbone)
    assert ratio(*sides, bits) < ratio(*sides, 0) == pytest.approx((backbone + head) / head)
    assert split_bytes(*sides, 32) == 4 * (backbone + head)


def test_numbers_outside_their_range() -> None:
    assert bits_for_bytes(Part(8, 0), Part(8, 0), 32) is None  # the head alone
    assert bits_for_bytes(Part(8, 0), Part(0, 0), 33) is None  # more than float32
    assert ratio(Part(8, 0), Part(0, 0), 0) == math.inf
    for bits in (-1, 33, math.nan):
        with pytest.raises(ValueError, match="bits must be from 0 to 32"):
            split_bytes(*SIDES, bits)
    for size in (0, -5.0, math.nan):
        with pytest.raises(ValueError, match="size must be positive"):
            bits_for_bytes(*SIDES, size)


def test_parts_of_the_small_networks_add_up() -> None:
    for name, head in (("VGGSmall", "head"), ("StandardCNN", "classifier")):
        model = small(name)
        backbone, rest = parts(model, (1, 28, 28), head=head)
        total = sum(p.numel() for p in model.parameters())
        assert backbone.parameters + rest.parameters == total
        assert rest.parameters == sum(p.numel() for p in model.get_submodule(head).parameters())
    with pytest.raises(ValueError, match="head must name a child of the model"):
        parts(small("SeparableCNN"), (1, 28, 28))


def test_a_child_whose_name_begins_like_the_heads_belongs_to_the_backbone() -> None:
    children = OrderedDict(header=nn.Linear(4, 3), head=nn.Linear(3, 2), h=nn.ReLU())
    backbone, rest = parts(nn.Sequential(children), (4,))
    assert (backbone, rest) == (Part(15, 12), Part(8, 6))


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "head"), [("VGGSmall", "head"), ("StandardCNN", "classifier")])
def test_the_head_is_float_and_the_backbone_integer(name: str, head: str) -> None:
    torch.manual_seed(0)
    model, x = small(name).eval(), images(6)
    with torch.no_grad():  # else 2-bit weights of a fresh head hardly show
        for p in model.get_submodule(head).parameters():
            p.mul_(3)
    network = split_network(model, x, head=head, weight_bits=3)
    quantized = quantize_network(model, x, weight_bits=3)
    last = network.backbone.nodes[-1].name
    features = quantized.forward_all(x)[last]
    assert torch.equal(network.backbone(x), features)
    with torch.no_grad():
        expected = model.get_submodule(head)(features)
    assert torch.allclose(training.logits(network, x), expected, atol=1e-5)
    assert not torch.allclose(training.logits(quantized, x), expected, atol=1e-3)


def test_split_network_refuses_what_it_cannot_split() -> None:
    model, x = small("StandardCNN").eval(), images(2)
    with pytest.raises(ValueError, match="head must name a child"):
        split_network(model, x, head="nothing")
    with pytest.raises(ValueError, match="must follow the backbone"):
        split_network(model, x, head="features")
    with pytest.raises(ValueError, match="layers of the float head"):
        split_network(model, x, head="classifier", weight_bits={"classifier.fc1": 4})
    with pytest.raises(ValueError, match="from 2 to 8"):
        split_network(model, x, head="classifier", weight_bits=9)


class Forked(nn.Module):
    """A head that reads two layers of the backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.head = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1), flat=nn.Flatten()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.one(x)
        self.two(one)
        return self.head(one)


def test_a_head_behind_an_earlier_layer() -> None:
    # The unused layer disappears when the network is traced, so this one can be split.
    network = split_network(Forked().eval(), torch.randn(2, 1, 2, 2))
    assert [node.name for node in network.backbone.nodes] == ["input", "one"]
    assert [node.name for node in network.head] == ["head.conv", "head.flat"]
