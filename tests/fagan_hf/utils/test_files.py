import os
import subprocess
import sys

import pytest

from fagan_hf.utils.files import remove_abandoned, replacing


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with replacing(path, make_folder=True) as aside:
            aside.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_no_folder_is_made_unless_it_is_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "new" / "file") as aside:
        aside.write_text("text")
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("first")

    def fail():
        with replacing(path) as aside:
            aside.write_text("sec")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    for name in (f".weights.{killed.pid}", f".weights.{os.getpid()}", ".hidden", ".hidden.txt", "weights.1"):
        (tmp_path / name).touch()
    (tmp_path / f".folder.{killed.pid}").mkdir()
    remove_abandoned(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".weights.{os.getpid()}", ".hidden", ".hidden.txt", "weights.1", f".folder.{killed.pid}"}
    remove_abandoned(tmp_path / "nowhere")
