"""Runs of two processes: which one writes what, and what remains after one dies."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from fagan_hf.training.flags import parse_recipe
from fagan_hf.training.run import loop, resume
from fagan_hf.training.run.session import setup
from tests.distributed.conftest import ACCELERATE, TORCHRUN, Place
from tests.short_runs import take_shortcuts

# Each process records which images it uses, what it opens for writing in the run folder, and what it would push.
NOTED = """
import json
from fagan_hf.data.cache import Images

def note(kind, what):
    with (HERE / f"noted-{RANK}.jsonl").open("a") as file:
        file.write(json.dumps([kind, what]) + "\\n")

def hear(event, values):
    if event == "open" and isinstance(values[0], str | os.PathLike) and str(HERE / "runs") in str(values[0]):
        if values[2] & (os.O_WRONLY | os.O_RDWR):
            note("wrote", str(values[0]))
sys.addaudithook(hear)

take = Images.batch
def take_and_note(images, indices):
    note("took", [int(index) for index in indices])
    return take(images, indices)
Images.batch = take_and_note

class Publisher:
    repo_id = "nobody/nothing"
    def __init__(self, *_, **__): pass
    def check(self): note("published", "check")
    def push(self, images): note("published", images)
    def finish(self, *_): note("published", "end")
session_module.Publisher = Publisher
"""
# All of a process's tensors at the end; batch statistics of the averaged generator are measured by the main one only.
DUMPED = """
from safetensors.torch import save_file
finish = outputs.finish
def dump(session):
    files = session.checkpoints._tensors()
    if RANK:
        del files["averaged_generator"]
    tensors = {f"{file}/{key}": tensor.clone() for file, found in files.items() for key, tensor in found.items()}
    save_file(tensors, HERE / f"{session.recipe.name}-{RANK}.safetensors")
    finish(session)
outputs.finish = dump
"""
DIES_ONCE = """
def die_once(session):
    if RANK == 1 and session.images_seen == 28 and not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
before_step(die_once)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("runs") / "place")
    yield place
    place.close()


@pytest.fixture(scope="module")
def whole(place):
    """An undisturbed run of two processes."""
    script = place.script(NOTED + DUMPED, "whole.py")
    flags = place.arguments(name="whole", sample_every_images=24, push_to_hub="nobody/nothing")
    command = place.start([*ACCELERATE, "--num_processes", 2, script, *flags])
    assert command.wait() == 0, command.said
    return command


def noted(place, rank, kind):
    lines = (place.folder / f"noted-{rank}.jsonl").read_text().splitlines()
    return [what for noted_kind, what in map(json.loads, lines) if noted_kind == kind]


def metrics(place, name):
    return [json.loads(line) for line in (place.folder / f"runs/{name}/metrics.jsonl").read_text().splitlines()]


def test_the_main_process_alone_writes_and_tells(place, whole):
    assert whole.said.count("48 images in") == 1
    assert "Traceback" not in whole.said
    assert [line["images"] for line in metrics(place, "whole")] == [8, 16, 24, 32, 40, 48]
    facts = json.loads((place.folder / "runs/whole/facts.json").read_text())
    assert facts["training"]["hardware"].startswith("2 processes, each on")
    wrote = noted(place, 0, "wrote")
    for name in ("metrics.jsonl", "images-00000024.png", "recipe.yaml", "state.json", ".lock"):
        assert any(name in path for path in wrote), name
    assert noted(place, 1, "wrote") == []
    assert noted(place, 0, "published") == ["check", 16, 32, 48, 48, "end"]
    assert noted(place, 1, "published") == []


def test_no_image_goes_to_two_processes(place, whole):
    """Twelve steps are two epochs of five steps over the twenty images, and two steps more."""
    steps = list(zip(*(noted(place, rank, "took") for rank in range(2)), strict=True))
    assert len(steps) == 12
    assert all(len(mine) == len(theirs) == 2 for mine, theirs in steps)
    for epoch in (steps[:5], steps[5:10]):
        assert sorted(image for step in epoch for part in step for image in part) == list(range(20))


def test_both_processes_end_with_the_same(place, whole):
    ranks = [load_file(place.folder / f"whole-{rank}.safetensors") for rank in range(2)]
    shared = {name: tensor for name, tensor in ranks[0].items() if not name.startswith("averaged_generator/")}
    assert any("running_var" in name for name in shared)
    assert any("exp_avg_sq" in name for name in shared)
    assert_equal(shared, ranks[1])


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def checkpoint(place, name, images):
    folder = place.folder / f"runs/{name}/checkpoints/images-{images:08d}"
    return {path.stem: load_file(path) for path in folder.glob("*.safetensors")}


