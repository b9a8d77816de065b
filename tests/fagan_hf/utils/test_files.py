import errno
import os
import subprocess
import sys

import pytest
import torch

from fagan_hf.utils.files import remove_abandoned, replacing, replacing_folder, save_tensors, sync


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
    mine = f".weights.{os.getpid()}"
    for name in (f".weights.{killed.pid}", f".weights.{10**20}", mine, ".hidden", ".hidden.txt", "weights.1"):
        (tmp_path / name).touch()
    (tmp_path / f".folder.{killed.pid}").mkdir()
    remove_abandoned(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine, ".hidden", ".hidden.txt", "weights.1", f".folder.{killed.pid}"}
    remove_abandoned(tmp_path / "nowhere")


UNSUPPORTED = [errno.EBADF, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP]


def write_both(folder):
    """Write a file, and a folder with a file."""
    with replacing(folder / "file") as aside:
        aside.write_text("text")
    with replacing_folder(folder / "folder") as aside:
        (aside / "inner").write_text("text")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refusing(number, function, is_refused=lambda *_: True):
    """Wrap a function of `os` so that it fails as on another file system."""

    def call(first, *rest):
        if is_refused(first, *rest):
            raise OSError(number, os.strerror(number))
        return function(first, *rest)

    return call


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_file_system_without_fsync_is_written_to(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", refusing(number, os.fsync))
    assert write_both(tmp_path) == ["file", "folder", "folder/inner"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_folders_that_cannot_be_opened_are_written_to(tmp_path, monkeypatch, number):
    """As on Windows."""
    monkeypatch.setattr(os, "open", refusing(number, os.open, lambda path, flags: os.path.isdir(path)))
    assert write_both(tmp_path) == ["file", "folder", "folder/inner"]


def test_files_are_synced_by_a_handle_for_writing(tmp_path, monkeypatch):
    """Windows refuses a handle for reading."""
    opened = []

    def note(path, flags, open_it=os.open):
        opened.append((os.path.basename(path).lstrip(".").partition(".")[0], flags))
        return open_it(path, flags)

    monkeypatch.setattr(os, "open", note)
    write_both(tmp_path)
    assert opened[:2] == [("file", os.O_RDWR), ("inner", os.O_RDWR)]
    assert all(flags == os.O_RDONLY for _, flags in opened[2:])
    assert len(opened) == 4


def test_a_file_that_may_only_be_read_is_synced(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    synced = []
    monkeypatch.setattr(os, "open", refusing(errno.EACCES, os.open, lambda path, flags: flags == os.O_RDWR))
    monkeypatch.setattr(os, "fsync", synced.append)
    sync(tmp_path / "file")
    assert len(synced) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_of_the_disk_is_raised(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", refusing(number, os.fsync))
    with pytest.raises(OSError, match=os.strerror(number)):
        write_both(tmp_path)
    assert not any(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(os, "open", refusing(number, os.open))
    with pytest.raises(OSError, match=os.strerror(number)):
        sync(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_weights_may_be_read_by_whoever_may_read_other_files(tmp_path):
    (tmp_path / "plain").touch()
    for _ in range(2):
        save_tensors({"a": torch.ones(3)}, tmp_path / "weights.safetensors")
        assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
