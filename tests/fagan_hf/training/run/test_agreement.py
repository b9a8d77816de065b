"""When processes ask each other whether to stop; with real processes in tests/distributed."""

from types import SimpleNamespace

import pytest

from fagan_hf.training.run.agreement import AGREEMENT_SECONDS, Agreement, Verdict


@pytest.fixture
def session():
    """A session of a single process, at its start."""
    return make_session()


def make_session(count=1, others=(0.0, 0.0), is_main=True, pace=0.0):
    """A session whose other processes answer that as many were asked to stop, or are late, and with this pace."""
    asked = []

    def sums(numbers):
        asked.append(numbers)
        return [mine + theirs for mine, theirs in zip(numbers, (*others, pace), strict=True)]

    return SimpleNamespace(
        recipe=SimpleNamespace(max_minutes=2, batch_size=4),
        processes=SimpleNamespace(count=count, sums=sums),
        stop_request=SimpleNamespace(is_made=False),
        is_main=is_main,
        images_seen=0,
        seconds=0.0,
        asked=asked,
    )


def take_steps(session, agreement, count, seconds):
    """Take steps of the given durations [seconds]; return the verdict after each."""
    verdicts = []
    for _ in range(count):
        session.images_seen += session.recipe.batch_size
        session.seconds += seconds
        verdicts.append(agreement.ask())
    return verdicts


def test_one_process_hears_of_a_stop_at_once_and_asks_nobody(session):
    agreement = Agreement(session)
    assert agreement.ask() == Verdict(is_stopped=False, is_late=False)
    session.stop_request.is_made = True
    assert agreement.ask() == Verdict(is_stopped=True, is_late=False)
    assert session.asked == []


def test_one_process_is_late_when_its_minutes_are_over(session):
    agreement = Agreement(session)
    session.seconds = 119.9
    assert not agreement.ask().is_late
    session.seconds = 120.0
    assert agreement.ask() == Verdict(is_stopped=False, is_late=True)
    session.recipe.max_minutes = None
    assert not agreement.ask().is_late


@pytest.mark.parametrize("others", [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_what_any_other_process_has_heard_counts(others):
    session = make_session(count=4, others=others)
    assert Agreement(session).ask() == Verdict(others[0] > 0, others[1] > 0)


def test_processes_ask_each_other_twice_a_second():
    session = make_session(count=2)
    agreement = Agreement(session)
    agreement.ask()
    take_steps(session, agreement, 1000, seconds=0.01)
    # A step of 0.01 seconds: the first question finds the pace, then there is one in 50 steps.
    assert len(session.asked) == pytest.approx(1000 * 0.01 / AGREEMENT_SECONDS, abs=2)


def test_slow_steps_are_asked_after_one_by_one():
    session = make_session(count=2)
    agreement = Agreement(session)
    take_steps(session, agreement, 10, seconds=3.0)
    assert len(session.asked) == 10


def test_a_stop_waits_for_the_next_question_and_reaches_it():
    session = make_session(count=2)
    agreement = Agreement(session)
    take_steps(session, agreement, 2, seconds=0.01)
    session.stop_request.is_made = True
    verdicts = take_steps(session, agreement, 60, seconds=0.01)
    first = next(index for index, verdict in enumerate(verdicts) if verdict.is_stopped)
    assert first > 0, "between two questions nothing is known"
    assert verdicts[:first] == [Verdict(False, False)] * first


def test_all_ask_at_the_same_steps_whatever_their_clocks_say():
    """The main process's pace decides, otherwise they would wait for each other at different steps."""
    steps = []
    for is_main, own_seconds in ((True, 0.01), (False, 0.3)):
        session = make_session(count=2, is_main=is_main, pace=0.0 if is_main else 100.0)
        agreement = Agreement(session)
        at = []
        for step in range(200):
            before = len(session.asked)
            take_steps(session, agreement, 1, own_seconds)
            at += [step] * (len(session.asked) - before)
        steps.append(at)
    assert steps[0] == steps[1]
    assert 3 <= len(steps[0]) <= 6


def test_the_pace_is_that_since_the_last_question():
    """Steps are slow at first, as during compilation."""
    session = make_session(count=2)
    agreement = Agreement(session)
    take_steps(session, agreement, 10, seconds=3.0)
    before = len(session.asked)
    take_steps(session, agreement, 200, seconds=0.01)
    assert len(session.asked) - before <= 6
