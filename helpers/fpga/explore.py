"""The search among designs: what a frame interval costs, and the fastest design that fits.

A pipeline is as fast as its slowest stage, so for a given frame interval each layer takes the
folding with the fewest multipliers that is fast enough: no choice of one layer changes what another
may choose. Among foldings with equally many multipliers the cheaper one in logic and memory is
taken. Then one number, the interval, is left to sweep.

Chapter: 12_fpga_pipeline.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed

from helpers.fpga.devices import Device
from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.pipeline.folding import (
    CLOCK,
    Design,
    Folding,
    folded,
    frame_interval,
    frames_per_second,
    map_shape,
    multipliers,
    options,
    stage_cycles,
)
from helpers.fpga.pipeline.windows import windows
from helpers.fpga.placement import options as ways
from helpers.fpga.resources import Report, estimate, layer_memories, stage_logic


@dataclass(frozen=True, eq=False)
class Point:
    """One design of a sweep, with its closed-form frame interval and its resources."""

    interval: int
    design: dict[str, Folding]
    report: Report

    @property
    def multipliers(self) -> int:
        """Multipliers of the convolutions and dense layers, hard or not."""
        return multipliers(self.design)

    def frames_per_second(self, clock: float = CLOCK) -> float:
        return frames_per_second(self.interval, clock)


def price(
    model: IntegerModel, layer: IntegerLayer, folding: Folding, part: Device, **choices: Any
) -> float:
    """What a stage with this folding costs, in LUTs; a block costs its share of the part's LUTs.

    For comparing foldings of one layer only: each memory takes its own cheapest way.
    """
    design = {layer.name: folding}
    names = {key: choices[key] for key in ("weight_bits", "buffers") if key in choices}
    per_block = part.luts / part.blocks
    logic, _ = stage_logic(
        model,
        layer,
        design,
        choices.get("weight_bits"),
        choices.get("requantize", "fabric"),
        part,
    )
    memory = sum(
        min((p.luts + per_block * p.blocks for p in ways(m, part)), default=0.0)
        for m in layer_memories(model, layer, design, **names)
    )
    return logic.luts + memory


def fewest(model: IntegerModel, interval: int) -> dict[str, list[Folding]]:
    """For each layer all foldings with the fewest multipliers that take at most `interval` cycles.

    Raises ValueError if even the full parallelism of a layer is too slow, or the camera, which sends
    a pixel per cycle.
    """
    _, height, width = map_shape(model.input)
    if interval < height * width:
        raise ValueError(
            f"interval must be at least {height * width} cycles, one per pixel of the camera,"
            f" got {interval}"
        )
    found = {}
    for layer in folded(model):
        fast = [f for f in options(layer) if stage_cycles(model, layer, f) <= interval]
        if not fast:
            shortest = min(stage_cycles(model, layer, f) for f in options(layer))
            raise ValueError(
                f"layer {layer.name!r} takes {shortest} cycles at least, so interval must be that"
                f" long, got {interval}"
            )
        least = min(f.multipliers for f in fast)
        found[layer.name] = [f for f in fast if f.multipliers == least]
    return found


def balanced(
    model: IntegerModel,
    interval: int,
    part: Device,
    *,
    prices: dict[tuple[str, Folding], float] | None = None,
    **choices: Any,
) -> dict[str, Folding]:
    """For each layer, of the `fewest` multipliers for an interval, the folding of lowest `price`.

    `prices` keeps the prices from one call to the next; `choices` are those of `estimate`.
    """
    known = {} if prices is None else prices
    design = {}
    for name, foldings in fewest(model, interval).items():
        for folding in foldings:
            if len(foldings) > 1 and (name, folding) not in known:
                known[name, folding] = price(model, model[name], folding, part, **choices)
        design[name] = min((known.get((name, folding), 0.0), folding) for folding in foldings)[1]
    return design


def intervals(model: IntegerModel, low: int = 1, high: int | None = None) -> list[int]:
    """The frame intervals from `low` to `high` at which a `balanced` design changes, rising."""
    found = {stage_cycles(model, layer, f) for layer in folded(model) for f in options(layer)}
    return sorted(n for n in found if n >= low and (high is None or n <= high))


def evaluate(
    model: IntegerModel,
    part: Device,
    interval: int,
    *,
    prices: dict[tuple[str, Folding], float] | None = None,
    **choices: Any,
) -> Point:
    """The `balanced` design for an interval on a part with its report, whether it fits or not.

    `prices` and `choices` are those of `balanced`.
    """
    design = balanced(model, interval, part, prices=prices, **choices)
    report = estimate(model, design, part, **choices)
    return Point(frame_interval(model, design), design, report)


def sweep(
    model: IntegerModel,
    part: Device,
    targets: Iterable[int],
    **choices: Any,
) -> list[Point]:
    """`evaluate` at each target interval, one after the other. joblib runs them, so a cluster may
    take its place: `with joblib.parallel_config(backend="dask"):` around the call, where Dask is
    installed. A number of jobs given here would overrule that line, so none is."""
    run = delayed(evaluate)
    return list(Parallel()(run(model, part, n, **choices) for n in targets))


def fastest(model: IntegerModel, part: Device, *, room: float = 1.0, **choices: Any) -> Point:
    """The balanced design with the shortest interval that fits a part.

    Args:
        model: the integer model.
        part: the device.
        room: the fraction of every resource that may be used; routing gets hard above about 0.9.
        **choices: those of `estimate`.

    Raises:
        ValueError: not even the smallest design fits; names the resources that do not suffice.
    """
    _, height, width = map_shape(model.input)
    slowest = max(stage_cycles(model, layer, Folding()) for layer in folded(model))
    prices: dict[tuple[str, Folding], float] = {}
    for target in intervals(model, height * width, slowest):
        least = {name: found[0].multipliers for name, found in fewest(model, target).items()}
        hard = sum(n for name, n in least.items() if name not in choices.get("fabric", ()))
        if hard > room * part.multipliers:
            continue  # too many multipliers: no need to place memories
        point = evaluate(model, part, target, prices=prices, **choices)
        if max(point.report.utilization.values()) <= room:
            return point
    evaluate(model, part, slowest, **choices).report.check()
    raise ValueError(f"no design leaves {1 - room:.0%} of the {part.name} free")


def pareto(points: Sequence[Point], cost: Callable[[Point], float]) -> list[Point]:
    """The points that no other beats in both interval and `cost`, the fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.interval, cost(p))):
        if not kept or cost(point) < cost(kept[-1]):
            kept.append(point)
    return kept


