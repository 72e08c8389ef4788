"""Channel groups, masks and smaller networks, against Torch-Pruning and against the constructors."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch_pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import cost, models
from helpers.slimming import (
    channel_groups,
    dead_constants,
    fresh,
    importance,
    keep_by_layer,
    layer_shapes,
    masked,
    remove_layers,
    slim,
)

settings.register_profile("course", deadline=None, max_examples=25)
settings.load_profile("course")
SHAPE = (1, 12, 12)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "StandardCNN": lambda: models.StandardCNN(1, 12, 10, (5, 7), (9,)),
    "SeparableCNN": lambda: models.SeparableCNN(1, 10, (5, 7, 6, 6), 1),
    "VGGSmall": lambda: models.VGGSmall(1, 12, 10, (3, 4), 6),
    "LeNet300100": lambda: models.LeNet300100(144, 10),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """A network in float64, eval mode, whose batch norms hold nothing special (negative gamma too)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[name]().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean):
                values.copy_(torch.randn(len(values), generator=generator))
            module.running_var.copy_(torch.rand(len(module.running_var), generator=generator) + 0.2)
    return model


def images(seed: int = 0, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)


def masks(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name, group in channel_groups(model).items():
        kept[name] = torch.rand(group.size, generator=generator) < 0.6
        kept[name][int(torch.randint(group.size, (), generator=generator))] = True
    return kept


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-10)


def test_groups_of_the_two_networks_by_hand() -> None:
    groups = channel_groups(network("StandardCNN"))
    assert list(groups) == ["features.conv1", "features.conv2", "classifier.fc1"]
    last = groups["features.conv2"]
    assert (last.size, last.norms, last.depthwise) == (7, ("features.bn2",), ())
    assert (last.reader, last.spread) == ("classifier.fc1", 9)
    groups = channel_groups(network("SeparableCNN"))
    assert list(groups) == [
        *("features.conv1", "features.pointwise2", "features.pointwise3", "features.pointwise4"),
    ]
    first, second = groups["features.conv1"], groups["features.pointwise2"]
    assert first.norms == ("features.bn1", "features.bn2")
    assert (second.size, second.norms) == (7, ("features.bn3",))
    assert (second.depthwise, second.reader) == (("features.depthwise3",), "features.pointwise3")
    assert groups["features.pointwise4"].norms == ()


@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 10_000))
def test_the_smaller_network_equals_the_masked_one(name: str, seed: int) -> None:
    model = network(name, seed % 7)
    before = copy.deepcopy(model.state_dict())
    kept, x = masks(model, seed), images(seed)
    small = slim(model, kept)
    with torch.no_grad():
        assert close(small(x), masked(model, kept)(x))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "argument changed"
    for group, mask in kept.items():
        assert small.get_submodule(group).weight.shape[0] == int(mask.sum())


@given(st.sampled_from(["StandardCNN", "SeparableCNN"]), st.integers(0, 10_000))
def test_the_smaller_network_is_the_constructor_s(name: str, seed: int) -> None:
    model = network(name)
    kept = masks(model, seed)
    widths = [int(mask.sum()) for mask in kept.values()]
    small = slim(model, kept)
    if name == "StandardCNN":
        same: nn.Module = models.StandardCNN(1, 12, 10, widths[:2], widths[2:])
    else:
        same = models.SeparableCNN(1, 10, widths, 1)
    same.double().eval().load_state_dict(small.state_dict(), strict=True)
    x = images(seed)
    with torch.no_grad():
        if 1 not in widths:  # a depthwise layer of one channel takes another path in PyTorch
            assert torch.equal(same(x), small(x))
        assert close(same(x), small(x))
    counted = cost.count(small, SHAPE)
    assert (counted.macs, counted.parameters) == (
        cost.count(same, SHAPE).macs,
        cost.count(same, SHAPE).parameters,
    )


@pytest.mark.parametrize("name", list(NETWORKS))
def test_pruning_adds_no_operation_under_any_convention(name: str) -> None:
    model = network(name)
    small = slim(model, masks(model, 4))
    for convention in cost.CONVENTIONS:
        before, after = (cost.count(m, SHAPE, convention).operations for m in (model, small))
        assert after < before, convention


