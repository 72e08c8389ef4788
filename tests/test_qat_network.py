"""A network in quantization-aware training: what it computes, what it learns, what it becomes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_quantization_graph import Residual, images, randomize
from torch import Tensor, nn

from helpers import data, training, zoo
from helpers.data import Split
from helpers.fpga.convert import from_quantized
from helpers.fpga.datapath import Datapath
from helpers.qat import (
    QATNetwork,
    convert,
    freeze_ranges_,
    freeze_statistics_,
    least_squares_step,
    lsq,
    prepare,
)
from helpers.quantization import dequantize, fold_batch_norm, quantize_network


def residual(**options: object) -> tuple[nn.Module, Tensor, QATNetwork]:
    torch.manual_seed(1)
    model, x = randomize(Residual()), images(40, 2, 20, 21)
    return model, x, prepare(model, x, **options)  # type: ignore[arg-type]


def train(network: QATNetwork, x: Tensor, steps: int = 3, lr: float = 0.01) -> QATNetwork:
    """A few steps of AdamW, in place."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    network.train()
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(x[step::steps]), torch.arange(len(x[step::steps])) % 5).backward()
        optimizer.step()
    return network.eval()


OPTIONS = [
    {},
    {"weight_bits": 4},
    {"weight_bits": 2, "activation_bits": 3},
    {"per_channel": False, "weight_bits": 5},
    {"weight_bits": {"conv1": 3, "fc": 2}, "method": "percentile"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_before_training_it_is_post_training_quantization(options: dict) -> None:
    model, x, network = residual(**options)
    expected = quantize_network(model, x, **options)
    assert not network.training
    with torch.no_grad():
        ours, theirs = network.forward_all(x.double()), expected.forward_all(x.double())
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name
    converted = convert(network)
    for node, other in zip(converted.nodes, expected.nodes, strict=True):
        assert torch.equal(node.output.scale, other.output.scale)
        if other.weight_codes is not None:
            assert torch.equal(node.weight_codes, other.weight_codes)
            assert torch.equal(node.bias_codes, other.bias_codes)


def test_without_widths_it_is_the_float_network() -> None:
    model, x, network = residual(weight_bits=None, activation_bits=None)
    with torch.no_grad():
        expected = model.eval()(100 * x)  # far enough for ReLU6 to clip, with no range to do so
        assert torch.allclose(network(100 * x), expected, rtol=1e-4, atol=1e-4)


LEARNED = [
    {"step": "lsq", "weight_bits": 3},
    {"step": "lsq", "weight_bits": 3, "activation_bits": 4, "per_channel": False},
    {"weight_bits": 1},
    {"weight_bits": 1, "per_channel": False},
    {"batch_norm": "frozen", "weight_bits": 4},
]


@pytest.mark.parametrize("options", [*OPTIONS, *LEARNED], ids=str)
def test_after_training_the_integers_are_what_was_trained(options: dict) -> None:
    _, x, network = residual(**options)
    before = convert(network).codes(x)["fc"]
    train(network, x)
    converted = convert(network)
    with torch.no_grad():
        ours, theirs = network.forward_all(x.double()), converted.forward_all(x.double())
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name
        step = converted.nodes[-1].output.scale
        assert ((network(x) - converted(x)).abs() < 1.5 * step).all()
    assert not torch.equal(converted.codes(x)["fc"], before), "training changed nothing"


@pytest.mark.parametrize("options", [{}, {"step": "lsq", "weight_bits": 4}, {"weight_bits": 1}])
def test_the_datapath_runs_a_trained_network(options: dict) -> None:
    _, x, network = residual(**options)
    quantized = convert(train(network, x))
    codes = quantized.codes(x)
    path = Datapath(from_quantized(quantized), rounding="half_even", multiplier_bits=31)
    traced = path.trace(codes["input"].numpy())
    for name, value in codes.items():
        assert np.array_equal(traced[name].reshape(value.shape), value.numpy()), name


def pair() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))
    return randomize(model), images(16, 2, 6, 6)


