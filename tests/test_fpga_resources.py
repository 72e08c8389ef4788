"""Units against Yosys, memories against the model's bits, reports that add up and refuse."""

import pytest
import torch

from helpers import models
from helpers.fpga.convert import from_quantized
from helpers.fpga.devices import device
from helpers.fpga.integer_model import IntegerModel, accumulator_bits
from helpers.fpga.logic import (
    Logic,
    adder_tree,
    control,
    fabric_multiplier,
    fifo,
    multiply_accumulate,
    requantizer,
    requantizers,
)
from helpers.fpga.pipeline.folding import Folding, folded
from helpers.fpga.pipeline.windows import buffer_pixels
from helpers.fpga.resources import estimate, memories, narrowed
from helpers.quantization import quantize_network

GOWIN = device("GW2A-18")


@pytest.fixture(scope="module")
def small() -> IntegerModel:
    torch.manual_seed(0)
    network = models.EdgeNet(1, 10, 4, 2, ((8, 1), (12, 2))).eval()
    return from_quantized(quantize_network(network, torch.randn(4, 1, 16, 16)))


@pytest.fixture(scope="module")
def one(small):
    return {layer.name: Folding() for layer in folded(small)}


@pytest.mark.parametrize(
    ("inputs", "bits", "accumulator", "luts", "registers"),
    [(1, 8, 24, 48, 50), (3, 8, 24, 83, 95), (4, 8, 24, 100, 112), (4, 4, 22, 84, 96)],
)
def test_a_lane_is_that_of_yosys(inputs, bits, accumulator, luts, registers):
    """Yosys' counts, without the products' registers, which are in the multiplier."""
    logic = multiply_accumulate(inputs, bits, accumulator)
    assert logic.luts - accumulator == luts
    assert logic.registers == registers
    assert logic.multipliers == inputs


def test_a_tree_adds_every_bit_once():
    assert adder_tree(1, 16) == (0, 16)
    assert adder_tree(2, 16) == (17, 17)
    assert adder_tree(3, 16) == (35, 18)
    assert adder_tree(12, 16)[0] == pytest.approx(204, rel=0.05)


def test_requantizers_are_those_of_yosys():
    for digits, luts in {1: 151, 2: 172, 4: 258, 8: 434, 16: 786}.items():
        assert requantizer(22, digits).luts == pytest.approx(luts, rel=0.16)
        assert requantizer(22, digits).luts >= luts
        assert requantizer(22, digits).registers == 71
    assert requantizer(26, 1).luts == pytest.approx(180, rel=0.05)
    assert requantizer(22, 16, "dsp") == Logic(184, 121, 2)
    for bits, luts in {8: 126, 6: 92, 4: 58}.items():
        assert fabric_multiplier(bits).luts == pytest.approx(luts, abs=1)
    assert control(True) == Logic(231, 99)
    assert control(False) == Logic(103, 55)
    assert fifo(3) == Logic(58, 52)


