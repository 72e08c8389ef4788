"""The datapath against a slow reference, PyTorch in float64 and its own refusals."""

import fpga_reference
import numpy as np
from fpga_networks import integer_models, random_codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.fpga.datapath import Datapath

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
