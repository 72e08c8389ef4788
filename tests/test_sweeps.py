"""Sweeps give the same numbers in every process that joblib runs them in, and a cluster gets every task.

Threads are not for sweeps: tracing a network patches the modules of all threads.
"""

import contextlib
from typing import Any

import joblib
import pytest
import torch
from joblib._parallel_backends import LokyBackend
from torch import Tensor, nn

from helpers import models
from helpers.low_rank.ranks import measured_losses
from helpers.slimming.selection import importance
from helpers.slimming.sensitivity import sensitivity

RATIOS = [0.25, 0.5]


def sweeps() -> tuple[Any, Any]:
    """Two layers by two ratios, and two layers by two ranks."""
    torch.manual_seed(0)
    standard, dense = models.small("StandardCNN").eval(), models.small("LeNet300100").eval()
    x = torch.randn(20, 1, 28, 28)

    def size(network: nn.Module) -> float:
        with torch.inference_mode():
            outputs: Tensor = network(x)
        return round(float(outputs.square().mean()), 6)

    scores = importance(standard)
    layers = list(scores)[:2]
    cuts = sensitivity(standard, scores, RATIOS, size, layers=layers)
    losses = measured_losses(dense, x, {"fc1": [2, 20], "fc2": [3, 30]})
    return cuts, losses


@pytest.fixture(scope="module")
def one_by_one() -> tuple[Any, Any]:
    return sweeps()


@pytest.mark.parametrize("backend", ["sequential", "loky"])
def test_every_backend_gives_the_same_numbers(backend: str, one_by_one: tuple[Any, Any]) -> None:
    with joblib.parallel_config(backend=backend, n_jobs=2):
        cuts, losses = sweeps()
    assert cuts == one_by_one[0]
    assert list(cuts) == list(one_by_one[0])
    assert {name: list(row) for name, row in losses.items()} == {"fc1": [2, 20], "fc2": [3, 30]}
    for name, row in losses.items():
        assert row == pytest.approx(one_by_one[1][name], rel=1e-4)


def test_a_registered_backend_gets_every_task(one_by_one: tuple[Any, Any]) -> None:
    tasks: list[str] = []

    class Cluster(LokyBackend):
        def submit(self, func: Any, callback: Any = None) -> Any:
            tasks.extend(call[0].__name__ for call in func.items)
            return super().submit(func, callback)

        def apply_async(self, func: Any, callback: Any = None) -> Any:  # joblib before 1.5
            tasks.extend(call[0].__name__ for call in func.items)
            return super().apply_async(func, callback)

    joblib.register_parallel_backend("counting", Cluster)
    try:
        with joblib.parallel_config(backend="counting", n_jobs=2):
            assert sweeps()[0] == one_by_one[0]
    finally:
        with contextlib.suppress(KeyError):
            del joblib.parallel.BACKENDS["counting"]
    assert sorted(tasks) == ["change"] * 4 + ["cut"] * 4
