"""Setup of every test: a fixed seed, and Hub clients in offline mode."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before importing huggingface_hub: no test may contact the real Hub
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before importing torch. Each worker has one core: more threads would only spin while waiting for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
