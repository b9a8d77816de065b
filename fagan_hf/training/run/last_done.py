"""When things of a run were last done, counted in images."""


class LastDone:
    """Remembers after how many images each thing was last done."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def note(self, what: str, images_seen: int) -> None:
        """Remember that it was done now."""
        self._at[what] = images_seen

    def is_current(self, what: str, images_seen: int) -> bool:
        """Return whether it was done after just as many images: doing it again would give the same."""
        return self._at.get(what) == images_seen

    def forget(self, *what: str) -> None:
        """Let them count as not done: weights are others now."""
        for each in what:
            self._at.pop(each, None)
