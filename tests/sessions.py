"""Runs of a test, from a recipe to their end."""

from fagan_hf.training.run import loop
from fagan_hf.training.run.session import Session, setup


def train(recipe) -> Session:
    """Train from a recipe; give what the run was made of."""
    session = setup(recipe)
    loop.train(session)
    return session


def after_step(monkeypatch, session, do):
    """Do something after every step of a session, and of no other one."""
    take_step = loop.take_step

    def take_step_and_do(each):
        take_step(each)
        if each is session:
            do()

    monkeypatch.setattr(loop, "take_step", take_step_and_do)
