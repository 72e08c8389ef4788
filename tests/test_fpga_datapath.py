"""The datapath against a slow reference, PyTorch in float64 and its own refusals."""

from dataclasses import replace

import fpga_reference
import numpy as np
import pytest
from fpga_networks import integer_models, random_codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.fpga import reference
from helpers.fpga.datapath import FEW, Datapath
from helpers.fpga.integer_model import (
    IntegerLayer,
    IntegerModel,
    accumulator_bits,
    accumulator_range,
)
from helpers.fpga.operators import exact_dtype

PROPERTY = settings(
    max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def assert_equals_reference(model, codes, rounding, bits=16, chunk=64):
    path = Datapath(model, rounding=rounding, multiplier_bits=bits, chunk=chunk)
    trace, sums, logits = path.trace(codes), path.accumulators(codes), path.run(codes)
    for n, image in enumerate(codes):
        expected, expected_sums = fpga_reference.run(model, image, rounding, bits)
        for name, values in expected_sums.items():
            np.testing.assert_array_equal(sums[name][n], values, err_msg=f"accumulators of {name}")
        for name, values in expected.items():
            np.testing.assert_array_equal(trace[name][n], values, err_msg=f"codes of {name}")
        np.testing.assert_array_equal(logits[n], expected[model.output.name])


@PROPERTY
@given(
    integer_models(),
    st.sampled_from(["half_up", "half_even", "onnxruntime"]),
    st.sampled_from([8, 12, 16, 18, 24, 31]),
    st.integers(0, 2**31),
)
def test_every_code_and_accumulator_equals_the_slow_reference(model, rounding, bits, seed):
    assert_equals_reference(model, random_codes(model, 3, seed), rounding, bits)


@PROPERTY
@given(
    integer_models(power_of_two=True),
    st.sampled_from(["shift", "half_even", "half_up", "onnxruntime"]),
    st.integers(0, 2**31),
)
def test_power_of_two_scales_equal_the_slow_reference(model, rounding, seed):
    assert_equals_reference(model, random_codes(model, 3, seed), rounding)


@PROPERTY
@given(
    integer_models(), st.sampled_from(["half_up", "half_even", "onnxruntime"]), st.integers(0, 99)
)
def test_blocks_threads_and_fusion_change_nothing(model, rounding, seed):
    codes = random_codes(model, 21, seed)
    whole = Datapath(model, rounding=rounding, chunk=64)
    logits = whole.run(codes)
    np.testing.assert_array_equal(logits, whole.trace(codes)[model.output.name])
    np.testing.assert_array_equal(logits, Datapath(model, rounding=rounding, chunk=4).run(codes))
    twice = Datapath(model, rounding=rounding, chunk=9, threads=2)
    np.testing.assert_array_equal(logits, twice.run(codes))
    np.testing.assert_array_equal(logits, twice.run(codes))


def test_maps_one_pixel_wide():
    # An axis with one element has strides of no meaning once an array was transposed.
    rng = np.random.default_rng(0)
    grid = {"scale": 0.05, "zero_point": -128}
    layers = [IntegerLayer("in", "input", (), (2, 1, 1), **grid)]
    for name, inputs, kernel, padding in (("a", 2, (1, 1), (1, 0)), ("b", 1, (3, 3), (1, 1))):
        layers.append(
            IntegerLayer(
                name, "conv", (layers[-1].name,), (1, 3, 1), **grid,
                weight=rng.integers(-7, 8, (1, inputs, *kernel), np.int8),
                weight_scale=np.array([0.3]), bias=np.array([9], np.int32),
                padding=padding, kernel=kernel,
            )
        )  # fmt: skip
    layers.append(IntegerLayer("flat", "flatten", ("b",), (3,), **grid))
    model = IntegerModel(tuple(layers))
    assert_equals_reference(model, random_codes(model, 21, 0), "half_up")


@settings(PROPERTY, max_examples=30)
@given(
    integer_models(), st.sampled_from(["half_up", "half_even", "onnxruntime"]), st.integers(0, 99)
)
def test_a_few_images_equal_the_same_images_among_many(model, rounding, seed):
    codes = random_codes(model, FEW + 3, seed)
    path = Datapath(model, rounding=rounding)
    expected = path.run(codes)
    for count in (1, 2, FEW, FEW + 1, 1):
        np.testing.assert_array_equal(path.run(codes[:count]), expected[:count])
    assert set(path._few) == {1, 2, FEW}


@PROPERTY
@given(integer_models(), st.sampled_from(["half_up", "half_even", "onnxruntime"]))
def test_the_int64_reference_equals_the_slow_one_too(model, rounding):
    codes = random_codes(model, 2, 0)
    found = reference.run(model, codes, rounding)
    for n, image in enumerate(codes):
        expected, _ = fpga_reference.run(model, image, rounding)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name][n], values)