@pytest.mark.parametrize("name", list(NETWORKS))
def test_torch_pruning_makes_the_same_network(name: str) -> None:
    model = network(name)
    kept, other = masks(model, 1), copy.deepcopy(model)
    graph = torch_pruning.DependencyGraph().build_dependency(other, images())
    for group, mask in kept.items():
        layer = other.get_submodule(group)
        linear = isinstance(layer, nn.Linear)
        function = (
            torch_pruning.prune_linear_out_channels
            if linear
            else torch_pruning.prune_conv_out_channels
        )
        dropped = (~mask).nonzero().flatten().tolist()
        if dropped:
            graph.get_pruning_group(layer, function, idxs=dropped).prune()
    small, theirs = slim(model, kept), other.state_dict()
    assert list(small.state_dict()) == list(theirs)
    for key, value in small.state_dict().items():
        assert torch.equal(value, theirs[key]), key


def test_torch_pruning_finds_the_same_groups() -> None:
    model = network("SeparableCNN")
    names = {module: name for name, module in model.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(model, images())
    for group in channel_groups(model).values():
        layer = model.get_submodule(group.name)
        theirs = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=[0])
        found = {
            names[part.dep.target.module] for part in theirs if part.dep.target.module in names
        }
        assert found == {group.name, *group.norms, *group.depthwise, group.reader}


@pytest.mark.parametrize("name", ["StandardCNN", "SeparableCNN", "VGGSmall"])
@pytest.mark.parametrize("joint", ["mean", "max"])
def test_torch_pruning_ranks_a_layer_s_channels_alike(name: str, joint: str) -> None:
    """Within a layer; over layers its scores are divided by each group's mean, the paper's are not."""
    model = network(name, seed=3)
    importances = torch_pruning.importance.BNScaleImportance(group_reduction=joint, normalizer=None)
    graph = torch_pruning.DependencyGraph().build_dependency(model, images())
    ours = importance(model, joint)  # type: ignore[arg-type]
    for group, scores in ours.items():
        layer = model.get_submodule(group)
        size = len(scores)
        theirs = importances(
            graph.get_pruning_group(
                layer, torch_pruning.prune_conv_out_channels, idxs=list(range(size))
            )
        )
        assert torch.allclose(theirs.double(), scores), group


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_folded_constant_is_exact_where_no_padding_meets_it(bias: bool, padding: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding=padding, bias=bias),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 2, 1),
    )
    model = model.double().eval()
    kept = {"0": torch.tensor([True, False, True, False])}
    with torch.no_grad():
        model[1].weight[~kept["0"]] = 0.0
        model[1].bias.copy_(torch.tensor([0.3, 0.8, -0.2, 1.7]))
    x = images()
    with torch.no_grad():
        error = (slim(model, kept, constants="fold")(x) - model(x)).abs().amax((0, 1))
        dropped = (slim(model, kept)(x) - model(x)).abs().amax((0, 1))
    inside = error[1:-1, 1:-1] if padding else error
    assert inside.max() < 1e-12
    assert dropped[1:-1, 1:-1].max() > 0.01, "beta alone mattered"
    if padding:
        assert error.max() > 0.01, "the padding is 0, the constant is not"


def test_without_a_bias_the_next_batch_norm_s_mean_moves() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU()),
        *(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1)),
    ).eval()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([2.0, 0.5]))
    small = slim(model, {"0": torch.tensor([False, True])}, constants="fold")
    expected = -2.0 * model[3].weight[:, 0].flatten()
    assert small[3].bias is None
    assert torch.allclose(small[4].running_mean, expected.detach())
    assert torch.equal(model[4].running_mean, torch.zeros(2)), "the argument's buffer changed"
    bare = nn.Sequential(model[0], model[1], model[2], model[3]).eval()
    small = slim(bare, {"0": torch.tensor([False, True])}, constants="fold")
    assert torch.allclose(small[3].bias, -expected), "nowhere else to put it: a new bias"


def test_separable_blocks_fold_exactly_up_to_the_border() -> None:
    """What is dropped is read by a pointwise layer, which pads nothing."""
    model = network("SeparableCNN", seed=2)
    kept = {
        "features.pointwise2": torch.tensor([True, False, True, True, False, True, True]),
        "features.pointwise3": torch.tensor([False, True, True, True, True, False]),
    }
    with torch.no_grad():
        model.features.bn3.weight[~kept["features.pointwise2"]] = 0.0
        model.features.bn4.weight[~kept["features.pointwise3"]] = 0.0
        x = images()
        assert close(slim(model, kept, constants="fold")(x), model(x))
        assert not close(slim(model, kept)(x), model(x)), "beta alone mattered"


