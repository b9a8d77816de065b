import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fagan_space import models
from fagan_space.files import KEPT, keep, request_folder, sweep
from fagan_space.limits import CACHE_SECONDS

from benchmarks.serving import ROOT


def test_files_that_nobody_fetches_any_more_are_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    old, young, empty = request_folder(), request_folder(), request_folder()
    (old / "grid.png").write_bytes(b"old")
    shown = keep(next((ROOT / "space/examples").glob("*.png")))
    past = (time.time() - CACHE_SECONDS - 10,) * 2
    for path in (old / "grid.png", shown, empty):
        os.utime(path, past)
    sweep()
    assert not (old / "grid.png").exists()
    assert {path.name for path in tmp_path.iterdir()} == {old.name, young.name, KEPT}
    os.utime(old, past)
    sweep()
    assert {path.name for path in tmp_path.iterdir()} == {young.name, KEPT}
    assert shown.stat().st_mode & 0o777 == 0o444


def test_names_of_folders_can_not_be_guessed(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    assert re.fullmatch(r"fagan-[0-9a-f]{32}", request_folder().name)


def test_the_storage_is_private_and_gone_with_the_process(tmp_path):
    code = "from fagan_space.storage import open_storage; open_storage(); "
    code += "from fagan_space.files import request_folder; print(request_folder().parent)"
    path = os.pathsep.join([str(ROOT / "space"), str(ROOT)])
    for environment in ({"TMPDIR": str(tmp_path)}, {"GRADIO_TEMP_DIR": str(tmp_path / "given")}):
        check = "; import os; print(oct(os.stat(os.environ['GRADIO_TEMP_DIR']).st_mode))"
        run = subprocess.run(
            [sys.executable, "-c", code + check],
            env=os.environ | {"PYTHONPATH": path} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        folder, mode = run.stdout.split()
        assert Path(folder).is_relative_to(tmp_path)
        assert mode.endswith("700")
        assert not Path(folder).exists()


def test_a_model_is_handed_on_by_its_name(model, monkeypatch):
    monkeypatch.setitem(models._own, model.name, model)
    assert len(pickle.dumps(model)) < 1000
    assert pickle.loads(pickle.dumps(model)) is model


def test_code_for_custom_layers_is_imported_first(monkeypatch):
    monkeypatch.setenv("FAGAN_IMPORT", "no_such_module")
    with pytest.raises(ValueError, match=r"FAGAN_IMPORT: 'no_such_module' is not a .py file and can't be imported"):
        models.load_own()


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
