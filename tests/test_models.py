"""Networks: published parameter counts, PyTorch's own MAC counter, shapes, tracing, bad sizes."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import models


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, *shape: int) -> int:
    """Two operations a multiply-accumulate, convolutions and dense layers only."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("model", "shape", "expected_parameters", "expected_macs"),
    [
        (models.LeNet300100(), (1, 28, 28), 266_610, 266_200),
        (models.LeNet5(), (1, 28, 28), 431_080, 2_293_000),
        (models.StandardCNN(), (3, 128, 128), 12_833_803, 1_094_194_688),
        (models.SeparableCNN(), (3, 128, 128), 256_779, 29_600_512),
        (models.SeparableCNN(widths=models.PRUNED_WIDTHS), (3, 128, 128), 171_606, 23_845_056),
        (models.small("StandardCNN"), (1, 28, 28), 98_666, 1_994_240),
        (models.small("SeparableCNN"), (1, 28, 28), 9_002, 585_504),
    ],
    ids=[
        "LeNet300100",
        "LeNet5",
        "StandardCNN",
        "SeparableCNN",
        "pruned",
        "small-std",
        "small-sep",
    ],
)
def test_published_sizes(model, shape, expected_parameters, expected_macs):
    assert parameters(model) == expected_parameters
    assert macs(model, *shape) == expected_macs
    classes = 11 if shape[0] == 3 else 10
    assert model(torch.zeros(2, *shape)).shape == (2, classes)


def test_pruned_widths_are_the_rate_applied_five_times():
    full = (16, 32, 64, 128, 256, 256, 256, 256)
    pruned = [int(w * 0.95**5) if 3 <= i <= 6 else w for i, w in enumerate(full)]
    assert tuple(pruned) == models.PRUNED_WIDTHS


@pytest.mark.parametrize("name", models.SMALL)
def test_small_networks_trace_and_give_logits(name):
    torch.manual_seed(0)
    model = models.small(name).eval()
    x = torch.randn(3, 1, 28, 28)
    traced = torch.fx.symbolic_trace(model)
    assert model(x).shape == (3, 10)
    assert torch.equal(traced(x), model(x))
    assert model(x).min() < 0  # logits: nothing after the last layer


@pytest.mark.parametrize("name", models.SMALL)
def test_every_operation_is_a_named_module(name):
    graph = torch.fx.symbolic_trace(models.small(name)).graph
    assert {node.op for node in graph.nodes} == {"placeholder", "call_module", "output"}
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    assert len(targets) == len(set(targets))  # no module serves twice


def test_structure_of_the_separable_student():
    model = models.SeparableCNN()
    kinds = [type(module).__name__ for module in model.features]
    block = ["Conv2d", "BatchNorm2d", "ReLU6", "Conv2d"]
    assert kinds[:5] == ["Conv2d", "BatchNorm2d", "ReLU6", "MaxPool2d", "Conv2d"]
    assert kinds[4:] == 3 * [*block, "MaxPool2d"] + 4 * block
    for name, module in model.features.named_children():
        if name.startswith("depthwise"):
            assert module.groups == module.in_channels == module.out_channels
            assert module.kernel_size == (3, 3)
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 11)  # any size: global pooling