def test_a_second_scale_of_zero_in_a_group_is_as_exact() -> None:
    model = network("SeparableCNN", seed=5)
    kept = {"features.conv1": torch.tensor([True, False, True, True, True])}
    with torch.no_grad():
        model.features.bn2.weight[1] = 0.0
        model.features.bn2.bias[1] = 0.9
        x = images()
        assert close(slim(model, kept, constants="fold")(x), model(x))


def test_dead_constants_by_hand() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6(), nn.MaxPool2d(2)),
        *(nn.Conv2d(2, 2, 3, groups=2), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1)),
    ).eval()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([9.0, -1.0]))  # ReLU6: 6 and 0
        model[4].weight.fill_(0.5)  # nine weights: 27 and 0
        model[4].bias.copy_(torch.tensor([1.0, 2.0]))  # 28 and 2
        model[5].running_mean.copy_(torch.tensor([8.0, 0.0]))
        model[5].running_var.fill_(4.0)
        model[5].eps = 0.0  # (28 - 8) / 2 and 2 / 2
        model[5].weight.copy_(torch.tensor([1.0, -1.0]))
        model[5].bias.copy_(torch.tensor([-3.0, 0.5]))  # 7 and -0.5
    group = channel_groups(model)["0"]
    assert torch.allclose(dead_constants(model, group), torch.tensor([7.0, 0.0]))


def test_dense_layers_without_batch_norm_fold_their_bias() -> None:
    model = network("LeNet300100")
    kept = {"fc1": torch.arange(300) % 3 > 0}
    with torch.no_grad():
        model.fc1.weight[~kept["fc1"]] = 0.0
        x = images()
        assert close(slim(model, kept, constants="fold")(x), model(x))


def test_one_channel_left_everywhere() -> None:
    for name in NETWORKS:
        model = network(name)
        kept = {n: torch.arange(g.size) == 1 for n, g in channel_groups(model).items()}
        with torch.no_grad():
            small = slim(model, kept)
            assert close(small(images()), masked(model, kept)(images())), name
            again = slim(small, {})
            assert close(again(images()), small(images())), name


def test_slimming_twice_is_slimming_once() -> None:
    model = network("SeparableCNN")
    scores = importance(model)
    once = slim(model, keep_by_layer(scores, 0.5))
    half = slim(model, keep_by_layer(scores, 0.25))
    left = {n: g.size for n, g in channel_groups(once).items()}
    scores = importance(half)
    ratios = {n: 1 - left[n] / len(s) for n, s in scores.items()}
    twice = slim(half, keep_by_layer(scores, ratios))
    for key, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[key]), key


def test_fresh_keeps_the_shape_and_nothing_else() -> None:
    model = network("SeparableCNN")
    new, again, other = fresh(model, 1), fresh(model, 1), fresh(model, 2)
    assert torch.equal(new.fc.weight, again.fc.weight)
    assert not torch.equal(new.fc.weight, other.fc.weight)
    assert torch.equal(new.features.bn1.weight, torch.ones(5).double())
    assert torch.equal(new.features.bn1.running_mean, torch.zeros(5).double())
    assert [v.shape for v in new.state_dict().values()] == [
        v.shape for v in model.state_dict().values()
    ]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x))


