"""Stop requests through launchers: the step is finished and saved; a second request stops at once."""

import os
import signal
import time

import pytest

from tests.distributed.conftest import ACCELERATE, TORCHRUN

# The first step of a session lasts until it is released.
HELD = """
def hold(session, held=[]):
    if not held:
        held.append(1)
        (HERE / f"in-step-{RANK}").write_text(str(os.getpid()))
        wait_for("go")
    time.sleep(0.05)
before_step(hold)
"""
# The main process is in the middle of a step, and the other one is waiting for it inside of torch.
STUCK = """
def get_stuck(session):
    (HERE / f"in-step-{RANK}").touch()
    if RANK == 0:
        wait_for("never")
before_step(get_stuck)
"""
LAUNCHERS = {"accelerate": [*ACCELERATE, "--num_processes", 2], "torchrun": TORCHRUN}


def newest(place):
    folders = sorted((place.folder / "runs/try/checkpoints").glob("images-*"))
    return int(folders[-1].name.removeprefix("images-"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_is_asked_to_end(place, launcher):
    """SIGTERM to the launcher only; the processes save and exit, and so does the launcher."""
    script, flags = place.script(HELD), place.arguments(max_images=10**6, checkpoint_every_images=10**6)
    command = place.start([*LAUNCHERS[launcher], script, *flags])
    place.wait_for("in-step-0", "in-step-1")
    command.send(signal.SIGTERM)
    time.sleep(0.3)
    (place.folder / "go").touch()
    command.wait(30)
    assert command.said.count("Stop requested; checkpoint saved. Run the same command to resume.") == 1
    assert "Traceback" not in command.said.partition("Stop requested")[0]
    assert newest(place) > 0
    if launcher == "torchrun":
        return
    # Resume; now only one process gets the signal, as from a scheduler that stops one machine.
    saved = newest(place)
    for rank in range(2):
        (place.folder / f"in-step-{rank}").unlink()
    again = place.start([*LAUNCHERS[launcher], script, *flags])
    place.wait_for("in-step-0", "in-step-1")
    time.sleep(0.2)
    os.kill(int((place.folder / "in-step-1").read_text()), signal.SIGTERM)
    assert again.wait(30) == 0, again.said
    assert f"Resuming at {saved} images." in again.said
    assert again.said.count("Stop requested; checkpoint saved") == 1
    assert newest(place) > saved


def test_whoever_asks_twice_does_not_wait(place):
    """As with Ctrl-C, which reaches the launcher and the processes; one of these is waiting inside of torch."""
    script, flags = place.script(STUCK), place.arguments()
    command = place.start([*TORCHRUN, script, *flags])
    place.wait_for("in-step-0", "in-step-1")
    time.sleep(0.5)
    command.send_all(signal.SIGINT)
    time.sleep(1.5)
    assert command.members(), "the first one ends nothing at once"
    command.send_all(signal.SIGINT)
    asked = time.monotonic()
    assert command.wait(20) != 0
    assert time.monotonic() - asked < 15, "a launcher that waited in vain would have killed them after 30 seconds"
    assert newest(place) == 0
