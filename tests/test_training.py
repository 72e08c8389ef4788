"""The training loop: reproducible bits, best-on-validation, schedule, hooks, and bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import training
from helpers.data import Split
from helpers.training import evaluate, fit, logits


def blobs(count: int, seed: int, classes: int = 3) -> Split:
    """Images of 1x4x4 whose class shows in their mean, easy to learn."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    x = torch.randn(count, 1, 4, 4, generator=generator) * 0.5 + (y - 1).view(-1, 1, 1, 1)
    return Split(x, y)


TRAIN, VALIDATION = blobs(300, 1), blobs(100, 2)


def network(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16, 3),
    )


def run(model: nn.Module | None = None, **options):
    options = {"epochs": 3, "lr": 1e-2, "batch_size": 32, "progress": False, **options}
    return fit(network() if model is None else model, TRAIN, VALIDATION, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_it_learns():
    model, history = run(epochs=8)
    assert evaluate(model, blobs(500, 3)) > 0.9
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_same_seed_gives_the_same_bits_whatever_the_global_state():
    first, _ = run(seed=3)
    model = network()
    torch.manual_seed(999)  # dropout must not see it
    second, _ = run(model, seed=3)
    other, _ = run(seed=4)
    assert same(first, second)
    assert not same(first, other)


def test_the_order_of_the_images_depends_on_the_seed_alone():
    orders = []
    for dropout in (0.0, 0.5):  # dropout draws random numbers too, from another place
        seen: list[torch.Tensor] = []
        run(network(dropout), augment=lambda x, _, seen=seen: seen.append(x) or x)
        orders.append(torch.cat(seen))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0][:300], orders[0][300:600])  # another order each epoch


def test_the_global_random_state_and_the_model_are_left_alone():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    trained, _ = run(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert not trained.training
    assert not same(model, trained)


def test_the_best_epoch_on_validation_is_returned():
    seen = []

    def spoil(model):  # from the second epoch on (10 steps each) the network is useless
        seen.append(1)
        if len(seen) > 10:
            with torch.no_grad():
                model[-1].weight.zero_()

    model, history = run(after_step=spoil)
    accuracies = [entry["validation_accuracy"] for entry in history]
    assert accuracies[0] == max(accuracies) > accuracies[-1]
    assert evaluate(model, VALIDATION) == accuracies[0]
    assert model[-1].weight.abs().sum() > 0


def test_history_and_cosine_schedule():
    _, history = run(epochs=4, lr=0.01)
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    expected = [0.01 * (1 + math.cos(math.pi * i / 4)) / 2 for i in (1, 2, 3, 4)]
    assert [entry["lr"] for entry in history] == pytest.approx(expected)
    assert all(entry["seconds"] > 0 and entry["loss"] > 0 for entry in history)
    _, history = run(schedule="constant", lr=0.01)
    assert {entry["lr"] for entry in history} == {0.01}


def test_one_step_equals_adamw_by_hand():
    """One full batch of plain Adam moves every weight by lr against its gradient's sign."""
    model = network(dropout=0.0)
    trained, history = run(model, epochs=1, batch_size=300, schedule="constant", lr=1e-3)
    model.train()
    error = F.cross_entropy(model(TRAIN.x), TRAIN.y)
    gradient = torch.autograd.grad(error, model[-1].weight)[0]
    expected = model[-1].weight - 1e-3 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(trained[-1].weight, expected, atol=1e-6)
    assert history[0]["loss"] == pytest.approx(error.item(), rel=1e-5)


def test_many_steps_equal_pytorchs_optimizer_and_scheduler():
    """Full batches, so that the order matters to the last bits only."""
    model = network(dropout=0.0)
    steps: list[torch.Tensor] = []
    run(
        model,
        epochs=12,
        batch_size=300,
        weight_decay=0.1,
        device="cpu",
        after_step=lambda m: steps.append(m[-1].weight.detach().clone()),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    for ours in steps:
        optimizer.zero_grad()
        F.cross_entropy(model(TRAIN.x), TRAIN.y).backward()
        optimizer.step()
        scheduler.step()
        assert torch.allclose(ours, model[-1].weight, atol=2e-5)
    assert len(steps) == 12


def test_after_step_holds_a_mask():
    def mask(model):
        with torch.no_grad():
            model[-1].weight[:, :8] = 0

    model, _ = run(after_step=mask)
    assert (model[-1].weight[:, :8] == 0).all()
    assert (model[-1].weight[:, 8:] != 0).any()


def test_every_image_is_seen_once_an_epoch_and_augment_is_used():
    seen = []

    def remember(x, generator):
        seen.append(x)
        assert isinstance(generator, torch.Generator)
        return torch.zeros_like(x)

    constant, _ = run(epochs=1, augment=remember)
    images = torch.cat(seen).flatten(1)
    assert len(images) == len(TRAIN)
    assert torch.equal(images.sum(1).sort()[0], TRAIN.x.flatten(1).sum(1).sort()[0])
    assert not torch.equal(images, TRAIN.x.flatten(1))  # in another order
    assert evaluate(constant, VALIDATION) < 0.7  # all it saw was zeros


def test_another_loss_and_weight_decay():
    calls = []

    def smooth(outputs, y):
        calls.append(outputs.shape)
        return F.cross_entropy(outputs, y, label_smoothing=0.1)

    run(epochs=1, loss=smooth)
    assert len(calls) == 10
    plain, _ = run(epochs=10)
    decayed, _ = run(epochs=10, weight_decay=3.0)
    assert decayed[-1].weight.norm() < 0.95 * plain[-1].weight.norm()


def test_rows_per_image_reach_the_loss_beside_their_labels():
    seen = []

    def loss(logits, labels, rows):
        seen.append((labels, rows))
        return F.cross_entropy(logits, rows[:, 0].long())

    rows = torch.stack([TRAIN.y, torch.arange(len(TRAIN))], 1)
    model, _ = run(loss=loss, per_image=rows)
    assert same(model, run()[0]), "the rows hold the labels, so nothing changes"
    labels, seen_rows = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert torch.equal(labels, seen_rows[:, 0])
    assert seen_rows[: len(TRAIN), 1].sort()[0].tolist() == list(range(len(TRAIN)))
    with pytest.raises(ValueError, match=r"per_image.*300 images, got shape \(299, 2\)"):
        run(loss=loss, per_image=rows[1:])


def test_a_penalty_joins_the_loss_and_is_reported_beside_it():
    def squares(model: nn.Module) -> torch.Tensor:
        return 0.1 * model[5].weight.square().sum()

    options = {"epochs": 1, "batch_size": len(TRAIN), "schedule": "constant"}
    model = network(dropout=0)
    fitted, history = run(model, penalty=squares, **options)
    plain, without = run(model, **options)
    assert history[0]["loss"] == pytest.approx(without[0]["loss"]), "the first loss is the same"
    assert history[0]["penalty"] == pytest.approx(squares(model).item())
    assert "penalty" not in without[0]
    assert same(run(model, penalty=lambda m: 0 * squares(m), **options)[0], plain)

    by_hand = network(dropout=0).train()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0)
    (F.cross_entropy(by_hand(TRAIN.x), TRAIN.y) + squares(by_hand)).backward()
    optimizer.step()
    assert torch.allclose(fitted[5].weight, by_hand[5].weight, atol=1e-5)
    assert not torch.allclose(fitted[5].weight, plain[5].weight, atol=1e-3)
    with pytest.raises(FloatingPointError, match="loss is nan"):
        run(penalty=lambda m: torch.tensor(float("nan")))


def test_frozen_parameters_and_their_batch_norm_statistics_stay():
    model = network()
    for part in (model[0], model[1]):
        part.requires_grad_(False)
    trained, _ = run(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]) == (not key.startswith("5."))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epochs": 0}, "epochs.*0"),
        ({"lr": 0.0}, "lr.*0"),
        ({"lr": -1e-3}, "lr"),
        ({"lr": math.nan}, "lr.*nan"),
        ({"batch_size": 0}, "batch_size"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"schedule": "step"}, "schedule.*cosine.*step"),
    ],
)
def test_bad_options_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        run(**options)


