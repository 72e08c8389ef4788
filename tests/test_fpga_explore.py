"""The search: fewest multipliers against brute force, the fastest design, the full-size target."""

import threading
from itertools import product

import pytest
import torch
from joblib import parallel_config

from helpers import models
from helpers.fpga import explore
from helpers.fpga.convert import from_quantized
from helpers.fpga.devices import device
from helpers.fpga.explore import (
    balanced,
    ceiling,
    evaluate,
    fastest,
    idle,
    intervals,
    least_buffers,
    operations_per_cycle,
    pareto,
    sweep,
)
from helpers.fpga.pipeline.folding import (
    Folding,
    folded,
    frame_interval,
    multipliers,
    options,
    stage_cycles,
)
from helpers.fpga.pipeline.timing import schedule
from helpers.quantization import quantize_network

GOWIN = device("GW2A-18")


def integers(network, side, channels):
    torch.manual_seed(0)
    return from_quantized(quantize_network(network.eval(), torch.randn(2, channels, side, side)))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return integers(models.EdgeNet(1, 3, 2, 2, ((4, 1),)), 8, 1)


@pytest.fixture(scope="module")
def edge():
    torch.manual_seed(0)
    return integers(models.EdgeNet(), 96, 3)


def test_balanced_has_the_fewest_multipliers(small):
    """Against every design of a small network."""
    layers = folded(small)
    fewest: dict[int, int] = {}
    for choice in product(*(options(layer) for layer in layers)):
        design = dict(zip((n.name for n in layers), choice, strict=True))
        interval = frame_interval(small, design)
        fewest[interval] = min(fewest.get(interval, 10**9), multipliers(design))
    for target in intervals(small, 64):
        design = balanced(small, target, GOWIN)
        assert frame_interval(small, design) <= target
        possible = [count for interval, count in fewest.items() if interval <= target]
        assert multipliers(design) == min(possible), target


def test_shorter_intervals_need_more(edge):
    points = sweep(edge, GOWIN, [442_368, 147_456, 110_592, 55_296])
    assert [p.interval for p in points] == [442_368, 147_456, 110_592, 55_296]
    assert [p.multipliers for p in points] == sorted(p.multipliers for p in points)
    assert pareto(points, lambda p: p.multipliers) == points[::-1]


def test_a_point_has_the_interval_of_its_design_not_the_target(small):
    reached = intervals(small, 64)
    target = reached[0] + 1
    assert target not in reached
    point = evaluate(small, GOWIN, target)
    assert point.interval == frame_interval(small, point.design) == reached[0]


def test_pareto_keeps_what_nothing_beats(small):
    points = sweep(small, GOWIN, [64, 64, 128, 288])
    front = pareto(points, lambda p: p.multipliers)
    for point in front:
        assert not any(
            p.interval <= point.interval
            and p.multipliers <= point.multipliers
            and (p.interval, p.multipliers) != (point.interval, point.multipliers)
            for p in points
        )
    assert len({p.interval for p in front}) == len(front)


def test_any_joblib_backend_may_run_the_sweep(small):
    with parallel_config(backend="threading"):
        many = sweep(small, GOWIN, [64, 128])
    assert [p.design for p in many] == [p.design for p in sweep(small, GOWIN, [64, 128])]


def test_the_number_of_jobs_is_the_callers(small, monkeypatch):
    both = threading.Barrier(2, timeout=30)

    def evaluate_together(*arguments, **choices):
        both.wait()  # passes only if two run at the same time
        return evaluate(*arguments, **choices)

    monkeypatch.setattr(explore, "evaluate", evaluate_together)
    with parallel_config(backend="threading", n_jobs=2):
        assert len(sweep(small, GOWIN, [64, 128])) == 2


def test_bad_intervals_are_refused(small):
    with pytest.raises(ValueError, match="at least 64 cycles, one per pixel"):
        balanced(small, 63, GOWIN)
    tall = integers(models.EdgeNet(1, 3, 2, 1, ((4, 1),)), 8, 1)
    assert balanced(tall, 64, GOWIN)


def test_the_numbers_of_the_roofline(edge):
    assert sum(layer.macs for layer in edge) == 8_285_952
    assert round(ceiling(edge, 96), 1) == 625.6
    assert operations_per_cycle(edge, 147_541) == pytest.approx(112.3, abs=0.05)


def test_the_full_size_network_fits_the_gw2a_above_366_frames_a_second(edge):
    buffers = least_buffers(edge, ["average", "fc"])
    assert buffers == {"average": 1, "fc": 1}
    assert least_buffers(edge, ["features.conv1"]) == {"features.conv1": 2 * 96 + 3 + 1}
    point = fastest(edge, GOWIN, buffers=buffers)
    assert point.report.fits
    assert point.frames_per_second() > 366
    assert point.interval == frame_interval(edge, point.design)
    assert point.frames_per_second() < ceiling(edge, 96)
    weights = [p.blocks for m, p in point.report.memories.items() if m.what == "weights"]
    assert sum(weights) > 0.5 * point.report.totals["block RAM"], "weights fill the block RAM"
    four = fastest(edge, GOWIN, buffers=buffers, weight_bits=4)
    assert four.report.totals["block RAM"] < 0.8 * point.report.totals["block RAM"]
    assert 0 <= min(idle(edge, point.design).values()) < 0.001


def test_a_part_that_is_too_small_names_the_resource(edge):
    with pytest.raises(ValueError, match="GW2A-18: LUTs: needs 20,9"):  # 1 % too many
        evaluate(edge, GOWIN, 110_592).report.check()
    with pytest.raises(ValueError, match=r"does not fit the iCE40UP5K: .*block RAM: needs"):
        fastest(edge, device("iCE40UP5K"))
    with pytest.raises(ValueError, match="no design leaves 60% of the GW2A-18 free"):
        fastest(edge, GOWIN, room=0.4)


def test_the_closed_form_is_the_schedule(small):
    """Also with the least line buffers where nothing has a stride."""
    for target in (64, 144):
        design = balanced(small, target, GOWIN)
        ends = schedule(small, design, 4).frame_ends
        assert ends[-1] - ends[-2] == frame_interval(small, design)
    assert stage_cycles(small, folded(small)[0], Folding()) == 2 * 16 * 9
