import errno
import json
import multiprocessing
import os
import pickle
import shutil
import time
from collections import namedtuple
from itertools import product
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
from filelock import FileLock

from fagan_hf.data.cache import cache_root, only_one_process, open_cache, write_cache

SHAPE = (5, 3, 4, 4)
ARRAY = np.arange(np.prod(SHAPE)).astype(np.uint8).reshape(SHAPE)
LABELS = np.eye(5, 2, dtype=np.float32)
ABOUT = {"label_names": ["a", "b"], "fingerprint": "f" * 64, "description": {"dataset": "é", "count": 5}}


def write(folder, chunks=(ARRAY[:3], ARRAY[3:])):
    return write_cache(folder, iter(chunks), shape=SHAPE, labels=LABELS, about=ABOUT)


def test_what_is_written_is_read(tmp_path):
    for images in (write(tmp_path / "cache"), open_cache(tmp_path / "cache")):
        assert len(images) == 5
        assert np.array_equal(images.array, ARRAY)
        assert np.array_equal(images.labels, LABELS)
        assert images.labels.dtype == np.float32
        assert images.label_names == ("a", "b")
        assert images.fingerprint == "f" * 64
        assert images.description == ABOUT["description"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_images_are_memory_mapped_and_read_only(tmp_path):
    images = write(tmp_path / "cache")
    assert isinstance(images.array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images.array[0] = 1
    copy = pickle.loads(pickle.dumps(images))
    assert isinstance(copy.array, np.memmap)
    assert len(pickle.dumps(images)) < 500


@pytest.mark.parametrize("indices", [[4, 0, 0], np.array([4, 0, 0]), torch.tensor([4, 0, 0]), range(4, 1, -1), []])
def test_batch(tmp_path, indices):
    pixels, labels = write(tmp_path / "cache").batch(indices)
    rows = [int(index) for index in indices]
    assert pixels.dtype == torch.uint8
    assert labels.dtype == torch.float32
    assert torch.equal(pixels, torch.from_numpy(ARRAY[rows]))
    assert torch.equal(labels, torch.from_numpy(LABELS[rows]))
    pixels += 1  # a copy: the cache is not written through it
    assert np.array_equal(open_cache(tmp_path / "cache").array, ARRAY)


def test_batch_out_of_range(tmp_path):
    with pytest.raises(IndexError, match="5 is out of bounds"):
        write(tmp_path / "cache").batch([5])


def test_where_caches_lie(tmp_path, monkeypatch):
    monkeypatch.delenv("FAGAN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root(None) == tmp_path / ".cache" / "fagan_hf"
    monkeypatch.setenv("FAGAN_CACHE", "~/elsewhere")
    assert cache_root(None) == tmp_path / "elsewhere"
    assert cache_root(tmp_path / "given") == tmp_path / "given"


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_absent_after_a_failure(tmp_path, failure):
    def chunks():
        yield ARRAY[:3]
        raise failure

    with pytest.raises(type(failure)) as caught:
        write(tmp_path / "cache", chunks())
    assert caught.value is failure
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_in_the_middle(tmp_path, code):
    def chunks():
        yield ARRAY[:3]
        raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=r"they need 1,048,856 bytes, .* FAGAN_CACHE") as caught:
        write(tmp_path / "cache", chunks())
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__.errno == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_real_full_disk(tmp_path, monkeypatch):
    """Writing itself fails, not only the source of the data: buffered writes hit the full disk at sync."""
    monkeypatch.setattr(Path, "open", lambda path, mode: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(OSError, match="FAGAN_CACHE"):
        write(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1_000))
    with pytest.raises(OSError, match=r"they need 1,048,856 bytes, but 1,000 are free"):
        write(tmp_path / "cache", iter(lambda: pytest.fail("read an image"), None))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(["images.npy", "labels.npy", "about.json"], ["truncated", "empty", "missing"]),
        ("images.npy", "longer"),
        ("about.json", "longer"),
    ],
)
def test_a_damaged_cache_is_not_opened_but_replaced(tmp_path, name, damage):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[:-7], "longer": content + b"x", "empty": b""}[damage])
    assert open_cache(tmp_path / "cache") is None
    assert np.array_equal(write(tmp_path / "cache").array, ARRAY)
    assert open_cache(tmp_path / "cache") is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_labels_of_another_size(tmp_path):
    write(tmp_path / "cache")
    np.save(tmp_path / "cache" / "labels.npy", LABELS[:4])
    assert open_cache(tmp_path / "cache") is None
    (tmp_path / "cache" / "labels.npy").unlink()
    (tmp_path / "cache" / "about.json").write_text(json.dumps([]))
    assert open_cache(tmp_path / "cache") is None


def test_fewer_images_than_announced_are_no_cache(tmp_path):
    with pytest.raises(ValueError, match="declared shape"):
        write(tmp_path / "cache", [ARRAY[:3]])
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_finish_the_first_stays(tmp_path):
    """If locks don't work, two processes may write at once: the second finds the first one's cache and keeps it."""

    def chunks():
        first = write(tmp_path / "cache")
        (tmp_path / "cache" / "of the first").touch()
        assert len(first) == 5
        yield ARRAY

    assert np.array_equal(write(tmp_path / "cache", chunks()).array, ARRAY)
    assert (tmp_path / "cache" / "of the first").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / ".cache.0a1b2c3d.partial"
    of_another = tmp_path / ".other.0a1b2c3d.partial"
    for folder in (left, of_another):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"half")
    with only_one_process(tmp_path / "cache", tell=False):
        assert not left.exists()
    assert of_another.exists()


def _hold_lock_and_die(folder, ready):
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    lock.acquire()
    ready.set()
    time.sleep(60)
    lock.release()


def test_a_killed_process_keeps_no_lock_and_the_waiting_are_told(tmp_path, capfd):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_lock_and_die, args=(tmp_path / "cache", ready))
    process.start()
    assert ready.wait(60)
    Timer(0.5, process.kill).start()
    with only_one_process(tmp_path / "cache", tell=True):
        process.join(10)
        assert process.exitcode is not None, "the lock was had while another process held it"
    assert "Waiting for another process" in capfd.readouterr().err
