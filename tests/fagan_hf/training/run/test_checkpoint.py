import ast
import errno
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim import Adam

import fagan_hf.training.run.checkpoint
import fagan_hf.utils.files
from fagan_hf.training.run.checkpoint import Checkpoints, problem_of


def make(folder, keep=2):
    network = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    optimizer = Adam(network.parameters(), lr=0.1, fused=True)
    return Checkpoints(folder, {"network": network}, {"optimizer": optimizer}, keep)


def restore(checkpoints):
    found = checkpoints.read()
    if found is None:
        return None
    checkpoints.restore(found[1])
    return found[0]


def step(checkpoints):
    network, optimizer = checkpoints.networks["network"], checkpoints.optimizers["optimizer"]
    network(torch.arange(12.0).view(1, 3, 2, 2)).square().sum().backward()  # all weights differ
    optimizer.step()
    optimizer.zero_grad()
    return network.weight.clone()


def test_training_goes_on_as_if_never_stopped(tmp_path):
    first = make(tmp_path)
    step(first)
    first.save(32, {"images_seen": 32, "note": "x"})
    expected = [step(first) for _ in range(3)]
    second = make(tmp_path)
    assert restore(second) == {"images_seen": 32, "note": "x"}
    assert all(torch.equal(step(second), weight) for weight in expected)


def test_nothing_to_restore(tmp_path):
    assert restore(make(tmp_path / "none")) is None


def test_the_newest_stay(tmp_path):
    checkpoints = make(tmp_path, keep=2)
    for images in (5, 40, 300):
        checkpoints.save(images, {"images_seen": images})
    assert [path.name for path in checkpoints.all()] == ["images-00000040", "images-00000300"]


def test_a_whole_checkpoint_is_never_taken_away_to_be_written_again(tmp_path):
    checkpoints = make(tmp_path, keep=1)
    path = checkpoints.save(300, {"images_seen": 300})
    written = (path / "state.json").stat().st_ino
    checkpoints.save(300, {"images_seen": 300})
    assert (path / "state.json").stat().st_ino == written
    (path / "state.json").write_text("broken")
    checkpoints.save(300, {"images_seen": 300})
    assert restore(checkpoints) == {"images_seen": 300}


def test_a_hundred_million_images_are_more_than_ninety_nine(tmp_path):
    checkpoints = make(tmp_path, keep=1)
    for images in (99_999_999, 100_000_000):
        checkpoints.save(images, {"images_seen": images})
    assert restore(checkpoints) == {"images_seen": 100_000_000}


FILES = ["network.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(tmp_path, caplog, name, damage):
    checkpoints = make(tmp_path)
    checkpoints.save(32, {"images_seen": 32})
    step(checkpoints)
    path = checkpoints.save(64, {"images_seen": 64}) / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-5] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    assert restore(checkpoints) == {"images_seen": 32}
    assert "images-00000064 is corrupt" in caplog.text


def test_a_full_disk_leaves_the_earlier_ones_and_nothing_half_written(tmp_path, monkeypatch):
    checkpoints = make(tmp_path)
    checkpoints.save(32, {"images_seen": 32})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fagan_hf.training.run.checkpoint, "_optimizer_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(64, {"images_seen": 64})
    assert [path.name for path in tmp_path.iterdir()] == ["images-00000032"]


def test_a_half_written_one_of_a_killed_process_is_not_seen(tmp_path):
    checkpoints = make(tmp_path)
    path = checkpoints.save(32, {"images_seen": 32})
    shutil.copytree(path, tmp_path / ".images-00000064.123")
    assert restore(checkpoints) == {"images_seen": 32}
    checkpoints.save(96, {"images_seen": 96})
    assert not (tmp_path / ".images-00000064.123").exists()


def step_and_save(checkpoints, *moments):
    for images in moments:
        step(checkpoints)
        checkpoints.save(images, {"images_seen": images}, {"means": torch.full((2,), float(images))})


def names(checkpoints):
    return [int(path.name.removeprefix("images-")) for path in checkpoints.all()]


def spoil(checkpoints, images):
    (checkpoints.folder / f"images-{images:08d}" / "state.json").write_text("{}")


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_the_runs_own_tensors_are_checked_like_all_others(tmp_path, caplog, damage):
    checkpoints = make(tmp_path)
    step_and_save(checkpoints, 32, 64)
    path = tmp_path / "images-00000064/numbers.safetensors"
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"cut": content[:-1], "flip": flipped, "empty": b""}.get(damage, b""))
    if damage == "remove":
        path.unlink()
    state, files = make(tmp_path).read()
    assert state == {"images_seen": 32}
    assert files["numbers"]["means"].tolist() == [32, 32]
    assert "images-00000064 is corrupt" in caplog.text
    assert "numbers.safetensors" in caplog.text


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "null",
        "3",
        '"state.json"',
        '["state.json"]',
        "{}",
        '{"state.json": 1}',
        '{"state.json": null}',
        "\xff",
    ],
)
def test_a_manifest_that_is_none(tmp_path, caplog, manifest):
    checkpoints = make(tmp_path)
    step_and_save(checkpoints, 32, 64)
    (tmp_path / "images-00000064/manifest.json").write_bytes(manifest.encode("latin-1"))
    assert restore(checkpoints) == {"images_seen": 32}
    assert "images-00000064 is corrupt" in caplog.text


