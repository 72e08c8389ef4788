"""ONNX Runtime on the exported file equals the datapath's onnxruntime mode on every element."""

import numpy as np
import onnxruntime
from fpga_networks import integer_models, random_codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.fpga.datapath import Datapath
from helpers.fpga.onnx_file import to_onnx

LEVELS = onnxruntime.GraphOptimizationLevel


def session(model, level=LEVELS.ORT_ENABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        to_onnx(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(
    st.one_of(integer_models(), integer_models(power_of_two=True)),
    st.sampled_from([LEVELS.ORT_ENABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_DISABLE_ALL]),
    st.integers(0, 2**31),
)
def test_random_networks_equal_onnx_runtime(model, level, seed):
    codes = random_codes(model, 16, seed)
    (expected,) = session(model, level).run(None, {model.input.name: codes})
    logits = Datapath(model, rounding="onnxruntime").run(codes)
    np.testing.assert_array_equal(logits, expected)
