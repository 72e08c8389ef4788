"""The cycle-level machine against the datapath (values) and the equations (cycles)."""

import numpy as np
import pytest
from fpga_networks import integer_models, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fpga.arithmetic import MODES
from helpers.fpga.datapath import Datapath
from helpers.fpga.pipeline import machine
from helpers.fpga.pipeline.folding import cycles, folded, frame_interval, options
from helpers.fpga.pipeline.simulate import DeadlockError, simulate
from helpers.fpga.pipeline.structure import build, edges
from helpers.fpga.pipeline.timing import (
    first_latency,
    free_schedule,
    running_maximum,
    schedule,
    sized_fifos,
)


@st.composite
def designs(draw, model):
    return {layer.name: draw(st.sampled_from(options(layer))) for layer in folded(model)}


@st.composite
def machines(draw, **kind):
    """A model, a design, FIFO depths and line buffers, some of them as small as they may be."""
    model = draw(integer_models(**kind))
    design = draw(designs(model))
    stages = build(model, design)
    fifo = {edge: draw(st.sampled_from([1, 2, 3, 40, None])) for edge in edges(stages, 2)}
    buffers = {
        s.name: draw(st.integers(s.windows.span, s.windows.span + 9))
        for s in stages
        if s.windows is not None and draw(st.booleans())
    }
    return model, design, {"fifo": fifo, "buffers": buffers}


@settings(max_examples=60, deadline=None)
@given(machines(), st.data())
def test_values_equal_the_datapath_and_cycles_the_equations(made, data):
    model, design, sizes = made
    frames = data.draw(st.integers(1, 3))
    codes = random_codes(model, frames, data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):
        sizes["interval"] = model.input.shape[1] * model.input.shape[2] + data.draw(
            st.integers(0, 90)
        )
    try:
        run = simulate(model, design, codes, **sizes)
    except DeadlockError:
        with pytest.raises(DeadlockError):
            schedule(model, design, frames, **sizes)
        return
    trace = Datapath(model).trace(codes)
    for name, values in run.streams.items():
        assert np.array_equal(values, trace[name]), name
    assert np.array_equal(run.outputs, Datapath(model).run(codes))
    times = schedule(model, design, frames, **sizes)
    for name, pushed in run.pushed.items():
        assert np.array_equal(pushed, times.pushed[name]), name
    assert run.fifo_peak == times.fifo_peak
    assert run.frame_ends.tolist() == times.frame_ends.tolist()
    for name, work in cycles(model, design).items():
        assert (run.states[name] == machine.WORK).sum() == frames * work, name
        assert len(run.states[name]) == run.cycles


@settings(max_examples=60, deadline=None)
@given(integer_models(), st.data())
def test_without_limits_the_running_maximum_is_exact(model, data):
    design = data.draw(designs(model))
    frames = data.draw(st.integers(1, 3))
    endless = {s.name: 10_000 for s in build(model, design) if s.windows is not None}
    codes = random_codes(model, frames, 0)
    run = simulate(model, design, codes, fifo=None, buffers=endless)
    free = free_schedule(model, design, frames)
    for name, pushed in run.pushed.items():
        assert np.array_equal(pushed, free[name]), name
    assert run.frame_ends[0] + 1 == first_latency(model, design)
    none_blocked = [(states == machine.OUTPUT).any() for states in run.states.values()]
    assert not any(none_blocked)


@settings(max_examples=60, deadline=None)
@given(integer_models(), st.data())
def test_no_machine_beats_its_slowest_stage_and_deep_fifos_reach_it(model, data):
    design = data.draw(designs(model))
    bound, frames = frame_interval(model, design), 6
    times = schedule(model, design, frames, fifo=40)
    # the slowest stage works that long, though nobody may read its very last words
    assert max(pushed[-1] for pushed in times.pushed.values()) + 1 >= frames * bound
    slowest: dict[str, int] = {}  # of a stage and all that feed it
    for stage in build(model, design):
        works = [slowest[source] for source in stage.sources]
        slowest[stage.name] = max(cycles(model, design)[stage.name], *works, 0)
    for name, pushed in free_schedule(model, design, frames).items():
        ends = pushed.reshape(frames, -1)[:, -1]
        assert np.diff(ends)[-1] == slowest[name], (name, np.diff(ends))
    depths = sized_fifos(model, design, frames)
    paced = schedule(model, design, frames, fifo=depths, interval=bound)
    endless = schedule(model, design, frames, fifo=None, interval=bound)
    for name, pushed in paced.pushed.items():
        assert np.array_equal(pushed, endless.pushed[name]), name


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_every_requantization_mode(mode, data):
    model, design, sizes = data.draw(machines(power_of_two=mode == "shift"))
    codes = random_codes(model, 2, 5)
    sizes["fifo"] = None
    run = simulate(model, design, codes, rounding=mode, multiplier_bits=11, **sizes)
    expected = Datapath(model, rounding=mode, multiplier_bits=11).run(codes)
    assert np.array_equal(run.outputs, expected)


def test_running_maximum_is_a_queue():
    rng = np.random.default_rng(3)
    earliest, free, starts = rng.integers(0, 60, 30), 0, []
    for time in earliest:
        starts.append(max(int(time), free))
        free = starts[-1] + 4
    assert running_maximum(earliest, 4).tolist() == starts
