import dataclasses
import json

import pytest

from fagan_hf import __version__
from fagan_hf.training.run.progress import FORMAT, Progress


def test_what_is_written_is_read_back():
    progress = Progress(
        images_seen=64,
        seconds=1.5,
        lines=3,
        logged_images=60,
        logged_seconds=1.25,
        metrics=["generator_loss"],
        measured={"sample_diversity": 0.9},
        events=["something"],
        symptoms={"collapse": 2},
        copies={"share": 0.1},
        returns=1,
        processes=2,
        precision="bf16",
        data={"content": "a", "description": {"count": 3}},
        lineage={"hardware": ["x"]},
    )
    fresh = Progress()
    names = [field.name for field in dataclasses.fields(Progress)]
    assert [name for name in names if getattr(progress, name) == getattr(fresh, name)] == []
    state = json.loads(json.dumps(progress.to_state()))
    assert state["format"] == FORMAT
    assert state["version"] == __version__
    assert Progress.from_state(state) == progress


def test_the_first_format_is_read():
    state = {"images_seen": 640, "seconds": 2.5, "version": "0.1.0", "lineage": {"finetuned_from": "a/b"}}
    expected = Progress(640, 2.5, None, logged_images=640, logged_seconds=2.5, lineage={"finetuned_from": "a/b"})
    assert Progress.from_state(state) == expected


def test_a_newer_format_is_refused_and_named():
    state = Progress().to_state() | {"format": FORMAT + 1, "version": "9.8.7"}
    said = rf"fagan_hf 9\.8\.7 in format {FORMAT + 1}.*up to {FORMAT} only\. Resume with fagan_hf 9\.8\.7 or newer"
    with pytest.raises(ValueError, match=said):
        Progress.from_state(state)


def test_what_a_later_version_of_the_same_format_adds_is_left_out():
    assert Progress.from_state(Progress(images_seen=4).to_state() | {"mood": "good"}) == Progress(images_seen=4)


def test_runs_share_no_lists():
    Progress().events.append("x")
    assert Progress().events == []
