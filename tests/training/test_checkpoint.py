import errno
import shutil

import pytest
import torch
from torch import nn
from torch.optim import Adam

import training.checkpoint
from training.checkpoint import Checkpoints


def make(folder, keep=2):
    network = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    optimizer = Adam(network.parameters(), lr=0.1, fused=True)
    return Checkpoints(folder, {"network": network}, {"optimizer": optimizer}, keep)


def restore(checkpoints):
    found = checkpoints.read()
    if found is None:
        return None
    checkpoints.take_up(found[1])
    return found[0]


def step(checkpoints):
    network, optimizer = checkpoints.networks["network"], checkpoints.optimizers["optimizer"]
    network(torch.arange(12.0).view(1, 3, 2, 2)).square().sum().backward()  # no two weights alike
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
    assert "images-00000064 is broken" in caplog.text


def test_a_full_disk_leaves_the_earlier_ones_and_nothing_half_written(tmp_path, monkeypatch):
    checkpoints = make(tmp_path)
    checkpoints.save(32, {"images_seen": 32})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training.checkpoint, "_optimizer_tensors", full)
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
