"""The counter against four independent ones, the published table, and arithmetic by hand."""

import copy
import io
import math
import warnings
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import cost
from helpers.models import PRUNED_WIDTHS, LeNet5, SeparableCNN, StandardCNN

NETWORKS = {
    "StandardCNN": StandardCNN,
    "SeparableCNN": SeparableCNN,
    "pruned": lambda: SeparableCNN(widths=PRUNED_WIDTHS),
}
# Parameters, then operations under each convention; "article" is what thop 0.0.31 gives.
TABLE = {
    "StandardCNN": {
        "parameters": 12_833_803,
        "mac": 1_085_276_160 + 8_918_528,
        "article": 1_100_191_232,
        "thop": 1_102_190_080,
        "fvcore": 1_098_192_384,
        "flop_counter": 2_188_389_376,
        "torchinfo": 1_096_198_027,
    },
    "SeparableCNN": {
        "parameters": 256_779,
        "mac": 29_597_696 + 2_816,
        "article": 31_214_592,
        "thop": 31_353_856,
        "fvcore": 30_485_248,
        "flop_counter": 59_201_024,
        "torchinfo": 30_331_659,
    },
    "pruned": {
        "parameters": 171_606,
        "mac": 23_842_240 + 2_816,
        "article": 25_401_600,
        "thop": 25_546_432,
        "fvcore": 24_703_808,
        "flop_counter": 47_690_112,
        "torchinfo": 24_544_245,
    },
}


def by_thop(model: nn.Module, x: torch.Tensor) -> int:
    thop = pytest.importorskip("thop")
    return int(thop.profile(copy.deepcopy(model), (x,), verbose=False)[0])


def by_flop_counter(model: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


def by_fvcore(model: nn.Module, x: torch.Tensor) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fvcore = pytest.importorskip("fvcore.nn")
        analysis = fvcore.FlopCountAnalysis(model.eval(), x)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        return int(analysis.total())


def by_torchinfo(model: nn.Module, x: torch.Tensor) -> int:
    torchinfo = pytest.importorskip("torchinfo")
    return torchinfo.summary(copy.deepcopy(model), tuple(x.shape), verbose=0).total_mult_adds


ORACLES = {
    "thop": by_thop,
    "flop_counter": by_flop_counter,
    "fvcore": by_fvcore,
    "torchinfo": by_torchinfo,
}


@pytest.mark.parametrize("network", NETWORKS)
def test_published_table(network: str) -> None:
    model = NETWORKS[network]()
    for convention in cost.CONVENTIONS:
        counted = cost.count(model, (3, 128, 128), convention)
        assert counted.operations == TABLE[network][convention], convention
        assert counted.macs == TABLE[network]["mac"]
        assert counted.parameters == TABLE[network]["parameters"]
        assert sum(layer.parameters for layer in counted.layers) == counted.parameters


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("network", ["SeparableCNN", "pruned"])
def test_independent_counters_agree_on_the_published_networks(network: str, oracle: str) -> None:
    model = NETWORKS[network]().eval()
    assert ORACLES[oracle](model, torch.zeros(1, 3, 128, 128)) == TABLE[network][oracle]


@pytest.mark.parametrize("oracle", ORACLES)
def test_independent_counters_agree_on_the_large_network(oracle: str) -> None:
    model = StandardCNN().eval()
    assert ORACLES[oracle](model, torch.zeros(1, 3, 128, 128)) == TABLE["StandardCNN"][oracle]


def test_a_batch_of_two_doubles_thop() -> None:
    model = SeparableCNN(widths=PRUNED_WIDTHS)
    one, two = (by_thop(model, torch.zeros(n, 3, 128, 128)) for n in (1, 2))
    assert two == 2 * one == 51_092_864


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int]]:
    channels = first = draw(st.integers(1, 6))
    side = draw(st.integers(6, 12))
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        after = groups * draw(st.integers(1, 4))
        kernel = draw(st.sampled_from([1, 3, (1, 3), 5]))
        dilation = draw(st.integers(1, 2))
        layers.append(
            nn.Conv2d(
                channels,
                after,
                kernel,
                stride=draw(st.integers(1, 2)),
                padding=2 * dilation,
                dilation=dilation,
                groups=groups,
                bias=draw(st.booleans()),
            )
        )
        if draw(st.booleans()):
            layers.append(nn.BatchNorm2d(after, affine=draw(st.booleans())))
        layers.append(draw(st.sampled_from([nn.ReLU(), nn.ReLU6(), nn.Identity()])))
        channels = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(channels, draw(st.integers(1, 5)), bias=draw(st.booleans()))]
    return nn.Sequential(*layers), (first, side, side)


