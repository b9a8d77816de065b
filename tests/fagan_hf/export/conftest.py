import pytest

from tests.traces import keep_registry


@pytest.fixture(autouse=True)
def _one_registry(monkeypatch):
    keep_registry(monkeypatch)
