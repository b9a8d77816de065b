import pytest

from tests.folder_hub import FolderHub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = FolderHub(tmp_path / "hub")
    monkeypatch.setattr("fagan_hf.hub.client.push", hub.push)
    return hub
