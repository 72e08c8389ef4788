"""The recipe's task: which images, which labels, and images of another size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import data
from helpers.data import Dataset, Split
from helpers.edge_recipe import task


def split_of(labels: list[int]) -> Split:
    """Each image holds its own number, so that it can be recognized."""
    n = len(labels)
    return Split(
        torch.arange(n).float()[:, None, None, None].expand(n, 1, 2, 2), torch.tensor(labels)
    )


def numbers(split: Split) -> list[int]:
    return split.x[:, 0, 0, 0].int().tolist()


def test_only_keeps_the_order_and_gives_places() -> None:
    found = task.only(split_of([3, 0, 5, 3, 1]), (5, 3))
    assert numbers(found) == [0, 2, 3]
    assert found.y.tolist() == [1, 0, 1]


def test_background_is_dealt_from_the_other_classes_in_turn() -> None:
    split = split_of([0, 1, 2, 3] * 6)
    found = task.with_background(split, (2, 0), 5)
    assert found.y.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [split.y[i].item() for i in numbers(found)] == [2] * 5 + [0] * 5 + [1] * 3 + [3] * 2


def test_skip_gives_other_images() -> None:
    split = split_of([0, 1, 2, 3] * 6)
    first, second = (task.with_background(split, (2, 0), 3, skip=k) for k in (0, 3))
    assert set(numbers(first)).isdisjoint(numbers(second))
    assert first.y.tolist() == second.y.tolist()


@given(
    st.lists(st.integers(0, 4), min_size=60, max_size=200),
    st.sets(st.integers(0, 4), min_size=1, max_size=4),
    st.integers(4, 12),
    st.integers(0, 6),
)
@settings(max_examples=60, deadline=None)
def test_every_class_of_the_task_has_the_same_number(
    labels: list[int], targets: set[int], count: int, skip: int
) -> None:
    split, order = split_of([*range(5), *labels]), tuple(sorted(targets, reverse=True))
    try:
        found = task.with_background(split, order, count, skip=skip)
    except ValueError as error:
        assert "images, fewer than" in str(error)  # noqa: PT017 - one of two right outcomes
        return
    assert found.y.bincount().tolist() == [count] * (len(order) + 1)
    old = split.y[numbers(found)]
    for place, c in enumerate(order):
        assert set(old[found.y == place].tolist()) == {c}
    behind = old[found.y == len(order)].bincount(minlength=5)
    others = [behind[c].item() for c in range(5) if c not in targets]
    assert max(others) - min(others) <= 1
    assert sum(others) == count
    assert len(set(numbers(found))) == len(found)


@pytest.mark.parametrize(
    ("targets", "count", "message"),
    [
        ((0, 0), 4, "different"),
        ((), 4, "one or more"),
        ((7,), 4, "from 0 to 3"),
        ((-1,), 4, "from 0 to 3"),
        ((0, 1, 2, 3), 4, "no class for the background"),
        ((0,), 2, "at least 3"),
        ((0,), 7, "has 6 images, fewer than the 7"),
    ],
)
def test_bad_tasks_are_refused(targets: tuple[int, ...], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.with_background(split_of([0, 1, 2, 3] * 6), targets, count)


@pytest.fixture(scope="module")
def images() -> Dataset:
    return data.load()


def test_edge_task(images: Dataset) -> None:
    job = task.edge_task(images, labelled=7, held=12)
    assert job.class_names == ("T-shirt/top", "Dress", "Sandal", "Bag", "background")
    for part, count in ((job.train, 7), (job.validation, 12), (job.test, 1000)):
        assert part.y.bincount().tolist() == [count] * 5
    assert set(task.source_classes()) == set(range(10)) - set(task.TARGETS)
    for place, c in enumerate(task.TARGETS):
        same = images.test.x[images.test.y == c]
        assert torch.equal(job.test.x[job.test.y == place], same)


def test_shrink_is_what_load_gives_at_that_size(images: Dataset) -> None:
    part = Split(images.test.x[:20], images.test.y[:20])
    expected = data.load(size=20).test
    found = task.shrink(images, part, 20)
    assert torch.equal(found.x, expected.x[:20])
    assert torch.equal(found.y, part.y)
    assert torch.equal(task.shrink(images, part, 28).x, part.x)


def test_shrunk_images_stay_on_pixel_codes(images: Dataset) -> None:
    found = task.shrink(images, Split(images.test.x[:9], images.test.y[:9]), 17)
    codes = found.x.double() * 90 + 73
    assert float((codes - codes.round()).abs().max()) < 1e-4
    area = F.adaptive_avg_pool2d(images.test.x[:9], 1).flatten()
    assert np.allclose(found.x.mean((1, 2, 3)), area, atol=0.1)


@pytest.mark.parametrize("size", [0, 29, 20.0, True])
def test_sizes_that_are_refused(images: Dataset, size: object) -> None:
    with pytest.raises(ValueError, match="from 1 to 28"):
        task.shrink(images, Split(images.test.x[:1], images.test.y[:1]), size)  # type: ignore[arg-type]