def ceiling(model: IntegerModel, multipliers: int, clock: float = CLOCK) -> float:
    """Frames per second if `multipliers` products were formed in every cycle.

    The roof that no folding can break: clock * multipliers / MACs of a frame.
    """
    return clock * multipliers / sum(layer.macs for layer in model)


def least_buffers(model: IntegerModel, names: Iterable[str]) -> dict[str, int]:
    """The smallest line buffers with which the stages `names` still work: the `buffers` argument.

    The span of a window, plus one pixel in which the next arrives while it is computed; a dense
    layer and a global average pool need not overlap anything. A stage with a stride thereby loses
    its spare rows and may have to wait; whether the frame interval suffers, only a schedule shows.
    """
    result = {}
    for name in names:
        layer = model[name]
        once = layer.op in ("linear", "global_avg_pool")
        result[name] = windows(model, layer).span + (0 if once else 1)
    return result


def operations_per_cycle(model: IntegerModel, interval: int) -> float:
    """Multiplications and additions per cycle, two to a MAC."""
    return 2 * sum(layer.macs for layer in model) / interval


def idle(model: IntegerModel, design: Design) -> Mapping[str, float]:
    """The part of a frame interval in which each layer's multipliers have nothing to do."""
    interval = frame_interval(model, design)
    return {
        layer.name: 1 - stage_cycles(model, layer, design[layer.name]) / interval
        for layer in folded(model)
    }
