"""The fake-quantized network against plain integer arithmetic and torch's own fake quantization."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_quantization_graph import Residual, images, randomize
from torch import Tensor, nn

from helpers.models import small
from helpers.quantization.grids import dequantize, quantize
from helpers.quantization.network import (
    QuantizedNetwork,
    QuantizedNode,
    quantize_network,
    run_float,
)


def residual(
    power_of_two: bool = False, **options: object
) -> tuple[nn.Module, Tensor, QuantizedNetwork]:
    torch.manual_seed(1)
    model, x = randomize(Residual()), images(40, 2, 20, 21)
    return model, x, quantize_network(model, x, power_of_two=power_of_two, **options)  # type: ignore[arg-type]


def round_half_even(x: np.ndarray) -> np.ndarray:
    return np.rint(x)


def window_sums(node: QuantizedNode, codes: np.ndarray) -> np.ndarray:
    """Integer accumulators of a convolution in int64, one output position at a time."""
    (sh, sw), (ph, pw) = node.attributes["stride"], node.attributes["padding"]
    groups, weight = node.attributes["groups"], node.weight_codes.numpy().astype(np.int64)
    codes = np.pad(codes, ((0, 0), (0, 0), (ph, ph), (pw, pw)))  # zero: codes are centred
    n, _, height, width = codes.shape
    out, each, kh, kw = weight.shape
    rows, columns = (height - kh) // sh + 1, (width - kw) // sw + 1
    result = np.zeros((n, out, rows, columns), np.int64)
    for o in range(out):
        first = o // (out // groups) * each
        for r in range(rows):
            for c in range(columns):
                window = codes[:, first : first + each, r * sh : r * sh + kh, c * sw : c * sw + kw]
                result[:, o, r, c] = (window * weight[o]).sum((1, 2, 3))
    return result


def integer_layer(
    node: QuantizedNode, inputs: list[QuantizedNode], codes: list[np.ndarray]
) -> np.ndarray:
    """One layer from integer codes, in int64 and float64, written from the contract."""
    p, z = node.output, int(node.output.zero_point)
    centred = [
        c.astype(np.int64) - int(i.output.zero_point) for c, i in zip(codes, inputs, strict=True)
    ]
    if node.op in ("conv", "linear"):
        if node.op == "conv":
            sums = window_sums(node, centred[0])
            bias = node.bias_codes.numpy()[:, None, None]
            unit = node.bias_scale.numpy()[:, None, None]
        else:
            sums = centred[0] @ node.weight_codes.numpy().astype(np.int64).T
            bias, unit = node.bias_codes.numpy(), node.bias_scale.numpy()
        assert np.abs(sums + bias).max() < 2**31
        real = round_half_even((sums + bias) * (unit / p.scale.item())) + z
    elif node.op == "add":
        real = sum(
            c * (i.output.scale.item() / p.scale.item())
            for c, i in zip(centred, inputs, strict=True)
        )
        real = round_half_even(real) + z
    else:
        x = torch.from_numpy(centred[0]).double()
        a = node.attributes
        if node.op == "max_pool":
            x = F.max_pool2d(x, a["kernel"], a["stride"], a["padding"])
        elif node.op == "avg_pool":
            x = F.avg_pool2d(x, a["kernel"], a["stride"])
        elif node.op == "global_avg_pool":
            x = x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
        else:
            x = x.flatten(1)
        real = round_half_even(x.numpy()) + z
    low, high = node.clip
    return np.clip(real, low, high)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (3, 5), (2, 2)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_every_layer_equals_integer_arithmetic(
    power_of_two: bool, bits: tuple[int, int], per_channel: bool
) -> None:
    _, x, network = residual(
        power_of_two, weight_bits=bits[0], activation_bits=bits[1], per_channel=per_channel
    )
    codes = network.codes(x[:6])
    by_name = {node.name: node for node in network.nodes}
    assert np.array_equal(codes["input"].numpy(), quantize(x[:6], network.nodes[0].output).numpy())
    for node in network.nodes[1:]:
        inputs = [codes[name].numpy() for name in node.inputs]
        expected = integer_layer(node, [by_name[name] for name in node.inputs], inputs)
        assert np.array_equal(codes[node.name].numpy(), expected), node.name


def test_forward_all_lies_on_the_grid_and_forward_is_its_last_entry() -> None:
    _, x, network = residual()
    values = network.forward_all(x.double())
    for node in network.nodes:
        value = values[node.name]
        assert torch.equal(
            dequantize(quantize(value, node.output), node.output, torch.float64), value
        )
    assert torch.equal(values["fc"], network(x.double()))
    assert network(x).dtype == torch.float32
    # float32 arithmetic may move a value that lies almost on a rounding boundary by one step
    step = network.nodes[-1].output.scale
    assert ((network(x).double() - values["fc"]).abs() < 1.5 * step).all()
    assert ((network(x).double() - values["fc"]).abs() > step / 2).double().mean() < 0.02


def test_the_integer_contract() -> None:
    _, x, network = residual()
    nodes = {node.name: node for node in network.nodes}
    for node in network.nodes:
        assert (node.output.qmin, node.output.qmax, node.output.axis) == (-128, 127, None)
        assert np.float32(node.output.scale) == node.output.scale.item()
        if node.activation:
            assert node.output.zero_point == -128
        if node.weight_codes is not None:
            assert node.weight_codes.dtype == node.bias_codes.dtype == torch.int32
            assert node.weight_codes.abs().max() <= 127
            assert (node.weight_codes.flatten(1).abs().amax(1) == 127).all()  # each channel's own
            before = nodes[node.inputs[0]].output.scale
            assert torch.equal(node.bias_scale, before * node.weight_parameters.scale)
            assert (
                node.bias_codes * node.bias_scale - node.bias
            ).abs().max() <= node.bias_scale.max() / 2
    for name in ("max_pool2d", "pool", "average", "adaptive_avg_pool2d", "flatten"):
        assert nodes[name].output is nodes[nodes[name].inputs[0]].output
    assert nodes["conv1"].clip == (-128, 127)
    assert {c.dtype for c in network.codes(x[:2]).values()} == {torch.int8}


def test_relu6_clips_at_the_code_of_six() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU6(), nn.Flatten(), nn.Linear(48, 2))
    model[0].weight.data.fill_(10.0)
    x = images(30, 1, 4, 4)
    free = quantize_network(model, x)
    assert free.nodes[1].output.scale.item() == np.float32(6 / 255)
    assert free.nodes[1].clip == (-128, 127)
    pow2 = quantize_network(model, x, power_of_two=True)
    assert pow2.nodes[1].output.scale == 2**-5
    assert pow2.nodes[1].clip == (-128, 64)  # 6 * 32 - 128
    assert pow2.codes(x)["0"].max() == 64


def test_eight_bit_close_to_float_and_more_bits_are_better() -> None:
    model, x, _ = residual()
    exact = model(x)
    error = {}
    for bits in (2, 3, 4, 6, 8):
        network = quantize_network(model, x, weight_bits=bits)
        error[bits] = ((network(x) - exact).square().mean() / exact.square().mean()).item()
    assert list(error.values()) == sorted(error.values(), reverse=True)
    assert error[8] < 1e-2 < error[2]


def test_agrees_with_torch_fake_quantization_of_one_layer() -> None:
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()), images(20, 2, 8, 8)
    network = quantize_network(model, x)
    start, conv = network.nodes
    fake, grid = torch.fake_quantize_per_tensor_affine, start.output
    inputs = fake(x, grid.scale.item(), int(grid.zero_point), -128, 127)
    weight = torch.fake_quantize_per_channel_affine(
        model[0].weight,
        conv.weight_parameters.scale.float(),
        conv.weight_parameters.zero_point,
        0,
        -127,
        127,
    )
    real = F.relu(F.conv2d(inputs, weight, model[0].bias, padding=1))
    expected = fake(real, conv.output.scale.item(), -128, -128, 127)
    difference = (network(x) - expected).abs()
    assert difference.max() < 1.01 * conv.output.scale  # the bias is rounded in ours alone
    assert (difference > conv.output.scale / 2).double().mean() < 0.01


def test_input_of_the_default_data_set_is_the_pixel_minus_128() -> None:
    pixels = torch.randint(0, 256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    x = (pixels - 73) / 90
    network = quantize_network(randomize(small("SeparableCNN")), x)
    assert torch.equal(network.codes(x)["input"], (pixels - 128).to(torch.int8))


@pytest.mark.parametrize("method", ["min_max", "percentile", "kl_divergence"])
def test_the_input_keeps_its_full_range_whatever_the_method(method: str) -> None:
    model, x = randomize(Residual()), images(40, 2, 20, 21)
    x[0, 0, 0, 0] = 50.0
    network = quantize_network(model, x, method=method)
    assert network.nodes[0].output.range[1] > 49


def test_dead_and_nearly_dead_channels_keep_their_bias() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    model[0].weight.data[1] = 0.0
    model[0].weight.data[2] = 1e-12
    model[0].bias.data[:] = torch.tensor([0.1, 0.7, 0.8, -0.2])
    x = images(20, 1, 8, 8)
    for per_channel in (True, False):
        conv = quantize_network(model, x, per_channel=per_channel).nodes[1]
        assert conv.bias_codes.abs().max() <= 2**30 * 1.001
        assert torch.allclose((conv.bias_codes * conv.bias_scale).float(), model[0].bias, atol=1e-3)
    model[0].weight.data.zero_()
    assert torch.isfinite(quantize_network(model, x)(x)).all()


def test_weight_bits_by_layer_name() -> None:
    _, _, network = residual(weight_bits={"depthwise": 4, "fc": 2})
    widths = {n.name: n.weight_parameters.qmax for n in network.nodes if n.weight_parameters}
    assert widths == {"conv1": 127, "depthwise": 7, "pointwise": 127, "grouped": 127, "fc": 1}


def test_model_is_left_as_it_was() -> None:
    torch.manual_seed(1)
    model = randomize(Residual()).train()
    before = copy.deepcopy(model.state_dict())
    quantize_network(model, images(10, 2, 20, 21))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_run_float_in_float64_is_the_float_network() -> None:
    model, x, network = residual()
    logits = run_float(network.nodes, x.double())["fc"]
    assert torch.allclose(logits, copy.deepcopy(model).double()(x.double()), atol=1e-5)


@pytest.mark.parametrize("bits", [1, 9, 0, 8.0])
def test_widths_are_checked(bits: object) -> None:
    model, x = randomize(Residual()), images(4, 2, 20, 21)
    with pytest.raises(ValueError, match="activation_bits must be a whole number from 2 to 8"):
        quantize_network(model, x, activation_bits=bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight bits of 'conv1'"):
        quantize_network(model, x, weight_bits=bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"unknown layers \['conv7'\]"):
        quantize_network(model, x, weight_bits={"conv7": 4})


def test_calibration_data_is_checked() -> None:
    model, x = randomize(Residual()), images(4, 2, 20, 21)
    with pytest.raises(ValueError, match="calibration data is empty"):
        quantize_network(model, x[:0])
    blank = torch.tensor([0.0, 1.5]).reshape(2, 1, 1, 1).expand(2, 2, 20, 21)
    for constant in (blank, blank[1:]):
        with pytest.raises(ValueError, match=rf"{len(constant)} constant image"):
            quantize_network(model, constant)
    quantize_network(model, torch.cat([blank, x]))  # a blank image among others is no reason
    with pytest.raises(ValueError, match="calibration must be a tensor"):
        quantize_network(model, [x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not take an input of shape"):
        quantize_network(model, x[:, :1])
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite values at 'input'"):
        quantize_network(model, x)
    with pytest.raises(ValueError, match="method must be one of"):
        quantize_network(model, x, method="minmax")


def test_wrong_input_shape_is_refused() -> None:
    _, x, network = residual()
    with pytest.raises(ValueError, match=r"x must have shape \(N, 2, 20, 21\), got"):
        network(x[:, :, :10])
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="x holds NaN"):
        network(x)