@pytest.mark.parametrize("rounding", ["half_up", "onnxruntime"])
def test_a_layer_read_by_a_pool_and_by_another_layer_is_not_pooled_early(rounding):
    grid = {"scale": 0.7, "zero_point": -5}
    conv = IntegerLayer(
        "conv", "conv", ("input",), (2, 4, 4), **grid,
        weight=np.array([[[[3]]], [[[-7]]]], np.int8), weight_scale=np.array([0.1, 0.2]),
        bias=np.array([5, -9], np.int32),
    )  # fmt: skip
    pool = IntegerLayer(
        "pool", "max_pool", ("conv",), (2, 4, 4), **grid, kernel=(3, 3), padding=(1, 1)
    )
    total = IntegerLayer("sum", "add", ("conv", "pool"), (2, 4, 4), 0.9, 7)
    flat = IntegerLayer("flat", "flatten", ("sum",), (32,), 0.9, 7)
    model = IntegerModel(
        (IntegerLayer("input", "input", (), (1, 4, 4), 0.5, 1), conv, pool, total, flat)
    )
    codes = random_codes(model, 5, 0)
    expected = reference.run(model, codes, rounding)["flat"]
    np.testing.assert_array_equal(Datapath(model, rounding=rounding).run(codes), expected)
    assert_equals_reference(model, codes, rounding)


@pytest.mark.parametrize("zero_point", [0, 3])
def test_onnx_runtime_rounds_a_sum_before_it_adds_the_zero_point(zero_point):
    """1/2, 3/2, 5/2 ... are ties; with an odd zero-point the other order rounds them elsewhere."""
    layers = (
        IntegerLayer("input", "input", (), (4,), 0.5, 0),
        IntegerLayer("sum", "add", ("input", "input"), (4,), 2.0, zero_point),
    )
    codes = np.array([[1, 3, 5, -1]], np.int8)  # (q + q) / 4 = q / 2
    found = Datapath(IntegerModel(layers), rounding="onnxruntime").run(codes)
    assert (found - zero_point).tolist() == [[0, 2, 2, 0]]
    even = Datapath(IntegerModel(layers), rounding="half_even").run(codes)
    up = Datapath(IntegerModel(layers), rounding="half_up").run(codes)
    assert (even - zero_point).tolist() == [[0, 2, 2, 0]]
    assert (up - zero_point).tolist() == [[1, 2, 3, 0]]


def simple(weight=1, bias=0, bits=8, scale=(1.0, 1.0, 1.0), low=-128, taps=4, zero_point=0):
    """One linear layer of one output: input scale, weight scale and output scale in `scale`."""
    return IntegerModel(
        (
            IntegerLayer("input", "input", (), (taps,), scale[0], zero_point),
            IntegerLayer(
                "fc",
                "linear",
                ("input",),
                (1,),
                scale[2],
                0,
                low,
                weight=np.full((1, taps), weight, np.int8),
                weight_scale=np.array([scale[1]]),
                weight_bits=bits,
                bias=np.array([bias], np.int32),
            ),
        )
    )


