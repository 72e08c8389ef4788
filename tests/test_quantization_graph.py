"""Folding and tracing: the layers read from a network compute what the network computes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.models import SMALL, SeparableCNN, small
from helpers.quantization.folding import fold_batch_norm
from helpers.quantization.graph import trace
from helpers.quantization.network import run_float

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as training leaves them: no statistic at its initial value, some gamma < 0."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.1)
            if module.affine:
                module.weight.data.copy_(torch.randn(module.num_features, generator=generator))
                module.bias.data.copy_(torch.randn(module.num_features, generator=generator))
    return model.eval()


class Residual(nn.Module):
    """Every operator of the contract, half of them as functions, the ReLU module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(6, 6, 3, padding="same", groups=6)
        self.bn2 = nn.BatchNorm2d(6)
        self.pointwise = nn.Conv2d(6, 6, 1, padding="valid")
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.grouped = nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(0, 1), groups=2)
        self.average = nn.AvgPool2d(2, stride=1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)
        self.bn3 = nn.BatchNorm1d(5, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.pointwise(F.relu6(self.bn2(self.depthwise(x))))
        x = F.relu(F.max_pool2d(torch.add(x, y), 2))
        x = self.average(self.relu(self.grouped(self.pool(x))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.bn3(self.fc(F.dropout(self.drop(x), training=self.training)))


def residual() -> nn.Module:
    torch.manual_seed(1)
    return randomize(Residual())


def images(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.booleans(), st.sampled_from([1, 2, 4]), st.integers(0, 10_000))
def test_folding_equals_the_unfolded_pair(bias: bool, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    pair = nn.Sequential(nn.Conv2d(4, 8, 3, groups=groups, bias=bias), nn.BatchNorm2d(8, eps=1e-3))
    randomize(pair, seed)
    x = images(2, 4, 7, 7, seed=seed)
    for model, bound in ((pair, 1e-4), (copy.deepcopy(pair).double(), 1e-10)):
        folded = fold_batch_norm(model)
        inputs = x.to(next(model.parameters()).dtype)
        assert (folded(inputs) - model(inputs)).abs().max() < bound
        assert isinstance(folded[1], nn.Identity)
    assert isinstance(pair[1], nn.BatchNorm2d)  # the argument is left alone


def test_folding_golden_values() -> None:
    pair = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    pair[0].weight.data.fill_(3.0)
    pair[0].bias.data.fill_(1.0)
    pair[1].weight.data.fill_(-2.0)
    pair[1].bias.data.fill_(0.5)
    pair[1].running_mean.fill_(5.0)
    pair[1].running_var.fill_(4.0)
    folded = fold_batch_norm(pair)
    assert folded[0].weight.item() == -3.0  # 3 * -2 / 2
    assert folded[0].bias.item() == 4.5  # 0.5 - 2 (1 - 5) / 2


def test_folding_a_network_in_training_mode_uses_the_running_statistics() -> None:
    model = residual().train()
    folded = fold_batch_norm(model)
    assert model.training
    assert not folded.training
    x = images(3, 2, 20, 20)
    assert torch.allclose(folded(x), copy.deepcopy(model).eval()(x), atol=1e-5)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())


def test_folding_refuses_what_it_cannot_fold() -> None:
    after_pool = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match=r"batch norm '2' cannot be folded.*'1' \(MaxPool2d\)"):
        fold_batch_norm(after_pool)
    first = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match="batch norm '0' cannot be folded"):
        fold_batch_norm(first)
    free = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="no running statistics"):
        fold_batch_norm(free)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    with pytest.raises(ValueError, match="read by nothing else"):
        fold_batch_norm(Shared())


@pytest.mark.parametrize("name", SMALL)
def test_traced_layers_compute_what_the_network_computes(name: str) -> None:
    torch.manual_seed(0)
    model = randomize(small(name))
    nodes = trace(model, (1, 28, 28))
    x = images(4, 1, 28, 28)
    values = run_float(nodes, x)
    assert torch.allclose(values[nodes[-1].name], model(x), atol=1e-3, rtol=1e-4)
    for node in nodes:
        assert tuple(values[node.name].shape[1:]) == node.shape


