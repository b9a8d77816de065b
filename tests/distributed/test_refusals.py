"""Incompatible or failing processes: the error says where, and the others don't wait for them."""

import time

import pytest

from tests.distributed.conftest import free_port

IMPATIENT = """
fagan_hf.training.distributed.processes.PATIENCE_SECONDS, fagan_hf.training.distributed.processes.BEAT_SECONDS = 3, 0.5
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"seed": 1},
            ["error: the recipe of this process differs from the main process's: seed is 1 here and 0 there"],
        ),
        ({"dataset": "others"}, ["contains other images in this process than in the main process"]),
        ({"dataset": "./nowhere"}, ["nowhere"]),
    ],
    ids=["another recipe", "other images", "no images"],
)
def test_what_does_not_fit_is_refused(place, changes, words):
    """Two hosts without a common launcher."""
    others = place.folder / "others"
    others.mkdir()
    for path in (place.folder / "pictures").iterdir():
        (others / path.name).write_bytes((place.folder / "pictures/00.png").read_bytes())
    if changes.get("dataset") == "others":
        changes = {"dataset": others}
    script, port = place.script(IMPATIENT), free_port()
    flags = place.arguments(), place.arguments(**changes)
    main, other = (place.start_alone(rank, script, *flags[rank], port=port) for rank in range(2))
    assert other.wait() == 2
    assert all(each in other.said for each in words), other.said
    assert "Traceback" not in other.said
    ended = time.monotonic()
    assert main.wait(20) != 0
    assert time.monotonic() - ended < 10
    assert "process 1 has" in main.said or "Connection closed by peer" in main.said, main.said
    assert not list((place.folder / "runs").glob("try/checkpoints/*"))