def test_a_tie_shows_the_rounding_rule():
    """An accumulator of 5 times 1/2: up is 3, even is 2; minus 5: up is -2, even is -2."""
    model = simple(taps=1, scale=(1.0, 1.0, 2.0))
    codes = np.array([[5], [-5], [7], [-7]], np.int8)
    expected = {"half_up": [3, -2, 4, -3], "shift": [3, -2, 4, -3], "half_even": [2, -2, 4, -4]}
    expected["onnxruntime"] = expected["half_even"]
    for mode, values in expected.items():
        assert Datapath(model, rounding=mode).run(codes).ravel().tolist() == values, mode


def test_the_worst_case_input_reaches_the_exact_bound_and_one_bit_less_wraps():
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 127, (1, 64), endpoint=True).astype(np.int8)
    model = simple(taps=64, zero_point=-20, scale=(1.0, 1.0, 8000.0))
    layer = replace(model.output, weight=weight, bias=np.array([777], np.int32))
    model = IntegerModel((model.input, layer))
    low, high = accumulator_range(model, "fc")
    worst = np.where(weight > 0, 127, -128).astype(np.int8)
    best = np.where(weight > 0, -128, 127).astype(np.int8)
    codes = np.concatenate([worst, best])
    sums = Datapath(model).accumulators(codes)["fc"].ravel()
    assert sums.tolist() == [high[0], low[0]]
    bits = accumulator_bits(model, "fc")
    right = Datapath(model).run(codes)
    np.testing.assert_array_equal(Datapath(model, accumulator_bits=bits).run(codes), right)
    narrow = Datapath(model, accumulator_bits={"fc": bits - 1})
    wrapped = narrow.accumulators(codes)["fc"].ravel().astype(np.int64)
    assert (wrapped != sums).any()
    assert ((wrapped - sums) % 2 ** (bits - 1) == 0).all()
    assert (narrow.run(codes) != right).any()


@PROPERTY
@given(integer_models(), st.integers(0, 2**31))
def test_no_input_leaves_the_accumulator_range(model, seed):
    codes = random_codes(model, 8, seed)
    for name, sums in Datapath(model).accumulators(codes).items():
        low, high = accumulator_range(model, name)
        axes = tuple(axis for axis in range(sums.ndim) if axis != 1)
        assert (sums.min(axes) >= low).all(), name
        assert (sums.max(axes) <= high).all(), name
        bits = accumulator_bits(model, name)
        assert -(2 ** (bits - 1)) <= low.min() <= high.max() <= 2 ** (bits - 1) - 1


def test_large_sums_leave_float32_and_stay_exact():
    """2,000 products of 255 x 127 pass 2**24, where float32 loses units."""
    model = simple(weight=127, taps=2000, zero_point=-128, scale=(1.0, 1.0, 600_000.0), bias=1)
    assert exact_dtype(model, model.output) is np.float64
    assert exact_dtype(model, simple(weight=127, taps=517).output) is np.float32
    codes = np.full((2, 2000), 127, np.int8)
    codes[1, :3] = [126, 125, -128]
    sums = Datapath(model).accumulators(codes)["fc"].ravel()
    assert sums.tolist() == [2000 * 255 * 127 + 1, (2000 * 255 - 258) * 127 + 1]
    for mode in ("half_up", "half_even", "onnxruntime"):
        found = Datapath(model, rounding=mode).run(codes)
        np.testing.assert_array_equal(found, reference.run(model, codes, mode)["fc"])


def test_a_model_that_could_overflow_int32_is_refused():
    with pytest.raises(ValueError, match=r"layer 'fc' \(linear\): accumulators can reach.*33 bits"):
        simple(weight=127, taps=1000, bias=2**31 - 1, zero_point=-128)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: Datapath(m, rounding="nearest"), "half_up, half_even, shift, onnxruntime"),
        (lambda m: Datapath(m, rounding="shift"), r"'fc' is 0\.333.*power_of_two=True"),
        (lambda m: Datapath(m, multiplier_bits=40), "multiplier_bits must be 2 to 31, got 40"),
        (lambda m: Datapath(m, threads=0), "threads and chunk must be positive"),
        (lambda m: Datapath(m, accumulator_bits={"x": 9}), "names 'x'; accumulators have"),
        (lambda m: Datapath(m, accumulator_bits=33), "must be 2 to 32, got 33"),
        (lambda m: Datapath(m).run(np.zeros((2, 4))), "int8 array, got float64"),
        (lambda m: Datapath(m).run(np.zeros((2, 5), np.int8)), r"shape \(N, 4\), got \(2, 5\)"),
        (lambda m: m["nobody"], "unknown layer 'nobody'"),
        (lambda m: accumulator_bits(m, "input"), "has no accumulator"),
        (lambda m: m.quantize_input([[np.nan] * 4]), "NaN"),
    ],
)
def test_bad_arguments_are_named(call, message):
    model = simple(scale=(1.0, 1.0, 3.0))
    with pytest.raises(ValueError, match=message):
        call(model)


