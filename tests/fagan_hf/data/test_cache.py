import errno
import multiprocessing
import os
import pickle
import shutil
import time
from collections import namedtuple
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
from filelock import FileLock

from fagan_hf.data.cache import (
    Chunk,
    DecodedBefore,
    cache_key,
    cache_root,
    clear_caches,
    find_cache,
    is_complete,
    list_caches,
    only_one_process,
    write_pixels,
    write_view,
)
from fagan_hf.data.digests import numbered_digests

SHAPE = (5, 3, 4, 4)
ARRAY = np.arange(np.prod(SHAPE)).astype(np.uint8).reshape(SHAPE)
DIGESTS = numbered_digests("test", range(5))
LABELS = np.eye(5, 2, dtype=np.float32)
DESCRIPTION = {"dataset": "é", "count": 5}
BYTES = 5 * (48 + 24) + (1 << 20)


def chunk(start, stop):
    return Chunk(ARRAY[start:stop], DIGESTS[start:stop])


def write(folder, chunks=None, decoding="d"):
    chunks = (chunk(0, 3), chunk(3, 5)) if chunks is None else chunks
    return write_pixels(folder, iter(chunks), count=5, shape=SHAPE[1:], decoding=decoding)


def view(folder, labels=LABELS, names=("a", "b"), description=DESCRIPTION):
    return write_view(folder, labels=labels, label_names=names, description=description)


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    for _ in range(2):  # the second time it is there already
        images = view(write(tmp_path / "cache"))
        assert len(images) == 5
        assert np.array_equal(images.array, ARRAY)
        assert np.array_equal(images.labels, LABELS)
        assert images.labels.dtype == np.float32
        assert images.label_names == ("a", "b")
        assert images.description == DESCRIPTION
        assert images.image_shape == (3, 4, 4)
    assert entries(tmp_path) == ["cache"]


def test_one_cache_serves_any_labels_and_names(tmp_path):
    folder = write(tmp_path / "cache")
    one, other = view(folder), view(folder, LABELS[:, :1], ["a"], {"dataset": "moved"})
    assert one.array.filename == other.array.filename
    assert (one.label_names, other.label_names) == (("a", "b"), ("a",))
    assert one.description["dataset"] == "é"
    assert len({one.content, other.content, view(folder, 1 - LABELS).content}) == 3
    assert view(folder, description={"dataset": "another name"}).content == one.content


