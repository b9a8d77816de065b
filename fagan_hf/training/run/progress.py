"""How far a run is: all that a checkpoint holds besides tensors."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fagan_hf.utils.version import __version__

FORMAT = 2
"""Of a checkpoint. 1, of the project's first state, had networks, optimizers, images and seconds only."""


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        images_seen: Real images that went through steps.
        seconds: Of training, over all sessions.
        lines: How many `metrics.jsonl` has; ``None`` where an older checkpoint does not say.
        logged_images: Images seen at the last line.
        logged_seconds: Seconds at the last line.
        told: Names of the numbers that have been summed up since the last line.
        events: What the next line shall tell besides numbers.
        symptoms: For how many lines in a row each symptom has held, see `fagan_hf.training.reporting.health`.
        returns: How often the run has gone back because numbers were not finite.
        processes: Over how many the batch was spread.
        data: ``content`` (a hash of pixels and labels) and ``description`` of the images.
        lineage: Models that the weights come from, hardware so far, see `fagan_hf.training.run.origin`.
    """

    images_seen: int = 0
    seconds: float = 0.0
    lines: int | None = 0
    logged_images: int = 0
    logged_seconds: float = 0.0
    told: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    symptoms: dict[str, int] = field(default_factory=dict)
    returns: int = 0
    processes: int = 1
    data: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)

    def to_state(self) -> dict[str, Any]:
        """Give it as JSON takes it, with the format and the version that wrote it."""
        return {"format": FORMAT, "version": __version__, **dataclasses.asdict(self)}

    def facts(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Give what a card says of the training.

        Args:
            environment: Hardware, versions and command of this session. A run's sessions may be on different machines:
                its wall time is that of all, so all are named.
        """
        hardware = self.lineage.setdefault("hardware", [])
        if environment["hardware"] not in hardware:
            hardware.append(environment["hardware"])
        origins = {name: self.lineage[name] for name in ("finetuned_from", "resumed_from") if name in self.lineage}
        training = {"images_seen": self.images_seen, "seconds": round(self.seconds, 1), **environment, **origins}
        return {
            "training": training | {"hardware": ", then ".join(hardware)},
            "earlier_data": self.lineage.get("earlier_data", []),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Read what `to_state` gave, in this version of the project or an older one.

        Raises:
            ValueError: A newer version wrote it, in a format that this one does not know.
        """
        written_in, version = state.get("format", 1), state.get("version", "an unknown version")
        if written_in > FORMAT:
            raise ValueError(
                f"the checkpoint was written by fagan_hf {version} in format {written_in}; fagan_hf {__version__} "
                f"reads formats up to {FORMAT}. Go on with that version, or a newer one"
            )
        names = {each.name for each in dataclasses.fields(cls)}
        known = {name: value for name, value in state.items() if name in names}
        if written_in < 2:
            known |= {"lines": None, "logged_images": known["images_seen"], "logged_seconds": known["seconds"]}
        return cls(**known)
