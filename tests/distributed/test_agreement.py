"""The same batch on one process, two processes and two hosts gives the same gradients, losses and statistics."""

import sys
from itertools import product

import pytest
import torch
from safetensors.torch import load_file

from fagan_hf.losses import LOSSES as NAMES
from tests.distributed.agreement import FIRST_STEPS, LONG, PENALTIES, STEPS
from tests.distributed.conftest import ACCELERATE, TORCHRUN, Place, made_hosts
from tests.distributed.hosts import ADDRESSES, INTERFACE

GRADIENT = 3e-6
# A finite difference divides the rounding of batch statistics by its sigma, 0.01.
APPROXIMATE_GRADIENT = 3e-4
# Adam normalizes gradients, so a rounding error in one that is nearly 0 becomes a full-size step.
LOSSES = 3e-4
STATISTICS = 1e-6
AGREEMENT = "-m", "tests.distributed.agreement"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("agreement") / "place")
    yield place
    place.close()


@pytest.fixture(scope="module")
def one_and_two(place):
    """Results of one process, and of each of two; all run at the same time."""
    alone = place.start([sys.executable, *AGREEMENT, place.folder, "one"])
    two = place.start([*TORCHRUN, *AGREEMENT, place.folder, "two"])
    for command in (alone, two):
        assert command.wait() == 0, command.said
    return [load_file(place.folder / f"{name}.safetensors") for name in ("one-0", "two-0", "two-1")]


@pytest.fixture(scope="module")
def on_hosts(place):
    """Results of each of two hosts, with one process each."""
    with made_hosts() as hosts:
        commands = []
        for rank in range(2):
            machines = ["--num_machines", 2, "--num_processes", 2, "--machine_rank", rank, "--rdzv_backend", "static"]
            machines += ["--main_process_ip", ADDRESSES[0], "--main_process_port", 29500]
            command = [*hosts.on(rank), *ACCELERATE, *machines, *AGREEMENT, place.folder, "hosts"]
            environment = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": INTERFACE}
            commands.append(place.start(command, **environment, FAGAN_CACHE=str(place.folder / f"cache-{rank}")))
        for command in commands:
            assert command.wait() == 0, command.said
    return [load_file(place.folder / f"hosts-{rank}.safetensors") for rank in range(2)]


def part(found, kind):
    return {name: tensor for name, tensor in found.items() if name.startswith(f"{kind}/")}


def differences(kind, one, other):
    """Return the largest difference by name; both have the same names."""
    one, other = part(one, kind), part(other, kind)
    assert one.keys() == other.keys()
    assert all(tensor.isfinite().all() for tensor in one.values())
    return {name: (tensor - other[name]).abs().max().item() for name, tensor in one.items()}


def gradient_tolerance(name):
    return APPROXIMATE_GRADIENT if "-approximate-" in name and "-normed/" in name else GRADIENT


def test_every_setting_is_compared():
    names = set(NAMES)
    pairs = [{(case[one], case[other]) for case in FIRST_STEPS} for one, other in ((0, 1), (0, 2), (1, 2))]
    values = names, set(PENALTIES), {1, 2}
    assert pairs == [set(product(values[one], values[other])) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert [{case[index] for case in LONG} for index in range(3)] == [names, set(PENALTIES), {1, 2}]


def test_gradients_of_one_process_and_two(one_and_two):
    one, two, _ = one_and_two
    found = differences("gradient", one, two)
    sizes = {name: tensor.abs().max().item() for name, tensor in part(one, "gradient").items()}
    # A gate's gradient is one large sum, so what is large may differ by as much of itself.
    off = {name: (value, sizes[name]) for name, value in found.items()}
    assert {n: each for n, each in off.items() if each[0] > gradient_tolerance(n) * max(1, each[1])} == {}
    cases = {name.split("/")[1] for name in sizes}
    assert len(cases) == len({*FIRST_STEPS, *LONG})
    for case in cases:  # the comparison is not trivial
        for player in ("generator", "discriminator"):
            assert max(size for name, size in sizes.items() if name.startswith(f"gradient/{case}/{player}.")) > 1e-3


def test_losses_of_one_process_and_two(one_and_two):
    one, two, _ = one_and_two
    found = differences("losses", one, two)
    assert len(found) == len(LONG)
    assert {name: value for name, value in found.items() if value > LOSSES} == {}
    for losses in part(one, "losses").values():
        assert losses.shape == (STEPS, 2)
        assert (losses.diff(dim=0).abs().amax(0) > 10 * LOSSES).all(), "they move by more than that"


def test_one_step_in_two_parts(one_and_two):
    """Without batch norm, whose statistics are per micro-batch."""
    for found in one_and_two[:2]:
        whole = {name: tensor for name, tensor in part(found, "gradient").items() if "-1-plain/" in name}
        assert whole
        for name, tensor in whole.items():
            difference = (tensor - found[name.replace("-1-plain/", "-2-plain/")]).abs().max()
            assert difference < GRADIENT, (name, difference)


def test_batch_statistics(one_and_two):
    one, *two = one_and_two
    for kind in ("first_statistics", "statistics"):
        assert max(differences(kind, *two).values()) == 0
        found = differences(kind, one, two[0])
        assert len(found) >= 4 * len(LONG)
        # The gradient of a bias before batch norm is rounding error, which Adam turns into full steps that move means:
        # from the second step on, and the discriminator's already when it is used in the generator's step.
        moved = "running_mean" if kind == "statistics" else "discriminator.layers.0.batch_norm.running_mean"
        found = {name: value for name, value in found.items() if not name.endswith(moved)}
        assert {name: value for name, value in found.items() if value > STATISTICS} == {}


def test_two_hosts_are_as_two_processes(one_and_two, on_hosts):
    """Bit-exact: the network between the processes must not change any sum."""
    for of_process, of_host in zip(one_and_two[1:], on_hosts, strict=True):
        assert {name.split("/")[1] for name in of_host} == {"-".join(map(str, case)) for case in LONG}
        assert len(part(of_host, "losses")) == 2
        for name, tensor in of_host.items():
            assert torch.equal(tensor, of_process[name]), name
