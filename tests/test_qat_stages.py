"""The four-stage schedule: what each stage starts from, quantizes, trains and freezes."""

import itertools

import pytest
import torch
from torch import nn

from helpers import training
from helpers.data import Split
from helpers.qat import QATNetwork, convert, prepare, stages
from helpers.qat.stages import RATES, STAGES, Stage, four_stages

QUIET = {"progress": False, "batch_size": 8}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()


def images(seed: int) -> Split:
    x = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return Split(x, torch.arange(24) % 3)


TRAIN, VALIDATION = images(1), images(2)


@pytest.fixture(scope="module")
def record() -> list[Stage]:
    return four_stages(
        network(), TRAIN, VALIDATION, epochs=(0, 1, 1, 1), weight_bits={"0": 4, "5": 2}, **QUIET
    )


def test_a_record_for_each_stage(record: list[Stage]) -> None:
    assert [stage.name for stage in record] == list(STAGES)
    assert [stage.lr for stage in record] == list(RATES)
    assert RATES[3] == 1e-7
    assert [len(stage.history) for stage in record] == [0, 1, 1, 1]
    assert [stage.bits for stage in record] == [None, *[{"0": 4, "5": 2}] * 3]
    for stage in record:
        accuracy = training.evaluate(stage.network, VALIDATION)
        assert stage.validation_accuracy == accuracy, stage.name


def test_what_is_quantized_in_each_stage(record: list[Stage]) -> None:
    assert not isinstance(record[0].network, QATNetwork)
    two, three, four = (stage.network for stage in record[1:])
    assert isinstance(two, QATNetwork)
    assert isinstance(three, QATNetwork)
    assert isinstance(four, QATNetwork)
    assert {n: q.bits for n, q in two.weights.items()} == {"0": 4, "5": 2}
    assert not two.activations
    assert {q.bits for q in three.activations.values()} == {8}
    convert(four)


def test_each_stage_starts_from_the_weights_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[nn.Module, nn.Module]] = []
    real = training.fit

    def fit(model: nn.Module, *arguments: object, **options: object) -> object:
        result = real(model, *arguments, **options)  # type: ignore[arg-type]
        seen.append((model, result[0]))
        return result

    monkeypatch.setattr(stages.training, "fit", fit)
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    four_stages(model, TRAIN, VALIDATION, epochs=(1, 1, 1, 1), **QUIET)
    assert len(seen) == 4
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for (_, trained), (start, _) in itertools.pairwise(seen):
        old = trained.model if isinstance(trained, QATNetwork) else trained
        assert isinstance(start, QATNetwork)
        for key, value in start.model.state_dict().items():
            assert torch.equal(value, old.state_dict()[key]), key
    for start, trained in seen[:3]:
        moved = [
            not torch.equal(a, b)
            for a, b in zip(start.parameters(), trained.parameters(), strict=True)
        ]
        assert any(moved)


def test_the_fine_tune_moves_no_statistics_and_hardly_a_weight(record: list[Stage]) -> None:
    three, four = record[2].network, record[3].network
    assert isinstance(three, QATNetwork)
    assert isinstance(four, QATNetwork)
    assert four.statistics_frozen
    assert not three.statistics_frozen
    old = three.model.state_dict()
    for key, value in four.model.state_dict().items():
        if "running" in key:
            assert torch.equal(value, old[key]), key
        elif value.is_floating_point():
            assert 0 <= float((value - old[key]).abs().max()) < 1e-5, key
    for name, quantizer in four.activations.items():
        assert torch.equal(quantizer.grid.scale, three.activations[name].grid.scale), name


def test_no_epochs_quantize_without_training() -> None:
    model = network()
    record = four_stages(
        model, TRAIN, VALIDATION, epochs=(0, 0, 0, 0), weight_bits=3, activation_bits=4, **QUIET
    )
    assert [stage.name for stage in record] == list(STAGES[:3])
    assert record[0].network is model
    expected = prepare(model, TRAIN.x[:500], weight_bits=3, activation_bits=4)
    x = VALIDATION.x
    assert torch.equal(training.logits(record[2].network, x), training.logits(expected, x))


def test_a_price_learns_the_widths_first() -> None:
    record = four_stages(
        network(),
        TRAIN,
        VALIDATION,
        epochs=(0, 0, 0, 0),
        price=1e3,
        learning_epochs=6,
        lr=(1e-3, 1e-2, 1e-3, 1e-7),
        **QUIET,
    )
    learned = record[1].learned
    assert learned is not None
    assert record[1].bits == learned.bits == record[2].bits
    assert max(learned.bits.values()) < 8
    assert record[0].learned is record[2].learned is None
    assert isinstance(record[1].network, QATNetwork)
    weight = record[1].network.model.state_dict()["0.weight"]
    assert torch.equal(weight, learned.network.state_dict()["0.weight"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": (1, 1, 1)}, "entry for each of"),
        ({"lr": (1e-3,)}, "entry for each of"),
        ({"epochs": (0, -1, 0, 0)}, "whole numbers of 0 or more"),
        ({"epochs": (0, 1.5, 0, 0)}, "whole numbers of 0 or more"),
        ({"price": 0.1, "weight_bits": 4}, "weight_bits must be 8"),
        ({"epochs": (0, 0, 0, 0), "weight_bits": 9}, "from 1 to 8"),
        ({"epochs": (0, 0, 0, 0), "weight_bits": 0}, "from 1 to 8"),
        ({"epochs": (0, 0, 0, 0), "activation_bits": 9}, "from 2 to 8"),
    ],
)
def test_bad_input_is_refused(options: dict, text: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=text):
        four_stages(network(), TRAIN, VALIDATION, **{**QUIET, **options})
