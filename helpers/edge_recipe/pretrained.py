"""The network that the recipe starts from, trained on the six classes that are not its task.

    python -m helpers.edge_recipe.pretrained            # trains again and compares with the stored one
    python -m helpers.edge_recipe.pretrained --write    # and replaces it

Chapter: 10_edge_recipe.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from helpers import data, models, training, zoo
from helpers.edge_recipe.task import TARGETS, only, source_classes
from helpers.files import read_checked, write_whole

FOLDER = Path(__file__).parent.parent / "embedded" / "edge_recipe"
NAME = "EdgeNet-six-classes"
SIZES: dict[str, Any] = {
    "in_channels": 1,
    "first": 12,
    "first_stride": 1,
    "blocks": ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (96, 1)),
}
RECIPE = zoo.Recipe(epochs=25, lr=4e-3, last_epoch_lr=4e-3)


def network(classes: int, seed: int = 0) -> models.EdgeNet:
    """The recipe's small EdgeNet with random weights: 767,160 MACs for a 28x28 image, six classes.

    >>> sum(p.numel() for p in network(6).parameters())
    31878
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.EdgeNet(classes=classes, **SIZES)


def train(dataset: data.Dataset | None = None, *, progress: bool = True) -> models.EdgeNet:
    """Follow the recipe from the random start on the images of `source_classes`.

    Unlike `zoo.train`, which keeps the rate constant before the last epoch, both parts let it fall
    along a cosine to 0.
    """
    dataset = data.load() if dataset is None else dataset
    parts = [only(s, source_classes()) for s in (dataset.train, dataset.validation)]
    settings: dict[str, Any] = {
        "batch_size": RECIPE.batch_size,
        "weight_decay": RECIPE.weight_decay,
        "progress": progress,
    }
    before, _ = training.fit(
        network(len(source_classes()), RECIPE.seed),
        *parts,
        epochs=RECIPE.epochs - 1,
        lr=RECIPE.lr,
        seed=RECIPE.seed,
        augment=zoo.random_flip,
        **settings,
    )
    model, _ = training.fit(
        before, *parts, epochs=1, lr=RECIPE.last_epoch_lr, seed=RECIPE.seed + 1, **settings
    )
    assert isinstance(model, models.EdgeNet)
    return model


def card() -> dict[str, Any]:
    """What is stored beside the checkpoint: recipe, accuracies on the six classes, sha256, versions."""
    path = FOLDER / f"{NAME}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; install the package again, or train the network: "
            "python -m helpers.edge_recipe.pretrained --write"
        )
    try:
        found = json.loads(path.read_text())
        _ = found["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged, expected a checkpoint's card ({error})") from error
    return found


def load() -> models.EdgeNet:
    """The pre-trained network, six classes, in eval mode; ValueError for a damaged file."""
    path = FOLDER / f"{NAME}.safetensors"
    content = read_checked(path, card()["sha256"])
    model = network(len(source_classes()))
    model.load_state_dict(safetensors.torch.load(content))
    return model.eval()


def write(model: models.EdgeNet, entries: dict[str, Any]) -> None:
    """Store the checkpoint and its card, both or neither."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(model.state_dict())
    text = json.dumps({**entries, "sha256": hashlib.sha256(content).hexdigest()}, indent=2) + "\n"
    write_whole(FOLDER, {f"{NAME}.safetensors": content, f"{NAME}.json": text.encode()})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.edge_recipe.pretrained", description="Train the starting network."
    )
    parser.add_argument("--write", action="store_true", help="replace the stored checkpoint")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # another number of threads sums in another order
    dataset, started = data.load(), time.process_time()
    model = train(dataset)
    seconds = round(time.process_time() - started)
    names = [dataset.class_names[c] for c in source_classes()]
    entries: dict[str, Any] = {
        "network": "helpers.edge_recipe.pretrained.network(6)",
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": f"fashion_mnist, the classes {', '.join(names)}",
        "left for the task": [dataset.class_names[c] for c in TARGETS],
        "recipe": asdict(RECIPE),
        **{
            f"{part}_accuracy": training.evaluate(
                model, only(getattr(dataset, part), source_classes())
            )
            for part in ("validation", "test")
        },
        "seconds_on_one_thread": seconds,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    print(f"{NAME} trained in {seconds} s")
    if options.write:
        write(model, entries)
    stored, kept = card(), load().state_dict()
    for key in ("validation_accuracy", "test_accuracy"):
        print(f"{key}: {entries[key]:.4f}, stored {stored[key]:.4f}")
    same = all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    print("weights: " + ("bit for bit the stored ones" if same else "not the stored bits"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
