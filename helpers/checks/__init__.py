"""Feedback for the exercises: `check.NAME(function)` says what a student's function gets right.

Every check returns a `Feedback`. A check tries the function on literal examples and on properties
that the mathematics promises, so that neither a constant nor a copied line passes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

__all__ = [
    "Feedback",
    "Wrong",
    "accumulator_width",
    "affine_parameters",
    "background_labels",
    "best_bias",
    "best_under",
    "bits_for_claim",
    "blocks_needed",
    "canonical_codes",
    "centroid_gradient",
    "channel_scales",
    "cheapest_cut",
    "codebook_bytes",
    "dead_bias",
    "dense_weights",
    "distillation_loss",
    "energy_rank",
    "exercise",
    "expect",
    "factor_linear",
    "fewest_multipliers",
    "fifo_occupancy",
    "fold_convolution",
    "from_gaps",
    "gap_fields",
    "grade",
    "grouped_macs",
    "grouped_shape",
    "integer_threshold",
    "interaction",
    "joint_matrix",
    "kmeans_step",
    "largest_saving_rank",
    "latent_step",
    "layer_bytes",
    "masked_step",
    "merged_classifier",
    "one_convolution",
    "padded_convolution",
    "pair_subgradient",
    "pixels_needed",
    "quotient_follows",
    "rank_masks",
    "ratio_mask",
    "repaired_neuron",
    "report",
    "requantize_half_up",
    "rounding_shift",
    "saving_multiplier",
    "scaled_width",
    "separable_parameters",
    "shared_layer_bits",
    "shortest_time",
    "slim_pair",
    "soft_gradient",
    "split_geometry",
    "stale_parameters",
    "step_gradient",
    "stochastic_sign",
    "straight_through",
    "train_unfrozen",
    "training_weight",
    "widths_in_budget",
    "xnor_sum",
]


@dataclass(frozen=True)
class Feedback:
    """What a check found: `status`, and `message` with what is wrong and a hint."""

    exercise: str
    status: Literal["not attempted", "correct", "wrong"]
    message: str = ""

    @property
    def correct(self) -> bool:
        return self.status == "correct"

    def __repr__(self) -> str:
        text = {"not attempted": "not attempted yet", "correct": "correct", "wrong": "not yet"}
        return f"{self.exercise}: {text[self.status]}" + (
            f". {self.message}" if self.message else ""
        )


class Wrong(AssertionError):
    """Raised inside a check when the student's function gives a wrong answer."""


def expect(condition: bool, message: str) -> None:
    """Go on if `condition` holds, else end the check with `message` for the student."""
    if not condition:
        raise Wrong(message)


def exercise(
    check: Callable[[Callable[..., Any]], None],
) -> Callable[[Callable[..., Any]], Feedback]:
    """Turn a function that raises `Wrong` into a check that returns a `Feedback`.

    A stub that raises `NotImplementedError` reads as not attempted. Any other error of the
    student's function is reported as a wrong answer with the error's text.
    """

    @wraps(check)
    def run(function: Callable[..., Any]) -> Feedback:
        name = check.__name__
        if not callable(function):
            raise TypeError(f"check.{name} takes a function, got {type(function).__name__}")
        try:
            check(function)
        except NotImplementedError:
            return Feedback(name, "not attempted")
        except Wrong as wrong:
            return Feedback(name, "wrong", str(wrong))
        except Exception as error:
            return Feedback(
                name, "wrong", f"your function stopped with {type(error).__name__}: {error}"
            )
        return Feedback(name, "correct")

    return run


# The checks themselves; they import the names above, so they come last.
from helpers.checks.architecture import (  # noqa: E402
    grouped_shape,
    merged_classifier,
    one_convolution,
    saving_multiplier,
    scaled_width,
)
from helpers.checks.binaryconnect import (  # noqa: E402
    integer_threshold,
    latent_step,
    stochastic_sign,
    xnor_sum,
)
from helpers.checks.cost import (  # noqa: E402
    grouped_macs,
    layer_bytes,
    separable_parameters,
    shortest_time,
)
from helpers.checks.distillation import (  # noqa: E402
    best_bias,
    distillation_loss,
    soft_gradient,
    train_unfrozen,
)
from helpers.checks.edge_recipe import (  # noqa: E402
    background_labels,
    cheapest_cut,
    dense_weights,
    quotient_follows,
)
from helpers.checks.fpga_datapath import (  # noqa: E402
    accumulator_width,
    padded_convolution,
    repaired_neuron,
    requantize_half_up,
)
from helpers.checks.fpga_pipeline import (  # noqa: E402
    blocks_needed,
    fewest_multipliers,
    fifo_occupancy,
    pixels_needed,
)
from helpers.checks.grading import grade, report  # noqa: E402
from helpers.checks.low_rank import (  # noqa: E402
    energy_rank,
    factor_linear,
    joint_matrix,
    largest_saving_rank,
    split_geometry,
)
from helpers.checks.pruning import (  # noqa: E402
    from_gaps,
    gap_fields,
    masked_step,
    pair_subgradient,
    ratio_mask,
)
from helpers.checks.qat import (  # noqa: E402
    bits_for_claim,
    step_gradient,
    straight_through,
    training_weight,
    widths_in_budget,
)
from helpers.checks.quantization import (  # noqa: E402
    affine_parameters,
    channel_scales,
    fold_convolution,
    rounding_shift,
)
from helpers.checks.scoreboard import (  # noqa: E402
    best_under,
    codebook_bytes,
    interaction,
)
from helpers.checks.slimming import (  # noqa: E402
    dead_bias,
    rank_masks,
    slim_pair,
    stale_parameters,
)
from helpers.checks.weight_sharing import (  # noqa: E402
    canonical_codes,
    centroid_gradient,
    kmeans_step,
    shared_layer_bits,
)
