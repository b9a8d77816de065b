"""Health of a run: skipped steps, and symptoms in its metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SKIPPED_IN_A_ROW = 10  # after this many the run has diverged and is rolled back
MAX_ROLLBACKS = 3
LR_BACKOFF = 0.5  # factor on the learning rates at every rollback
PATIENCE_LINES = 5  # consecutive lines with the metric that must show a symptom before it is reported

COLLAPSED = 0.05  # fraction of the variance of real pixels
ALIKE = 0.25  # fraction of the diversity of real images; of drawn portraits' 0.9 after a few thousand images
CERTAIN = 0.999  # accuracy of the discriminator
GUESSING = 0.6  # mean accuracy of the discriminator; 0.5 is chance
DIVERSITY = "sample_diversity"  # only in lines after a grid
SIMILAR = "similar samples"
_SIMILAR_SAMPLES = (
    f"most samples look alike (mode collapse): they differ less than {ALIKE:.0%} as much as real images do, see "
    "samples.png. Try r1_gamma and r2_gamma, augmentation, or a smaller generator_learning_rate"
)
LARGEST_GATE = 3.0
LARGEST_SIGMA = 1000.0


class DivergedError(RuntimeError):
    """Training has diverged, and rolling back has not helped."""


class SkippedSteps:
    """Counts skipped steps on the device.

    A step that was skipped because its gradient overflowed in float16 is counted apart: its loss scale has been
    reduced, so it says nothing about the run.

    Args:
        device: Device of the training step.
        has_loss_scales: Whether there may be overflows.

    Attributes:
        names: What is counted: metrics of a step.
        counts: Current streak of skipped steps; then since the last line: the longest streak, and for each name the
            number of steps.
    """

    def __init__(self, device: torch.device, *, has_loss_scales: bool = False):
        kinds = ("skipped", "overflowed") if has_loss_scales else ("skipped",)
        self.names = [f"{player}_{kind}" for kind in kinds for player in ("discriminator", "generator")]
        self.counts = torch.zeros(2 + len(self.names), device=device)

    def add(self, *happened: Tensor) -> None:
        """Count one step of both players, given as 1 or 0 for each name."""
        was_skipped = torch.maximum(*happened[:2])
        in_a_row = (self.counts[0] + 1) * was_skipped
        longest = torch.maximum(self.counts[1], in_a_row)
        self.counts = torch.cat([torch.stack([in_a_row, longest]), self.counts[2:] + torch.stack(happened)])

    def read(self) -> tuple[dict[str, int], bool]:
        """Return the skipped steps since the last line and whether the run has diverged; then reset the counts."""
        in_a_row, longest, *steps = self.counts.tolist()
        self.counts = torch.zeros_like(self.counts)
        self.counts[:2] = in_a_row
        counted = {f"{name}_steps": int(number) for name, number in zip(self.names, steps, strict=True)}
        return counted, longest >= SKIPPED_IN_A_ROW

    def restore(self, counts: Tensor | None) -> None:
        """Restore the counts of a checkpoint, which may be that of another precision or an older version."""
        self.counts = torch.zeros_like(self.counts)
        if counts is not None:
            common = min(len(counts), len(self.counts))
            self.counts[:common] = counts[:common].to(self.counts.device)

    def begin_again(self) -> None:
        """Reset the streaks but not the counts: the run is back at a healthy checkpoint."""
        self.counts = self.counts.clone()
        self.counts[:2] = 0.0

    @property
    def is_skipping(self) -> bool:
        """Return whether the last step was skipped, in which case no checkpoint should be saved now."""
        return self.counts[0].item() > 0


def symptoms_of(line: Mapping[str, Any]) -> dict[str, str]:
    """Look for common failure modes of GANs.

    Args:
        line: A line of `metrics.jsonl`.

    Returns:
        A description of each symptom, by its name.
    """
    found = {}
    real, fake = line.get("real_variance"), line.get("fake_variance")
    if real is not None and fake is not None and fake < COLLAPSED * real:
        found["collapse"] = (
            f"the generated images hardly differ from each other (mode collapse): their pixel variance is {fake:.2g}, "
            f"that of real images {real:.2g}. Try a smaller learning rate, r1_gamma, or augmentation"
        )
    if line.get(DIVERSITY, 1.0) < ALIKE:
        found[SIMILAR] = _SIMILAR_SAMPLES
    if min(line.get("real_accuracy", 0.0), line.get("fake_accuracy", 0.0)) >= CERTAIN:
        found["certainty"] = (
            "the discriminator classifies every image correctly, so the generator learns little from it. Try "
            "r1_gamma, augmentation, or a smaller discriminator_learning_rate"
        )
    accuracies = [line[name] for name in ("real_accuracy", "fake_accuracy") if name in line]
    if len(accuracies) == 2 and sum(accuracies) / 2 < GUESSING:
        found["guessing"] = (
            f"the discriminator hardly tells real from generated images (accuracies {accuracies[0]:.2f} and "
            f"{accuracies[1]:.2f}), so the generator learns little from it. Unless samples.png is good already, try a "
            "smaller r1_gamma and r2_gamma, or less augmentation"
        )
    for name, value in line.items():
        if name.endswith((".alpha", ".gamma")) and abs(value) > LARGEST_GATE:
            found[name] = f"the gate {name} is {value:.3g}, far outside 0 (no attention) to 1 (attention only)"
        if name.endswith(".largest_sigma") and value > LARGEST_SIGMA:
            player = name.removesuffix(".largest_sigma")
            found[name] = (
                f"the largest singular value of the {player}'s weights is {value:.3g}: the weights keep growing, and "
                "since they are divided by it, learning slows down. Try a smaller learning rate"
            )
    return found


def diagnose(line: Mapping[str, Any], held: Mapping[str, int]) -> tuple[dict[str, int], list[str], list[str]]:
    """Distinguish persistent symptoms from momentary ones.

    Args:
        line: The newest line of `metrics.jsonl`.
        held: For how many consecutive lines each symptom had been present before it.

    Returns:
        The updated `held`; the warnings that currently apply; and messages about warnings that began or were resolved
        with this line.
    """
    found = symptoms_of(line)
    now = {name: held.get(name, 0) + 1 for name in found}
    if SIMILAR in held and DIVERSITY not in line:  # no grid since the last line, so nothing new is known
        found[SIMILAR] = _SIMILAR_SAMPLES
        now[SIMILAR] = held[SIMILAR]
    warnings = [found[name] for name, lines in now.items() if lines >= PATIENCE_LINES]
    begun = [name for name, lines in now.items() if lines == PATIENCE_LINES > held.get(name, 0)]
    news = [f"Warning: {found[name]}." for name in begun]
    news += [f"Resolved: {name}." for name, lines in held.items() if lines >= PATIENCE_LINES and name not in found]
    return now, warnings, news


def describe_loss(line: Mapping[str, Any]) -> str:
    """Describe why a run has diverged, from its newest line."""
    skipped = {player: line[f"{player}_skipped_steps"] for player in ("discriminator", "generator")}
    counts = ", ".join(f"{player} {steps}" for player, steps in skipped.items())
    return (
        f"losses or gradients were not finite for {SKIPPED_IN_A_ROW} consecutive steps, at {line['images']:,} images "
        f"(steps skipped since the previous line: {counts})"
    )


def report_failure(line: Mapping[str, Any], returns: int, run_dir: Path) -> str:
    """Return the message for a run that has diverged for good: its last metrics and what to try.

    Args:
        line: The newest line of metrics.
        returns: Number of rollbacks.
        run_dir: The run folder, whose newest checkpoint predates the divergence.
    """
    numbers = "\n".join(f"  {name}: {value}" for name, value in line.items() if name not in ("events", "warnings"))
    return (
        f"Training has diverged: {describe_loss(line)}, after {returns} rollbacks to a checkpoint, with learning rates "
        f"down to {LR_BACKOFF**returns:g} times the recipe's.\nLast metrics:\n{numbers}\n"
        f"The model and the checkpoints in {run_dir} are from before the divergence. Try smaller learning rates, "
        "max_gradient_norm, warmup_images, r1_gamma, or float32 instead of bf16, under another --name; "
        f"--finetune_from {run_dir} starts from the last good model"
    )
