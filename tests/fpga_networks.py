"""Random integer models for property tests."""

import numpy as np
from hypothesis import strategies as st

from helpers.fpga.integer_model import IntegerLayer, IntegerModel


@st.composite
def integer_models(draw, power_of_two=False, onnx=False):
    """A network of up to five layers on a small input, with arbitrary scales and zero-points.

    Codes are drawn so that some layers saturate, weights fill their range, zero-points lie anywhere,
    and one residual connection joins layers of equal shape where there is one.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def scale(low=-9, high=-1):
        exponent = draw(st.integers(low, high))
        return (
            2.0**exponent if power_of_two else float(np.float32(2.0**exponent * rng.uniform(1, 2)))
        )

    def grid(relu):
        zero = draw(st.sampled_from([-128, -128, -55, -3, 0, 7, 127]))
        low = zero if relu else draw(st.sampled_from([-128, -128, min(zero, -64)]))
        high = draw(st.sampled_from([127, 127, max(zero, 100)]))
        return {"zero_point": zero, "low": low, "high": high}

    channels, height, width = (draw(st.integers(1, n)) for n in (4, 8, 8))
    layers = [
        IntegerLayer("in", "input", (), (channels, height, width), scale(-7, -5), **grid(False))
    ]

    def weights(shape, source, fan):
        bits = draw(st.integers(2, 8))
        limit = 2 ** (bits - 1) - 1
        weight = rng.integers(-limit, limit, shape, endpoint=True).astype(np.int8)
        if draw(st.booleans()):
            weight[0] = limit  # a channel that saturates
        exponent = draw(st.integers(-9, -4))
        if power_of_two:
            weight_scale = 2.0 ** (exponent + rng.integers(-2, 3, len(weight)))
        else:
            weight_scale = (2.0**exponent * rng.uniform(0.5, 2, len(weight))).astype(np.float32)
        bias = rng.integers(-3000, 3000, len(weight)).astype(np.int32)
        if draw(st.booleans()):
            bias[:] = 0
        # an output scale for which sums use the code range: about sqrt(fan) products in size
        typical = source.scale * float(weight_scale.mean()) * limit * 64 * np.sqrt(fan) / 128
        if power_of_two:
            out_scale = 2.0 ** (round(np.log2(typical)) + draw(st.integers(-1, 1)))
        else:
            out_scale = float(np.float32(typical * rng.uniform(0.4, 2)))
        return {
            "weight": weight,
            "weight_scale": np.asarray(weight_scale, np.float64),
            "weight_bits": bits,
            "bias": bias,
            "scale": out_scale,
        }

    for number in range(draw(st.integers(1, 4))):
        source = layers[-1]
        c, h, w = source.shape
        name = f"layer{number}"
        kinds = [
            "conv",
            "depthwise",
            "grouped",
            "pointwise",
            "max_pool",
            "avg_pool",
            "same",
            "same",
        ]
        pairs = [
            (a.name, b.name)
            for i, a in enumerate(layers)
            for b in layers[i + 1 :]
            if a.shape == b.shape
        ]
        kind = draw(st.sampled_from(kinds + ["add"] * 3 * bool(pairs)))
        if kind == "add":
            names = draw(st.sampled_from(pairs))
            shape = next(n.shape for n in layers if n.name == names[0])
            layers.append(
                IntegerLayer(name, "add", names, shape, scale(-6, -2), **grid(draw(st.booleans())))
            )
            continue
        kernel = (
            (1, 1)
            if kind == "pointwise"
            else (draw(st.integers(1, min(5, h))), draw(st.integers(1, min(5, w))))
        )
        stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        if kind == "avg_pool":
            padding = (0, 0)
        else:
            most = [k // 2 if kind == "max_pool" else k + 1 for k in kernel]
            padding = (draw(st.integers(0, most[0])), draw(st.integers(0, most[1])))
        size = tuple(
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip((h, w), padding, kernel, stride, strict=True)
        )
        window = {"kernel": kernel, "stride": stride, "padding": padding}
        if kind in ("max_pool", "avg_pool"):
            keep = {k: getattr(source, k) for k in ("scale", "zero_point", "low", "high")}
            layers.append(IntegerLayer(name, kind, (source.name,), (c, *size), **keep, **window))
            continue
        divisors = [d for d in range(1, c + 1) if c % d == 0]
        if kind == "same":  # keeps the shape, so that a residual connection can follow
            kind, size = "depthwise", (h, w)
            window = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}
        groups = {"depthwise": c, "grouped": draw(st.sampled_from(divisors))}.get(kind, 1)
        outputs = c if kind == "depthwise" else groups * draw(st.integers(1, 3))
        taps = (c // groups, *window["kernel"])
        extra = weights((outputs, *taps), source, int(np.prod(taps)))
        layers.append(
            IntegerLayer(
                name, "conv", (source.name,), (outputs, *size), **extra, **window,
                **grid(draw(st.booleans())), groups=groups,
            )
        )  # fmt: skip
    source = layers[-1]
    keep = {k: getattr(source, k) for k in ("scale", "zero_point", "low", "high")}
    if draw(st.booleans()) and source.shape[1] * source.shape[2] > 1:
        whole = source.shape[1:]
        layers.append(
            IntegerLayer(
                "mean",
                "global_avg_pool",
                (source.name,),
                (source.shape[0], 1, 1),
                **keep,
                kernel=whole,
                stride=whole,
            )
        )
        source = layers[-1]
    features = int(np.prod(source.shape))
    layers.append(IntegerLayer("flat", "flatten", (source.name,), (features,), **keep))
    classes = draw(st.integers(1, 5))
    extra = weights((classes, features), layers[-1], features)
    layers.append(IntegerLayer("fc", "linear", ("flat",), (classes,), **extra, **grid(False)))
    return IntegerModel(tuple(layers))


def random_codes(model, count, seed, extreme=True):
    """Input codes (count, C, H, W); the first two images hold only the extremes of the range."""
    rng = np.random.default_rng(seed)
    first = model.input
    codes = rng.integers(first.low, first.high, (count, *first.shape), endpoint=True).astype(
        np.int8
    )
    if extreme and count > 1:
        codes[0] = np.where(rng.random(first.shape) < 0.5, first.low, first.high)
        codes[1] = first.high
    return codes