def test_training_mode_normalizes_with_the_batch() -> None:
    """Float weights and activations: exactly convolution, then batch norm in training mode."""
    model, x = pair()
    network = prepare(model, x, weight_bits=None, activation_bits=None).train()
    reference = copy.deepcopy(model).train()
    assert torch.allclose(network(x), reference(x), atol=1e-5)
    for ours, theirs in zip(network.model[1].buffers(), reference[1].buffers(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_training_mode_quantizes_the_folded_weights() -> None:
    model, x = pair()
    network = prepare(model, x, weight_bits=3, activation_bits=None, per_channel=False).train()
    conv, norm = copy.deepcopy(model)
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).reshape(-1, 1, 1, 1).detach()
    folded = conv.weight * factor
    scale = float(folded.abs().max()) / 3
    weight = torch.fake_quantize_per_tensor_affine(folded, scale, 0, -3, 3) / factor
    assert torch.allclose(
        network(x), norm.train()(F.conv2d(x, weight, conv.bias, padding=1)), atol=1e-4
    )


def test_eval_and_frozen_training_mode_are_the_folded_network() -> None:
    model, x = pair()
    network = prepare(model, x, weight_bits=None, activation_bits=None)
    expected = fold_batch_norm(model)(x)
    assert torch.allclose(network(x), expected, atol=1e-5)
    assert torch.allclose(freeze_statistics_(network).train()(x), expected, atol=1e-5)
    kept = network.model[1].running_mean.clone()
    assert torch.equal(kept, model[1].running_mean)


def test_statistics_move_until_they_are_frozen() -> None:
    _, x, network = residual()
    start = copy.deepcopy(network.state_dict())
    moving = train(copy.deepcopy(network), x).state_dict()
    frozen = train(freeze_statistics_(copy.deepcopy(network)), x).state_dict()
    for key in start:
        if "running" in key:
            assert not torch.equal(moving[key], start[key]), key
            assert torch.equal(frozen[key], start[key]), key
    for key in ("model.bn1.weight", "model.bn1.bias", "model.conv1.weight"):
        assert not torch.equal(frozen[key], start[key]), key
    _, _, other = residual(batch_norm="frozen")
    assert torch.equal(
        train(other, x).state_dict()["model.bn1.running_var"], start["model.bn1.running_var"]
    )


def test_a_batch_norm_with_frozen_weights_keeps_its_statistics_in_fit() -> None:
    model, x, _ = residual()
    for norm in (model.bn1, model.bn2):
        norm.requires_grad_(False)
    network = prepare(model, x)
    split = Split(x, torch.arange(len(x)) % 5)
    fitted, _ = training.fit(network, split, split, epochs=1, batch_size=10, progress=False)
    assert torch.equal(fitted.model.bn1.running_mean, model.bn1.running_mean)
    assert not torch.equal(fitted.model.bn3.running_mean, model.bn3.running_mean)


def test_ranges_move_until_they_are_frozen() -> None:
    _, x, network = residual(batch_norm="frozen")  # else it would undo the factor of 3
    high = network.activations["conv1"].high.clone()
    network.train()(3 * x)
    moved = network.activations["conv1"].high
    assert moved > 1.01 * high
    assert network.activations["input"].high == x.max()  # the input's range is the pixels'
    moved = moved.clone()
    freeze_ranges_(network)(9 * x)
    assert network.activations["conv1"].high == moved


def test_frozen_learned_steps_of_activations_stay_and_those_of_weights_learn() -> None:
    _, x, network = residual(step="lsq", weight_bits=4)
    freeze_ranges_(network)
    train(network, x)
    assert float(network.activations["conv1"].step.change) == 0
    assert (network.weights["conv1"].step.change != 0).any()


@pytest.mark.parametrize("options", [{}, {"step": "lsq", "weight_bits": 3}, {"weight_bits": 1}])
def test_every_parameter_gets_a_gradient(options: dict) -> None:
    _, x, network = residual(**options)
    for frozen in (False, True):
        network.statistics_frozen = frozen
        network.zero_grad()
        F.cross_entropy(network.train()(x), torch.arange(len(x)) % 5).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, (frozen, name)
            assert torch.isfinite(parameter.grad).all(), (frozen, name)
            if not name.endswith("bias"):  # a bias before a batch norm has none to speak of
                assert parameter.grad.abs().max() > 0, (frozen, name)


def test_a_learned_step_follows_the_folding() -> None:
    """The same weights, other running variances: per channel the codes must not change."""
    model, x = pair()
    network = prepare(model, x, weight_bits=3, step="lsq")
    before = convert(network).nodes[1].weight_codes
    network.model[1].running_var *= torch.tensor([9.0, 0.1, 4.0, 1.0])
    assert torch.equal(convert(network).nodes[1].weight_codes, before)


@pytest.mark.parametrize("per_channel", [True, False])
def test_learned_steps_start_from_least_squares_of_the_folded_weights(per_channel: bool) -> None:
    model, x, network = residual(step="lsq", weight_bits=3, per_channel=per_channel)
    for node in convert(network).nodes:
        if node.weight is not None:
            start = least_squares_step(node.weight, 3, axis=0 if per_channel else None)
            assert torch.allclose(node.weight_parameters.scale.float(), start), node.name
    last = quantize_network(model, x).nodes[-1].output
    assert torch.equal(convert(network).nodes[-1].output.scale, last.scale)


def test_a_learned_step_stays_positive() -> None:
    _, x, network = residual(step="lsq", weight_bits=2)
    for quantizer in (network.weights["conv1"], network.activations["conv1"]):
        quantizer.step.change.data.fill_(-20.0)
        assert (quantizer.step() > 0).all()
    assert torch.isfinite(convert(network)(x)).all()


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_step_that_moved_is_the_same_with_and_without_gradients(per_channel: bool) -> None:
    model, x, network = residual(step="lsq", weight_bits=3, per_channel=per_channel)
    weight, quantizer = model.conv1.weight.detach(), network.weights["conv1"]
    quantizer.step.change.data.fill_(0.3)
    p = quantizer.grid(weight)
    result = quantizer(weight, p, torch.float32)
    assert torch.allclose(result, dequantize(quantizer.codes(weight, p), p))
    result.sum().backward()
    step = p.like(weight)[0].requires_grad_()
    lsq(weight, step, 3, 3).sum().backward()
    expected = (step.grad * step.detach()).reshape(quantizer.step.start.shape)
    assert torch.allclose(quantizer.step.change.grad, expected)  # the step is start exp(change)
    outputs = network.activations["conv1"]
    outputs.step.change.data.fill_(-0.2)
    with torch.no_grad():
        assert torch.allclose(quantizer(weight, p, torch.float32), result)
        without = outputs(x)
    assert torch.allclose(outputs(x), without)


def test_channels_that_batch_norm_switched_off() -> None:
    for options in ({}, {"step": "lsq", "weight_bits": 2}, {"weight_bits": 1}):
        model, x = pair()
        model[1].weight.data[1] = 0.0
        network = prepare(model, x, **options)
        y = network.train()(x)
        assert torch.isfinite(y).all(), options
        y.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters()), options
        with torch.no_grad():
            network.eval()
            assert torch.equal(network(x.double()), convert(network)(x.double())), options


