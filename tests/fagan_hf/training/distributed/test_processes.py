"""A single process; several are in tests/distributed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import HashStore

from fagan_hf.models import Discriminator
from fagan_hf.training.distributed.processes import OtherProcessError, Processes, name_of_start
from tests.small import DISCRIMINATOR


def test_one_process_agrees_with_itself_and_waits_for_nobody():
    processes = Processes()
    assert (processes.count, processes.index, processes.is_main) == (1, 0, True)
    tensor = torch.rand(1, 3)
    assert processes.gather(tensor) is tensor
    assert processes.broadcast_from_main({"a": [1]}) == {"a": [1]}
    assert processes.sums([1.0, 0.5]) == [1.0, 0.5]
    files = {"generator": {"weight": tensor}}
    shared = processes.share(files)
    assert shared == files
    assert shared["generator"] is not files["generator"]
    with pytest.raises(OSError, match="full"), processes.uneven_work():
        raise OSError("full")


def test_a_network_is_trained_as_it_is():
    processes, network = Processes(), Discriminator(DISCRIMINATOR)
    before = {name: type(module) for name, module in network.named_modules()}
    wrapped = processes.prepare(network.eval())
    assert processes.unwrap(wrapped) is network
    assert network.training
    assert network.layers[0].query.weight.is_contiguous(memory_format=torch.channels_last)
    assert {name: type(module) for name, module in network.named_modules()} == before
    with processes.no_sync(wrapped):
        processes.backward(wrapped(torch.zeros(2, 3, 8, 8)).sum())
    assert any(parameter.grad is not None for parameter in network.parameters())


def test_making_it_puts_nothing_into_the_environment_that_a_launcher_would(monkeypatch):
    """Otherwise a run without a launcher would end with its shell, see training/signals.py."""
    import os

    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    Processes()
    assert not [name for name in os.environ if name.startswith(("ACCELERATE_", "TORCHELASTIC_"))]


@pytest.mark.parametrize("leftovers", [[], ["came/1"], ["came/1", "came/2"]])
def test_a_start_has_a_name_of_its_own_whatever_the_dead_have_left(leftovers):
    store = HashStore()
    for key in leftovers:
        store.set(key, "of-the-dead")
        store.set("answer/of-the-dead", "an-earlier-start")
        store.set(f"heard/an-earlier-start/{key[-1]}", "")
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            names = {each.result(20) for each in [pool.submit(name_of_start, store, index, 3) for index in (0, 2, 1)]}
        assert len(names) == 1
        assert names.isdisjoint(leftovers)
        leftovers = [*leftovers, *names]


def test_whoever_does_not_come_is_missed():
    with pytest.raises(OtherProcessError, match=r"not all 2 processes have started within 0 seconds"):
        name_of_start(HashStore(), 0, 2, patience_seconds=0.1)


def test_nothing_of_each_is_nothing_of_all():
    """Accelerate's own gathering can't reshape an empty tensor if the backend is not gloo."""
    processes = Processes()
    processes.count = 2
    processes.accelerator.gather = None
    assert processes.gather(torch.zeros(1, 2, 0)).shape == (2, 2, 0)