def test_images_are_memory_mapped_and_read_only(tmp_path):
    images = view(write(tmp_path / "cache"))
    assert isinstance(images.array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images.array[0] = 1
    copy = pickle.loads(pickle.dumps(images))
    assert isinstance(copy.array, np.memmap)
    assert np.array_equal(copy.labels, LABELS)
    assert len(pickle.dumps(images)) < 500


@pytest.mark.parametrize("indices", [[4, 0, 0], np.array([4, 0, 0]), torch.tensor([4, 0, 0]), range(4, 1, -1), []])
def test_batch(tmp_path, indices):
    images = view(write(tmp_path / "cache"))
    pixels, labels = images.batch(indices)
    rows = [int(index) for index in indices]
    assert pixels.dtype == torch.uint8
    assert labels.dtype == torch.float32
    assert torch.equal(pixels, torch.from_numpy(ARRAY[rows]))
    assert torch.equal(labels, torch.from_numpy(LABELS[rows]))
    pixels += 1  # a copy: the cache is not written through it
    assert np.array_equal(view(tmp_path / "cache").array, ARRAY)


def test_batch_out_of_range(tmp_path):
    with pytest.raises(IndexError, match="5 is out of bounds"):
        view(write(tmp_path / "cache")).batch([5])


def test_where_caches_are(tmp_path, monkeypatch):
    monkeypatch.delenv("FAGAN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root(None) == tmp_path / ".cache" / "fagan_hf"
    monkeypatch.setenv("FAGAN_CACHE", "~/elsewhere")
    assert cache_root(None) == tmp_path / "elsewhere"
    assert cache_root(tmp_path / "given") == tmp_path / "given"


def test_keys_name_bytes_order_and_decoding(tmp_path):
    keys = [
        cache_key(DIGESTS, "d"),
        cache_key(DIGESTS[::-1], "d"),
        cache_key(DIGESTS[:4], "d"),
        cache_key(DIGESTS, "e"),
    ]
    assert len(set(keys)) == 4
    folder = write(tmp_path / f"some-name-{keys[0]}")
    assert find_cache(tmp_path, keys[0], len(DIGESTS)) == folder
    assert find_cache(tmp_path, keys[0], len(DIGESTS) + 1) is None
    assert find_cache(tmp_path, keys[1], len(DIGESTS)) is None
    (folder / "pixels.bin").unlink()
    assert find_cache(tmp_path, keys[0], len(DIGESTS)) is None


# Interruptions


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt(), ValueError("broken")])
def test_what_was_decoded_before_a_failure_is_not_decoded_again(tmp_path, failure):
    def chunks():
        yield chunk(0, 3)
        raise failure

    with pytest.raises(type(failure)) as caught:
        write(tmp_path / "cache", chunks())
    assert caught.value is failure
    assert not (tmp_path / "cache").exists()
    known = DecodedBefore(tmp_path, "d", DIGESTS, SHAPE[1:])
    assert [known.get(digest) is not None for digest in DIGESTS] == [True] * 3 + [False] * 2
    assert all(np.array_equal(known.get(DIGESTS[at]), ARRAY[at]) for at in range(3))


def test_half_written_rows_are_not_trusted(tmp_path):
    """A machine that crashes may have written records, but not all pixels."""

    def chunks():
        yield chunk(0, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", chunks())
    [left] = tmp_path.glob("*.partial/pixels.bin")
    content = bytearray(left.read_bytes())
    content[48:96] = bytes(48)
    left.write_bytes(content[:-5])
    known = DecodedBefore(tmp_path, "d", DIGESTS, SHAPE[1:])
    assert [known.get(digest) is not None for digest in DIGESTS] == [True, False, False, False, False]


def test_other_caches_lend_their_pixels(tmp_path):
    write(tmp_path / "one")
    wanted = np.concatenate([DIGESTS[3:], numbered_digests("others", range(2))])
    known = DecodedBefore(tmp_path, "d", wanted, SHAPE[1:])
    assert len(known) == 2
    assert np.array_equal(known.get(DIGESTS[4]), ARRAY[4])
    assert known.get(wanted[2]) is None
    assert len(DecodedBefore(tmp_path, "decoded differently", wanted, SHAPE[1:])) == 0
    assert len(DecodedBefore(tmp_path, "d", wanted, (1, 4, 4))) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_in_the_middle(tmp_path, code):
    def chunks():
        yield chunk(0, 3)
        raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=rf"they need {BYTES:,} bytes, .* FAGAN_CACHE") as caught:
        write(tmp_path / "cache", chunks())
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__.errno == code
    assert entries(tmp_path) == [], "what is left would keep the disk full"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_real_full_disk(tmp_path, monkeypatch):
    """Writing itself fails, not only the source of the data: buffered writes hit the full disk at sync."""
    monkeypatch.setattr(Path, "open", lambda path, mode="r", *_, **__: open("/dev/full", mode.replace("x", "w")))  # noqa: SIM115
    with pytest.raises(OSError, match="FAGAN_CACHE"):
        write(tmp_path / "cache")
    assert entries(tmp_path) == []


def test_too_little_space_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1_000))
    with pytest.raises(OSError, match=rf"they need {BYTES:,} bytes, but 1,000 are free"):
        write(tmp_path / "cache", iter(lambda: pytest.fail("read an image"), None))
    assert entries(tmp_path) == []


