"""Whole networks: PyTorch's fake-quantized model, ONNX Runtime and the datapath on real data."""

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import data, models, training, zoo
from helpers.fpga import reference
from helpers.fpga.arithmetic import decompose, requantize_gemmlowp, saturate
from helpers.fpga.convert import from_quantized
from helpers.fpga.datapath import Datapath
from helpers.fpga.export import export, load
from helpers.fpga.integer_model import factors
from helpers.fpga.onnx_file import to_onnx
from helpers.fpga.requantizer import requantizer
from helpers.quantization.grids import dequantize, quantize
from helpers.quantization.network import quantize_network


class Residual(nn.Module):
    """A small network with every operator of the contract; sizes drawn from a seed."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        c = int(rng.choice([2, 4, 6]))
        groups = int(rng.choice([1, 2, c]))
        kernel = int(rng.choice([1, 3, 5]))
        self.first = nn.Conv2d(2, c, kernel, int(rng.choice([1, 2])), kernel // 2)
        self.norm = nn.BatchNorm2d(c)
        self.relu = nn.ReLU6() if rng.random() < 0.5 else nn.ReLU()
        self.grouped = nn.Conv2d(c, c, 3, padding=1, groups=groups)
        self.pointwise = nn.Conv2d(c, c, 1, bias=False)
        self.pool = nn.MaxPool2d(3, 2, 1) if rng.random() < 0.5 else nn.AvgPool2d(2)
        self.last = nn.Conv2d(c, 5, 3, padding=1)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(5, 7)
        self.relu_after_sum = rng.random() < 0.5

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        x = self.pointwise(self.relu(self.grouped(x))) + x
        if self.relu_after_sum:
            x = F.relu(x)
        return self.fc(self.flatten(self.mean(F.relu(self.last(self.pool(x))))))


def random_network(seed, **options):
    torch.manual_seed(seed)
    model = Residual(seed).eval()
    model.norm.running_mean.uniform_(-1, 1)
    model.norm.running_var.uniform_(0.2, 3)
    x = torch.randn(40, 2, 16, 16)  # the last map has 4x4 or 8x8 positions: exact means
    return quantize_network(model, x, **options), x


def session(model, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        to_onnx(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("seed", range(12))
def test_power_of_two_scales_make_pytorch_and_the_datapath_equal(seed):
    """Every float64 product is exact then, and both round half to even: all codes agree."""
    bits = [8, 4, 2][seed % 3]
    network, x = random_network(seed, power_of_two=True, weight_bits=bits)
    model = from_quantized(network)
    expected = network.codes(x)
    found = Datapath(model, rounding="half_even").trace(expected["input"].numpy())
    np.testing.assert_array_equal(model.quantize_input(x.numpy()), expected["input"].numpy())
    for name, codes in expected.items():
        np.testing.assert_array_equal(found[name], codes.numpy(), err_msg=name)


@pytest.mark.parametrize("seed", range(12))
def test_accumulators_equal_pytorch_for_any_scale(seed):
    """Given equal input codes the float64 sums, in units of S_x S_w, are the integers exactly."""
    network, x = random_network(seed, weight_bits=[8, 6, 3][seed % 3], per_channel=seed % 2 == 0)
    model = from_quantized(network)
    values = network.forward_all(x.double())
    outputs = different = 0
    for node in network.nodes:
        if node.weight_codes is None:
            continue
        source = values[node.inputs[0]]
        before = next(n for n in network.nodes if n.name == node.inputs[0])
        weight = dequantize(node.weight_codes, node.weight_parameters, torch.float64)
        bias = node.bias_codes * node.bias_scale
        if node.op == "conv":
            a = node.attributes
            real = F.conv2d(source, weight, bias, a["stride"], a["padding"], 1, a["groups"])
            real = real / node.bias_scale[:, None, None]
        else:
            real = F.linear(source, weight, bias) / node.bias_scale
        codes = quantize(source, before.output).to(torch.int8).numpy()
        layer = model[node.name]
        sums = reference.accumulate(model, layer, codes)
        np.testing.assert_array_equal(sums, torch.round(real).numpy().astype(np.int64))
        assert torch.allclose(real, torch.round(real), atol=1e-4)
        found = reference.compute(model, layer, [codes], "half_even", 31).astype(int)
        expected = quantize(values[node.name], node.output).numpy()
        assert np.abs(found - expected).max() <= 1
        outputs, different = outputs + found.size, different + int((found != expected).sum())
    assert different <= 1e-3 * outputs, f"{different} of {outputs} codes differ"


@pytest.mark.parametrize("seed", range(6))
def test_residual_networks_equal_onnx_runtime_in_every_layer(seed):
    network, x = random_network(
        100 + seed, weight_bits=[8, 5][seed % 2], activation_bits=[8, 8, 4][seed % 3]
    )
    model = from_quantized(network)
    codes = model.quantize_input(x.numpy())
    proto = to_onnx(model)
    kept = {o.name for o in proto.graph.output}
    names = [layer.name for layer in model.layers[1:]]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None)
        for name in names
        if name not in kept
    )
    options = onnxruntime.SessionOptions()
    run = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    trace = Datapath(model, rounding="onnxruntime").trace(codes)
    for name, expected in zip(names, run.run(names, {"input": codes}), strict=True):
        np.testing.assert_array_equal(trace[name], expected, err_msg=name)


@pytest.fixture(scope="module")
def dataset():
    return data.load()


@pytest.fixture(scope="module")
def integer_model(dataset):
    """Integer model of a reference network, by name, made once."""
    return functools.lru_cache(
        lambda name: from_quantized(quantize_network(zoo.load(name), dataset.train.x[:300]))
    )


@pytest.mark.parametrize("name", zoo.NAMES)
def test_reference_networks_equal_onnx_runtime_at_every_optimization_level(
    name, integer_model, dataset
):
    """With the file's operators no level changes a code; all of them equal the datapath."""
    model = integer_model(name)
    codes = model.quantize_input(dataset.test.x[:500].numpy())
    logits = Datapath(model, rounding="onnxruntime").run(codes)
    level = onnxruntime.GraphOptimizationLevel
    for choice in (level.ORT_DISABLE_ALL, level.ORT_ENABLE_BASIC, level.ORT_ENABLE_ALL):
        (expected,) = session(model, choice).run(None, {"input": codes})
        np.testing.assert_array_equal(logits, expected, err_msg=str(choice))


