"""Reference checkpoints of the small networks on the embedded data, and the recipes behind them.

    python -m helpers.zoo LeNet5            # trains again and compares with the stored checkpoint
    python -m helpers.zoo LeNet5 --write    # and replaces it

Chapter: 01_cost.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from helpers import data, models, training
from helpers.files import read_checked, write_whole

CHECKPOINTS = Path(__file__).parent / "embedded" / "checkpoints"


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is trained: AdamW at a constant rate, then one epoch that lets it fall to 0.

    All epochs but the last are one `training.fit` at `lr` on randomly mirrored images. The last
    epoch is another, with a fresh optimizer, from `last_epoch_lr` along a cosine to 0 on the images
    as they are. It gains up to two points, and a lab can run it live from the stored state before it.
    """

    epochs: int
    lr: float
    last_epoch_lr: float
    batch_size: int = 128
    weight_decay: float = 0.01
    seed: int = 0


RECIPES = {
    "LeNet300100": Recipe(epochs=25, lr=1e-3, last_epoch_lr=1e-3),
    "LeNet5": Recipe(epochs=12, lr=1e-3, last_epoch_lr=1e-3),
    "StandardCNN": Recipe(epochs=15, lr=1e-3, last_epoch_lr=1e-3),
    "SeparableCNN": Recipe(epochs=20, lr=3e-3, last_epoch_lr=3e-3),
}
NAMES = tuple(RECIPES)


def recipe(name: str) -> Recipe:
    """The training recipe of a checkpoint; ValueError for an unknown name."""
    if name not in RECIPES:
        raise ValueError(f"unknown checkpoint {name!r}; known are {', '.join(NAMES)}")
    return RECIPES[name]


def card(name: str) -> dict[str, Any]:
    """What is stored beside a checkpoint: recipe, measured accuracies, sha256 sums, versions."""
    recipe(name)
    path = CHECKPOINTS / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; install the package again, or train it: "
            f"python -m helpers.zoo {name} --write"
        )
    try:
        found = json.loads(path.read_text())
        _ = [found["sha256"][f"{name}{end}.safetensors"] for end in ("", "-before-last")]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged, expected a checkpoint's card ({error})") from error
    return found


def load(name: str, *, before_last_epoch: bool = False) -> nn.Module:
    """The trained network in eval mode; `before_last_epoch` gives the state one epoch earlier.

    The file's sha256 is compared with the card. Raises ValueError for an unknown name and for a
    damaged file, naming it.

    >>> sum(p.numel() for p in load("SeparableCNN").parameters())
    9002
    """
    stem = f"{name}-before-last" if before_last_epoch else name
    expected = card(name)["sha256"][f"{stem}.safetensors"]
    path = CHECKPOINTS / f"{stem}.safetensors"
    model = models.small(name)
    model.load_state_dict(safetensors.torch.load(read_checked(path, expected)))
    return model.eval()


def train(
    name: str, dataset: data.Dataset | None = None, *, progress: bool = True
) -> tuple[nn.Module, nn.Module]:
    """Follow the recipe from the random start: the networks before and after the last epoch."""
    r = recipe(name)
    dataset = data.load() if dataset is None else dataset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(r.seed)
        model = models.small(name)
    before, _ = training.fit(
        model,
        dataset.train,
        dataset.validation,
        epochs=r.epochs - 1,
        lr=r.lr,
        batch_size=r.batch_size,
        weight_decay=r.weight_decay,
        schedule="constant",
        seed=r.seed,
        augment=random_flip,
        progress=progress,
    )
    after, _ = last_epoch(name, before, dataset, progress=progress)
    return before, after


def last_epoch(
    name: str, model: nn.Module, dataset: data.Dataset, *, progress: bool = True
) -> tuple[nn.Module, list[dict[str, float]]]:
    """The recipe's last epoch from `model` (the state before it): a trained copy and its history."""
    r = recipe(name)
    return training.fit(
        model,
        dataset.train,
        dataset.validation,
        epochs=1,
        lr=r.last_epoch_lr,
        batch_size=r.batch_size,
        weight_decay=r.weight_decay,
        seed=r.seed + 1,
        progress=progress,
    )


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    flipped = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(3), x)


def write(name: str, before: nn.Module, after: nn.Module, card_entries: dict[str, Any]) -> None:
    """Store both states and the card, or leave the stored ones as they are."""
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    files = {
        f"{name}.safetensors": safetensors.torch.save(after.state_dict()),
        f"{name}-before-last.safetensors": safetensors.torch.save(before.state_dict()),
    }
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    text = json.dumps({**card_entries, "sha256": sums}, indent=2) + "\n"
    write_whole(CHECKPOINTS, {**files, f"{name}.json": text.encode()})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.zoo", description="Train a checkpoint."
    )
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--write", action="store_true", help="replace the stored checkpoint")
    options = parser.parse_args(arguments)
    name = options.name
    torch.set_num_threads(1)  # another number of threads sums in another order
    dataset, started = data.load(), time.perf_counter()
    before, after = train(name, dataset)
    entries = {
        "network": f"helpers.models.small({name!r})",
        "parameters": sum(p.numel() for p in after.parameters()),
        "data": "fashion_mnist",
        "recipe": asdict(recipe(name)),
        "validation_accuracy": training.evaluate(after, dataset.validation),
        "test_accuracy": training.evaluate(after, dataset.test),
        "before_last_epoch": {
            "validation_accuracy": training.evaluate(before, dataset.validation),
            "test_accuracy": training.evaluate(before, dataset.test),
        },
        "seconds_on_one_thread": round(time.perf_counter() - started),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    print(f"{name} trained in {entries['seconds_on_one_thread']} s")
    if options.write:
        write(name, before, after, entries)
    stored = card(name)
    for key in ("validation_accuracy", "test_accuracy"):
        print(f"{key}: {entries[key]:.4f}, stored {stored[key]:.4f}")
    kept = load(name).state_dict()
    same = all(torch.equal(value, kept[key]) for key, value in after.state_dict().items())
    print("weights: " + ("bit for bit the stored ones" if same else "not the stored bits"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