def test_vgg_is_its_head_on_its_backbone():
    torch.manual_seed(0)
    model = models.VGGSmall().eval()
    x = torch.randn(2, 1, 28, 28)
    assert model.backbone(x).shape == (2, 64, 3, 3)
    assert torch.equal(model.head(model.backbone(x)), model(x))
    backbone, whole = macs(model.backbone, 1, 28, 28), macs(model, 1, 28, 28)
    assert backbone > 0.98 * whole


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: models.small("ResNet"), "ResNet.*LeNet300100"),
        (lambda: models.LeNet5(size=15), "size.*15"),
        (lambda: models.LeNet300100(in_features=0), "in_features.*0"),
        (lambda: models.StandardCNN(size=16), "size.*32.*16"),
        (lambda: models.StandardCNN(channels=()), "channels"),
        (lambda: models.StandardCNN(hidden=(0,)), "hidden"),
        (lambda: models.SeparableCNN(widths=(16, -1)), "widths.*-1"),
        (lambda: models.SeparableCNN(widths=(16, 32), pools=3), "pools.*2.*3"),
        (lambda: models.SeparableCNN(classes=2.5), "classes.*2.5"),
        (lambda: models.VGGSmall(size=7), "size.*8.*7"),
    ],
)
def test_bad_sizes_are_refused_by_name(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_edgenet_has_the_published_size_of_the_gw2a_network() -> None:
    network = models.EdgeNet()
    weights = sum(
        module.weight.numel()
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    )
    found = macs(network, 3, 96, 96)
    assert (found, parameters(network), weights) == (8_285_952, 82_210, 79_752)
    assert abs(2 * found / 16.64e6 - 1) < 0.005
    assert int(weights / 1e4) / 100 == 0.07
    assert network(torch.zeros(2, 3, 96, 96)).shape == (2, 10)


@pytest.mark.parametrize(
    "wrong", [{"first": 0}, {"blocks": ()}, {"blocks": ((8, 1, 1),)}, {"blocks": ((8, 0),)}]
)
def test_edgenet_refuses_bad_sizes(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        models.EdgeNet(**wrong)


def test_weight_layers_are_the_convolutions_and_dense_layers_in_order() -> None:
    assert list(models.weight_layers(models.small("LeNet5"))) == ["conv1", "conv2", "fc1", "fc2"]
    separable = models.small("SeparableCNN")
    found = models.weight_layers(separable)
    with_weights = [n[: -len(".weight")] for n, p in separable.named_parameters() if p.ndim > 1]
    assert list(found) == with_weights  # a batch norm's weight has one dimension
    assert all(found[name] is separable.get_submodule(name) for name in found)


def test_weight_layers_of_any_dimension_once_each() -> None:
    shared = nn.Conv1d(1, 1, 3)
    model = nn.Sequential(shared, nn.Conv3d(1, 1, 3), shared, nn.ConvTranspose2d(1, 1, 3))
    assert list(models.weight_layers(model)) == ["0", "1"]
    assert list(models.weight_layers(nn.Linear(2, 2))) == [""]  # the model is the layer
    assert models.weight_layers(nn.ReLU()) == {}


@pytest.mark.parametrize("name", ["features.conv2", "classifier", "flatten"])
def test_replace_module_changes_one_place(name: str) -> None:
    before = models.small("StandardCNN")
    model, new = copy.deepcopy(before), nn.Identity()
    models.replace_module_(model, name, new)
    assert model.get_submodule(name) is new
    kept = [n for n, _ in before.named_modules() if n == name or not n.startswith(f"{name}.")]
    assert [n for n, _ in model.named_modules()] == kept  # and their order
    for other in kept:
        if other and not name.startswith(other):
            assert type(model.get_submodule(other)) is type(before.get_submodule(other))


def test_replace_module_in_numbered_and_shared_places() -> None:
    layer, new = nn.Linear(2, 2), nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ModuleList([layer, nn.ReLU()]))
    models.replace_module_(model, "1.0", new)
    assert model[0] is layer
    assert model[1][0] is new
    models.replace_module_(model, "1.0", nn.ReLU())
    models.replace_module_(model, "0", new)
    assert model[0] is new


@pytest.mark.parametrize(
    "name", ["", "conv3", "conv1.weight", "conv1.nothing", "forward", "conv1."]
)
def test_replace_module_refuses_what_is_no_submodule(name: str) -> None:
    model = models.small("LeNet5")
    before = [(n, type(m)) for n, m in model.named_modules()]
    with pytest.raises(ValueError, match=f"submodule of LeNet5, got '{name}'.*conv1, relu1"):
        models.replace_module_(model, name, nn.Identity())
    assert [(n, type(m)) for n, m in model.named_modules()] == before
    with pytest.raises(ValueError, match="none"):
        models.replace_module_(nn.ReLU(), name, nn.Identity())
