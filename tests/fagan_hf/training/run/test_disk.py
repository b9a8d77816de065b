"""Handling of a full disk; a really full one is in test_faults.py."""

import errno

import pytest

from fagan_hf.training.run import disk
from fagan_hf.training.run.disk import when_there_is_room


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(disk.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(disk.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def full(number=errno.ENOSPC):
    return OSError(number, "No space left on device")


def write_after(failures):
    """Make a writer with a given outcome for each attempt."""
    outcomes = iter(failures)

    def write():
        error = next(outcomes, None)
        if error is not None:
            raise error
        return "written"

    return write


def wait(write, folder, told, is_stopped=lambda: False):
    return when_there_is_room(write, folder, tell=told.append, is_stopped=is_stopped)


def test_room_is_no_news(tmp_path, clock):
    told = []
    assert wait(write_after([]), tmp_path, told) == "written"
    assert told == []
    assert clock.now == 1000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_it_waits_for_room_and_says_so_once(tmp_path, clock, number):
    told = []
    assert wait(write_after([full(number)] * 3), tmp_path, told) == "written"
    [text] = told
    assert str(tmp_path) in text
    assert "is full" in text
    assert "MB free" in text
    assert "Existing checkpoints are kept; waiting 10 minutes" in text
    assert clock.now == 1000 + 3 * disk.PAUSE_SECONDS


def test_its_patience_ends(tmp_path, clock):
    with pytest.raises(OSError, match="No space left") as caught:
        wait(write_after([full()] * 10**6), tmp_path, [])
    assert caught.value.errno == errno.ENOSPC
    assert 1000 + disk.PATIENCE_SECONDS <= clock.now <= 1000 + disk.PATIENCE_SECONDS + disk.PAUSE_SECONDS


def test_who_asks_it_to_end_does_not_wait(tmp_path, clock):
    with pytest.raises(OSError, match="No space left"):
        wait(write_after([full()] * 10**6), tmp_path, [], lambda: clock.now > 1012)
    assert clock.now == 1015


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EIO, "no"), ValueError("no")])
def test_other_errors_are_not_waited_for(tmp_path, clock, error):
    with pytest.raises(type(error), match="no"):
        wait(write_after([error]), tmp_path, [])
    assert clock.now == 1000


def test_a_folder_that_could_not_even_be_made_is_waited_for(tmp_path, clock):
    told = []
    assert wait(write_after([full()]), tmp_path / "not" / "there", told) == "written"
    assert len(told) == 1