def test_an_input_code_of_the_embedded_data_is_the_pixel_minus_128(integer_model, dataset):
    x = dataset.test.x[:100]
    codes = integer_model("LeNet300100").quantize_input(x.numpy())
    np.testing.assert_array_equal(codes.astype(int), dataset.pixels(x).numpy().astype(int) - 128)


@pytest.mark.parametrize("name", ["SeparableCNN", "LeNet5"])
def test_differences_from_onnx_runtime_are_explained_and_one_step_at_most(
    name, integer_model, dataset
):
    """Each variant changes one thing, so each count has one cause; inputs are equal throughout."""
    model = integer_model(name)
    codes = model.quantize_input(dataset.test.x[:100].numpy())
    trace = Datapath(model, rounding="onnxruntime").trace(codes)
    counts = dict.fromkeys(["float32", "ties", "width", "double"], 0)
    outputs = 0
    for layer in model:
        if not layer.has_accumulator:
            continue
        sums = reference.accumulate(model, layer, trace[layer.inputs[0]])
        steps = {
            "ort": requantizer(model, layer, "onnxruntime")(sums),
            "even": requantizer(model, layer, "half_even", 31)(sums),
            "up": requantizer(model, layer, "half_up", 31)(sums),
            "up16": requantizer(model, layer, "half_up", 16)(sums),
        }
        np.testing.assert_array_equal(steps["ort"], trace[layer.name])
        m, s = decompose(factors(model, layer), 31)
        shape = (1, -1, *[1] * (sums.ndim - 2))
        twice = requantize_gemmlowp(sums, m.reshape(shape), s.reshape(shape)) + layer.zero_point
        steps["gemmlowp"] = saturate(twice, layer.low, layer.high)
        for cause, a, b in [
            ("float32", "ort", "even"), ("ties", "even", "up"),
            ("width", "up", "up16"), ("double", "up", "gemmlowp"),
        ]:  # fmt: skip
            difference = steps[a] - steps[b]
            assert np.abs(difference).max() <= 1, (cause, layer.name)
            counts[cause] += int((difference != 0).sum())
            if cause == "ties":
                rest = (sums * m.reshape(shape)) & (2 ** s.reshape(shape) - 1)
                assert (rest * 2 == 2 ** s.reshape(shape))[difference != 0].all()
        assert np.abs(steps["ort"] - steps["up16"]).max() <= 1, layer.name
        outputs += sums.size
    assert 0 < counts["width"] < 1e-3 * outputs, (counts, outputs)
    assert 0 < counts["double"] < 1e-2 * outputs, (counts, outputs)
    assert counts["float32"] + counts["ties"] < 1e-3 * outputs, (counts, outputs)