@pytest.mark.parametrize("steps", [1, 2, 4, 9, 16, 48, 192])
@pytest.mark.parametrize("outputs", [1, 2, 7])
def test_requantizers_keep_up(outputs, steps):
    _, text = requantizers(outputs, steps, 22, "fabric")
    count, digits = int(text.split()[0]), int(text.split()[2])
    cycles = -(-16 // digits)
    assert count * (steps // cycles) >= outputs
    if count > 1:  # one unit less could not
        assert (count - 1) * (steps // cycles) < outputs


def test_slow_sums_need_one_bit_a_cycle():
    assert requantizers(1, 16, 22, "fabric")[1] == "1 of 1 bits a cycle"
    assert requantizers(1, 1, 22, "fabric")[1] == "1 of 16 bits a cycle"
    assert requantizers(3, 1, 22, "dsp")[0].multipliers == 6


def test_memories_hold_every_bit_of_the_model(small, one):
    for bits in (8, 4):
        kept = memories(small, one, weight_bits=bits)
        weights = [m for m in kept if m.what == "weights"]
        assert sum(m.bits for m in weights) == bits * sum(n.weight.size for n in folded(small))
        for layer in folded(small):
            constants = next(
                m for m in kept if (m.layer, m.what) == (layer.name, "channel constants")
            )
            width = accumulator_bits(small, layer.name) - 8 + bits
            assert constants.bits == len(layer.weight) * (width + 16 + 3)
            assert narrowed(small, layer, bits) == width
    buffer = {m.layer: m for m in kept if m.what == "line buffer"}
    layer = small["features.depthwise3"]
    assert buffer[layer.name].bits == 8 * 8 * buffer_pixels(small, layer)
    smaller = memories(small, one, buffers={layer.name: 20})
    assert next(m for m in smaller if m.layer == layer.name).bits == 8 * 8 * 20


def test_a_wider_folding_reads_wider_words(small, one):
    design = one | {"features.depthwise3": Folding(2, 3), "features.pointwise3": Folding(3, 4)}
    kept = {(m.layer, m.what): m for m in memories(small, design)}
    depthwise = kept["features.depthwise3", "line buffer"]
    assert (depthwise.width, depthwise.copies) == (16, 3)  # two channels, three pixels at once
    pointwise = kept["features.pointwise3", "line buffer"]
    assert (pointwise.width, pointwise.copies) == (32, 1)  # four channels of one pixel
    weights = kept["features.pointwise3", "weights"]
    assert (weights.width, weights.depth) == (8 * 12, 8)
    assert weights.constant
    assert not pointwise.constant


def test_a_report_adds_up(small, one):
    report = estimate(small, one, GOWIN)
    table = report.table()
    assert (table.drop("total").sum() == table.loc["total"]).all()
    assert report.fits
    assert report.check() is report
    assert report.totals["multipliers"] == len(one)
    assert report.utilization[report.binding] == max(report.utilization.values())
    assert report.by_kind()["bits"].sum() == sum(m.bits for m in report.memories)
    assert set(report.by_kind().index) == {"line buffer", "weights", "channel constants", "sums"}


def test_the_sums_of_a_pool_are_as_wide_as_the_largest_sum(small, one):
    (sums,) = [memory for memory in memories(small, one) if memory.what == "sums"]
    assert small["average"].taps == 16
    assert -(2 ** (sums.width - 1)) == 16 * -128  # not a bit more
    assert sums.depth == 12


def test_fewer_bits_never_cost_more(small, one):
    totals = [estimate(small, one, GOWIN, weight_bits=b).totals["LUTs"] for b in (8, 6, 4, 2)]
    assert totals == sorted(totals, reverse=True)
    mixed = estimate(small, one, GOWIN, weight_bits={"fc": 2}).totals["LUTs"]
    assert mixed < totals[0]


def test_multipliers_may_move_into_logic(small, one):
    plain, moved = estimate(small, one, GOWIN), estimate(small, one, GOWIN, fabric=["fc"])
    assert moved.totals["multipliers"] == plain.totals["multipliers"] - 1
    gained = moved.layers["fc"].luts - plain.layers["fc"].luts
    assert gained == fabric_multiplier(8).luts


def test_requantization_in_dsps_takes_two_wide_ones_each(small, one):
    report = estimate(small, one, GOWIN, requantize="dsp")
    assert report.totals["multipliers"] == len(one) + 4 * len(one)


def test_what_does_not_fit_is_named(small):
    full = {n.name: Folding(len(n.weight), n.taps) for n in folded(small)}
    report = estimate(small, full, GOWIN)
    assert not report.fits
    with pytest.raises(
        ValueError, match=r"does not fit the GW2A-18: multipliers: needs \d+, has 96"
    ):
        report.check()
    none = estimate(small, full, device("iCE40HX8K"))
    assert none.utilization["multipliers"] == float("inf")
    assert none.binding == "multipliers"


def test_bad_arguments_are_named(small, one):
    for bits in (0, 1, 9, 8.0):
        with pytest.raises(ValueError, match=r"weight_bits of 'features\.conv1' must be"):
            estimate(small, one, GOWIN, weight_bits={"features.conv1": bits})
    with pytest.raises(ValueError, match="requantize must be 'fabric' or 'dsp', got 'lut'"):
        estimate(small, one, GOWIN, requantize="lut")
    with pytest.raises(ValueError, match="fabric names \\['average'\\]"):
        estimate(small, one, GOWIN, fabric=["average"])
    with pytest.raises(ValueError, match="missing \\['fc'\\]"):
        estimate(small, {k: v for k, v in one.items() if k != "fc"}, GOWIN)
