"""Is the run well? Steps that had to be skipped, and symptoms that the numbers of its lines show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SKIPPED_IN_A_ROW = 10  # then the run is lost, and goes back
MAX_ROLLBACKS = 3
LR_BACKOFF = 0.5  # by what learning rates are multiplied at every return
PATIENCE_LINES = 5  # a symptom is one when so many lines in a row show it

COLLAPSED = 0.05  # of the variance of real pixels
CERTAIN = 0.999  # of the discriminator's judgments
LARGEST_GATE = 3.0
LARGEST_SIGMA = 1000.0


class DivergedError(RuntimeError):
    """Training does not come right by going back any more."""


class SkippedSteps:
    """Counts the steps that were skipped, on the device.

    Args:
        device: Where steps tell whether they were.
    """

    def __init__(self, device: torch.device):
        # In a row until now; then since the last line: the longest row, the discriminator's steps, the generator's.
        self.counts = torch.zeros(4, device=device)

    def add(self, discriminator: Tensor, generator: Tensor) -> None:
        """Count a step of both, each given as 1 for skipped or 0."""
        in_a_row, longest, discriminators, generators = self.counts
        was_skipped = torch.maximum(discriminator, generator)
        in_a_row = (in_a_row + 1) * was_skipped
        self.counts = torch.stack(
            [in_a_row, torch.maximum(longest, in_a_row), discriminators + discriminator, generators + generator]
        )

    def read(self) -> tuple[dict[str, int], bool]:
        """Give how many were skipped since the last line, and whether the run is lost; then begin another line."""
        in_a_row, longest, discriminators, generators = self.counts.tolist()
        self.counts = torch.tensor([in_a_row, in_a_row, 0.0, 0.0], device=self.counts.device)
        skipped = {"discriminator_skipped_steps": int(discriminators), "generator_skipped_steps": int(generators)}
        return skipped, longest >= SKIPPED_IN_A_ROW

    def begin_again(self) -> None:
        """Forget the rows, not the counts: the run stands where it was well."""
        self.counts = self.counts * self.counts.new_tensor([0.0, 0.0, 1.0, 1.0])

    @property
    def is_skipping(self) -> bool:
        """Was the last step skipped? Then this is no moment to come back to."""
        return self.counts[0].item() > 0


def symptoms_of(line: Mapping[str, Any]) -> dict[str, str]:
    """Look for what goes wrong with GANs.

    Args:
        line: Of `metrics.jsonl`.

    Returns:
        A sentence for each symptom, by its name.
    """
    found = {}
    real, fake = line.get("real_variance"), line.get("fake_variance")
    if real is not None and fake is not None and fake < COLLAPSED * real:
        found["collapse"] = (
            f"the generated images hardly differ from each other: the variance of their pixels is {fake:.2g}, that of "
            f"real images {real:.2g}. Try a smaller learning rate, r1_gamma, or augmentation"
        )
    if min(line.get("real_accuracy", 0.0), line.get("fake_accuracy", 0.0)) >= CERTAIN:
        found["certainty"] = (
            "the discriminator is right about every image, so the generator learns little from it. Try r1_gamma, "
            "augmentation, or a smaller discriminator_learning_rate"
        )
    for name, value in line.items():
        if name.endswith((".alpha", ".gamma")) and abs(value) > LARGEST_GATE:
            found[name] = f"the gate {name} is {value:.3g}, far from what blends: 0 is no attention, 1 attention alone"
        if name.endswith(".largest_sigma") and value > LARGEST_SIGMA:
            player = name.removesuffix(".largest_sigma")
            found[name] = (
                f"the largest singular value of the {player}'s weights is {value:.3g}: they grow, and are divided by "
                "it, so learning slows down. Try a smaller learning rate"
            )
    return found


def diagnose(line: Mapping[str, Any], held: Mapping[str, int]) -> tuple[dict[str, int], list[str], list[str]]:
    """Tell symptoms from bad moments.

    Args:
        line: The newest of `metrics.jsonl`.
        held: For how many lines in a row each symptom had held before it.

    Returns:
        The same after it; warnings, as long as they hold; and what is new in this line, both ways.
    """
    found = symptoms_of(line)
    now = {name: held.get(name, 0) + 1 for name in found}
    warnings = [found[name] for name, lines in now.items() if lines >= PATIENCE_LINES]
    news = [f"Warning: {found[name]}." for name, lines in now.items() if lines == PATIENCE_LINES]
    news += [f"Over: {name}." for name, lines in held.items() if lines >= PATIENCE_LINES and name not in found]
    return now, warnings, news


def describe_loss(line: Mapping[str, Any]) -> str:
    """Say why a run is lost, from its newest line."""
    skipped = {player: line[f"{player}_skipped_steps"] for player in ("discriminator", "generator")}
    counts = " and ".join(f"{steps} of the {player}" for player, steps in skipped.items())
    return (
        f"losses or gradients of {SKIPPED_IN_A_ROW} steps in a row were not finite before {line['images']:,} images "
        f"(steps skipped since the line before: {counts})"
    )


def report_failure(line: Mapping[str, Any], returns: int, run_dir: Path) -> str:
    """Say that a run has ended for good, what its numbers were, and what to try.

    Args:
        line: The newest.
        returns: How often it went back.
        run_dir: Its folder, where the newest checkpoint is from before.
    """
    numbers = "\n".join(f"  {name}: {value}" for name, value in line.items() if name not in ("events", "warnings"))
    return (
        f"Training has diverged: {describe_loss(line)}, after {returns} returns to a checkpoint, with learning rates "
        f"down to {LR_BACKOFF**returns:g} times the recipe's.\nThe last line:\n{numbers}\n"
        f"The model and the checkpoints in {run_dir} are from before that. Try smaller learning rates, "
        "max_gradient_norm, warmup_images, r1_gamma, or float32 instead of bf16, under another --name; "
        f"--finetune_from {run_dir} starts from the model as it was"
    )
