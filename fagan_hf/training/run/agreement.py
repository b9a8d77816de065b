"""Agree in all processes on whether to stop: on request, or at the time limit."""

from typing import NamedTuple

from fagan_hf.training.run.session import Session

AGREEMENT_SECONDS = 0.5  # interval at which several processes consult each other


class Verdict(NamedTuple):
    """What all processes have agreed on.

    Attributes:
        is_stopped: Whether any of them was asked to stop.
        is_late: Whether any of them has reached the time limit.
    """

    is_stopped: bool
    is_late: bool


class Agreement:
    """Makes all processes learn of a stop request or the time limit at the same step.

    Clocks differ and signals arrive at different moments. Each agreement synchronizes with the device, so several
    processes agree only about twice a second, by the main process's clock.

    Args:
        session: Session of this process.
    """

    def __init__(self, session: Session):
        self.session = session
        self._asked_at = (0, 0.0)  # images and seconds
        self._steps_to_go = 0

    def ask(self) -> Verdict:
        """Return what all processes agree on; between two agreements, that there is no reason to stop."""
        session, minutes = self.session, self.session.recipe.max_minutes
        here = session.stop_request.is_made, minutes is not None and session.seconds >= 60 * minutes
        if session.processes.count == 1:
            return Verdict(*here)
        self._steps_to_go -= 1
        if self._steps_to_go > 0:
            return Verdict(False, False)
        images, seconds = session.images_seen - self._asked_at[0], session.seconds - self._asked_at[1]
        pace = images / session.recipe.batch_size / max(seconds, 1e-3) if session.is_main else 0.0
        stops, lates, steps_per_second = session.processes.sums([*map(float, here), pace])
        self._asked_at = session.images_seen, session.seconds
        self._steps_to_go = max(1, round(AGREEMENT_SECONDS * steps_per_second))
        return Verdict(stops > 0, lates > 0)
