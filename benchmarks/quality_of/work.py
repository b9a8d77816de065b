"""Equal work: how many images an arm trains for, from its speed relative to the flagship's.

A minute differs between machines and between days by a factor of two; the ratio of two speeds that are measured in
turns hardly differs. So the flagship trains for a fixed number of images, and every other arm for as many as it manages
in the time that the flagship would take.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fagan_hf.training.choices import trial_session
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.run.loop import take_step

ROUNDS, CYCLES = 5, 4
TOLERATED = 0.1
"""Largest relative error of a ratio, as half the distance of its quartiles."""
_FEWEST_STEPS = 20
_WARMUP_CYCLES = 1


@dataclass(frozen=True)
class Speed:
    """Speed of an arm relative to the reference.

    Attributes:
        ratio: Images per second of the arm divided by those of the reference, the median over rounds.
        error: Half the distance between the quartiles of the ratio over rounds, relative to it.
        steps: Number of steps of the arm that were timed.
        images_per_second: Of the arm while it was measured, for the reader; nothing is computed from it.
    """

    ratio: float
    error: float
    steps: int
    images_per_second: float


def relative_speeds(
    recipes: Mapping[str, Recipe], reference: str, *, rounds: int = ROUNDS, cycles: int = CYCLES
) -> dict[str, Speed]:
    """Measure the speed of every arm against the reference, in turns, with real steps that are thrown away.

    Seconds are those of the processor, of this process alone: they exclude the times at which another program ran. A
    cycle has as many steps as lie between two penalties, so every cycle costs the same.

    Args:
        recipes: Recipe of each arm, with one thread.
        reference: The arm whose speed is 1.
        rounds: Number of turns, in each of which every arm is timed between two timings of the reference.
        cycles: Number of cycles that are timed in each turn; their median counts.

    Raises:
        ValueError: Too few steps are timed, or a ratio varies too much between rounds; says what to do.
    """
    steps = {name: rounds * cycles * recipe.penalty_every_steps for name, recipe in recipes.items()}
    if too_few := {name: count for name, count in steps.items() if count < _FEWEST_STEPS}:
        raise ValueError(
            f"the speed of {', '.join(too_few)} can't be measured with {min(too_few.values())} steps; at least "
            f"{_FEWEST_STEPS} are needed: raise rounds or cycles"
        )
    others = [name for name in recipes if name != reference]
    ratios: dict[str, list[float]] = {name: [] for name in others}
    seen: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(rounds):
        before = _images_per_second(recipes[reference], cycles)
        for name in others:
            own, after = (_images_per_second(recipes[each], cycles) for each in (name, reference))
            ratios[name].append(2 * own / (before + after))
            seen[name].append(own)
            before = after
        seen[reference].append(before)
    return {
        name: _speed(name, ratios.get(name, [1.0] * rounds), statistics.median(seen[name]), steps[name])
        for name in recipes
    }


def images_of(speed: Speed, reference_images: int, batch_size: int) -> int:
    """Return the number of images that an arm trains for, in whole batches."""
    return round(reference_images * speed.ratio / batch_size) * batch_size


def _speed(name: str, ratios: Sequence[float], images_per_second: float, steps: int) -> Speed:
    # Twice each, because quartiles need two numbers.
    low, ratio, high = statistics.quantiles([*ratios, *ratios], n=4, method="inclusive")
    error = (high - low) / 2 / ratio
    if error > TOLERATED:
        raise ValueError(
            f"the speed of {name} can't be measured: its ratio to the flagship's varies by {error:.0%} between rounds, "
            f"more than {TOLERATED:.0%}; raise rounds, or stop what else runs on the machine"
        )
    return Speed(round(ratio, 4), round(error, 4), steps, round(images_per_second, 2))


def _images_per_second(recipe: Recipe, cycles: int) -> float:
    """Measure an arm once, by the median of its cycles."""
    seconds = []
    with trial_session(recipe) as session:
        for cycle in range(_WARMUP_CYCLES + cycles):
            started = time.process_time()
            for _ in range(recipe.penalty_every_steps):
                take_step(session)
            if cycle >= _WARMUP_CYCLES:
                seconds.append(time.process_time() - started)
    return recipe.penalty_every_steps * recipe.batch_size / statistics.median(seconds)