class Aside(nn.Module):
    """A layer whose result nobody uses reads the first one's channels too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.aside, self.head = (nn.Conv2d(2, 2, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.aside(x)
        return self.head(x)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Residual(), "must be a chain"),
        (Twice(), "used more than once"),
        (Aside(), "'conv' is read more than once"),
        (Branch(), "cannot be traced"),
        (nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), "has 2 groups for 4 to 4"),
        (nn.Sequential(nn.Conv2d(2, 4, 1, groups=2)), "groups must be 1 or"),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Softmax(1)), "'1' is a Softmax"),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(3, 4, 1)), "'1' has 3 inputs"),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.BatchNorm1d(16)), "after a flatten"),
    ],
)
def test_networks_that_cannot_be_grouped_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        channel_groups(model)


@pytest.mark.parametrize("function", [slim, masked])
@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (
            {"features.conv9": torch.ones(5, dtype=torch.bool)},
            r"unknown layers \['features.conv9'\]",
        ),
        ({"features.bn1": torch.ones(5, dtype=torch.bool)}, "known are"),
        ({"classifier.fc2": torch.ones(10, dtype=torch.bool)}, "unknown layers"),
        ({"features.conv1": torch.ones(4, dtype=torch.bool)}, r"bool of shape \(5,\)"),
        ({"features.conv1": torch.ones(5)}, "must be bool"),
        ({"features.conv1": torch.zeros(5, dtype=torch.bool)}, "drops all 5 channels"),
    ],
)
def test_bad_masks_are_refused(
    function: Callable[..., nn.Module], kept: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(network("StandardCNN"), kept)


def test_an_unknown_rule_for_constants_is_refused() -> None:
    with pytest.raises(ValueError, match="constants must be 'drop' or 'fold', got 'keep'"):
        slim(network("StandardCNN"), {}, constants="keep")  # type: ignore[arg-type]


STAGE4 = ["features.depthwise4", "features.bn4", "features.relu4", "features.pointwise4"]
STAGE3 = ["features.depthwise3", "features.bn3", "features.relu3", "features.pointwise3"]


def test_a_block_that_does_nothing_can_be_removed_without_a_trace() -> None:
    model = network("SeparableCNN")
    block = {name.split(".")[1]: model.get_submodule(name) for name in STAGE4}
    with torch.no_grad():
        block["depthwise4"].weight.zero_()
        block["depthwise4"].weight[:, 0, 1, 1] = 1.0
        block["depthwise4"].bias.fill_(3.0)  # ReLU6 leaves 0 to 6 alone
        block["bn4"].weight.fill_(1.0)
        block["bn4"].bias.zero_()
        block["bn4"].running_mean.zero_()
        block["bn4"].running_var.fill_(1.0)
        block["bn4"].eps = 0.0
        block["pointwise4"].weight.copy_(torch.eye(6)[:, :, None, None])
        block["pointwise4"].bias.fill_(-3.0)
        model.features.pointwise3.weight.mul_(0.05)
        x = images()
        assert model.features[:-4](x).abs().max() < 3
        shorter = remove_layers(model, STAGE4, SHAPE)
        assert close(shorter(x), model(x))
    saved = sum(layer.macs for layer in cost.count(model, SHAPE).layers if layer.name in STAGE4)
    assert cost.count(shorter, SHAPE).macs == cost.count(model, SHAPE).macs - saved


def test_a_new_reader_is_made_where_the_shape_changes() -> None:
    model = network("SeparableCNN").float()
    with pytest.raises(ValueError, match=r"turn \(7, 6, 6\) into \(6, 6, 6\)"):
        remove_layers(model, STAGE3, SHAPE)
    with pytest.raises(ValueError, match=r"'features.depthwise4', is depthwise|does not fit"):
        remove_layers(model, STAGE3, SHAPE, renew=0)
    shorter = remove_layers(model, STAGE3 + STAGE4, SHAPE, renew=0)
    assert shorter.fc.in_features == 7
    assert shorter(images().float()).shape == (3, 10)
    again = remove_layers(model, STAGE3 + STAGE4, SHAPE, renew=0)
    assert torch.equal(shorter.fc.weight, again.fc.weight)
    assert model.fc.in_features == 6, "the argument changed"
    plain = network("StandardCNN").float()
    names = ["features.bn1", "features.relu1", "features.pool1"]
    longer = remove_layers(plain, ["features.conv1", *names], SHAPE, renew=3)
    assert (longer.features.conv2.in_channels, longer.features.conv2.padding) == (1, (1, 1))
    with pytest.raises(ValueError, match="does not fit"):
        layer_shapes(longer, SHAPE)


@pytest.mark.parametrize(
    ("names", "renew", "message"),
    [
        ([], None, "names must be modules of"),
        (["features.conv7"], None, "names must be modules of"),
        (["features.bn4", "features.pointwise4"], None, "must follow one another"),
        (["fc"], 0, "nothing can be renewed"),
    ],
)
def test_layers_that_cannot_be_removed(names: list[str], renew: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remove_layers(network("SeparableCNN").float(), names, SHAPE, renew=renew)


def test_an_image_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"input_shape \(2, 12, 12\) does not fit"):
        layer_shapes(network("StandardCNN").float(), (2, 12, 12))