@settings(max_examples=20, deadline=None)
@given(networks())
def test_independent_counters_agree_on_random_networks(drawn) -> None:
    model, shape = drawn
    model.eval()
    x = torch.zeros(1, *shape)
    for name, oracle in ORACLES.items():
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            expected = oracle(model, x)
        assert cost.count(model, shape, name).operations == expected, (name, model)


@settings(max_examples=30, deadline=None)
@given(networks())
def test_macs_are_the_multiplications_of_the_unrolled_matrix(drawn) -> None:
    """A convolution is a matrix product; its MACs are the entries that padding did not put there."""
    model, shape = drawn
    conv = model[0]
    with torch.no_grad():
        y = conv(torch.zeros(1, *shape))
        columns = F.unfold(
            torch.ones(1, conv.in_channels // conv.groups, *shape[1:]),
            conv.kernel_size,
            conv.dilation,
            conv.padding,
            conv.stride,
        )
    assert cost.count(model, shape).layers[0].macs == columns.numel() * y.shape[1]


def test_the_model_is_left_as_it_was() -> None:
    model = SeparableCNN().train()
    before = copy.deepcopy(model.state_dict())
    cost.count(model, (3, 32, 32), "article")
    assert model.training
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks for m in model.modules())
    assert all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())


def test_a_large_network_without_storage() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        vgg = torchvision.models.vgg16()
    counted = cost.count(vgg, (3, 224, 224))
    dense = [layer for layer in counted.layers if layer.kind == "linear"]
    assert counted.parameters == 138_357_544
    assert sum(layer.parameters for layer in dense) == 123_642_856
    assert counted.macs == 15_470_264_320
    assert counted.macs - sum(layer.macs for layer in dense) == 15_346_630_656


def test_half_precision_model() -> None:
    assert cost.count(LeNet5().half(), (1, 28, 28)).macs == 2_293_000


def test_shared_layer_counts_its_parameters_once_and_its_work_twice() -> None:
    layer = nn.Linear(4, 4)
    counted = cost.count(nn.Sequential(layer, nn.ReLU(), layer), (4,))
    assert counted.parameters == 20
    assert counted.macs == 32
    assert [row.parameters for row in counted.layers if row.kind == "linear"] == [20, 0]


def test_kinds_and_table() -> None:
    counted = cost.count(SeparableCNN(), (3, 128, 128), "article")
    kinds = [layer.kind for layer in counted.layers]
    assert [kinds.count(k) for k in ("conv", "depthwise", "pointwise", "linear", "batch norm")] == [
        1,
        7,
        7,
        1,
        8,
    ]
    table = counted.table()
    assert table["operations (article)"].sum() == counted.operations
    assert table["parameters"].sum() == counted.parameters
    assert not {"ReLU6", "MaxPool2d", "Flatten"} & set(table["kind"])
    assert table.iloc[0]["output shape"] == (16, 128, 128)


def test_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match=r"convention must be one of mac, article.*'flops'"):
        cost.count(LeNet5(), (1, 28, 28), "flops")


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 27), (1, 1, 28, 28), (1, 4, 4)])
def test_shape_that_does_not_fit_is_refused(shape) -> None:
    with pytest.raises(ValueError, match="input_shape"):
        cost.count(LeNet5(), shape)


@pytest.mark.parametrize("shape", [(), (0, 28, 28), (1, 28.0, 28), (True, 28, 28)])
def test_shape_of_nonsense_is_refused(shape) -> None:
    with pytest.raises(ValueError, match="input_shape must be positive"):
        cost.count(LeNet5(), shape)


def test_module_that_holds_weights_but_is_unknown_is_refused() -> None:
    model = nn.Sequential()
    model.add_module("up", nn.ConvTranspose2d(1, 2, 3))
    with pytest.raises(ValueError, match=r"'up' of type ConvTranspose2d"):
        cost.count(model, (1, 8, 8))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gain * self.fc(x)

    with pytest.raises(ValueError, match="type Scaled"):
        cost.count(Scaled(), (4,))


