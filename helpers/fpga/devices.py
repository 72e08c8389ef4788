"""What a real part offers: multipliers, logic, registers, block RAM and RAM made of look-up tables.

Each number names where it comes from. "nextpnr" means: printed as available by the open
place-and-route tool, which was run for this table on each part that it knows (YoWASP packages,
databases of Project Apicula, Project Trellis and Project IceStorm). Widths and depths of block RAM
are those to which Yosys maps memories. The makers' data sheets were not at hand: a number that
only they could settle is marked.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Mode = tuple[int, int]  # bits in a word, words

MODES_18K: tuple[Mode, ...] = (
    *((1, 16384), (2, 8192), (4, 4096)),
    *((9, 2048), (18, 1024), (36, 512)),
)
MODES_4K: tuple[Mode, ...] = ((2, 2048), (4, 1024), (8, 512), (16, 256))


@dataclass(frozen=True)
class LutRam:
    """One small RAM made of look-up tables, with one write and one read port: depth x width bits."""

    depth: int
    width: int
    luts: int  # that it takes from the logic

    @property
    def bits(self) -> int:
        return self.depth * self.width


@dataclass(frozen=True)
class Device:
    """One part. `multipliers` counts products of an 8-bit weight and a code per cycle in hard logic.

    `wide` of them make one product of 18 x 18 bits (0: the part has none). `sources` says for each
    number where it was read.
    """

    name: str
    family: str
    luts: int
    lut_inputs: int
    registers: int
    multipliers: int
    wide: int
    blocks: int
    modes: tuple[Mode, ...]
    lut_ram: LutRam | None
    lut_rams: int  # how many of them there are
    read_ports: int = 2  # of a block RAM that is not written
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def block_bits(self) -> int:
        """Bits of all block RAM, parity bits counted as data."""
        return self.blocks * max(width * depth for width, depth in self.modes)

    @property
    def limits(self) -> dict[str, int]:
        """What a design may use of each resource, by the names that a report uses."""
        return {
            "multipliers": self.multipliers,
            "LUTs": self.luts,
            "registers": self.registers,
            "block RAM": self.blocks,
            "LUT RAM": self.lut_rams,
        }


_GOWIN_RAM = LutRam(
    16, 4, 6
)  # RAM16SDP4: 4 LUTs hold the bits, the slices of 2 more its write port

DEVICES: dict[str, Device] = {
    part.name: part
    for part in (
        Device(
            *("GW2A-18", "Gowin Arora", 20_736, 4, 15_552, 96, 2, 46, MODES_18K),
            lut_ram=_GOWIN_RAM,
            lut_rams=648,
            sources={
                "luts": "nextpnr (LUT4)",
                "registers": "nextpnr (DFF)",
                "multipliers": "nextpnr: 96 MULT9X9 or 48 MULT18X18",
                "blocks": "nextpnr (BSRAM), 46 of 18 Kbit: 828 Kbit",
                "modes": "Yosys, techlibs/gowin/brams.txt; not 36 bits at both of two ports",
                "lut_rams": "nextpnr (RAM16SDP4), 648 of 64 bits: 41,472 bits",
                "lut_ram": "nextpnr, himbaechel/uarch/gowin: the LUTs of slices 0 to 3 hold the "
                "bits, slices 4 and 5 must stay empty",
            },
        ),
        Device(
            *("XC7Z020", "AMD Zynq-7000", 53_200, 6, 106_400, 220, 1, 280, MODES_18K),
            lut_ram=LutRam(64, 3, 4),
            lut_rams=4_350,
            sources={
                "luts": "FINN, src/finn/util/platforms.py",
                "registers": "FINN, src/finn/util/platforms.py",
                "multipliers": "FINN, src/finn/util/platforms.py: 220 DSP48E1; one product each",
                "blocks": "FINN, src/finn/util/platforms.py: 280 of 18 Kbit",
                "modes": "Yosys, techlibs/xilinx/brams.txt (RAMB18)",
                "lut_rams": "17,400 LUTs as memory in a published Vivado report for the part, four "
                "to a RAM64M; not confirmed elsewhere",
            },
        ),
        Device(
            *("LFE5U-25F", "Lattice ECP5", 24_288, 4, 24_288, 28, 1, 56, MODES_18K),
            lut_ram=LutRam(16, 4, 6),
            lut_rams=3_036,
            sources={
                "luts": "nextpnr",
                "registers": "nextpnr",
                "multipliers": "nextpnr (MULT18X18D), one product each; whether one can be split into "
                "two of 9 x 9 was not confirmed",
                "blocks": "nextpnr (DP16KD)",
                "modes": "Yosys, techlibs/ecp5/brams.txt",
                "lut_rams": "nextpnr (TRELLIS_RAMW, one for 16 x 4 bits)",
            },
        ),
        Device(
            *("LFE5U-85F", "Lattice ECP5", 83_640, 4, 83_640, 156, 1, 208, MODES_18K),
            lut_ram=LutRam(16, 4, 6),
            lut_rams=10_455,
            sources={"all": "as LFE5U-25F"},
        ),
        Device(
            *("iCE40UP5K", "Lattice iCE40 UltraPlus", 5_280, 4, 5_280, 16, 2, 30, MODES_4K),
            lut_ram=None,
            lut_rams=0,
            read_ports=1,
            sources={
                "luts": "nextpnr (ICESTORM_LC, one LUT and one register each)",
                "registers": "nextpnr",
                "multipliers": "nextpnr: 8 SB_MAC16, each 16 x 16 or two 8 x 8 (MODE_8x8 in Yosys, "
                "techlibs/ice40/cells_sim.v)",
                "blocks": "nextpnr (ICESTORM_RAM); its four single-port RAMs of 256 Kbit are left "
                "out: their contents must be loaded first, and a stage cannot read its own",
                "modes": "Yosys, techlibs/ice40/brams.txt",
            },
        ),
        Device(
            *("iCE40HX8K", "Lattice iCE40", 7_680, 4, 7_680, 0, 0, 32, MODES_4K),
            lut_ram=None,
            lut_rams=0,
            read_ports=1,
            sources={"all": "nextpnr; no hard multipliers"},
        ),
    )
}


def device(name: str) -> Device:
    """The part of that name.

    >>> device("GW2A-18").block_bits
    847872
    """
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}; known are {', '.join(DEVICES)}")
    return DEVICES[name]