def test_every_operator_is_read_and_named() -> None:
    model, x = residual(), images(3, 2, 20, 21)
    nodes = {node.name: node for node in trace(model, (2, 20, 21))}
    assert [(n.name, n.op, n.activation) for n in nodes.values()] == [
        ("input", "input", None),
        ("conv1", "conv", "relu"),
        ("depthwise", "conv", "relu6"),
        ("pointwise", "conv", None),
        ("add", "add", "relu"),  # the ReLU after the pool moved before it
        ("max_pool2d", "max_pool", None),
        ("pool", "max_pool", None),
        ("grouped", "conv", "relu"),
        ("average", "avg_pool", None),
        ("adaptive_avg_pool2d", "global_avg_pool", None),
        ("flatten", "flatten", None),
        ("fc", "linear", None),
    ]
    assert nodes["add"].inputs == ("conv1", "pointwise")
    assert nodes["depthwise"].attributes == {"stride": (1, 1), "padding": (1, 1), "groups": 6}
    assert nodes["grouped"].attributes == {"stride": (2, 1), "padding": (0, 1), "groups": 2}
    assert nodes["pool"].attributes == {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    assert nodes["average"].attributes == {"kernel": (2, 2), "stride": (1, 1)}
    assert nodes["conv1"].bias is not None  # without a bias before folding
    assert torch.allclose(run_float(list(nodes.values()), x)["fc"], model(x), atol=1e-4)


def test_a_module_used_twice_gets_two_names_unless_it_has_weights() -> None:
    class Twice(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.conv, self.layer = nn.Conv2d(1, 1, 3), layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(self.conv(x)))

    names = [n.name for n in trace(Twice(nn.MaxPool2d(2)), (1, 28, 28))]
    assert len(set(names)) == 4
    with pytest.raises(ValueError, match=r"'layer' \(Conv2d\) is used more than once"):
        trace(Twice(nn.Conv2d(1, 1, 3)), (1, 28, 28))


def net(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), *layers)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (net(nn.Sigmoid()), r"unknown operator '1' \(Sigmoid\)"),
        (net(nn.LeakyReLU()), r"'1' \(LeakyReLU\)"),
        (net(nn.Conv2d(2, 2, 3, dilation=2)), r"'1' \(Conv2d\): only dilation 1"),
        (net(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "zero padding"),
        (net(nn.Conv2d(2, 2, 2, padding="same")), "even kernel"),
        (net(nn.ConvTranspose2d(2, 2, 2)), "ConvTranspose2d"),
        (net(nn.AvgPool2d(2, padding=1)), "average pooling with padding"),
        (net(nn.MaxPool2d(2, ceil_mode=True)), "ceil_mode=False"),
        (net(nn.MaxPool2d(2, dilation=2)), "dilation 1"),
        (net(nn.AvgPool2d(2, divisor_override=3)), "divisor_override"),
        (net(nn.AdaptiveAvgPool2d(2)), "only output size 1"),
        (net(nn.Flatten(2)), "only flatten from dimension 1"),
        (net(nn.Linear(26, 3)), "flatten it first"),
        (net(nn.AvgPool2d(2), nn.ReLU()), r"activation '2' \(ReLU\) follows '1' \(avg_pool\)"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3)), r"follows 'input' \(input\)"),
        (nn.Sequential(nn.Conv2d(3, 2, 3)), r"'0' \(Conv2d\) does not take an input of shape"),
    ],
)
def test_operators_outside_the_contract_are_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(model, (1, 28, 28))


class Function(nn.Module):
    """A network whose forward is `function(conv output)`."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(1, 2, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.sigmoid, "unknown operator 'sigmoid'"),
        (lambda x: x + 1, "only the sum of two layers"),
        (lambda x: torch.add(x, x, alpha=2), "only the sum of two layers"),
        (lambda x: x * x, "unknown operator 'mul'"),
        (lambda x: torch.cat([x, x]), "unknown operator 'cat'"),
        (lambda x: F.relu(x) + x, "that nothing else reads"),
        (lambda x: (x, x), "must return one tensor"),
        (lambda x: x if x.sum() > 0 else -x, "cannot be traced"),
        (lambda x: x + torch.ones(2, 1, 1), "reads a parameter"),
        (lambda x: F.batch_norm(x, torch.zeros(2), torch.ones(2)), "batch_norm"),
    ],
)
def test_functions_outside_the_contract_are_refused_by_name(function: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(Function(function), (1, 28, 28))


def test_nan_weights_are_named() -> None:
    model = SeparableCNN(1, 10, (4, 4), 1).eval()
    model.features.depthwise2.weight.data[0] = float("nan")
    with pytest.raises(
        ValueError, match=r"'features\.depthwise2\.weight' holds values that are NaN"
    ):
        trace(model, (1, 28, 28))


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(ValueError, match="more than one input"):
        trace(Two(), (1, 4, 4))
