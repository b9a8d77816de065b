"""A network that drops all packets silently: no process may wait forever."""

import pytest

# The timeout of processes is a minute by default; here seconds.
IMPATIENT = """
fagan_hf.training.distributed.processes.PATIENCE_SECONDS, fagan_hf.training.distributed.processes.BEAT_SECONDS = 3, 0.5
"""
STEPS = """
def pace(session):
    time.sleep(0.05)
    if session.images_seen == 20:
        (HERE / f"reached-{RANK}").touch()
before_step(pace)
"""
# The main process generates grids alone, for longer than the other one's timeout; the cable is cut in the second one.
GRIDS = """
draw, drawn = outputs.generate_samples, []
def draw_slowly(generator):
    drawn.append(1)
    if len(drawn) == 2:
        (HERE / "reached-0").touch()
    time.sleep(4.5)
    return draw(generator)
outputs.generate_samples = draw_slowly
"""


@pytest.mark.parametrize(
    ("lines", "reached", "words"),
    [
        (STEPS, ["reached-0", "reached-1"], ["Timed out waiting 3000ms", "Timed out waiting 3000ms"]),
        (GRIDS, ["reached-0"], ["Timed out waiting 3000ms", "process 0 has been silent for"]),
    ],
    ids=["in the steps", "while the main process is busy alone"],
)
def test_a_cable_is_cut(place, hosts, lines, reached, words):
    """Both ends notice; before that, no process gave up on the main one while it was silent but alive."""
    flags = place.arguments(max_images=10**6, sample_every_images=24, checkpoint_every_images=10**6)
    script = place.script(IMPATIENT + lines)
    processes = [place.start_alone(rank, script, *flags, port=29500, host=hosts) for rank in range(2)]
    place.wait_for(*reached)
    hosts.cut()
    for process, expected in zip(processes, words, strict=True):
        assert process.wait(25) == 1
        assert ("Traceback" in process.said) == expected.startswith("Timed out")  # our own errors need none
        assert expected in process.said
    if lines == GRIDS:
        lines = (place.folder / "runs/try/metrics.jsonl").read_text().splitlines()
        assert len(lines) == 48 // 8, "the first grid kept it from going on"
