"""FIFO, windows and stages: each against a slow account of the same thing; and what is refused."""

from collections import deque

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fpga_networks import integer_models
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.fpga.convert import from_quantized
from helpers.fpga.datapath import Datapath
from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.pipeline.fifo import Fifo
from helpers.fpga.pipeline.folding import Folding, folded
from helpers.fpga.pipeline.gantt import gantt, shares
from helpers.fpga.pipeline.machine import DONE, INPUT, OUTPUT, WORK
from helpers.fpga.pipeline.simulate import DeadlockError, due_cycles, simulate
from helpers.fpga.pipeline.structure import buffer_bytes, build, edges
from helpers.fpga.pipeline.timing import schedule, sized_fifos
from helpers.fpga.pipeline.windows import buffer_pixels, source_map, whole_frame, windows
from helpers.quantization import quantize_network


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_fifo_keeps_order_and_shows_the_last_edge(depth, traffic):
    fifo, inside, number, taken, most = Fifo(depth), deque(), 0, [], 0
    for give, take in traffic:
        valid, ready = len(inside) > 0, len(inside) < depth
        assert (fifo.valid, fifo.ready) == (valid, ready)
        before = len(inside)
        if take and valid:
            taken.append(int(fifo.pop()))
            assert taken[-1] == inside.popleft()
        if give and ready:
            fifo.push(number)
            inside.append(number)
            number, most = number + 1, max(most, before + 1)
        fifo.clock()
    assert taken == list(range(len(taken)))
    assert fifo.peak == most


def test_fifo_misuse():
    fifo = Fifo(1)
    with pytest.raises(RuntimeError, match="not valid"):
        fifo.pop()
    fifo.push(1)
    with pytest.raises(RuntimeError, match="not ready"):
        fifo.push(2)  # two words in one cycle
    fifo.clock()
    with pytest.raises(RuntimeError, match="not ready"):
        fifo.push(2)
    assert fifo.pop() == 1
    with pytest.raises(RuntimeError, match="not valid"):
        fifo.pop()
    with pytest.raises(ValueError, match="at least 1"):
        Fifo(0)


@settings(max_examples=60, deadline=None)
@given(integer_models())
def test_windows_by_loops(model):
    for layer in model:
        if layer.op not in ("conv", "max_pool", "avg_pool"):
            continue
        _, height, width = source_map(model, layer)
        found, oldest, reads = windows(model, layer), height * width, []
        for y in range(layer.shape[1]):
            for x in range(layer.shape[2]):
                rows = range(y * layer.stride[0] - layer.padding[0], height)[: layer.kernel[0]]
                columns = range(x * layer.stride[1] - layer.padding[1], width)[: layer.kernel[1]]
                reads.append([r * width + c for r in rows for c in columns if r >= 0 and c >= 0])
        for window in reversed(range(len(reads))):
            oldest = min([oldest, *reads[window]])
            assert found.need[window] == max(reads[window], default=-1)
            assert found.keep[window] == oldest
            inside = found.taps[window][found.taps[window] >= 0]
            assert sorted(inside.tolist()) == sorted(reads[window])
            assert len(found.taps[window]) == layer.kernel[0] * layer.kernel[1]
        assert found.span == max(1, int((found.need - found.keep).max()) + 1)
        assert whole_frame(found).span >= found.span
        assert buffer_pixels(model, layer) > found.span


class Plain(nn.Module):
    """conv, stride-2 depthwise, pointwise, dense on a flattened map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(6, 6, 3, 2, 1, groups=6)
        self.pointwise = nn.Conv2d(6, 4, 1)
        self.flatten, self.fc = nn.Flatten(), nn.Linear(4 * 5 * 4, 3)

    def forward(self, x):
        x = self.pointwise(self.depthwise(self.relu(self.conv(x))))
        return self.fc(self.flatten(x))


class Block(nn.Module):
    """A residual block."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2d(1, 2, 1)
        self.inner = nn.Conv2d(2, 2, 3, padding=1)
        self.flatten, self.fc = nn.Flatten(), nn.Linear(2 * 6 * 6, 2)

    def forward(self, x):
        x = self.entry(x)
        return self.fc(self.flatten(x + self.inner(x)))


def integer(network, *shape):
    torch.manual_seed(0)
    x = torch.rand(3, *shape)
    model = from_quantized(quantize_network(network().eval(), x))
    return model, model.quantize_input(x.numpy())


@pytest.fixture(scope="module")
def plain():
    return integer(Plain, 2, 9, 8)


@pytest.fixture(scope="module")
def block():
    return integer(Block, 1, 6, 6)


SOME = {
    "conv": Folding(3, 6),
    "depthwise": Folding(2, 3),
    "pointwise": Folding(1, 2),
    "fc": Folding(3, 8),
}


