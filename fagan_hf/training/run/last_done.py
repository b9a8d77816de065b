"""When actions of a run were last performed, counted in images."""


class LastDone:
    """Remembers after how many images each action was last performed."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def note(self, what: str, images_seen: int) -> None:
        """Record that an action was performed now."""
        self._at[what] = images_seen

    def is_current(self, what: str, images_seen: int) -> bool:
        """Return whether an action was last performed at this number of images: repeating it changes nothing."""
        return self._at.get(what) == images_seen

    def forget(self, *what: str) -> None:
        """Mark actions as not performed, because the weights have been replaced."""
        for each in what:
            self._at.pop(each, None)
