"""A teacher by transfer: what is frozen stays, batch-norm statistics too; ResNet-34 on Food-11."""

import ast
import copy
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers import data, distillation, training
from helpers.data import Split


class Small(nn.Module):
    """Convolution, batch norm, dense layers: enough to freeze a part of."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.top = nn.Sequential(nn.Linear(144, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.body(x))


def small() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    model(2 * torch.randn(64, 1, 8, 8) + 1)  # statistics that are not the fresh ones
    return model


def splits(classes: int, count: int = 48) -> tuple[Split, Split]:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % classes
    x = torch.randn(count, 1, 8, 8, generator=generator) + y[:, None, None, None]
    return Split(x, y), Split(x[: 2 * classes], y[: 2 * classes])


def same(a: nn.Module, b: nn.Module, but: str = "nothing") -> bool:
    theirs = b.state_dict()
    return all(
        torch.equal(value, theirs[key])
        for key, value in a.state_dict().items()
        if not key.startswith(but)
    )


def test_freeze_returns_a_frozen_copy_in_eval_mode():
    model = small().train()
    before = copy.deepcopy(model)
    frozen = distillation.freeze(model, but=["top.2"])
    assert same(frozen, model)
    assert same(model, before)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert [n for n, p in frozen.named_parameters() if p.requires_grad] == [
        "top.2.weight",
        "top.2.bias",
    ]
    assert not any(module.training for module in frozen.modules())
    assert all(p.requires_grad for p in distillation.unfreeze(frozen).parameters())


def test_running_statistics_of_a_frozen_body_do_not_move():
    train, held = splits(3)
    started = distillation.new_head(distillation.freeze(small()), 3)
    before = copy.deepcopy(started)
    fitted, _ = training.fit(started, train, held, epochs=3, lr=1e-2, progress=False)
    assert same(fitted, before, but="top.2."), "all but the head is bit for bit as it was"
    assert not same(fitted, before), "the head moved"
    statistics = [key for key in before.state_dict() if "running_" in key or "tracked" in key]
    assert len(statistics) == 6


def test_the_classic_mistake_moves_them():
    model = small().requires_grad_(False).train()  # frozen, but not in eval mode
    mean = model.body[1].running_mean.clone()
    model(torch.randn(8, 1, 8, 8))
    assert not torch.equal(model.body[1].running_mean, mean)


def test_the_second_phase_trains_what_was_frozen():
    train, held = splits(3)
    rates = {"lr": 1e-2, "fine_lr": 3e-3, "batch_size": 12}
    head_only, tuned = distillation.transfer(
        small(), 3, train, held, head_epochs=5, epochs=10, **rates, progress=False
    )
    assert same(head_only, small(), but="top.2.")
    for (name, a), (_, b) in zip(
        head_only.named_parameters(), tuned.named_parameters(), strict=True
    ):
        assert not torch.equal(a, b) or "bias" in name, f"{name} did not train"
    assert not torch.equal(head_only.body[1].running_mean, tuned.body[1].running_mean)
    assert training.evaluate(tuned, train) > 0.8


def test_a_new_head():
    model = small()
    headed = distillation.new_head(model, 3)
    assert headed.top[2].out_features == 3
    assert model.top[2].out_features == 5
    assert same(headed, model, but="top.2.")
    assert torch.equal(headed.top[2].weight, distillation.new_head(model, 3).top[2].weight)
    other = distillation.new_head(model, 3, seed=1)
    assert not torch.equal(headed.top[2].weight, other.top[2].weight)
    assert distillation.new_head(model.double(), 3).top[2].weight.dtype == torch.float64
    assert distillation.head_name(model) == "top.2"


def test_bad_arguments():
    with pytest.raises(
        ValueError, match=r"no module 'head' in the model; its modules are \['body'"
    ):
        distillation.freeze(small(), but=["head"])
    with pytest.raises(ValueError, match="no module ''"):
        distillation.freeze(small(), but=[""])
    bare = nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Flatten(), nn.Linear(64, 3))
    distillation.freeze(bare)
    with pytest.raises(ValueError, match=r"'0' has no weight to freeze"):
        distillation.freeze(bare, but=["2"])
    with pytest.raises(ValueError, match="classes must be at least 2, got 1"):
        distillation.new_head(small(), 1)
    with pytest.raises(ValueError, match=r"Sequential has no nn\.Linear"):
        distillation.new_head(nn.Sequential(nn.Conv2d(1, 1, 1)), 3)


def test_the_upside_down_task():
    generator = torch.Generator().manual_seed(0)
    part = Split(torch.randn(60, 1, 8, 8, generator=generator), torch.arange(60) % 3)
    dataset = data.Dataset("toy", part, part, part, (0.5,), (0.2,), ("a", "b", "c"))
    task = distillation.upside_down_task(
        dataset, small(), labelled=6, pool=9, held=12, fresh=small, student=small
    )
    assert task.train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(task.train.x[0], part.x[0].flip(1)), "rows from bottom to top"
    assert torch.equal(task.train.x[0].flip(1), part.x[0])
    assert (len(task.pool), len(task.validation), len(task.test)) == (9, 12, 60)
    known = {tuple(x.flatten().tolist()) for x in task.train.x}
    assert known.isdisjoint({tuple(x.flatten().tolist()) for x in task.pool}), "nothing twice"
    with pytest.raises(ValueError, match="skip=6"):
        distillation.upside_down_task(
            dataset, small(), labelled=6, pool=60, held=3, fresh=small, student=small
        )


def food(folder: Path, *, labels: bool = True) -> Path:
    """A tiny Food-11 in its course layout: two 24x24 photographs of each class in each part."""
    from PIL import Image

    generator = np.random.default_rng(0)
    path = folder / "food-11.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("training", "validation", "evaluation" if labels else "testing"):
            for number in range(22):
                pixels = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "JPEG")
                stem = f"{number % 11}_{number}" if part != "testing" else f"{number:04d}"
                archive.writestr(f"{part}/{stem}.jpg", content.getvalue())
    return path


@pytest.mark.parametrize("labels", [True, False])
def test_resnet34_learns_food11_by_transfer_and_teaches_the_articles_student(tmp_path, labels):
    task = distillation.food11_task(food(tmp_path, labels=labels), size=32, pretrained=False)
    assert len(task.train) == len(task.pool) == 22
    assert len(task.class_names) == 11
    assert int(task.test.y.min()) == 0, (
        "test images without labels give way to the validation split"
    )
    source = task.source
    assert sum(p.numel() for p in source.parameters()) == 21_284_672 + 512 * 11 + 11
    assert distillation.head_name(source) == "fc"
    if not labels:
        return
    settings = {"batch_size": 11, "progress": False}
    head_only, tuned = distillation.transfer(
        source, 11, task.train, task.validation, head_epochs=1, epochs=1, **settings
    )
    assert same(head_only, source, but="fc.")
    assert not same(tuned, head_only, but="fc.")
    student = task.student()
    assert sum(p.numel() for p in student.parameters()) == 256_779
    rows = distillation.teacher_logits(distillation.freeze(tuned), task.pool)
    assert rows.shape == (22, 11)
    trained, history = training.fit(
        student,
        task.train,
        task.validation,
        epochs=1,
        loss=distillation.distilling(20.0, 0.5),  # the course homework's setting
        per_image=rows,
        **settings,
    )
    assert np.isfinite(history[0]["loss"])
    assert training.logits(trained, task.test.x).shape == (len(task.test), 11)


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    from torchvision import models as vision

    def offline(weights: str | None) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(vision, "resnet34", offline)
    with pytest.raises(RuntimeError, match=r"no network.*resnet34-b627a593.pth into"):
        distillation.resnet34(11, pretrained=True)


def test_torchvision_is_imported_only_where_it_is_used():
    for path in Path(distillation.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert "torchvision" not in ast.unparse(node) or not isinstance(
                node, ast.Import | ast.ImportFrom
            ), f"{path.name} imports torchvision for everyone"
