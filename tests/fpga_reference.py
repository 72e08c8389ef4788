"""The integer network written from its equations, one number at a time, in Python integers.

Slow and plain on purpose: it shares no code with `helpers.fpga` but the model's data classes.
"""

import math
import struct
from fractions import Fraction


def float32(x):
    """The float32 nearest to a real number, as a Python float."""
    return struct.unpack("f", struct.pack("f", x))[0]


def half_even(x: Fraction) -> int:
    below = math.floor(x)
    rest = x - below
    if rest == Fraction(1, 2):
        return below + (below & 1)
    return below + (rest > Fraction(1, 2))


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def multiplier_and_shift(factor: float, bits: int):
    """The `bits` wide integer M0 in [2**(bits-1), 2**bits) and s with M0 / 2**s nearest to factor."""
    m, s = Fraction(factor), 0
    while m * 2**s < 2 ** (bits - 1):
        s += 1
    m0 = half_even(m * 2**s)
    if m0 == 2**bits:
        m0, s = m0 // 2, s - 1
    if s > 62:
        m0, s = half_even(m * 2**62), 62
    return m0, s


def clip(q, low, high):
    return min(max(q, low), high)


def run(model, image, rounding, bits=16):
    """Codes of every layer for one image: dict name -> nested lists, and the accumulators."""
    codes, sums = {}, {}
    for layer in model.layers:
        ins = [codes[name] for name in layer.inputs]
        sources = [model[name] for name in layer.inputs]
        if layer.op == "input":
            codes[layer.name] = image.tolist()
            continue
        if layer.op == "flatten":
            codes[layer.name] = [v for plane in ins[0] for row in plane for v in row]
            continue
        if layer.op == "add":
            codes[layer.name] = add(layer, sources, ins, rounding, bits)
            continue
        source, x = sources[0], ins[0]
        z = source.zero_point
        if layer.op == "linear":
            acc = [
                int(layer.bias[o])
                + sum(int(w) * (q - z) for w, q in zip(layer.weight[o].tolist(), x, strict=True))
                for o in range(layer.shape[0])
            ]
            sums[layer.name] = acc
            codes[layer.name] = [
                requantize(a, layer, source, o, rounding, bits) for o, a in enumerate(acc)
            ]
            continue
        planes, acc_planes = [], []
        for c in range(layer.shape[0]):
            rows, acc_rows = [], []
            for y in range(layer.shape[1]):
                row, acc_row = [], []
                for col in range(layer.shape[2]):
                    if layer.op == "max_pool":
                        row.append(max(q for q, _ in taps(x[c], layer, y, col)))
                        continue
                    if layer.op == "conv":
                        a = int(layer.bias[c])
                        per_group = layer.weight.shape[1]
                        first = c // (layer.shape[0] // layer.groups) * per_group
                        for i in range(per_group):
                            for q, (ky, kx) in taps(x[first + i], layer, y, col):
                                a += int(layer.weight[c, i, ky, kx]) * (q - z)
                    else:  # average pools
                        a = sum(q - z for q, _ in taps(x[c], layer, y, col))
                    acc_row.append(a)
                    row.append(requantize(a, layer, source, c, rounding, bits))
                rows.append(row)
                acc_rows.append(acc_row)
            planes.append(rows)
            acc_planes.append(acc_rows)
        codes[layer.name] = planes
        if layer.op != "max_pool":
            sums[layer.name] = acc_planes
    return codes, sums


def taps(plane, layer, y, col):
    """The codes under the window and their kernel positions; padded positions are left out."""
    for ky in range(layer.kernel[0]):
        for kx in range(layer.kernel[1]):
            yy = y * layer.stride[0] - layer.padding[0] + ky
            xx = col * layer.stride[1] - layer.padding[1] + kx
            if 0 <= yy < len(plane) and 0 <= xx < len(plane[0]):
                yield plane[yy][xx], (ky, kx)


def requantize(acc, layer, source, channel, rounding, bits):
    if layer.weight_scale is not None:
        weight_scale = float(layer.weight_scale[channel])
        factor = source.scale * weight_scale / layer.scale
    else:
        weight_scale = 1 / (layer.kernel[0] * layer.kernel[1])
        factor = weight_scale
    if rounding == "onnxruntime":
        product = float32(float32(source.scale) * float32(weight_scale))
        scale = float32(product / float32(layer.scale))
        y = half_even(Fraction(float32(float32(acc) * scale)))
    elif rounding == "shift" and layer.weight is not None:
        y = half_up(acc * Fraction(factor))
    else:
        m0, s = multiplier_and_shift(factor, bits)
        y = {"half_up": half_up, "shift": half_up, "half_even": half_even}[rounding](
            Fraction(acc * m0, 2**s)
        )
    return clip(y + layer.zero_point, layer.low, layer.high)


def add(layer, sources, ins, rounding, bits):
    (sa, za), (sb, zb) = ((s.scale, s.zero_point) for s in sources)

    def one(a, b):
        if isinstance(a, list):
            return [one(p, q) for p, q in zip(a, b, strict=True)]
        if rounding == "onnxruntime":
            left = float32((a - za) * float32(sa))
            right = float32((b - zb) * float32(sb))
            y = half_even(Fraction(float32(float32(left + right) / float32(layer.scale))))
        elif rounding == "shift":
            y = half_up(
                (a - za) * Fraction(sa / layer.scale) + (b - zb) * Fraction(sb / layer.scale)
            )
        else:
            fa, fb = sa / layer.scale, sb / layer.scale
            _, s = multiplier_and_shift(max(fa, fb), bits)
            ma, mb = half_even(Fraction(fa) * 2**s), half_even(Fraction(fb) * 2**s)
            total = Fraction((a - za) * ma + (b - zb) * mb, 2**s)
            y = half_even(total) if rounding == "half_even" else half_up(total)
        return clip(y + layer.zero_point, layer.low, layer.high)

    return one(ins[0], ins[1])
