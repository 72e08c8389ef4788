"""Foldings and the cycles of work that follow from them."""

import numpy as np
import pytest
from fpga_networks import integer_models
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.pipeline.folding import (
    Folding,
    check,
    check_design,
    cycles,
    divisors,
    folded,
    frame_interval,
    frames_per_second,
    lanes,
    multipliers,
    options,
    stage_cycles,
)


def weighted(name, op, source, shape, weight_shape, **more):
    """A layer with weights of 1."""
    return IntegerLayer(
        name,
        op,
        (source,),
        shape,
        1.0,
        0,
        weight=np.ones(weight_shape, np.int8),
        weight_scale=np.ones(weight_shape[0]),
        bias=np.zeros(weight_shape[0], np.int32),
        **more,
    )


@pytest.fixture(scope="module")
def small():
    """3x8x8 -> conv 3x3 to 6 -> depthwise stride 2 -> pool -> average -> 4 classes."""
    return IntegerModel(
        (
            IntegerLayer("in", "input", (), (3, 8, 8), 1.0, 0),
            weighted("conv", "conv", "in", (6, 8, 8), (6, 3, 3, 3), kernel=(3, 3), padding=(1, 1)),
            weighted(
                "dw",
                "conv",
                "conv",
                (6, 4, 4),
                (6, 1, 3, 3),
                kernel=(3, 3),
                padding=(1, 1),
                stride=(2, 2),
                groups=6,
            ),
            IntegerLayer(
                "pool", "max_pool", ("dw",), (6, 2, 2), 1.0, 0, kernel=(2, 2), stride=(2, 2)
            ),
            IntegerLayer(
                "gap",
                "global_avg_pool",
                ("pool",),
                (6, 1, 1),
                1.0,
                0,
                kernel=(2, 2),
                stride=(2, 2),
            ),
            IntegerLayer("flat", "flatten", ("gap",), (6,), 1.0, 0),
            weighted("fc", "linear", "flat", (4,), (4, 6)),
        )
    )


DESIGN = {"conv": Folding(3, 9), "dw": Folding(2, 3), "fc": Folding(1, 6)}


def test_cycles_by_hand(small):
    assert cycles(small, DESIGN) == {
        "in": 64,
        "conv": 64 * 2 * 3,
        "dw": 16 * 3 * 3,
        "pool": 4 * 3,
        "gap": 4 * 3,
        "fc": 4,
    }
    assert frame_interval(small, DESIGN) == 384
    assert multipliers(DESIGN) == 27 + 6 + 6
    assert [lanes(small, DESIGN, n.name) for n in small] == [3, 3, 2, 2, 2, 2, 1]


def test_the_input_can_be_the_slowest(small):
    full = {n.name: Folding(len(n.weight), n.taps) for n in folded(small)}
    assert frame_interval(small, full) == 64


def test_options_of_a_depthwise_layer(small):
    found = options(small["dw"])
    assert found == [Folding(o, i) for o in (1, 2, 3, 6) for i in (1, 3, 9)]
    assert divisors(1) == [1]
    assert divisors(97) == [1, 97]
    assert Folding().multipliers == 1


@settings(max_examples=40, deadline=None)
@given(integer_models(), st.data())
def test_work_is_conserved(model, data):
    """Multipliers x cycles = multiply-accumulates, exactly, for every folding that divides."""
    for layer in folded(model):
        folding = data.draw(st.sampled_from(options(layer)))
        check(layer, folding)
        assert stage_cycles(model, layer, folding) * folding.multipliers == layer.macs


def test_bad_foldings(small):
    for folding, words in (
        (
            Folding(4, 1),
            r"'conv': outputs must divide its 6 output channels, one of \[1, 2, 3, 6\]",
        ),
        (Folding(1, 2), "inputs must divide its 27 products per output"),
        (Folding(0, 1), "outputs must divide"),
        (Folding(1.0, 1), "outputs must divide"),
    ):
        with pytest.raises(ValueError, match=words):
            check(small["conv"], folding)
    for function in (lambda n: check(n, Folding()), options):
        with pytest.raises(ValueError, match=r"'pool'.*no multipliers"):
            function(small["pool"])
    with pytest.raises(ValueError, match=r"missing \['dw', 'fc'\], unknown \['pool'\]"):
        check_design(small, {"conv": Folding(), "pool": Folding()})
    with pytest.raises(ValueError, match="positive"):
        frames_per_second(0)


def test_the_published_rate():
    assert round(frames_per_second(147_541), 2) == 366.0
