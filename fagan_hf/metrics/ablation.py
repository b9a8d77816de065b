"""What each gate is worth: metrics of a generator with its gates closed, one at a time or all but one."""

from collections.abc import Generator as Yielding
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from fagan_hf.data.cache import Images
from fagan_hf.layers import gates, override_alpha
from fagan_hf.metrics.evaluate import Metric, evaluate_each
from fagan_hf.models import Generator

_COLUMNS = ("fd", "kid", "precision", "recall", "coverage")


@dataclass(frozen=True)
class Ablation:
    """Metrics of one generator with different gates, all of the same seeds and against the same real images.

    Attributes:
        values: The trained gates, by name.
        trained: With the trained gates.
        closed: With all gates at 0.
        without: Necessity: with one gate at 0, by its name.
        alone: Sufficiency: with all gates but one at 0, by its name; empty if not asked for.
    """

    values: Mapping[str, float]
    trained: Sequence[Metric]
    closed: Sequence[Metric]
    without: Mapping[str, Sequence[Metric]]
    alone: Mapping[str, Sequence[Metric]]

    def table(self) -> str:
        """Format all results for a terminal, a line for each setting of the gates."""
        shown = [index for index, each in enumerate(self.trained) if each.kind in _COLUMNS]
        rows = [("trained", "", self.trained)]
        rows += [(f"without {name}", f"{self.values[name]:+.3f}", found) for name, found in self.without.items()]
        rows += [(f"{name} alone", f"{self.values[name]:+.3f}", found) for name, found in self.alone.items()]
        rows += [("all at 0", "", self.closed)]
        heads = [f"{self.trained[index].kind} {self.trained[index].arrow}" for index in shown]
        width = max(len(name) for name, *_ in rows)
        lines = [f"{'gates':<{width}}{'gate':>9}" + "".join(f"{head:>13}" for head in heads)]
        for name, value, metrics in rows:
            numbers = "".join(f"{metrics[index].value:>13.4g}" for index in shown)
            lines.append(f"{name:<{width}}{value:>9}{numbers}")
        first = self.trained[0]
        lines += ["", f"{first.name} is {first.type}, of the same seeds in every line."]
        return "\n".join(lines)


def ablate(
    generator: Generator, images: Images, *, alone: bool = False, progress: bool = True, **options: Any
) -> Ablation:
    """Evaluate a generator with its trained gates, with each of them closed, and with all of them closed.

    Nothing is trained again, and batch norms, if there are any, keep the statistics of the trained gates: so this says
    what this model's layers rely on, not what an architecture without that gate could have learned.

    Args:
        generator: In any mode; its gates are overridden, not modified.
        images: Real images, see `fagan_hf.metrics.evaluate.evaluate`. They are looked at once.
        alone: Whether each gate is also measured with all the others closed.
        progress: Whether to show a progress bar.
        **options: ``features``, ``num_images``, ``batch_size`` and ``cache_dir`` of `evaluate`.

    Raises:
        ValueError: The generator has no gates; the images don't match it, see `evaluate`; or a setting makes pixels
            that are not finite.
        ImportError: The features need a package; says which.
        OSError: The features' weights can't be downloaded; suggests an alternative.
    """
    trained = {name: gate.item() for name, gate in gates(generator).items()}
    if not trained:
        raise ValueError(f"the {type(generator).__name__} has no attention layer, so there is no gate to close")
    settings = [{}, dict.fromkeys(trained, 0.0), *({name: 0.0} for name in trained)]
    if alone:
        settings += [{other: 0.0 for other in trained if other != name} for name in trained]

    def turned() -> Yielding[Generator]:
        for setting in tqdm(settings, desc="Gates", disable=not progress):
            with override_alpha(generator, setting):
                yield generator

    with closing(turned()) as generators:  # an error must not leave a gate closed
        found = [each.metrics() for each in evaluate_each(generators, images, progress=False, **options)]
    whole, closed, *others = found
    without, by_itself = others[: len(trained)], others[len(trained) :]
    return Ablation(
        trained, whole, closed, dict(zip(trained, without, strict=True)), dict(zip(trained, by_itself, strict=False))
    )
