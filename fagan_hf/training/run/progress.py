"""Progress of a run: everything in a checkpoint besides tensors."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fagan_hf.training.recipe import Precision
from fagan_hf.training.step.precision import NAMES
from fagan_hf.utils.version import __version__

_KEYS = {"metrics": "told"}  # fields stored under another key, for compatibility with existing checkpoints
FORMAT = 2
"""Format of a checkpoint. Format 1, the project's first, had only networks, optimizers, images and seconds."""


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        images_seen: Real images seen in training steps.
        seconds: Training time over all sessions.
        lines: Number of lines in `metrics.jsonl`; ``None`` if an older checkpoint has not recorded it.
        logged_images: Images seen at the last line.
        logged_seconds: Seconds at the last line.
        metrics: Names of the metrics accumulated since the last line.
        measured: Metrics for the next line from evaluations and grids.
        events: Messages for the next line of metrics.
        symptoms: For how many consecutive lines each symptom has been present, see
            `fagan_hf.training.reporting.health`.
        copies: Near copies of training images at the newest evaluation, see `fagan_hf.training.reporting.copies`.
        returns: Number of rollbacks after losses or gradients that were not finite.
        processes: Number of processes that the batch was split over.
        precision: What the layers computed in; ``None`` if an older checkpoint has not recorded it.
        data: ``content`` (a hash of pixels and labels) and ``description`` of the images.
        lineage: Models that the weights come from, hardware so far, see `fagan_hf.training.run.origin`.
    """

    images_seen: int = 0
    seconds: float = 0.0
    lines: int | None = 0
    logged_images: int = 0
    logged_seconds: float = 0.0
    metrics: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    symptoms: dict[str, int] = field(default_factory=dict)
    copies: dict[str, Any] = field(default_factory=dict)
    returns: int = 0
    processes: int = 1
    precision: Precision | None = None
    data: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)

    def to_state(self) -> dict[str, Any]:
        """Return the progress as JSON-serializable values, with format and package version."""
        fields = {_KEYS.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        return {"format": FORMAT, "version": __version__, **fields}

    def facts(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Return the training facts for a card.

        Args:
            environment: Hardware, versions and command of this session. Sessions may run on different machines: the
                wall time is that of all of them, so all are listed.
        """
        hardware = self.lineage.setdefault("hardware", [])
        if environment["hardware"] not in hardware:
            hardware.append(environment["hardware"])
        origins = {name: self.lineage[name] for name in ("finetuned_from", "resumed_from") if name in self.lineage}
        training = {"images_seen": self.images_seen, "seconds": round(self.seconds, 1), **environment, **origins}
        if self.precision not in (None, "no"):
            training["precision"] = NAMES[self.precision]
        return {
            "training": training | {"hardware": ", then ".join(hardware)},
            "earlier_data": self.lineage.get("earlier_data", []),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Read what `to_state` returned, in this version of the project or an older one.

        Raises:
            ValueError: A newer version wrote it, in a format that this version can't read.
        """
        written_in, version = state.get("format", 1), state.get("version", "an unknown version")
        if written_in > FORMAT:
            raise ValueError(
                f"the checkpoint was written by fagan_hf {version} in format {written_in}, but fagan_hf {__version__} "
                f"reads formats up to {FORMAT} only. Resume with fagan_hf {version} or newer"
            )
        names = {_KEYS.get(each.name, each.name): each.name for each in dataclasses.fields(cls)}
        known = {names[key]: value for key, value in state.items() if key in names}
        if written_in < 2:
            known |= {"lines": None, "logged_images": known["images_seen"], "logged_seconds": known["seconds"]}
        return cls(**known)
