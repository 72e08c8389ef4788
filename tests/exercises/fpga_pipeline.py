"""Wrong answers that students really give in lab 12, which a check must refuse, and unusual right ones."""

import math
from collections import deque

import numpy as np
import torch


def _needed(clip=True, pad=True, strided=True, extra=1, swapped=False):
    def function(y, x, height, width, kernel, stride, padding):
        step, border = (stride if strided else 1), (padding if pad else 0)
        row, column = y * step - border + kernel - 1, x * step - border + kernel - 1
        if clip:
            row, column = min(row, height - 1), min(column, width - 1)
        return (column * height + row if swapped else row * width + column) + extra

    return function


def _span(y, x, height, width, kernel, stride, padding):
    return (kernel - 1) * width + kernel


def _fifo(order):
    def function(depth, gives, takes):
        inside, found = 0, []
        for give, take in zip(gives, takes, strict=True):
            inside = order(inside, depth, give, take)
            found.append(inside)
        return found

    return function


def _give_first(inside, depth, give, take):
    inside += give and inside < depth
    return inside - (take and inside > 0)


def _take_first(inside, depth, give, take):
    inside -= take and inside > 0
    return inside + (give and inside < depth)


def _divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def _search(fits, cost=min):
    def function(positions, channels, taps, target):
        found = [
            o * i
            for o in _divisors(channels)
            for i in _divisors(taps)
            if fits(positions * (channels // o) * (taps // i), target)
        ]
        return cost(found) if found else None

    return function


def _any_number(positions, channels, taps, target):
    number = math.ceil(positions * channels * taps / target)
    return number if number <= channels * taps else None


def _outputs_only(positions, channels, taps, target):
    found = [o for o in _divisors(channels) if positions * (channels // o) * taps <= target]
    return min(found) if found else None


def _no_refusal(positions, channels, taps, target):
    return _search(lambda cycles, t: cycles <= t)(positions, channels, taps, target) or (
        channels * taps
    )


def _bits_only(width, depth, modes):
    return -(-width * depth // max(bits * words for bits, words in modes))


def _one_mode(width, depth, modes):
    bits, words = modes[-1]
    return -(-width // bits) * -(-depth // words)


def _rounded_down(width, depth, modes):
    return min(max(width // bits, 1) * max(depth // words, 1) for bits, words in modes)


def _only_wide_enough(width, depth, modes):
    return min([-(-depth // words) for bits, words in modes if bits >= width], default=0)


def _not_rounded(width, depth, modes):
    return min(width / bits * depth / words for bits, words in modes)


WRONG_ANSWERS = {
    "pixels_needed": [
        ("forgets the edge", _needed(clip=False)),
        ("forgets the padding", _needed(pad=False)),
        ("forgets the stride", _needed(strided=False)),
        ("gives the number of the last pixel", _needed(extra=0)),
        ("counts column by column", _needed(swapped=True)),
        ("always the line buffer's size", _span),
    ],
    "fifo_occupancy": [
        ("a word passes in the same cycle", _fifo(_give_first)),
        ("room is seen as soon as it is made", _fifo(_take_first)),
        ("never full", _fifo(lambda n, d, g, t: n + g - (t and n > 0))),
        ("gives from an empty FIFO", _fifo(lambda n, d, g, t: max(0, n + (g and n < d) - t))),
        ("never empties", _fifo(lambda n, d, g, t: n + (g and n < d))),
    ],
    "fewest_multipliers": [
        ("any whole number", _any_number),
        ("folds the outputs only", _outputs_only),
        ("must be faster than the target", _search(lambda cycles, target: cycles < target)),
        ("the most multipliers", _search(lambda cycles, target: cycles <= target, max)),
        ("all multipliers where nothing is fast enough", _no_refusal),
        ("ignores the target", _search(lambda cycles, target: True)),
    ],
    "blocks_needed": [
        ("bits divided by the size of a block", _bits_only),
        ("always the widest mode", _one_mode),
        ("rounded down", _rounded_down),
        ("no two blocks side by side", _only_wide_enough),
        ("a fraction of a block", _not_rounded),
    ],
}


def _needed_by_marking(y, x, height, width, kernel, stride, padding):
    rows = np.arange(height)[:, None] - (y * stride - padding)
    columns = np.arange(width) - (x * stride - padding)
    inside = (rows >= 0) & (rows < kernel) & (columns >= 0) & (columns < kernel)
    return np.flatnonzero(inside).max() + 1


def _needed_by_visiting(y, x, height, width, kernel, stride, padding):
    found = 0
    for i in range(kernel):
        for j in range(kernel):
            row, column = y * stride - padding + i, x * stride - padding + j
            if row in range(height) and column in range(width):
                found = max(found, row * width + column + 1)
    return float(found)


def _fifo_of_words(depth, gives, takes):
    words = deque()
    for give, take in zip(gives, takes, strict=True):
        ready, valid = len(words) < depth, bool(words)
        if valid and take:
            words.popleft()
        if ready and give:
            words.append("word")
        yield len(words)


def _fifo_in_numpy(depth, gives, takes):
    inside = np.zeros(len(gives) + 1, np.int64)
    for t, (give, take) in enumerate(zip(gives, takes, strict=True)):
        inside[t + 1] = inside[t] + (give & (inside[t] < depth)) - int(take & (inside[t] > 0))
    return inside[1:]


def _fewest_in_a_table(positions, channels, taps, target):
    outputs, inputs = np.meshgrid(np.arange(1, channels + 1), np.arange(1, taps + 1))
    cycles = positions * channels * taps / (outputs * inputs)
    good = (channels % outputs == 0) & (taps % inputs == 0) & (cycles <= target)
    return (outputs * inputs)[good].min() if good.any() else None


def _fewest_sorted(positions, channels, taps, target):
    pairs = [(o * i, o, i) for o in _divisors(channels) for i in _divisors(taps)]
    for number, o, i in sorted(pairs):
        if positions * channels // o * taps // i <= target:
            return float(number)
    return None


def _blocks_in_torch(width, depth, modes):
    bits, words = torch.tensor(modes).T
    return (torch.ceil(width / bits) * torch.ceil(depth / words)).min()


def _blocks_by_counting(width, depth, modes):
    return min(len(range(0, width, b)) * len(range(0, depth, w)) for b, w in modes)


RIGHT_ANSWERS = {
    "pixels_needed": [
        ("marks the window, a NumPy integer", _needed_by_marking),
        ("visits every pixel, a float", _needed_by_visiting),
    ],
    "fifo_occupancy": [
        ("a real queue, a generator", _fifo_of_words),
        ("a NumPy array", _fifo_in_numpy),
    ],
    "fewest_multipliers": [
        ("a table of all pairs", _fewest_in_a_table),
        ("the first of a sorted list, a float", _fewest_sorted),
    ],
    "blocks_needed": [
        ("PyTorch, a tensor", _blocks_in_torch),
        ("counts in steps", _blocks_by_counting),
    ],
}
