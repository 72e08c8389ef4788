"""Hints: features read where they arise, the loss by hand, a first stage that leaves the rest."""

import copy

import pytest
import torch
from torch import nn

from helpers import distillation


def network(hidden: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
    )


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(3))


def test_layer_output_is_what_the_layer_puts_out():
    model, x = network(6).train(), images(7)
    before = copy.deepcopy(model.state_dict())
    found = distillation.layer_output(model, "2", x, batch_size=3)
    assert torch.allclose(found, model[2](model[1](model[0](x))).detach(), atol=1e-6)
    assert not found.requires_grad
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not list(model[2]._forward_hooks), "the hook is gone"


def test_hint_loss_by_hand():
    guided = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    hint = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert float(distillation.hint_loss(guided, hint)) == (4 / 2 + 25 / 2) / 2
    maps = torch.zeros(2, 3, 4, 4)
    assert float(distillation.hint_loss(maps, maps + 1)) == 3 * 16 / 2
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 3\)"):
        distillation.hint_loss(guided, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="gradient into the teacher"):
        distillation.hint_loss(guided, hint.requires_grad_())


def test_regressors():
    dense = distillation.regressor_for(torch.zeros(1, 5), torch.zeros(1, 8))
    assert dense(torch.zeros(2, 5)).shape == (2, 8)
    maps = distillation.regressor_for(torch.zeros(1, 5, 7, 7), torch.zeros(1, 8, 7, 7))
    assert maps(torch.zeros(2, 5, 7, 7)).shape == (2, 8, 7, 7)
    for shape in ((1, 8, 6, 6), (1, 8)):
        with pytest.raises(ValueError, match="maps"):
            distillation.regressor_for(torch.zeros(1, 5, 7, 7), torch.zeros(shape))


def fit(student: nn.Module, teacher: nn.Module, **changed) -> tuple[nn.Module, list[float]]:
    settings = {"epochs": 30, "lr": 1e-2, "batch_size": 16, "progress": False} | changed
    return distillation.fit_hint(student, "2", teacher, "2", images(64), **settings)


def test_the_first_stage_learns_the_hint_and_leaves_the_rest():
    student, teacher = network(6), distillation.freeze(network(12, seed=1))
    before, taught = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    fitted, losses = fit(student, teacher)
    assert len(losses) == 30
    assert losses[-1] < 0.5 * losses[0]
    assert not fitted.training
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items()), "a copy learns"
    assert all(torch.equal(v, taught[k]) for k, v in teacher.state_dict().items())
    after = fitted.state_dict()
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert moved == ["1.weight", "1.bias"], "batch norm after the layer has seen nothing"
    again, same = fit(student, teacher)
    assert same == losses
    assert torch.equal(again[1].weight, fitted[1].weight)
    assert fit(student, teacher, seed=1)[1] != losses


def test_a_student_as_wide_as_the_teacher_can_match_it():
    teacher = distillation.freeze(network(6))
    _, losses = fit(network(6), teacher, epochs=150)
    assert losses[-1] < 0.05 * losses[0]


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    student, teacher = network(6), distillation.freeze(network(12))
    torch.random.set_rng_state(state)
    fit(student, teacher, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_arguments():
    student, teacher = network(6), distillation.freeze(network(12))
    with pytest.raises(ValueError, match=r"not frozen: '1.weight'"):
        fit(student, network(12))
    for name, value in (("epochs", 0), ("lr", 0.0), ("lr", float("nan")), ("batch_size", 0)):
        with pytest.raises(ValueError, match=f"{name} is out of its range"):
            fit(student, teacher, **{name: value})
    with pytest.raises(ValueError, match="no module 'fc9' in the model"):
        distillation.layer_output(student, "fc9", images(2))
    with pytest.raises(ValueError, match="no images"):
        distillation.layer_output(student, "2", images(0))

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.fc = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    with pytest.raises(ValueError, match="does not use its module 'idle'"):
        distillation.layer_output(Unused(), "idle", torch.zeros(1, 2))
