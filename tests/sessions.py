"""Training sessions in tests."""

from collections.abc import Iterator
from contextlib import contextmanager

from fagan_hf.training.run import loop
from fagan_hf.training.run.session import Session, setup


def train(recipe) -> Session:
    """Train from a recipe; return the run's parts."""
    session = setup(recipe)
    loop.train(session)
    return session


def after_step(monkeypatch, session, do):
    """Call a function after every step of this session only."""
    take_step = loop.take_step

    def take_step_and_do(each):
        take_step(each)
        if each is session:
            do()

    monkeypatch.setattr(loop, "take_step", take_step_and_do)


@contextmanager
def stopped_after_a_step(monkeypatch) -> Iterator[None]:
    """Have every run that is trained in this context stop after its next step, as by a signal."""
    take_step = loop.take_step

    def take_step_and_stop(session):
        take_step(session)
        session.stop_request.is_made = True

    with monkeypatch.context() as patched:
        patched.setattr(loop, "take_step", take_step_and_stop)
        yield