def test_matrix_work_outside_modules_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.fc(x), self.fc.weight)

    with pytest.raises(ValueError, match="16 MACs outside"):
        cost.count(Twice(), (4,))


def test_not_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="torch module, got function"):
        cost.count(lambda x: x, (1,))  # type: ignore[arg-type]


@given(st.integers(0, 10**6), st.integers(1, 32))
def test_bytes_are_the_bits_rounded_up_to_whole_bytes(numbers: int, bits: int) -> None:
    assert cost.storage_bytes(numbers, bits) == math.ceil(numbers * bits / 8)


def test_bytes_of_the_article() -> None:
    model = SeparableCNN()
    counted = cost.count(model, (3, 128, 128))
    assert cost.storage_bytes(counted, 32) == cost.storage_bytes(model, 32) == 1_027_116
    assert cost.storage_bytes(model, 16, buffers=True) == 517_654
    assert cost.storage_bytes(model, 8, buffers=True) == 258_827


@pytest.mark.parametrize("bits", [0, 33, -1, 8.0, True, "8"])
def test_bits_out_of_range_are_refused(bits) -> None:
    with pytest.raises(ValueError, match="bits must be"):
        cost.storage_bytes(10, bits)
    with pytest.raises(ValueError, match="weight_bits"):
        cost.traffic(cost.count(LeNet5(), (1, 28, 28)), bits)


@pytest.mark.parametrize("what", [-1, 1.5, "LeNet5", True])
def test_storage_of_nonsense_is_refused(what) -> None:
    with pytest.raises(ValueError, match="what"):
        cost.storage_bytes(what, 8)


def test_file_bytes_are_the_numbers_plus_a_header() -> None:
    model = SeparableCNN()
    tensors = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert 0 < cost.file_bytes(model) - tensors < 10_000


def test_traffic_by_hand() -> None:
    counted = cost.count(LeNet5(), (1, 28, 28))
    table = cost.traffic(counted, weight_bits=4, activation_bits=8).set_index("layer")
    assert list(table.index) == ["conv1", "conv2", "fc1", "fc2"]
    conv2 = table.loc["conv2"]
    assert conv2["weight bytes"] == 25_050 // 2
    assert conv2["input bytes"] == 20 * 12 * 12
    assert conv2["output bytes"] == 50 * 8 * 8
    moved = 12_525 + 2_880 + 3_200
    assert conv2["bytes"] == moved
    assert conv2["operations per byte"] == 2 * 50 * 64 * 500 / moved


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_roofline_never_above_either_roof(intensity: float, peak: float, bandwidth: float) -> None:
    roof = cost.attainable(intensity, peak, bandwidth)
    assert roof <= peak
    assert roof <= intensity * bandwidth
    assert roof in (peak, intensity * bandwidth)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf])
def test_roofline_refuses_nonsense(bad: float) -> None:
    for values, name in (((bad, 1, 1), "intensity"), ((1, bad, 1), "peak"), ((1, 1, bad), "band")):
        with pytest.raises(ValueError, match=name):
            cost.attainable(*values)


def test_latency_is_the_median_after_the_warm_up(monkeypatch) -> None:
    lengths = [9.0, 9.0, 1.0, 5.0, 2.0]
    clock = [0.0]
    calls = []

    def function(x: int) -> None:
        clock[0] += lengths[len(calls)]
        calls.append(x)

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    assert cost.latency(function, 7, repeats=3, warmup=2) == 2.0
    assert calls == [7] * 5


def test_latency_runs_a_model_in_evaluation_mode_and_restores_it() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2)).train()
    assert cost.latency(model, torch.ones(3, 2), repeats=1) >= 0
    assert model.training
    assert model[0].num_batches_tracked == 0
    with pytest.raises(ValueError, match="repeats"):
        cost.latency(model, torch.ones(3, 2), repeats=0)


def test_energy_table_is_ordered_as_published() -> None:
    e = cost.ENERGY_PJ
    assert e["int8 add"] < e["int32 add"] < e["float16 add"] < e["float32 add"]
    assert e["int8 multiply"] < e["float16 multiply"] < e["int32 multiply"] < e["float32 multiply"]
    assert e["64 bits from DRAM, low"] == 13 * e["64 bits from 1 MB SRAM"]
