import os
import pickle
import time

import pytest
from fagan_space import models
from fagan_space.files import request_folder
from fagan_space.limits import CACHE_SECONDS


def test_files_that_nobody_fetches_any_more_are_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    old, young = request_folder(), request_folder()
    (old / "grid.png").write_bytes(b"old")
    (tmp_path / "others").mkdir()
    for folder in (old, tmp_path / "others"):
        os.utime(folder, (time.time() - CACHE_SECONDS - 10,) * 2)
    new = request_folder()
    assert not old.exists()
    assert {path.name for path in tmp_path.iterdir()} == {young.name, new.name, "others"}


def test_a_model_is_handed_on_by_its_name(model, monkeypatch):
    monkeypatch.setitem(models._own, model.name, model)
    assert len(pickle.dumps(model)) < 1000
    assert pickle.loads(pickle.dumps(model)) is model


def test_which_model_the_page_is_about(tmp_path, monkeypatch):
    monkeypatch.setenv("FAGAN_MODEL", " user/mine ")
    assert models.wanted_model() == "user/mine"
    monkeypatch.delenv("FAGAN_MODEL")
    monkeypatch.setattr(models, "_ROOT", tmp_path)
    monkeypatch.setattr(models, "_CLONE", tmp_path / "clone")
    (tmp_path / "README.md").write_text("---\ntitle: x\nmodels:\n  - someone/faces\n---\n# Words --- and more\n")
    assert models.wanted_model() == "someone/faces"
    (tmp_path / "clone/model_cards/faces").mkdir(parents=True)
    assert models.wanted_model() == str(tmp_path / "clone/model_cards/faces")


@pytest.mark.parametrize("name", ["/etc", "../x/y", "user/..", "a/b/c", "x" * 600, "user/na me"])
def test_no_path_is_taken_for_a_model_of_the_hub(model, name):
    with pytest.raises(ValueError, match="is no model on the Hub"):
        models.load_named(name, model)