@pytest.mark.parametrize(
    "options", [{}, {"per_channel": False}, {"step": "lsq", "weight_bits": 2}, {"weight_bits": 1}]
)
def test_a_bias_beside_tiny_weights_finds_room(options: dict) -> None:
    model, x = pair()
    model[0].weight.data[1] *= 1e-9
    if not options.get("per_channel", True):
        model[0].weight.data *= 1e-9
    network = prepare(model, x, **options)
    conv = convert(network).nodes[1]
    folded = fold_batch_norm(model)[0].bias.double()
    assert int(conv.bias_codes.abs().max()) <= 1.000001 * 2**30  # the scale is a float32
    error = (conv.bias_codes * conv.bias_scale - folded).abs()
    assert (error <= 0.5 * conv.bias_scale + 1e-6 * folded.abs()).all()  # rounded, not cut off
    if "weight_bits" not in options:
        other = quantize_network(model, x, **options).nodes[1]
        assert torch.equal(conv.weight_parameters.scale, other.weight_parameters.scale)
    with torch.no_grad():
        assert torch.equal(network(x.double()), convert(network)(x.double()))


def test_the_inputs_grid_is_never_learned() -> None:
    _, _, network = residual(step="lsq")
    learned = {name for name, q in network.activations.items() if q.step is not None}
    assert learned == set(network.activations) - {"input"}