def test_structure_by_hand(plain):
    model, _ = plain
    stages = {stage.name: stage for stage in build(model, SOME)}
    assert list(stages) == ["input", "conv", "depthwise", "pointwise", "fc"]
    assert [s.steps for s in stages.values()] == [1, 3, 3, 3, 10]
    assert [s.groups for s in stages.values()] == [1, 2, 3, 4, 1]
    assert [s.words_out for s in stages.values()] == [72, 144, 60, 80, 1]
    assert [s.words_in for s in stages.values()] == [(), (72,), (144,), (60,), (80,)]
    # a depthwise group waits for its own channels only: channels 0 and 1 are in the first word
    assert stages["depthwise"].ready[0][0].tolist() == [2 * 9 + 1, 2 * 9 + 2, 2 * 9 + 2]
    assert stages["pointwise"].ready[0][0].tolist() == [3] * 4
    assert stages["fc"].ready[0].tolist() == [[80]]
    sizes = {
        "conv": (2 * 8 + 3 + 1) * 2,
        "depthwise": (2 * 8 + 3 + 8 + 2) * 6,
        "pointwise": 2 * 6,
        "fc": 2 * 20 * 4,
    }
    assert buffer_bytes(list(stages.values())) == sizes


def test_a_fifo_that_is_not_named_has_two_words(plain):
    stages = build(plain[0], SOME)
    found = edges(stages, {("conv", "depthwise"): 5})
    assert found.pop(("conv", "depthwise")) == 5
    assert list(found.values()) == [2, 2, 2]
    assert set(edges(stages, None).values()) == {None}


def test_a_pool_waits_for_its_own_channels_only():
    """Six channels in words of two: the third group needs the third word of the last pixel."""
    conv = IntegerLayer(
        "conv", "conv", ("in",), (6, 4, 4), 1.0, 0, weight=np.ones((6, 1, 1, 1), np.int8),
        weight_scale=np.ones(6), bias=np.zeros(6, np.int32),
    )  # fmt: skip
    pool = IntegerLayer(
        "pool", "max_pool", ("conv",), (6, 2, 2), 1.0, 0, kernel=(2, 2), stride=(2, 2)
    )
    source = IntegerLayer("in", "input", (), (1, 4, 4), 1.0, 0)
    flat = IntegerLayer("flat", "flatten", ("pool",), (24,), 1.0, 0)
    stages = build(IntegerModel((source, conv, pool, flat)), {"conv": Folding(2, 1)})
    assert stages[2].ready[0].tolist() == [[3 * n + g for g in (1, 2, 3)] for n in (5, 7, 13, 15)]


@pytest.mark.parametrize("places", [1, 2])
def test_the_rearranger_overlaps_only_with_a_second_place(places):
    """C/P words and n turns per pixel: their sum with one place, the larger of the two with two."""
    model, codes = integer(Plain, 2, 9, 8)
    design = SOME | {"depthwise": Folding(2, 9), "conv": Folding(6, 18), "pointwise": Folding(1, 6)}
    # one row only: no window has to wait for a row below
    run = schedule(model, design, 1, buffers={"pointwise": places}, fifo=None)
    taken = run.taken["depthwise", "pointwise"]
    per_pixel = np.diff(run.pushed["pointwise"][3::4])
    assert per_pixel.min() == {1: 3 + 4, 2: 4}[places]
    assert len(taken) == 60
    assert len(codes) == 3


def test_stride_two_wants_a_spare_row(plain):
    """With the depthwise layer as the slowest stage, W pixels less of buffer cost time."""
    model, codes = plain
    design = {n.name: Folding(len(n.weight), n.taps) for n in folded(model)}
    design["depthwise"] = Folding(1, 3)
    usual = buffer_pixels(model, model["depthwise"])
    ends = {
        lines: schedule(
            model, design, 4, buffers={"depthwise": usual - 8 * lines}, fifo=20
        ).frame_ends
        for lines in (0, 1)
    }
    work = 20 * 6 * 3
    assert np.diff(ends[0])[-1] == work
    assert np.diff(ends[1])[-1] > work
    run = simulate(model, design, codes, buffers={"depthwise": usual - 8}, fifo=20)
    assert run.frame_ends.tolist() == ends[1][:3].tolist()
    assert np.array_equal(run.outputs, Datapath(model).run(codes))


def test_holding_whole_frames_changes_time_and_memory_but_no_value(plain):
    model, codes = plain
    design = {n.name: Folding(len(n.weight), n.taps) for n in folded(model)}
    usual = simulate(model, design, codes)
    held = simulate(model, design, codes, hold=["depthwise", "pointwise"])
    assert np.array_equal(usual.outputs, held.outputs)
    assert held.frame_ends[0] > usual.frame_ends[0] + 30
    assert held.buffer_peak["depthwise", 0] >= 72 > usual.buffer_peak["depthwise", 0]
    one = simulate(model, design, codes[:1], hold=["depthwise", "pointwise"])
    assert one.buffer_peak["depthwise", 0] == 72
    assert one.buffer_peak["pointwise", 0] == 20


