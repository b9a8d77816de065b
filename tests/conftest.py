"""What every test gets: a fixed seed, and clients of the Hub that stay offline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: no test reaches a server
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported. Each worker has a core: more threads would spin while they wait for those of the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
