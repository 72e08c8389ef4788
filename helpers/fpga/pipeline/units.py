"""What a stage computes in one cycle: products, comparisons, sums, and the requantization.

Each unit has `step`, one cycle on a window that lies in the line buffer, and `finish`, the cycle in
the output register. `step` gets the line buffers (slots, channels), the slots of the window's
positions, the group of channels and the step within it; the last step returns what goes into the
output register. The arithmetic is that of the datapath, word by word.

Chapter: 12_fpga_pipeline.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np

from helpers.fpga.arithmetic import Integers, Mode
from helpers.fpga.integer_model import IntegerLayer, IntegerModel
from helpers.fpga.pipeline.structure import Stage
from helpers.fpga.pipeline.windows import source_map, stream
from helpers.fpga.requantizer import Requantizer, requantizer
from helpers.fpga.residual import addition


class Unit(Protocol):
    """What the arithmetic of one stage offers to the machine that runs it."""

    padding: int  # the code that a multiplexer feeds outside the map

    def step(self, memories: list[Integers], slots: Integers, group: int, step: int) -> Integers:
        """One cycle; the result counts after the last step of the group."""

    def finish(self, result: Integers, group: int) -> Integers:
        """The codes of one word."""


class Multiply:
    """Convolution and dense layer: lanes x inputs multipliers, an accumulator for each lane."""

    def __init__(self, model: IntegerModel, stage: Stage, mode: Mode, bits: int) -> None:
        layer, source = stage.layer, stream(model, stage.layer.inputs[0])
        assert layer.weight is not None
        assert layer.bias is not None
        self.zero_point = self.padding = source.zero_point
        self.steps, self.dense = stage.steps, layer.groups == 1
        shape = (stage.groups, stage.lanes, stage.steps, -1)
        # the weight memory: one word of lanes x inputs weights for each group and step
        self.weights = layer.weight.astype(np.int64).reshape(shape).transpose(0, 2, 1, 3).copy()
        self.bias = layer.bias.astype(np.int64).reshape(stage.groups, stage.lanes)
        self.rules = _blocks(requantizer(model, layer, mode, bits), stage)
        inputs = source_map(model, layer)[0] // layer.groups
        group_of = np.arange(len(layer.weight)) * layer.groups // len(layer.weight)
        channels = group_of[:, None] * inputs + np.arange(inputs)
        self.channels = channels.reshape(stage.groups, stage.lanes, inputs)

    def step(self, memories: list[Integers], slots: Integers, group: int, step: int) -> Integers:
        if step == 0:
            self.accumulators = self.bias[group].copy()
            self.operands = self._gather(memories[0], slots, group)
        weight, x = self.weights[group, step], self.operands[step]
        self.accumulators += weight @ x if self.dense else (weight * x).sum(axis=1)
        return self.accumulators

    def _gather(self, memory: Integers, slots: Integers, group: int) -> Integers:
        """Centred codes in the order of the weights: (steps, inputs), or (steps, lanes, inputs)."""
        if self.dense:
            return (memory[slots].T - self.zero_point).reshape(self.steps, -1)
        window = memory[slots[:, None, None], self.channels[group]]  # positions, lanes, channels
        rows = window.transpose(1, 2, 0).reshape(len(window[0]), self.steps, -1)
        return rows.transpose(1, 0, 2) - self.zero_point

    def finish(self, result: Integers, group: int) -> Integers:
        return self.rules[group](result, axis=0)


class Maximum:
    """Max-pool: the comparators of a whole window, for each lane. Padding can never win."""

    padding = -128

    def __init__(self, stage: Stage) -> None:
        self.lanes = stage.lanes

    def step(self, memories: list[Integers], slots: Integers, group: int, step: int) -> Integers:
        block = slice(group * self.lanes, (group + 1) * self.lanes)
        return memories[0][slots, block].max(axis=0)

    def finish(self, result: Integers, group: int) -> Integers:
        return result


class Average:
    """Average pools: sums of centred codes. A global one adds each pixel to sums that stay."""

    def __init__(self, model: IntegerModel, stage: Stage, mode: Mode, bits: int) -> None:
        layer = stage.layer
        self.zero_point = self.padding = stream(model, layer.inputs[0]).zero_point
        self.lanes, self.over_all = stage.lanes, layer.op == "global_avg_pool"
        self.sums = np.zeros((stage.groups, stage.lanes), np.int64)
        self.pixels = np.zeros(stage.groups, np.int64)  # summed so far
        self.taps = layer.taps
        self.rule = requantizer(model, layer, mode, bits)

    def step(self, memories: list[Integers], slots: Integers, group: int, step: int) -> Integers:
        block = slice(group * self.lanes, (group + 1) * self.lanes)
        total = (memories[0][slots, block] - self.zero_point).sum(axis=0)
        if not self.over_all:
            return total
        total += self.sums[group]
        self.pixels[group] = (self.pixels[group] + 1) % self.taps
        self.sums[group] = total if self.pixels[group] else 0
        return total

    def finish(self, result: Integers, group: int) -> Integers:
        return self.rule(result, axis=0)


class Add:
    """Residual add: one code of each stream, two multiplications, one rounding."""

    padding = 0  # never used

    def __init__(self, model: IntegerModel, stage: Stage, mode: Mode, bits: int) -> None:
        self.lanes = stage.lanes
        self.zero_points = [stream(model, name).zero_point for name in stage.layer.inputs]
        self.rule, self.zero_point = (
            addition(model, stage.layer, mode, bits),
            stage.layer.zero_point,
        )

    def step(self, memories: list[Integers], slots: Integers, group: int, step: int) -> Integers:
        block = slice(group * self.lanes, (group + 1) * self.lanes)
        return np.stack(
            [m[slots[0], block] - z for m, z in zip(memories, self.zero_points, strict=True)]
        )

    def finish(self, result: Integers, group: int) -> Integers:
        return self.rule(result[0], result[1]).astype(np.int64) + self.zero_point


def _blocks(rule: Requantizer, stage: Stage) -> list[Requantizer]:
    """The rule cut into the groups of channels that a stage requantizes at once."""
    parts = np.arange(len(rule.multiplier)).reshape(stage.groups, stage.lanes)
    return [
        replace(rule, multiplier=rule.multiplier[p], shift=rule.shift[p], scale=rule.scale[p])
        for p in parts
    ]


def unit(model: IntegerModel, stage: Stage, mode: Mode, bits: int) -> Unit:
    """The arithmetic of a stage in a requantization mode with a multiplier of `bits`."""
    layer: IntegerLayer = stage.layer
    if layer.weight is not None:
        return Multiply(model, stage, mode, bits)
    if layer.op == "max_pool":
        return Maximum(stage)
    return (Add if layer.op == "add" else Average)(model, stage, mode, bits)
