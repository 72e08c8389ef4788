"""Grids, rounding rules and weight-only quantization against torch, ONNX Runtime and golden values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from helpers.quantization.grids import (
    ROUNDING,
    QuantizationParameters,
    affine,
    dequantize,
    fake_quantize,
    integer_range,
    quantize,
    symmetric,
    weight_only,
)

settings.register_profile("course", deadline=None)
settings.load_profile("course")
HALVES = torch.tensor([-2.5, -1.5, -0.75, -0.5, 0.5, 0.75, 1.5, 2.5])
floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
arrays = npst.arrays(np.float32, st.integers(1, 40), elements=floats)


def parameters(scale: float, zero_point: int, qmin: int, qmax: int) -> QuantizationParameters:
    return QuantizationParameters(torch.tensor(scale), torch.tensor(zero_point), qmin, qmax)


@pytest.mark.parametrize(
    ("bits", "options", "expected"),
    [
        (8, {}, (-128, 127)),
        (8, {"narrow": True}, (-127, 127)),
        (8, {"signed": False}, (0, 255)),
        (4, {"narrow": True}, (-7, 7)),
        (2, {}, (-2, 1)),
        (2, {"narrow": True}, (-1, 1)),
        (32, {}, (-2147483648, 2147483647)),
    ],
)
def test_integer_range(bits: int, options: dict[str, bool], expected: tuple[int, int]) -> None:
    assert integer_range(bits, **options) == expected


@pytest.mark.parametrize("bits", [0, 1, -8, 33, 8.0, "8", True, None])
def test_widths_outside_2_to_32_are_refused(bits: object) -> None:
    with pytest.raises(ValueError, match="bits must be a whole number from 2 to 32"):
        integer_range(bits)  # type: ignore[arg-type]


def test_narrow_unsigned_is_refused() -> None:
    with pytest.raises(ValueError, match="signed"):
        integer_range(8, signed=False, narrow=True)


def test_rounding_rules_on_ties_and_between() -> None:
    expected = {
        "half_even": [-2, -2, -1, 0, 0, 1, 2, 2],
        "half_up": [-2, -1, -1, 0, 1, 1, 2, 3],
        "half_away": [-3, -2, -1, -1, 1, 1, 2, 3],
        "floor": [-3, -2, -1, -1, 0, 0, 1, 2],
        "truncate": [-2, -1, 0, 0, 0, 0, 1, 2],
    }
    assert set(expected) == set(ROUNDING)
    p = parameters(1.0, 0, -128, 127)
    for rule, codes in expected.items():
        assert quantize(HALVES, p, rule).tolist() == codes, rule


def test_half_up_is_exact_just_below_one_half() -> None:
    # floor(x + 0.5) gives 1 here, since x + 0.5 rounds up to 1 in float64.
    x = torch.tensor(0.49999999999999994, dtype=torch.float64)
    assert ROUNDING["half_up"](x) == 0


def test_ties_round_before_an_odd_zero_point_is_added() -> None:
    x = torch.tensor([-0.75, -0.25, 0.25, 0.75, 1.25, 1.75])
    assert quantize(x, parameters(0.5, 1, -128, 127)).tolist() == [-1, 1, 1, 3, 3, 5]


def test_restricted_and_full_range_scales() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0])
    narrow, full = symmetric(x, 8), symmetric(x, 8, narrow=False)
    assert narrow.scale.item() == np.float32(2 / 127)
    assert full.scale.item() == np.float32(4 / 255)
    assert quantize(x, narrow).max() == 127
    assert (x / full.scale.item()).max() > 127.49  # +max lands half a step outside and is clipped
    assert quantize(x, full).max() == 127
    assert fake_quantize(x, full).max() < 1.995 < fake_quantize(x, narrow).max()


def test_affine_golden_values() -> None:
    p = affine(-1.0, 2.0, 8, signed=False)
    assert (p.scale.item(), p.zero_point.item()) == (np.float32(3 / 255), 85)
    assert affine(-1.0, 2.0, 8).zero_point == 85 - 128
    positive = affine(1.0, 2.0, 8, signed=False)  # extended to [0, 2]
    assert (positive.scale.item(), positive.zero_point.item()) == (np.float32(2 / 255), 0)
    negative = affine(-2.0, -1.0, 8)  # extended to [-2, 0]
    assert negative.zero_point == 127
    assert affine(0.0, 6.0, 8).zero_point == -128


def test_pixels_of_the_default_data_set_become_their_value_minus_128() -> None:
    pixels = torch.arange(256)
    x = (pixels - 73) / 90
    p = affine(x.min(), x.max(), 8)
    assert (p.scale.item(), p.zero_point.item()) == (np.float32(1 / 90), -55)
    assert torch.equal(quantize(x, p), (pixels - 128).to(torch.int32))


def test_constant_and_zero_tensors() -> None:
    assert fake_quantize(torch.zeros(3), symmetric(torch.zeros(3), 8)).tolist() == [0, 0, 0]
    p = affine(0.0, 0.0, 8)
    assert p.scale == 1
    assert quantize(torch.zeros(3), p).unique().tolist() == [p.zero_point.item()]
    ones = torch.ones(4)  # a fresh batch norm's gamma: max - min is 0
    assert torch.allclose(fake_quantize(ones, affine(ones.min(), ones.max(), 8)), ones)
    channels = symmetric(torch.tensor([[0.0, 0.0], [1.0, -2.0]]), 8, axis=0)
    assert channels.scale.tolist() == [1.0, np.float32(2 / 127)]


def test_extreme_ranges_keep_a_usable_scale() -> None:
    assert symmetric(torch.tensor([1e-45]), 8).scale > 0
    assert affine(0.0, 1e-300, 8).scale > 0
    with pytest.raises(ValueError, match="finite"):
        affine(-3e38, 3e38, 2, power_of_two=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_ranges_refuse_nan_and_infinity(bad: float) -> None:
    x = torch.tensor([1.0, bad])
    with pytest.raises(ValueError, match="1 values that are NaN or infinite"):
        symmetric(x, 8)
    with pytest.raises(ValueError, match="high holds"):
        affine(0.0, bad, 8)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="x is empty"):
        symmetric(torch.empty(0), 8)
    with pytest.raises(ValueError, match="low must not exceed high"):
        affine(1.0, -1.0, 8)
    with pytest.raises(ValueError, match="NaN"):
        quantize(torch.tensor([float("nan")]), parameters(1.0, 0, -128, 127))
    with pytest.raises(ValueError, match="rounding must be one of"):
        quantize(HALVES, parameters(1.0, 0, -128, 127), "nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale must be positive"):
        parameters(0.0, 0, -128, 127)
    with pytest.raises(ValueError, match=r"zero_point must lie in -128\.\.127"):
        parameters(1.0, 128, -128, 127)
    with pytest.raises(ValueError, match="axis"):
        QuantizationParameters(torch.ones(3), torch.tensor(0), -128, 127)


def test_infinities_saturate() -> None:
    x = torch.tensor([float("-inf"), float("inf")])
    assert quantize(x, parameters(0.1, 3, -128, 127)).tolist() == [-128, 127]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("zero_point", [-1, 0, 1])
def test_fake_quantize_equals_torch_per_tensor(bits: int, zero_point: int) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(bits)) * 3
    qmin, qmax = integer_range(bits)
    scale = float(np.float32(6.1 / 2**bits))
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, qmin, qmax)
    # torch multiplies by the reciprocal, so a float32 tie may fall either way: none occurs here
    assert torch.equal(fake_quantize(x, parameters(scale, zero_point, qmin, qmax)), expected)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_fake_quantize_equals_torch_per_channel(axis: int) -> None:
    x = torch.randn(6, 5, 4, 3, generator=torch.Generator().manual_seed(axis))
    p = symmetric(x, 5, axis=axis)
    expected = torch.fake_quantize_per_channel_affine(
        x, p.scale.float(), p.zero_point, axis, p.qmin, p.qmax
    )
    assert torch.allclose(fake_quantize(x, p), expected, atol=1e-7, rtol=0)


def test_parameters_equal_torch_observers() -> None:
    observers = pytest.importorskip("torch.ao.quantization.observer")
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) + 0.5
    observer = observers.MinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    ours = affine(x.min(), x.max(), 8, signed=False)
    assert ours.scale.item() == pytest.approx(scale.item(), rel=1e-6)
    assert ours.zero_point.item() == zero_point.item()
    observer = observers.PerChannelMinMaxObserver(
        ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric
    )
    observer(x.reshape(10, 100))
    scale, _ = observer.calculate_qparams()
    full = symmetric(x.reshape(10, 100), 8, axis=0, narrow=False)
    assert torch.allclose(full.scale.float(), scale, rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 1])
def test_codes_equal_onnx_runtime(axis: int | None) -> None:
    helper = pytest.importorskip("onnx.helper")
    runtime = pytest.importorskip("onnxruntime")
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(4))
    x[0] = torch.tensor([-9.0, 9.0, 0.0, -0.0, 0.5, 1e-30, -1e30, 1e30])
    if axis is None:
        p = affine(x[1:].min(), x[1:].max(), 8)
    else:
        p = affine(x[1:].amin(0), x[1:].amax(0), 8, axis=axis)
    inputs = [
        helper.make_tensor_value_info("x", 1, [50, 8]),
        helper.make_tensor_value_info("scale", 1, list(p.scale.shape)),
        helper.make_tensor_value_info("zero", 3, list(p.scale.shape)),
    ]
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], axis=axis or 0)
    graph = helper.make_graph(
        [node], "quantize", inputs, [helper.make_tensor_value_info("y", 3, [50, 8])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {
        "x": x.numpy(),
        "scale": p.scale.float().numpy(),
        "zero": p.zero_point.to(torch.int8).numpy(),
    }
    assert np.array_equal(quantize(x, p).numpy(), session.run(None, feeds)[0].astype(np.int32))


@given(arrays, st.integers(2, 8), st.booleans(), st.booleans())
def test_affine_grid_properties(values: np.ndarray, bits: int, signed: bool, pow2: bool) -> None:
    x = torch.from_numpy(values).double()
    p = affine(x.min(), x.max(), bits, signed=signed, power_of_two=pow2)
    y, step = fake_quantize(x, p), p.scale.item()
    # up to half a step inside the range; float32 scales move its ends by one part in 2**24
    slack = step * 2 ** (bits - 23)
    assert (y - x).abs().max() <= step / 2 + slack
    assert fake_quantize(torch.zeros(1), p).item() == 0  # zero is exact
    assert torch.equal(fake_quantize(y, p), y)  # idempotent
    order = x.argsort()
    assert (y[order].diff() >= 0).all()  # monotone
    assert np.float32(step) == step
    if pow2:
        assert np.log2(step) == round(np.log2(step))


@given(arrays, st.integers(2, 8), st.booleans(), st.booleans())
def test_symmetric_grid_properties(values: np.ndarray, bits: int, narrow: bool, pow2: bool) -> None:
    x = torch.from_numpy(values).double()
    p = symmetric(x, bits, narrow=narrow, power_of_two=pow2)
    codes = quantize(x, p)
    assert (p.zero_point == 0).all()
    assert codes.min() >= p.qmin
    assert codes.max() <= p.qmax
    assert (dequantize(codes, p, torch.float64) - x).abs().max() <= p.scale * 0.50001
    if narrow:  # sign symmetry holds without the most negative code
        assert torch.equal(quantize(-x, p), -codes)


@given(arrays, st.integers(2, 8))
def test_power_of_two_scale_is_the_next_one_up(values: np.ndarray, bits: int) -> None:
    x = torch.from_numpy(values)
    free, rounded = symmetric(x, bits).scale, symmetric(x, bits, power_of_two=True).scale
    if x.abs().max() > 0:
        assert free * (1 - 1e-6) <= rounded < 2 * free


@given(npst.arrays(np.float32, (4, 6), elements=floats), st.integers(2, 8))
def test_per_channel_bound_is_never_worse_than_per_tensor(values: np.ndarray, bits: int) -> None:
    x = torch.from_numpy(values).double()
    whole, channels = symmetric(x, bits), symmetric(x, bits, axis=0)
    live = x.abs().amax(1) > 0
    assert (channels.scale[live] <= whole.scale * (1 + 1e-7)).all()
    error = (fake_quantize(x, channels) - x).abs().amax(1)
    assert (error <= channels.scale * 0.50001).all()
    assert (error <= whole.scale * 0.50001).all()


def test_float16_and_float64_keep_their_dtype() -> None:
    p = parameters(0.1, 0, -128, 127)
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert fake_quantize(torch.ones(2, dtype=dtype), p).dtype == dtype


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_only_puts_weights_on_a_grid(scheme: str, per_channel: bool) -> None:
    model = small_network()
    before = model[0].weight.clone()
    result = weight_only(model, 3, per_channel=per_channel, scheme=scheme)  # type: ignore[arg-type]
    assert torch.equal(model[0].weight, before)  # the argument is left alone
    rows = result[0].weight.flatten(1) if per_channel else result[0].weight.reshape(1, -1)
    assert all(len(row.unique()) <= (7 if scheme == "symmetric" else 8) for row in rows)
    assert torch.equal(result[0].bias, model[0].bias)
    assert not torch.equal(result[3].weight, model[3].weight)


def test_weight_only_by_layer_leaves_the_others_alone() -> None:
    model = small_network()
    result = weight_only(model, {"3": 2})
    assert torch.equal(result[0].weight, model[0].weight)
    assert len(result[3].weight[0].unique()) <= 3


@pytest.mark.parametrize("bits", [1, 9, 0, 4.0, True])
def test_weight_bits_outside_2_to_8_are_refused(bits: object) -> None:
    with pytest.raises(ValueError, match="weight bits of '0' must be a whole number from 2 to 8"):
        weight_only(small_network(), bits)  # type: ignore[arg-type]


def test_weight_only_names_unknown_layers_schemes_and_nan() -> None:
    with pytest.raises(ValueError, match=r"unknown layers \['conv9'\]"):
        weight_only(small_network(), {"conv9": 4})
    with pytest.raises(ValueError, match="scheme must be"):
        weight_only(small_network(), 4, scheme="log")  # type: ignore[arg-type]
    model = small_network()
    model[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="the weight of '0' holds 1 values"):
        weight_only(model, 8)
