"""The table of parts, and memories in whole blocks."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fpga import placement
from helpers.fpga.devices import DEVICES, device
from helpers.fpga.placement import Memory, Place, mux_luts, options, pairs, place, rom_luts, shapes

GOWIN = device("GW2A-18")
PARTS = st.sampled_from(list(DEVICES.values()))


def test_the_gw2a_has_828_kbit_not_kilobytes():
    assert GOWIN.block_bits == 828 * 1024
    assert GOWIN.lut_ram.bits * GOWIN.lut_rams == 41_472
    assert (GOWIN.luts, GOWIN.registers, GOWIN.multipliers) == (20_736, 15_552, 96)


@pytest.mark.parametrize("part", DEVICES.values(), ids=DEVICES)
def test_every_part_is_consistent_and_names_its_sources(part):
    assert part.sources
    assert DEVICES[part.name] is part
    sizes = {width * depth for width, depth in part.modes}
    assert max(sizes) <= 1.125 * min(sizes), "parity bits are one in nine"
    assert (part.lut_ram is None) == (part.lut_rams == 0)
    taken = part.lut_rams * part.lut_ram.luts if part.lut_ram else 0
    assert taken <= part.luts
    assert set(part.limits) == {"multipliers", "LUTs", "registers", "block RAM", "LUT RAM"}


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="unknown device 'GW1N-1'; known are GW2A-18"):
        device("GW1N-1")


@pytest.mark.parametrize(
    ("width", "depth", "blocks", "luts"),
    [  # what Yosys made of these ROMs for a GW2A
        *((96, 3072, 16, 192), (72, 4096, 16, 72), (48, 768, 3, 0), (96, 384, 3, 0)),
        *((72, 512, 2, 0), (288, 1024, 16, 0), (8, 2048, 1, 0), (24, 96, 1, 0)),
    ],
)
def test_blocks_are_those_of_yosys(width, depth, blocks, luts):
    found = options(Memory("a", "weights", width, depth, constant=True), GOWIN)
    same = [p for p in found if p.blocks == blocks]
    assert same, found
    assert same[0].luts <= luts, found


def test_logic_roms_are_those_of_yosys():
    for width, depth, luts in ((8, 108, 64), (24, 96, 192), (48, 48, 192)):
        assert rom_luts(width, depth) == luts
    for width, depth, luts in ((8, 2048, 1426), (48, 768, 2763)):
        assert luts <= rom_luts(width, depth) <= 1.2 * luts
    assert [mux_luts(n) for n in (1, 2, 4, 8)] == [0, 1, 2, 4]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200), st.integers(1, 5000), st.booleans(), st.integers(1, 8), st.integers(1, 3),
    PARTS,
)  # fmt: skip
def test_no_way_to_build_a_memory_loses_bits(width, depth, constant, cycles, copies, part):
    memory = Memory("a", "m", width, depth, copies, constant, cycles if constant else 1)
    size = max(w * d for w, d in part.modes)
    found = options(memory, part)
    assert found or part.lut_ram is None
    assert all(copies * wide * words >= memory.bits for wide, words, *_ in shapes(memory))
    for way in found:
        held = way.blocks * size + (way.luts * 2**part.lut_inputs if constant else 0)
        held += way.lut_rams * part.lut_ram.bits if part.lut_ram else 0
        assert held >= memory.bits, (memory, way)
    assert not any(
        a != b and a.blocks <= b.blocks and a.lut_rams <= b.lut_rams and a.luts <= b.luts
        for a, b in product(found, found)
    ), "one way is better than another in every respect"


def test_a_memory_in_whole_blocks_takes_whole_blocks():
    one = options(Memory("a", "line buffer", 8, 2048), GOWIN)
    more = options(Memory("a", "line buffer", 8, 2049), GOWIN)
    assert Place(1, 0, 0, one[-1].mode) in one
    assert [p.blocks for p in more if not p.lut_rams] == [2]


def test_two_roms_share_a_block_through_its_two_ports_only_where_they_fit():
    small = Memory("a", "weights", 8, 800, constant=True)
    other = Memory("b", "weights", 16, 500, constant=True)
    large = Memory("c", "weights", 8, 1900, constant=True)
    wide = Memory("d", "weights", 36, 10, constant=True)
    buffer = Memory("e", "line buffer", 8, 100)
    together = pairs([small, other, large, wide, buffer], GOWIN)
    assert sorted(map(len, together)) == [1, 1, 1, 2]
    assert {small, other} in [set(group) for group in together]
    assert {m for group in together for m in group} == {small, other, large, wide, buffer}
    assert all(len(group) == 1 for group in pairs([small, other], device("iCE40UP5K")))
    assert all(len(group) == 1 for group in pairs([large, other], GOWIN))


def brute_force(memories, part, luts):
    best = np.inf
    for ways in product(*(options(m, part) for m in memories)):
        if sum(p.lut_rams for p in ways) <= part.lut_rams:
            blocks, logic = sum(p.blocks for p in ways), luts + sum(p.luts for p in ways)
            best = min(best, max(blocks / part.blocks, logic / part.luts))
    return best


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 4000), st.booleans()), max_size=5),
    st.integers(0, 20_000),
)
def test_placing_is_exact(shapes, luts):
    memories = [
        Memory(str(i), "m", width, depth, constant=constant)
        for i, (width, depth, constant) in enumerate(shapes)
    ]
    try:
        found = place(memories, GOWIN, luts, share=False)
    except ValueError:
        assert brute_force(memories, GOWIN, luts) == np.inf
        return
    assert list(found) == memories
    assert sum(p.lut_rams for p in found.values()) <= GOWIN.lut_rams
    blocks, logic = (sum(getattr(p, n) for p in found.values()) for n in ("blocks", "luts"))
    load = max(blocks / GOWIN.blocks, (luts + logic) / GOWIN.luts)
    assert load == pytest.approx(brute_force(memories, GOWIN, luts))


def test_sharing_never_costs_anything():
    memories = [Memory(str(i), "w", 8, 300 + 100 * i, constant=True) for i in range(6)]
    apart, shared = (place(memories, GOWIN, 0, share=s) for s in (False, True))
    loads = [
        max(
            sum(p.blocks for p in way.values()) / 46,
            sum(p.luts for p in way.values()) / 20_736,
        )
        for way in (apart, shared)
    ]
    assert loads[1] < loads[0]


def test_lut_ram_that_does_not_suffice_is_named(monkeypatch):
    monkeypatch.setattr(placement, "options", lambda memory, part: (Place(0, 700, 0),))
    with pytest.raises(ValueError, match="need more LUT RAM than the 648 of the GW2A-18"):
        place([Memory("a", "line buffer", 8, 100)], GOWIN, 0)