def test_one_bit_weights_are_plus_and_minus_their_mean() -> None:
    model, x = pair()
    model[0].weight.data[2] = 0.0
    conv = convert(prepare(model, x, weight_bits=1)).nodes[1]
    assert conv.weight_codes[[0, 1, 3]].abs().unique().tolist() == [1]
    assert conv.weight_codes[2].unique().tolist() == [0]  # a sign cannot say 0; a channel can
    mean = conv.weight[[0, 1, 3]].abs().flatten(1).mean(1).double()
    assert torch.allclose(conv.weight_parameters.scale[[0, 1, 3]], mean)
    whole = convert(prepare(model, x, weight_bits=1, per_channel=False)).nodes[1]
    scale = whole.weight_parameters.scale
    assert float(scale) == pytest.approx(float(whole.weight.abs().double().mean()))


def test_stages_exchange_their_state() -> None:
    model, x, weights_only = residual(weight_bits=4, activation_bits=None)
    train(weights_only, x)
    both = prepare(weights_only.model, x, weight_bits=4)
    state = weights_only.state_dict()
    assert all(
        torch.equal(value, state[key]) for key, value in both.state_dict().items() if key in state
    )
    assert set(both.state_dict()) - set(state) == {
        f"_activations.{name}.{end}"
        for name in ("input", "conv1", "depthwise", "pointwise", "add", "grouped", "fc")
        for end in ("low", "high")
    }
    with pytest.raises(ValueError, match="activations are float"):
        convert(weights_only)
    with pytest.raises(ValueError, match="weights of 'fc' are float"):
        convert(prepare(model, x, weight_bits={"fc": None}))


def test_the_model_is_left_as_it_was() -> None:
    model, x, _ = residual()
    model.train()
    before = copy.deepcopy(model.state_dict())
    train(prepare(model, x), x)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_fit_gives_back_what_three_bits_cost() -> None:
    model, dataset = zoo.load("SeparableCNN"), data.load()
    part, held = data.balanced(dataset.train, 500), data.balanced(dataset.validation, 300)
    network = prepare(model, part.x, weight_bits=3)
    lost = training.evaluate(network, held)
    fitted, _ = training.fit(network, part, held, epochs=1, batch_size=25, progress=False)
    assert training.evaluate(fitted, held) > lost + 0.1, lost
    assert training.evaluate(convert(fitted), held) == training.evaluate(fitted, held)


@pytest.mark.parametrize("bits", [0, 9, 2.0, True, "4"])
def test_widths_are_checked(bits: object) -> None:
    model, x, _ = residual()
    with pytest.raises(
        ValueError, match="weight bits of 'conv1' must be a whole number from 1 to 8"
    ):
        prepare(model, x, weight_bits=bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="activation_bits must be a whole number from 2 to 8"):
        prepare(model, x, activation_bits=bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": {"conv7": 4}}, r"unknown layers \['conv7'\]"),
        ({"activation_bits": 1}, "activation_bits must be"),
        ({"step": "learned"}, "step must be one of min_max, lsq, got 'learned'"),
        ({"batch_norm": "merged"}, "batch_norm must be one of folded, frozen, got 'merged'"),
        ({"method": "max"}, "method must be one of"),
        ({"step": "lsq", "weight_bits": 1}, "needs at least 2 bits"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    model, x, _ = residual()
    with pytest.raises(ValueError, match=message):
        prepare(model, x, **options)


def test_calibration_is_checked() -> None:
    model, x, _ = residual()
    with pytest.raises(ValueError, match="1 constant image"):
        prepare(model, torch.full((1, 2, 20, 21), 0.3))
    with pytest.raises(ValueError, match="calibration data is empty"):
        prepare(model, x[:0])
    with pytest.raises(ValueError, match="calibration must be a tensor"):
        prepare(model, [x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="network must be a QATNetwork, got Residual"):
        convert(model)  # type: ignore[arg-type]