@pytest.mark.parametrize(
    ("split", "named"),
    [
        (Split(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64)), "empty"),
        (Split(TRAIN.x, TRAIN.y[:-1]), "one int64 label"),
        (Split(TRAIN.x, TRAIN.y.float()), "int64.*float32"),
        (Split(TRAIN.x, TRAIN.y + 1), "0 to 2.*1 to 3"),
        (Split(TRAIN.x, TRAIN.y - 1), "-1 to 1"),
        (Split(TRAIN.x[:, :, :3], TRAIN.y), r"\(300, 1, 3, 4\)"),
        (Split((TRAIN.x * 50).to(torch.uint8), TRAIN.y), "floating point"),
        (Split(TRAIN.x.clone().fill_(math.nan), TRAIN.y), "not finite"),
    ],
    ids=["empty", "length", "dtype", "high", "low", "shape", "uint8", "nan"],
)
def test_bad_splits_are_refused_by_name(split, named):
    with pytest.raises(ValueError, match=f"train.*{named}"):
        fit(network(), split, VALIDATION, epochs=1, progress=False)
    with pytest.raises(ValueError, match=f"validation.*{named}"):
        fit(network(), TRAIN, split, epochs=1, progress=False)
    with pytest.raises(ValueError, match=named):
        evaluate(network(), split)


def test_not_finite_weights_and_losses_are_refused():
    model = network()
    with torch.no_grad():
        model[-1].bias[0] = math.nan
    with pytest.raises(ValueError, match=r"5\.bias.*not finite"):
        run(model)
    with pytest.raises(ValueError, match=r"5\.bias.*not finite"):
        evaluate(model, VALIDATION)
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1.*lr than 0\.01"):
        run(loss=lambda outputs, y: F.cross_entropy(outputs, y) * math.nan)
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        run(frozen)


def test_evaluate_and_logits_agree_and_restore_every_mode():
    model = network()
    model[1].eval()  # a mixed state must come back as it was
    outputs = logits(model, VALIDATION.x, batch_size=7)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert outputs.shape == (100, 3)
    assert not outputs.requires_grad
    assert torch.allclose(outputs, logits(model, VALIDATION.x, batch_size=100), atol=1e-6)
    by_hand = sum(int(row.argmax()) == int(y) for row, y in zip(outputs, VALIDATION.y, strict=True))
    assert evaluate(model, VALIDATION) == by_hand / 100
    with pytest.raises(ValueError, match=r"batch_size.*0"):
        logits(model, VALIDATION.x, batch_size=0)
    with pytest.raises(ValueError, match="no images"):
        logits(model, VALIDATION.x[:0])


def test_seed_and_profile(monkeypatch):
    training.set_seed(11)
    first = torch.rand(3)
    training.set_seed(11)
    assert torch.equal(first, torch.rand(3))
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    assert training.profile() == "quick"
    monkeypatch.setenv("COURSE_PROFILE", "full")
    assert training.profile() == "full"
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    with pytest.raises(ValueError, match=r"quick, full.*fast"):
        training.profile()
