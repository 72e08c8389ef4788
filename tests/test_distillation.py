"""The distillation loss against its closed gradient, its limits and PyTorch; the controls."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import distillation, training
from helpers.data import Split

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def by_sums(z: torch.Tensor, y: torch.Tensor, v: torch.Tensor, t: float, alpha: float) -> float:
    """The loss by its definition, one number at a time."""
    total = 0.0
    for zi, yi, vi in zip(z.tolist(), y.tolist(), v.tolist(), strict=True):
        p = [math.exp(a / t) / sum(math.exp(b / t) for b in vi) for a in vi]
        q = [math.exp(a / t) / sum(math.exp(b / t) for b in zi) for a in zi]
        hard = -math.log(math.exp(zi[yi]) / sum(math.exp(b) for b in zi))
        soft = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += alpha * t * t * soft + (1 - alpha) * hard
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_is_its_definition(temperature, alpha):
    z, v, y = draw(5, 7), draw(5, 7, seed=1), torch.tensor([0, 6, 3, 3, 1])
    loss = distillation.distillation_loss(z, y, v, temperature=temperature, alpha=alpha)
    assert float(loss) == pytest.approx(by_sums(z, y, v, temperature, alpha), rel=1e-12)


def test_golden_values():
    # Two classes, logits 2 and 0 against 0 and 0, T = 2: p = (e, 1) / (e + 1), q = (1/2, 1/2).
    v, z = torch.tensor([[2.0, 0.0]]).double(), torch.zeros(1, 2).double()
    p = math.e / (math.e + 1)
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert distillation.soft_targets(v, 2.0)[0].tolist() == pytest.approx([p, 1 - p])
    assert float(distillation.soft_loss(z, v, 2.0)) == pytest.approx(expected)
    assert expected == pytest.approx(0.4437763)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 20.0])
def test_the_gradient_is_t_times_q_minus_p(temperature):
    z, v = draw(4, 10, scale=1.0).requires_grad_(), draw(4, 10, seed=1, scale=1.0)
    (found,) = torch.autograd.grad(distillation.soft_loss(z, v, temperature), z)
    expected = distillation.soft_gradient(z.detach(), v, temperature)
    assert (found - expected).abs().max() <= 1e-15
    # and against finite differences, an oracle that shares nothing with autograd
    for i, j in ((0, 0), (3, 9)):
        step = torch.zeros(4, 10, dtype=torch.float64)
        step[i, j] = 1e-6
        up, down = (distillation.soft_loss(z.detach() + s, v, temperature) for s in (step, -step))
        assert float((up - down) / 2e-6) == pytest.approx(float(expected[i, j]), abs=1e-8)


def test_the_gradient_tends_to_matching_the_logits():
    z, v = draw(4, 10), draw(4, 10, seed=1)
    z, v = (x - x.mean(1, keepdim=True) for x in (z, v))
    limit = (z - v) / z.numel()
    distance = {
        t: float((distillation.soft_gradient(z, v, t) - limit).norm() / limit.norm())
        for t in (10.0, 100.0, 1000.0, 1e4)
    }
    assert distance[1e4] < 1e-3
    for t in (100.0, 1000.0):  # first order in 1/T
        assert distance[10 * t] / distance[t] == pytest.approx(0.1, rel=0.1)
    shifted = distillation.soft_gradient(z + 5, v, 1e4)  # logits are only defined up to a constant
    assert torch.allclose(shifted, distillation.soft_gradient(z, v, 1e4), atol=1e-12)


def test_without_t_squared_the_gradient_fades():
    z, v = draw(4, 10), draw(4, 10, seed=1)
    norms = [float(distillation.soft_gradient(z, v, t).norm()) for t in (20.0, 40.0)]
    assert norms[1] / norms[0] == pytest.approx(1, abs=0.1)
    assert (norms[1] / 40**2) / (norms[0] / 20**2) == pytest.approx(1 / 4, rel=0.1)


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=12),
    st.floats(0.1, 100),
    st.floats(-50, 50),
)
def test_soft_targets_are_ordered_probabilities(values, temperature, shift):
    logits = torch.tensor(values, dtype=torch.float64)
    p = distillation.soft_targets(logits, temperature)
    assert float(p.sum()) == pytest.approx(1)
    assert (p >= 0).all()
    order = logits.argsort()
    assert (p[order].diff() >= -1e-15).all(), "the order of the classes stays"
    assert torch.allclose(p, distillation.soft_targets(logits + shift, temperature), atol=1e-9)
    hotter = distillation.soft_targets(logits, 2 * temperature)
    assert hotter.max() <= p.max() + 1e-12, "a higher temperature is flatter"


@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 4.0, 20.0]))
def test_the_soft_loss_is_a_divergence(seed, temperature):
    z, v = draw(3, 5, seed=seed), draw(3, 5, seed=seed + 1)
    assert float(distillation.soft_loss(z, v, temperature)) >= 0
    assert float(distillation.soft_loss(v + 7, v, temperature)) == pytest.approx(0, abs=1e-10)
    twice = distillation.soft_loss(torch.cat([z, z]), torch.cat([v, v]), temperature)
    assert float(twice) == pytest.approx(float(distillation.soft_loss(z, v, temperature)))


def test_direction_of_kl():
    # A teacher torn between two classes: KL(p || q) forbids a student that gives up one of them.
    v = torch.tensor([[4.0, 4.0, -4.0]]).double()
    one_sided = torch.tensor([[8.0, -8.0, -8.0]]).double()
    forward = float(distillation.soft_loss(one_sided, v, 1.0))
    backward = float(distillation.soft_loss(v, one_sided, 1.0))
    assert forward > 5 * backward
    p, q = (distillation.soft_targets(x, 1.0).numpy() for x in (v, one_sided))
    assert forward == pytest.approx(float((p * np.log(p / q)).sum()))


def test_label_smoothing_is_a_teacher_that_knows_nothing():
    z, y = draw(6, 10).requires_grad_(), torch.arange(6)
    uniform = torch.zeros(6, 10, dtype=torch.float64)
    loss = distillation.distillation_loss(z, y, uniform, temperature=1.0, alpha=0.1)
    smooth = F.cross_entropy(z, y, label_smoothing=0.1)
    mine, theirs = (torch.autograd.grad(x, z)[0] for x in (loss, smooth))
    assert torch.allclose(mine, theirs, atol=1e-15)
    assert float((smooth - loss).detach()) == pytest.approx(0.1 * math.log(10))


def test_alpha_one_does_not_look_at_the_labels():
    z, v = draw(3, 4), draw(3, 4, seed=1)
    unknown = torch.full((3,), -1)
    loss = distillation.distillation_loss(z, unknown, v, temperature=2.0, alpha=1.0)
    assert torch.equal(loss, distillation.soft_loss(z, v, 2.0))


def test_extreme_logits_stay_finite():
    z = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = distillation.soft_loss(z, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_bad_temperatures(temperature):
    z = draw(2, 3)
    for call in (
        lambda: distillation.soft_targets(z, temperature),
        lambda: distillation.soft_loss(z, z, temperature),
        lambda: distillation.soft_gradient(z, z, temperature),
        lambda: distillation.distilling(temperature, 0.5),
    ):
        with pytest.raises(ValueError, match=r"temperature must be finite and above 0, got"):
            call()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_bad_alphas(alpha):
    z = draw(2, 3)
    with pytest.raises(ValueError, match=r"alpha must be from 0 to 1, got"):
        distillation.distilling(2.0, alpha)
    with pytest.raises(ValueError, match=r"alpha must be from 0 to 1, got"):
        distillation.distillation_loss(z, torch.zeros(2).long(), z, temperature=1.0, alpha=alpha)


@pytest.mark.parametrize(
    ("z", "v", "message"),
    [
        (draw(2, 3), draw(2, 4), r"\(2, 3\) and \(2, 4\)"),
        (draw(2, 3), draw(3, 3), r"\(2, 3\) and \(3, 3\)"),
        (draw(2, 3), draw(1, 3), r"\(2, 3\) and \(1, 3\)"),
        (draw(3), draw(3), r"\(N, classes\)"),
        (draw(0, 3), draw(0, 3), r"N at least 1"),
        (draw(2, 3), draw(2, 3).float(), r"float64 and torch.float32"),
        (draw(2, 3).long(), draw(2, 3).long(), r"floating dtype"),
        (draw(2, 3), draw(2, 3).requires_grad_(), r"gradient into the teacher"),
    ],
)
def test_logits_that_do_not_match(z, v, message):
    with pytest.raises(ValueError, match=message):
        distillation.soft_loss(z, v, 2.0)


def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def test_an_unfrozen_teacher_is_refused():
    x, free = torch.randn(6, 1, 4, 4), teacher()
    with pytest.raises(ValueError, match=r"'1.weight' has requires_grad=True"):
        distillation.teacher_logits(free, x)
    frozen = distillation.freeze(free)
    assert all(p.requires_grad for p in free.parameters()), "the model itself is untouched"
    found = distillation.teacher_logits(frozen, x)
    assert not found.requires_grad
    assert torch.equal(found, free.eval()(x).detach())
    for place, kind in ((2, "BatchNorm1d"), (3, "Dropout")):
        moving = copy.deepcopy(frozen)
        moving[place].train()
        with pytest.raises(ValueError, match=rf"train mode: '{place}' \({kind}\)"):
            distillation.teacher_logits(moving, x)
    without = distillation.freeze(nn.Sequential(nn.Flatten(), nn.Linear(16, 3))).train()
    distillation.check_teacher(without)  # no batch norm, no dropout: the mode changes nothing


def test_a_teacher_that_is_not_finite_is_refused():
    broken = distillation.freeze(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    broken[1].bias.fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        distillation.teacher_logits(broken, torch.zeros(1, 1, 4, 4))


def test_a_student_learns_the_teacher_through_fit():
    torch.manual_seed(0)
    x, validation = torch.randn(256, 1, 4, 4), torch.randn(64, 1, 4, 4)
    expert = distillation.freeze(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    rows = distillation.teacher_logits(expert, x)
    answers = distillation.teacher_logits(expert, validation).argmax(1)
    held, unlabelled = Split(validation, answers), Split(x, torch.zeros(256).long())
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    trained, _ = training.fit(
        student,
        unlabelled,
        held,
        epochs=12,
        lr=0.1,
        batch_size=32,
        loss=distillation.distilling(4.0, 1.0),
        per_image=rows,
        progress=False,
    )
    assert training.evaluate(trained, held) > 0.95, "alpha = 1 needs no labels"
    gap = (training.logits(trained, x) - rows).diff(dim=1).abs().max()
    assert gap < 0.3, "the logits agree up to a constant in each row"


@given(
    st.integers(0, 1000), st.floats(0, 1), st.integers(2, 11), st.integers(1, 60), st.integers(0, 9)
)
def test_flipped_labels(seed, rate, classes, count, draw_seed):
    generator = torch.Generator().manual_seed(draw_seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    before = labels.clone()
    flipped = distillation.flip_labels(labels, rate, classes, seed=seed)
    assert torch.equal(labels, before)
    assert int((flipped != labels).sum()) == round(rate * count), "exactly the rate"
    assert flipped.dtype == torch.int64
    assert 0 <= int(flipped.min()) <= int(flipped.max()) < classes
    assert torch.equal(flipped, distillation.flip_labels(labels, rate, classes, seed=seed))


def test_flips_are_even():
    labels = torch.zeros(30_000).long()
    counts = distillation.flip_labels(labels, 1.0, 4).bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 10_000).abs().max() < 400  # 4 standard deviations are 327
    assert not torch.equal(
        distillation.flip_labels(labels, 0.5, 4), distillation.flip_labels(labels, 0.5, 4, seed=1)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3).long(), 1.5, 4), "rate must be from 0 to 1, got 1.5"),
        ((torch.zeros(3).long(), math.nan, 4), "rate must be from 0 to 1"),
        ((torch.zeros(3).long(), 0.5, 1), "classes must be at least 2"),
        ((torch.tensor([5]), 0.5, 4), "labels must be from 0 to 3"),
    ],
)
def test_bad_flips(arguments, message):
    with pytest.raises(ValueError, match=message):
        distillation.flip_labels(*arguments)


def split(labels: list[int]) -> Split:
    return Split(torch.arange(len(labels)).float().reshape(-1, 1, 1, 1), torch.tensor(labels))


def test_splits_by_class():
    whole = split([0, 1, 2, 0, 1, 2, 0, 1, 2])
    left = distillation.without_class(whole, 1)
    assert left.y.tolist() == [0, 2, 0, 2, 0, 2]


def correct(logits: torch.Tensor, labels: torch.Tensor, label: int, bias: float) -> int:
    moved = logits.clone()
    moved[:, label] += bias
    return int((moved.argmax(1) == labels).sum())


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 5))
def test_the_best_bias_is_the_best(seed, count, classes):
    logits = draw(count, classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    label = seed % classes
    found = correct(logits, labels, label, distillation.best_bias(logits, labels, label))
    tried = [correct(logits, labels, label, b) for b in np.linspace(-25, 25, 201)]
    assert found >= max(tried)
    assert found >= correct(logits, labels, label, 0.0)


def test_the_best_bias_of_a_shifted_class():
    logits = draw(400, 4)
    labels = logits.argmax(1)
    moved = logits.clone()
    moved[:, 2] -= 1.5
    bias = distillation.best_bias(moved, labels, 2)
    assert correct(moved, labels, 2, bias) == 400
    assert bias == pytest.approx(1.5, abs=0.3)
    # Equal leads change together: three rows of the same lead, one to win and two to lose by it.
    tied, answers = torch.tensor([[0.0, 1.0]] * 3), torch.tensor([0, 1, 1])
    assert correct(tied, answers, 0, distillation.best_bias(tied, answers, 0)) == 2
    with pytest.raises(ValueError, match="label=4"):
        distillation.best_bias(logits, labels, 4)