def test_a_shallow_fifo_at_a_fork_is_a_reported_deadlock(block):
    model, codes = block
    design = {n.name: Folding(len(n.weight), n.taps) for n in folded(model)}
    with pytest.raises(DeadlockError) as caught:
        simulate(model, design, codes[:1], fifo={("entry", "add"): 1})
    message = str(caught.value)
    assert "entry waits for add to take from FIFO entry -> add, full with 1 word;" in message
    assert "add waits for inner to send" in message
    assert "inner waits for entry to send" in message
    assert message.count(";") == 2, "the circle and nothing else"
    with pytest.raises(DeadlockError, match="no solution"):
        schedule(model, design, 1, fifo={("entry", "add"): 1})
    depth = sized_fifos(model, design)["entry", "add"]
    run = simulate(model, design, codes, fifo={("entry", "add"): depth})
    assert np.array_equal(run.outputs, Datapath(model).run(codes))
    for states in run.states.values():
        assert (states == WORK).any()


def test_a_deadlock_at_the_camera_names_it():
    """The input itself is forked."""
    weight = np.ones((1, 1, 3, 3), np.int8)
    conv = IntegerLayer(
        "conv", "conv", ("in",), (1, 5, 5), 1.0, 0, weight=weight, weight_scale=np.ones(1),
        bias=np.zeros(1, np.int32), kernel=(3, 3), padding=(1, 1),
    )  # fmt: skip
    fc = IntegerLayer(
        "fc", "linear", ("flat",), (1,), 1.0, 0, weight=np.ones((1, 25), np.int8),
        weight_scale=np.ones(1), bias=np.zeros(1, np.int32),
    )  # fmt: skip
    model = IntegerModel(
        (
            IntegerLayer("in", "input", (), (1, 5, 5), 1.0, 0),
            conv,
            IntegerLayer("sum", "add", ("in", "conv"), (1, 5, 5), 1.0, 0),
            IntegerLayer("flat", "flatten", ("sum",), (25,), 1.0, 0),
            fc,
        )
    )
    codes = np.ones((1, 1, 5, 5), np.int8)
    with pytest.raises(DeadlockError, match="in waits for sum to take"):
        simulate(model, {"conv": Folding(1, 9), "fc": Folding(1, 25)}, codes)


def test_the_camera_keeps_its_pace(plain):
    model, codes = plain
    run = simulate(model, SOME, codes, fifo=None, interval=1000)
    assert np.diff(run.frame_ends).tolist() == [1000, 1000]
    assert run.pushed["input"][:3].tolist() == [0, 14, 28]  # ceil(1000 n / 72)
    assert not (run.states["input"] == OUTPUT).any()
    assert due_cycles(4, 2, None).tolist() == list(range(8))
    with pytest.raises(ValueError, match="at least 72 cycles"):
        simulate(model, SOME, codes, interval=71)


def test_what_is_refused(plain, block):
    model, codes = plain
    for arguments, words in (
        ({"fifo": {("conv", "fc"): 2}}, r"fifo names \('conv', 'fc'\)"),
        ({"fifo": 0}, r"depth of FIFO \('input', 'conv'\) must be at least 1 word, got 0"),
        ({"fifo": 2.5}, "at least 1 word"),
        ({"buffers": {"conv": 18}}, r"buffers\['conv'\] must be at least 19 pixels"),
        ({"buffers": {"input": 40}}, r"buffers names \['input'\]"),
        ({"hold": ["nothing"]}, r"hold names \['nothing'\]"),
        ({"rounding": "up"}, "rounding must be one of"),
    ):
        with pytest.raises(ValueError, match=words):
            simulate(model, SOME, codes, **arguments)
    with pytest.raises(ValueError, match="at least one frame"):
        simulate(model, SOME, codes[:0])
    with pytest.raises(ValueError, match="int8"):
        simulate(model, SOME, codes.astype(np.int32))
    with pytest.raises(ValueError, match=r"missing \['fc'\]"):
        simulate(model, {k: v for k, v in SOME.items() if k != "fc"}, codes)
    with pytest.raises(ValueError, match="frames must be positive"):
        schedule(model, SOME, 0)
    twice = IntegerModel(
        (
            IntegerLayer("in", "input", (), (1, 1, 1), 1.0, 0),
            IntegerLayer("sum", "add", ("in", "in"), (1, 1, 1), 1.0, 0),
            IntegerLayer("flat", "flatten", ("sum",), (1,), 1.0, 0),
        )
    )
    with pytest.raises(ValueError, match="reads 'in' twice"):
        edges(build(twice, {}), 2)


def test_the_chart_shows_the_most_frequent_state(plain):
    model, codes = plain
    run = simulate(model, SOME, codes)
    parts = shares(run)
    assert parts["conv"][WORK] == pytest.approx(3 * 72 * 6 / run.cycles)
    for part in parts.values():
        assert sum(part.values()) == pytest.approx(1)
        assert set(part) == {DONE, WORK, INPUT, OUTPUT}
    figure, axis = plt.subplots()
    gantt(axis, run, columns=run.cycles)
    picture = axis.images[0].get_array()
    assert np.array_equal(picture, np.array(list(run.states.values())))
    gantt(axis, run, columns=10, stop=100)
    first = np.bincount(run.states["conv"][:10], minlength=4).argmax()
    assert axis.images[1].get_array()[1, 0] == first
    assert [label.get_text() for label in axis.get_yticklabels()] == list(run.states)
    plt.close(figure)
