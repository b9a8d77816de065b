"""Two hosts, one of which fails: the other reports it, and can continue alone."""

import sys

from tests.distributed.conftest import ACCELERATE
from tests.distributed.hosts import ADDRESSES, INTERFACE

DIES_ON_HOST_2 = """
def note_and_wait(session):
    if session.images_seen == 28:
        (HERE / f"reached-{RANK}").touch()
        if RANK == 1:
            wait_for("never")
before_step(note_and_wait)
"""


def test_one_host_is_lost_and_the_other_goes_on(place, hosts):
    """Its launcher and its process are killed at once, as by a power failure; the run folder is on host 1 only."""
    script, commands = place.script(DIES_ON_HOST_2), []
    for rank in range(2):
        machines = ["--num_machines", 2, "--num_processes", 2, "--machine_rank", rank, "--rdzv_backend", "static"]
        machines += ["--main_process_ip", ADDRESSES[0], "--main_process_port", 29500]
        flags = place.arguments(output_dir=place.folder / ("runs" if rank == 0 else "elsewhere"))
        environment = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": INTERFACE}
        environment |= {"FAGAN_CACHE": str(place.folder / f"cache-{rank}")}
        commands.append(place.start([*hosts.on(rank), *ACCELERATE, *machines, script, *flags], **environment))
    place.wait_for("reached-0", "reached-1")
    commands[1].kill()
    assert commands[0].wait(60) != 0
    assert "Traceback" in commands[0].said
    assert "Connection closed by peer" in commands[0].said or "Connection reset by peer" in commands[0].said
    assert not (place.folder / "elsewhere/try").exists()
    alone = place.start([sys.executable, "training/train.py", *place.arguments()])
    assert alone.wait() == 0, alone.said
    assert "Resuming with 1 process instead of 2" in alone.said
    assert "Resuming at 16 images." in alone.said