def test_torchrun_starts_a_run_again(place, whole):
    """A process dies; the run restarts from the checkpoint by itself, and ends like an undisturbed one."""
    script = place.script(DIES_ONCE + DUMPED, "elastic.py")
    command = place.start([*TORCHRUN, "--max-restarts", 2, script, *place.arguments(name="elastic")])
    assert command.wait() == 0, command.said
    assert (place.folder / "died").exists()
    assert command.said.count("Resuming at 16 images.") == command.said.count("48 images in") == 1
    assert [line["images"] for line in metrics(place, "elastic")] == [8, 16, 24, 32, 40, 48]
    for rank in range(2):
        assert_equal(*(load_file(place.folder / f"{name}-{rank}.safetensors") for name in ("whole", "elastic")))


def train_here(place, monkeypatch, at_start=lambda session: None, **changes):
    """Train in this process alone."""
    monkeypatch.setenv("FAGAN_CACHE", str(place.folder / "cache"))
    take_shortcuts(monkeypatch.setattr)  # as in the scripts
    session = setup(parse_recipe(place.arguments(**changes)))
    restore = resume.restore

    def restore_and_look(session):
        restore(session)
        at_start(session)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "restore", restore_and_look)
        loop.train(session)
    return session


def test_a_run_that_lost_a_process_goes_on_with_one(place, monkeypatch):
    (place.folder / "died").unlink(missing_ok=True)
    command = place.start([*TORCHRUN, place.script(DIES_ONCE, "dies.py"), *place.arguments(name="dies")])
    assert command.wait(60) != 0
    assert "Signal 9 (SIGKILL)" in command.said
    saved = checkpoint(place, "dies", 16)
    assert set(saved) >= {
        "generator",
        "discriminator",
        "averaged_generator",
        "generator_optimizer",
        "discriminator_optimizer",
    }

    def compare(session):
        assert session.images_seen == 16
        now = session.checkpoints._tensors()
        for name, tensors in now.items():
            assert tensors, name
            assert_equal(tensors, saved[name])

    session = train_here(place, monkeypatch, compare, name="dies")
    lines = metrics(place, "dies")
    assert [line["images"] for line in lines] == [8, 16, 24, 32, 40, 48]
    events = [event for line in lines for event in line.get("events", [])]
    assert len(events) == 1
    assert "Resuming with 1 process instead of 2" in events[0]
    assert "events" in lines[2]

    alone = train_here(place, monkeypatch, name="alone")
    first = train_here(place, monkeypatch, name="first", max_images=4)
    latents = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # many weights have no effect and drift, so images are compared
        went_on, alone, first = (each.generator.eval()(latents) for each in (session, alone, first))
    difference, way = (went_on - alone).abs().mean().item(), (first - alone).abs().mean().item()
    assert 0 < difference < 0.02 * way, (difference, way)


MEASURED = """
from torch import nn
from fagan_hf.metrics import features
class Means(nn.Module):
    def forward(self, images):
        return images.float().mean((2, 3))
features.FEATURES["effnetlite0"] = lambda: features.FeatureExtractor("means", Means(), "mean colors")
"""


def test_two_processes_measure_what_one_does(place):
    """Eleven images, so that the last process drops one; the generator hardly learns anything."""
    arguments = {"eval_every_images": 24, "eval_num_images": 11, "max_images": 24}
    arguments |= {"generator_learning_rate": 1e-12, "discriminator_learning_rate": 1e-12}
    script = place.script(MEASURED)
    commands = [
        place.start([sys.executable, script, *place.arguments(name="one", **arguments)]),
        place.start([*TORCHRUN, script, *place.arguments(name="two", **arguments)]),
    ]
    for command in commands:
        assert command.wait() == 0, command.said
    found = [
        json.loads((place.folder / f"runs/{name}/metrics.jsonl").read_text().splitlines()[-1])
        for name in ("one", "two")
    ]
    measured = [{name: value for name, value in each.items() if name.endswith("_means_11")} for each in found]
    assert len(measured[0]) == 8
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)
    assert all((place.folder / f"runs/{name}/best/metrics.json").is_file() for name in ("one", "two"))