@pytest.mark.parametrize("name", ["pixels.bin", "rows.bin", "about.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "longer"])
def test_a_damaged_cache_is_not_complete_and_is_replaced(tmp_path, name, damage):
    folder = write(tmp_path / "cache")
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[:-7], "longer": content + b"x", "empty": b""}[damage])
    assert not is_complete(folder)
    assert np.array_equal(view(write(tmp_path / "cache")).array, ARRAY)
    assert is_complete(folder)
    assert entries(tmp_path) == ["cache"]


@pytest.mark.parametrize("content", ["[]", "{}", '{"shape": [5]}', '{"shape": "x"}', '{"shape": null}'])
def test_nonsense_is_not_complete(tmp_path, content):
    folder = write(tmp_path / "cache")
    (folder / "about.json").write_text(content)
    assert not is_complete(folder)


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b""), lambda path: path.unlink()], ids=["empty", "missing"]
)
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_damaged_labels_are_written_again(tmp_path, suffix, damage):
    folder = write(tmp_path / "cache")
    name = view(folder).view
    damage(folder / f"{name}{suffix}")
    assert np.array_equal(view(folder).labels, LABELS)


def test_labels_of_another_number_are_refused(tmp_path):
    with pytest.raises(ValueError, match="shape \\(4, 2\\) for 5 images"):
        view(write(tmp_path / "cache"), LABELS[:4])


def test_more_images_than_announced_are_refused(tmp_path):
    with pytest.raises(ValueError, match="8 images were prepared, but 5 were announced"):
        write(tmp_path / "cache", [chunk(0, 5), chunk(0, 3)])
    assert not (tmp_path / "cache").exists()


def test_of_two_that_finish_the_first_stays(tmp_path):
    """If locks don't work, two processes may write at once: the second finds the first one's cache and keeps it."""

    def chunks():
        write(tmp_path / "cache")
        (tmp_path / "cache" / "of the first").touch()
        yield chunk(0, 5)

    assert np.array_equal(view(write(tmp_path / "cache", chunks())).array, ARRAY)
    assert (tmp_path / "cache" / "of the first").exists()
    assert entries(tmp_path) == ["cache"]


def _hold_lock_and_die(folder, ready):
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    lock.acquire()
    ready.set()
    time.sleep(60)
    lock.release()


def test_a_killed_process_keeps_no_lock_and_others_are_informed(tmp_path, capfd):
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


# Looking after the caches


def test_list_and_clear_only_what_is_ours(tmp_path):
    def chunks():
        yield chunk(0, 3)
        raise KeyboardInterrupt

    write(tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "two", chunks())
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "a.tar").write_bytes(bytes(1000))
    (tmp_path / "files.sqlite").write_bytes(b"x")
    (tmp_path / "features-x-0.safetensors").write_bytes(bytes(2000))
    (tmp_path / "thesis.tex").write_text("precious")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"precious")
    found = {entry.kind: entry for entry in list_caches(tmp_path)}
    assert set(found) == {
        "5 images, 4x4x3",
        "images of an interrupted call",
        "decompressed archives",
        "which files were read",
        "features of real images",
    }
    assert found["decompressed archives"].size_bytes == 1000
    freed, left = clear_caches(tmp_path)
    assert freed == sum(entry.size_bytes for entry in found.values())
    assert left == []
    assert entries(tmp_path) == ["photos", "thesis.tex"]
    assert list_caches(tmp_path / "missing") == []


def test_the_last_use_is_known(tmp_path):
    folder = write(tmp_path / "one")
    os.utime(folder / "about.json", (1_000, 1_000))
    assert list_caches(tmp_path)[0].used == 1_000
    view(folder)
    assert list_caches(tmp_path)[0].used == pytest.approx(time.time(), abs=60)


def test_a_link_to_another_folder_is_not_followed_by_clear(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.tar").write_bytes(b"precious")
    root = tmp_path / "root"
    root.mkdir()
    (root / "unpacked").symlink_to(outside)
    clear_caches(root)
    assert (outside / "a.tar").exists()