def test_the_staged_golden_check_on_all_test_images(dataset, tmp_path):
    """float -> fake-quantized -> integer reference -> files -> datapath -> ONNX Runtime."""
    float_model = zoo.load("SeparableCNN")
    network = quantize_network(float_model, dataset.train.x[:300])
    model = from_quantized(network)
    x, y = dataset.test.x, dataset.test.y.numpy()
    codes = model.quantize_input(x.numpy())
    correct = {
        "float": training.evaluate(float_model, dataset.test),
        "fake": training.evaluate(network, dataset.test),
    }
    root = export(model, tmp_path / "model", golden_inputs=codes[:4])
    stored = load(root)
    logits = {}
    for mode in ("half_up", "half_even", "onnxruntime"):
        logits[mode] = Datapath(stored, rounding=mode, threads=2).run(codes)
        part = slice(0, 300)
        by_hand = reference.run(model, codes[part], mode)[model.output.name]
        np.testing.assert_array_equal(logits[mode][part], by_hand)
        correct[mode] = (logits[mode].argmax(1) == y).mean()
    (expected,) = session(model).run(None, {"input": codes})
    np.testing.assert_array_equal(logits["onnxruntime"], expected)
    assert all(abs(value - correct["float"]) < 0.02 for value in correct.values()), correct
    same = (logits["half_up"].argmax(1) == logits["onnxruntime"].argmax(1)).mean()
    assert same > 0.99, same


def test_from_quantized_refuses_other_things():
    with pytest.raises(ValueError, match=r"must be a QuantizedNetwork, got Linear"):
        from_quantized(nn.Linear(2, 2))


def test_the_exporter_refuses_an_unknown_operator():
    with pytest.raises(ValueError, match=r"(?i)softmax"):
        quantize_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softmax(1)), torch.randn(4, 1, 8, 8))


def test_nan_weights_and_power_of_two_are_refused_with_the_layer_and_the_way_out(dataset):
    model = models.small("LeNet5")
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"conv2.*NaN"):
        quantize_network(model, dataset.train.x[:10])
    plain = from_quantized(quantize_network(models.small("LeNet5"), dataset.train.x[:50]))
    with pytest.raises(ValueError, match=r"layer 'conv1' is .*power_of_two=True"):
        Datapath(plain, rounding="shift")
    powers = from_quantized(
        quantize_network(models.small("LeNet5"), dataset.train.x[:50], power_of_two=True)
    )
    codes = powers.quantize_input(dataset.test.x[:200].numpy())
    shifted = Datapath(powers, rounding="shift").run(codes)
    np.testing.assert_array_equal(shifted, Datapath(powers, rounding="half_up").run(codes))
