"""Setup of every test: a fixed seed, and Hub clients in offline mode."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before importing huggingface_hub: no test may contact the real Hub
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before importing torch. Each worker has one core: more threads would only spin while waiting for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("patient", deadline=None)  # machines are busy; the time of an example says nothing
hypothesis.settings.load_profile("patient")

# What takes longest comes first, so that no worker is left with it at the end when the others have nothing to do.
FIRST = (
    "tests/distributed", "tests/space", "tests/hub", "tests/fagan_hf/training", "tests/fagan_hf/export",
    "tests/benchmarks", "tests/parity", "tests/fagan_hf/layers", "tests/test_",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: next((i for i, each in enumerate(FIRST) if item.nodeid.startswith(each)), len(FIRST)))


def pytest_collection_finish():
    # All modules are imported now. Looking through their objects again and again would take a fifteenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