def test_codes_outside_the_input_range_are_refused():
    model = simple()
    model = IntegerModel((replace(model.input, low=0, high=15), model.output))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.15"):
        Datapath(model).run(np.array([[0, 16, 0, 0]], np.int8))


def test_batches_of_many_sizes_keep_memory_small_and_answers_right():
    model = simple(weight=3, taps=50, zero_point=-7, scale=(1.0, 1.0, 90.0))
    codes = random_codes(model, 40, 0)
    path = Datapath(model)
    expected = path.run(codes)
    for size in range(1, 40):
        np.testing.assert_array_equal(path.run(codes[:size]), expected[:size])
    assert sum(len(buffer) for buffer in path._spaces.get().buffers) == 4 * 40 * (50 + 1)


def test_memory_is_used_again_by_later_layers_and_sizes():
    """Ten layers of 2 x 8 x 8 numbers an image: two arrays serve them, and one with a border."""
    kernel = {"kernel": (3, 3), "padding": (1, 1)}
    layers = [IntegerLayer("input", "input", (), (2, 8, 8), 0.5, 1)]
    for number in range(10):
        layers.append(
            IntegerLayer(
                f"conv{number}", "conv", (layers[-1].name,), (2, 8, 8), 4.0, 0, **kernel,
                weight=np.full((2, 2, 3, 3), 1 - 2 * (number % 2), np.int8),
                weight_scale=np.ones(2), bias=np.zeros(2, np.int32),
            )
        )  # fmt: skip
    layers.append(IntegerLayer("flat", "flatten", ("conv9",), (128,), 4.0, 0))
    model = IntegerModel(tuple(layers))
    codes = random_codes(model, 70, 0)
    path = Datapath(model)
    np.testing.assert_array_equal(path.run(codes), reference.run(model, codes)["flat"])
    space = path._spaces.get()
    assert sum(len(buffer) for buffer in space.buffers) <= 3 * 4 * 64 * 128
    for size in range(20, 40):
        path._spaces.put(space)
        np.testing.assert_array_equal(path.run(codes[:size]), path.run(codes)[:size])
        space = path._spaces.get()
    assert len({shape[-1] for _, shape in space.bordered}) <= 2
    assert sum(len(buffer) for buffer in space.buffers) <= 3 * 4 * 64 * 128


def test_an_empty_batch_gives_no_logits():
    assert Datapath(simple()).run(np.zeros((0, 4), np.int8)).shape == (0, 1)


def test_almost_every_channel_is_proved_in_float32():
    """The speed rests on it: of these random channels at most one in five needs float64."""
    rng = np.random.default_rng(0)
    source = IntegerLayer("input", "input", (), (64,), 0.02, -128)
    layer = IntegerLayer(
        "fc", "linear", ("input",), (300,), 0.05, 0,
        weight=rng.integers(-127, 127, (300, 64), endpoint=True).astype(np.int8),
        weight_scale=rng.uniform(0.002, 0.004, 300), bias=rng.integers(-9999, 9999, 300).astype(np.int32),
    )  # fmt: skip
    path = Datapath(IntegerModel((source, layer)))
    steps = path.steps["fc"]
    assert steps is not None
    assert steps.factor.dtype == np.float32
    assert steps.rows is None or len(steps.rows) < 60
    codes = random_codes(path.model, 500, 1)
    np.testing.assert_array_equal(path.run(codes), reference.run(path.model, codes)["fc"])
