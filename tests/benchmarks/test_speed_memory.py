"""The memory of a full attention layer grows linearly with the positions; the peer's grows quadratically."""

from benchmarks.memory import peak_megabytes
from benchmarks.speed_of.layer import Shape, layer_megabytes
from benchmarks.speed_of.settings import Settings
from tests.memory import forked_measurements

SETTINGS = Settings(rounds=1, threads=1)


def test_memory_is_what_was_allocated():
    assert 90 < peak_megabytes("import torch", "x = torch.ones(25_000_000)") < 115


def test_a_layer_takes_memory_in_proportion_to_positions():
    few, many = (Shape(64, 32, positions, batch=2) for positions in (1024, 4096))
    with forked_measurements():
        ours, theirs = ([layer_megabytes(side, shape, SETTINGS) for shape in (few, many)] for side in ("ours", "peer"))
    assert ours[1] < 4.4 * ours[0]
    assert theirs[1] > 6 * theirs[0]
    assert theirs[1] > 10 * ours[1]
