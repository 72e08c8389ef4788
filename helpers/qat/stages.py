"""The four-stage schedule: float, weights, activations, an optional fine-tune.

Each stage starts from the network of the one before and trains with a fresh optimizer, since one
that was bound to another network's parameters would train nothing (`training.fit` makes its own).
Stage 2 may learn the widths first (`price`). The last stage freezes the statistics of batch norm and
the ranges of activations: they move by averages, which no learning rate holds.

Source: the adaptive-precision VGG16 paper, figure 5 and the text around it (rate 1e-7 in stage 4).

Chapter: 09b_qat.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from helpers import training
from helpers.data import Split
from helpers.qat.bits import Learned, learn_bits
from helpers.qat.network import QATNetwork, freeze_ranges_, freeze_statistics_, prepare

STAGES = ("float", "weights", "activations", "fine-tune")
RATES = (1e-3, 1e-3, 1e-3, 1e-7)  # of the four stages; the last one is the source's


@dataclass(frozen=True, eq=False)
class Stage:
    """What one stage did: `network` is a plain float network after stage 1, a `QATNetwork` after.

    `bits` are the widths of the weights (None in stage 1), `history` is `fit`'s (empty for a stage
    that trained nothing), `validation_accuracy` that of `network`, `learned` how stage 2 came to its
    widths if it learned them.
    """

    name: str
    network: nn.Module
    lr: float
    epochs: int
    bits: dict[str, int] | None
    validation_accuracy: float
    history: list[dict[str, float]]
    learned: Learned | None = None


def four_stages(
    model: nn.Module,
    train: Split,
    validation: Split,
    *,
    epochs: Sequence[int] = (0, 2, 2, 1),
    lr: Sequence[float] = RATES,
    weight_bits: int | Mapping[str, int] = 8,
    activation_bits: int = 8,
    price: float | None = None,
    learning_epochs: int = 4,
    calibration: Tensor | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> list[Stage]:
    """Run the schedule and return a record per stage; `model` is left as it is.

    `epochs` and `lr` have an entry per stage. 0 epochs: in stage 1 `model` is taken as trained, in 2
    and 3 the network is quantized and not trained, and a stage 4 of 0 epochs is left out. With a
    `price` the widths are learned in stage 2 (`bits.learn_bits`, for `learning_epochs`) before it
    trains at the rounded widths; `weight_bits` must then be 8, where they start. `calibration` are the
    images that give stage 3 its first ranges (default: the first 500 of `train`).

    The last record's network goes to `convert`. ValueError for lists of another length, negative
    epochs, and what `prepare` and `fit` refuse.
    """
    if len(epochs) != len(STAGES) or len(lr) != len(STAGES):
        raise ValueError(f"epochs and lr must have an entry for each of {STAGES}")
    if any(type(count) is not int or count < 0 for count in epochs):
        raise ValueError(f"epochs must be whole numbers of 0 or more, got {list(epochs)}")
    if price is not None and weight_bits != 8:
        raise ValueError(
            f"widths are learned from 8 bits: weight_bits must be 8, got {weight_bits}"
        )
    calibration = train.x[:500] if calibration is None else calibration
    common: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "progress": progress}
    stages: list[Stage] = []

    def run(
        place: int,
        network: nn.Module,
        bits: dict[str, int] | None,
        learned: Learned | None = None,
    ) -> nn.Module:
        history: list[dict[str, float]] = []
        if epochs[place]:
            network, history = training.fit(
                network, train, validation, epochs=epochs[place], lr=lr[place], **common
            )
        accuracy = training.evaluate(network, validation)
        stages.append(
            Stage(
                *(STAGES[place], network, lr[place], epochs[place], bits, accuracy, history),
                learned=learned,
            )
        )
        return network

    network, learned = run(0, model, None), None
    if price is not None:
        learned = learn_bits(
            network, train, validation, price=price, epochs=learning_epochs, lr=lr[1], **common
        )
        network, weight_bits = learned.network, learned.bits
    weights_only = prepare(network, calibration, weight_bits=weight_bits, activation_bits=None)
    bits = {name: quantizer.bits for name, quantizer in weights_only.weights.items()}
    network = run(1, weights_only, bits, learned)
    assert isinstance(network, QATNetwork)
    network = run(
        2,
        prepare(network.model, calibration, weight_bits=bits, activation_bits=activation_bits),
        bits,
    )
    if epochs[3]:
        assert isinstance(network, QATNetwork)
        run(3, freeze_ranges_(freeze_statistics_(copy.deepcopy(network))), bits)
    return stages