def test_a_manifest_that_points_elsewhere(tmp_path):
    checkpoints = make(tmp_path)
    step_and_save(checkpoints, 32, 64)
    path = tmp_path / "images-00000064/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"../images-00000032/state.json": "0"}))
    assert "is outside the checkpoint" in problem_of(path.parent)
    assert restore(checkpoints) == {"images_seen": 32}


@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.safetensors"])
def test_a_manifest_that_leaves_out_what_is_needed(tmp_path, name):
    """Whether the file itself exists or not: its content could not be verified."""
    for is_there in (True, False):
        checkpoints = make(tmp_path)
        step_and_save(checkpoints, 32, 64)
        folder = tmp_path / "images-00000064"
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest[name]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        if not is_there:
            (folder / name).unlink()
        assert restore(checkpoints) == {"images_seen": 32}
        shutil.rmtree(folder)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_whole_ones_stay_and_broken_ones_count_for_none(tmp_path, keep):
    checkpoints = make(tmp_path, keep=3)
    step_and_save(checkpoints, 8, 16, 24)
    spoil(checkpoints, 16)
    again = make(tmp_path, keep)  # another session, which has verified nothing yet
    step_and_save(again, 32)
    assert names(again) == {1: [32], 2: [24, 32], 3: [8, 24, 32]}[keep]
    step_and_save(again, 40)
    assert names(again) == {1: [40], 2: [32, 40], 3: [24, 32, 40]}[keep]


def test_a_broken_one_that_is_newer_than_the_restored_one(tmp_path):
    """The run continues past it, and never keeps it instead of a good one."""
    checkpoints = make(tmp_path, keep=2)
    step_and_save(checkpoints, 8, 24)
    spoil(checkpoints, 24)
    again = make(tmp_path, keep=2)
    assert restore(again) == {"images_seen": 8}
    step_and_save(again, 16)
    assert {8, 16} <= set(names(again))
    assert restore(make(tmp_path)) == {"images_seen": 16}
    step_and_save(again, 24)
    assert restore(make(tmp_path)) == {"images_seen": 24}
    assert names(again) == [16, 24]


def test_a_good_one_stays_while_the_next_can_not_be_written(tmp_path, monkeypatch):
    checkpoints = make(tmp_path, keep=1)
    step_and_save(checkpoints, 8)

    def fail(path):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(fagan_hf.utils.files, "sync", fail)
    for _ in range(3):
        with pytest.raises(OSError, match="no"):
            checkpoints.save(16, {"images_seen": 16})
    assert [path.name for path in tmp_path.iterdir()] == ["images-00000008"]
    assert restore(checkpoints) == {"images_seen": 8}


def test_the_state_is_checked_before_tensors_are_read(tmp_path, monkeypatch):
    checkpoints = make(tmp_path)
    step_and_save(checkpoints, 8, 16)
    monkeypatch.setattr(fagan_hf.training.run.checkpoint, "load_file", None)

    def refuse(state):
        raise ValueError(f"not {state['images_seen']}")

    with pytest.raises(ValueError, match="not 16"):  # and not the one before it instead
        checkpoints.read(refuse)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_a_pickle_that_lies_there_is_never_opened(tmp_path):
    """Neither next to the files, in the manifest or not, nor in place of one."""
    checkpoints = make(tmp_path)
    step_and_save(checkpoints, 8, 16)
    folder = tmp_path / "images-00000016"
    bomb = pickle.dumps(Bomb())
    for name in ("network.pt", "network.bin", "data.pkl", "optimizer.pth"):
        (folder / name).write_bytes(bomb)
    assert restore(make(tmp_path)) == {"images_seen": 16}
    (folder / "network.safetensors").write_bytes(bomb)
    assert restore(make(tmp_path)) == {"images_seen": 8}
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps(manifest | {"network.safetensors": hashlib.sha256(bomb).hexdigest()})
    )
    with pytest.raises(SafetensorError):
        make(tmp_path).read()


def test_nothing_is_unpickled_anywhere():
    for path in Path("training").rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (*(alias.name for alias in node.names), getattr(node, "module", None))
        }
        assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        calls = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not calls & {"torch.load", "torch.save", "np.load", "accelerator.load_state"}, path
