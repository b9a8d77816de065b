"""Failures of real runs: NaN, full disks, broken files, changed data, kills."""

import dataclasses
import json
import math
import os
import shutil
import signal
import textwrap
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fagan_hf.architectures.load import save_architecture
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.architectures.specs import DropoutSpec
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training import command
from fagan_hf.training.reporting.health import DivergedError
from fagan_hf.training.reporting.report import Report
from fagan_hf.training.run import loop, resume
from fagan_hf.training.run.session import setup
from tests.hub import forked
from tests.sessions import after_step, train
from tests.small import DISCRIMINATOR, GENERATOR

ROOT = Path(__file__).parents[3]
SELDOM = {"sample_every_images": 10_000}  # generating grids takes longer than training


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch):
    """Skip plots, which take longer than the rest of a run."""
    monkeypatch.setattr(Report, "draw_plots", lambda self: None)


def refuse(constant):
    raise ValueError(f"{constant} is no JSON")


def lines(recipe):
    """Read `metrics.jsonl` as strict JSON."""
    *whole, rest = (recipe.run_dir / "metrics.jsonl").read_text().split("\n")
    assert rest == ""
    return [json.loads(line, parse_constant=refuse) for line in whole]


def images(recipe):
    return [line["images"] for line in lines(recipe)]


def checkpoints(recipe):
    return sorted(int(path.name.removeprefix("images-")) for path in (recipe.run_dir / "checkpoints").iterdir())


def end_of(recipe):
    """Return the final state of a run, without anything that depends on time."""
    newest = recipe.run_dir / "checkpoints" / f"images-{max(checkpoints(recipe)):08d}"
    files = [*newest.glob("*.safetensors"), *recipe.run_dir.glob("*/model.safetensors")]
    tensors = {
        f"{path.parent.name} {path.stem} {name}": tensor for path in files for name, tensor in load_file(path).items()
    }
    clocks = ("seconds", "images_per_second", "peak_memory_mb")
    numbers = [{name: number for name, number in line.items() if name not in clocks} for line in lines(recipe)]
    return tensors, numbers


def assert_same_end(recipe, other):
    (tensors, numbers), (other_tensors, other_numbers) = end_of(recipe), end_of(other)
    assert tensors.keys() == other_tensors.keys()
    assert [name for name, tensor in tensors.items() if not torch.equal(tensor, other_tensors[name])] == []
    assert numbers == other_numbers


def everything(trainer):
    """Copy everything that a step may change, except for spectral norms, which follow from the weights."""
    found = {}
    for name, player in (("generator", trainer.generator), ("discriminator", trainer.discriminator)):
        state = player.network.state_dict()
        found |= {f"{name}.{key}": value.clone() for key, value in state.items() if not key.endswith((".u", ".v"))}
        for index, slots in player.optimizer.state_dict()["state"].items():
            found |= {f"{name}.{index}.{key}": value.clone() for key, value in slots.items()}
    return found


def changes(before, trainer):
    return {name for name, tensor in everything(trainer).items() if not torch.equal(tensor, before[name])}


def break_loss(session, when, player="discriminator", number=math.nan):
    """Make the loss of a player NaN in some steps."""
    inner = getattr(session.trainer.loss, player)

    def broken(real, fake):
        loss = inner(real, fake)
        return loss * number if when(session) else loss

    session.trainer.loss = dataclasses.replace(session.trainer.loss, **{player: broken})


def break_gradient(session, when, player="discriminator", number=math.nan):
    """Make one value of a gradient NaN, while the loss is finite."""
    network = getattr(session.trainer, f"bare_{player}")
    parameter = list(network.parameters())[-1]

    def broken(gradient):
        gradient = gradient.clone()
        gradient[(0,) * gradient.dim()] = number
        return gradient

    parameter.register_hook(lambda gradient: broken(gradient) if when(session) else gradient)


def while_between(start, end, returns=range(100)):
    """Break the steps between these image counts, but only after the given numbers of rollbacks."""
    return lambda session: start <= session.images_seen < end and session.progress.returns in returns


# Non-finite steps are skipped.

DEEP = dataclasses.replace(
    DISCRIMINATOR, layers=(dataclasses.replace(DISCRIMINATOR.layers[0], batch_norm=True), *DISCRIMINATOR.layers[1:])
)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("player", ["discriminator", "generator"])
@pytest.mark.parametrize("break_it", [break_loss, break_gradient])
def test_a_step_that_is_not_finite_changes_nothing_to_the_bit(make_recipe, monkeypatch, break_it, player, number):
    monkeypatch.setitem(PRESETS, "tiny", (GENERATOR, DEEP))
    session = setup(make_recipe(gradient_accumulation=2))
    loop.take_step(session)
    is_broken = [True]
    break_it(session, lambda session: is_broken[0], player, number)
    for_discriminator, for_generator = session.batches.make(4)
    step, batches, other = session.trainer.discriminator_step, for_discriminator, session.trainer.generator_step
    if player == "generator":
        step, batches, other = session.trainer.generator_step, for_generator, session.trainer.discriminator_step
    before = everything(session.trainer)
    assert any("running_var" in name for name in before)
    numbers = step(batches)
    assert changes(before, session.trainer) == set()
    assert numbers[f"{player}_skipped"] == 1
    is_broken[0] = False
    assert step(batches)[f"{player}_skipped"] == 0
    moved = changes(before, session.trainer)
    assert any(name.endswith("exp_avg") for name in moved)
    assert any(name.startswith(f"{player}.layers") for name in moved)
    assert f"{'generator' if player == 'discriminator' else 'discriminator'}_skipped" in other(
        for_generator if player == "discriminator" else for_discriminator
    )


def test_a_step_that_is_skipped_first_of_all(make_recipe):
    """There are no moments yet: none are created by it, and Adam doesn't count it."""
    session = setup(make_recipe(loss="hinge"))
    break_loss(session, lambda session: session.images_seen == 0)
    loop.take_step(session)
    loop.take_step(session)
    state = session.trainer.discriminator.optimizer.state_dict()["state"]
    assert {int(slots["step"]) for slots in state.values()} == {1}
    assert all(slots["exp_avg"].isfinite().all() for slots in state.values())


def test_fakes_that_are_not_finite_leave_no_trace_in_batch_statistics(make_recipe):
    """They are generated before the discriminator's step, by a generator in training mode."""
    session = setup(make_recipe())
    loop.take_step(session)
    [batch] = session.batches.make(4)[0]
    bad = dataclasses.replace(batch, latents=torch.full_like(batch.latents, math.inf))
    before = everything(session.trainer)
    assert session.trainer.discriminator_step([bad])["discriminator_skipped"] == 1
    assert changes(before, session.trainer) == set()


@pytest.mark.parametrize("name", ["r1", "wasserstein_penalty"])
def test_a_penalty_that_is_not_finite_skips_the_step(make_recipe, name):
    rules = {"r1_gamma": 1.0} if name == "r1" else {"wasserstein_penalty": 1.0}
    recipe = make_recipe(**rules, **SELDOM, max_images=12)
    session = setup(recipe)
    inner = type(session.trainer.regularization).penalize

    class Broken(type(session.trainer.regularization)):
        def penalize(self, *arguments):
            found = dict(inner(self, *arguments))
            weight, penalty = found[name]
            return found | {name: (weight, penalty * (math.inf if session.images_seen == 4 else 1.0))}

    session.trainer.regularization = Broken(**vars(session.trainer.regularization))
    loop.train(session)
    told = lines(recipe)
    assert [line["discriminator_skipped_steps"] for line in told] == [0, 1, 0]
    assert [name in line for line in told] == [True, False, True]
    assert all("discriminator_loss" in line for line in told)  # it stayed finite


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_fault_that_ends_by_itself_is_skipped_told_and_nothing_else(make_recipe, monkeypatch, player, capfd):
    recipe = make_recipe(max_images=64, checkpoint_every_images=1000, **SELDOM | {"log_every_images": 8})
    session = setup(recipe)
    break_loss(session, while_between(4, 40), player)  # nine steps
    shown = []
    show = loop.tqdm.set_postfix
    monkeypatch.setattr(loop.tqdm, "set_postfix", lambda bar, *args: (show(bar, *args), shown.append(bar.postfix)))
    loop.train(session)
    told = lines(recipe)
    assert [line[f"{player}_skipped_steps"] for line in told] == [1, 2, 2, 2, 2, 0, 0, 0]
    other = "generator" if player == "discriminator" else "discriminator"
    assert sum(line[f"{other}_skipped_steps"] for line in told) == 0
    assert [f"{player}_loss" in line for line in told] == [True, *[False] * 4, *[True] * 3]
    assert ["skipped" in text for text in shown] == [True] * 5 + [False] * 3
    assert "skipped=2" in shown[1]
    assert not any("events" in line for line in told)
    assert "Rolled back" not in capfd.readouterr().out
    assert session.progress.returns == 0


# Ten in a row cause a rollback.


def test_ten_in_a_row_lead_back_to_the_checkpoint(make_recipe, monkeypatch, capfd):
    recipe = make_recipe(max_images=96, checkpoint_every_images=16, sample_every_images=16, log_every_images=8)
    session = setup(recipe)
    break_loss(session, while_between(36, 1000, returns=[0]))
    orders = []

    def spy():
        players = session.trainer.generator, session.trainer.discriminator
        orders.append(
            (session.images_seen, session.batches.attempt, *(each.optimizer.param_groups[0]["lr"] for each in players))
        )

    after_step(monkeypatch, session, spy)
    seen = []
    roll_back = resume.roll_back

    def spy_on_rollback(each):
        roll_back(each)
        samples = sorted(path.name for path in (recipe.run_dir / "samples").iterdir())
        seen.append((session.images_seen, images(recipe), samples, checkpoints(recipe)))

    monkeypatch.setattr(resume, "roll_back", spy_on_rollback)
    loop.train(session)
    # Broken from the step after 36: the tenth is at 76, the line at 80 notices. No checkpoint since 32.
    assert seen == [(32, [8, 16, 24, 32], ["images-00000016.png", "images-00000032.png"], [16, 32])]
    assert images(recipe) == list(range(8, 97, 8))
    [event] = [event for line in lines(recipe) for event in line.get("events", [])]
    [told] = [line["images"] for line in lines(recipe) if "events" in line]
    assert told == 40
    assert "Rolled back from 80 to 32 images, rollback 1 of 3" in event
    assert "were not finite for 10 consecutive steps" in event
    assert "new order and learning rates are 0.5 times" in event
    output = capfd.readouterr().out
    assert event in output
    assert "No checkpoint at 48 images because the last step was skipped." in output
    before, after = ([each for each in orders if each[1] == attempt] for attempt in (0, 1))
    assert [each[0] for each in before] == list(range(4, 81, 4))
    assert [each[0] for each in after] == list(range(36, 97, 4))
    rates = recipe.generator_learning_rate, recipe.discriminator_learning_rate
    assert before[-1][2:] == rates
    assert after[-1][2:] == tuple(rate / 2 for rate in rates)
    assert session.progress.returns == 1
    assert session.skipped.counts.tolist() == [0, 0, 0, 0]


def test_going_back_takes_other_images(make_recipe):
    session = setup(make_recipe())
    first = session.batches.make(8)[0][0]
    session.batches.go_to(8, 1)
    second = session.batches.make(8)[0][0]
    assert not torch.equal(first.real, second.real)
    assert not torch.equal(first.latents, second.latents)


def test_a_fault_right_at_the_start_leads_back_to_the_beginning(make_recipe):
    recipe = make_recipe(max_images=64, checkpoint_every_images=1000, log_every_images=20, **SELDOM)
    session = setup(recipe)
    break_gradient(session, while_between(0, 1000, returns=[0]), "generator")
    loop.train(session)
    assert images(recipe) == [20, 40, 60, 64]
    assert "from 40 to 0 images" in lines(recipe)[0]["events"][0]


def test_after_three_returns_it_ends_with_a_report(make_recipe, monkeypatch, capfd):
    """With exit status 3; good checkpoints stay, and every rollback is recorded."""
    recipe = make_recipe(max_images=400, checkpoint_every_images=8, **SELDOM | {"log_every_images": 8})

    def setup_broken(recipe):
        session = setup(recipe)
        break_loss(session, while_between(16, 10_000), number=math.inf)
        return session

    monkeypatch.setattr(command, "setup", setup_broken)
    monkeypatch.setattr(command, "parse_recipe", lambda *_, **__: recipe)
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 3
    assert isinstance(caught.value.__cause__, DivergedError)
    error = capfd.readouterr().err
    assert "train.py: error: Training has diverged" in error
    assert "after 3 rollbacks" in error
    assert "down to 0.125 times" in error
    assert "discriminator_skipped_steps: 2" in error
    assert f"--finetune_from {recipe.run_dir}" in error
    assert checkpoints(recipe) == [8, 16]
    assert images(recipe) == list(range(8, 57, 8))
    events = [event for line in lines(recipe) for event in line.get("events", [])]
    assert len(events) == 3
    for number, event in enumerate(events, 1):
        assert event.startswith(
            f"Rolled back from 56 to 16 images, rollback {number} of 3: losses or gradients were not finite for 10"
        )
        assert "(steps skipped since the previous line: discriminator 2, generator 0)" in event
        assert event.endswith(f"learning rates are {0.5**number:g} times the recipe's.")
    assert all(tensor.isfinite().all() for tensor in load_file(recipe.run_dir / "generator/model.safetensors").values())
    Generator.from_pretrained(recipe.run_dir)
    assert "another process" not in error
    setup(recipe).lock.release()  # the folder is free again


def test_a_run_that_went_back_goes_on_as_if_never_stopped(make_recipe, monkeypatch):
    whole, halves = (
        make_recipe(name=name, max_images=88, log_every_images=8, **SELDOM) for name in ("whole", "halves")
    )
    for recipe, ends in ((whole, [88]), (halves, [76, 88])):
        for end in ends:
            session = setup(dataclasses.replace(recipe, max_images=88))
            break_loss(session, while_between(20, 1000, returns=[0]))
            if end < 88:
                stop_at(monkeypatch, session, end, returns=1)
            loop.train(session)
            assert session.progress.returns == 1
    assert_same_end(whole, halves)


def stop_at(monkeypatch, session, end, returns=0):
    """Request a run to stop after a number of images."""

    def stop():
        if session.images_seen == end and session.progress.returns == returns:
            os.kill(os.getpid(), signal.SIGTERM)

    after_step(monkeypatch, session, stop)


def test_a_checkpoint_from_after_a_fault_leads_back_once(make_recipe):
    """The fault has passed and a checkpoint is written before the line that detects it."""
    recipe = make_recipe(max_images=128, log_every_images=64, checkpoint_every_images=56, **SELDOM)
    session = setup(recipe)
    break_loss(session, while_between(8, 52, returns=[0]))  # eleven steps
    loop.train(session)
    assert session.progress.returns == 1
    assert images(recipe) == [64, 128]


def test_who_is_asked_to_end_after_a_fault_comes_right(make_recipe, monkeypatch):
    recipe = make_recipe(max_images=96, log_every_images=64, checkpoint_every_images=1000, **SELDOM)
    session = setup(recipe)
    break_loss(session, while_between(0, 44, returns=[0]))
    stop_at(monkeypatch, session, 52)
    loop.train(session)
    assert train(recipe).progress.returns <= 1


def test_who_is_asked_to_end_while_steps_are_skipped_is_told_the_truth(make_recipe, monkeypatch, capfd):
    recipe = make_recipe(checkpoint_every_images=8, **SELDOM)
    session = setup(recipe)
    break_loss(session, while_between(12, 1000))
    stop_at(monkeypatch, session, 16)
    loop.train(session)
    assert checkpoints(recipe) == [0, 8]
    output = capfd.readouterr().out
    assert "No checkpoint at 16 images" in output
    assert "Stop requested; no checkpoint saved." in output
    assert "Stop requested; checkpoint saved" not in output
    assert train(recipe).images_seen == 24


def test_a_run_is_not_over_while_it_is_lost(make_recipe):
    """The last steps are broken, and no log line is due at the end."""
    recipe = make_recipe(max_images=80, log_every_images=32, checkpoint_every_images=32, **SELDOM)
    session = setup(recipe)
    break_loss(session, while_between(32, 1000, returns=[0]))
    loop.train(session)
    assert session.progress.returns == 1
    assert images(recipe) == [32, 64, 80]
    assert lines(recipe)[-1]["discriminator_skipped_steps"] == 0


def first_format(recipe):
    """Convert the checkpoints of a run to the project's first format."""
    for folder in (recipe.run_dir / "checkpoints").iterdir():
        (folder / "numbers.safetensors").unlink()
        state = json.loads((folder / "state.json").read_text())
        kept = {name: state[name] for name in ("images_seen", "seconds", "version", "lineage")}
        (folder / "state.json").write_text(json.dumps(kept))
        seal(folder)


def seal(folder):
    """Rewrite the manifest."""
    from fagan_hf.utils.files import sha256

    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps(hashes))


def test_the_first_format_goes_on(make_recipe):
    whole, halves = (make_recipe(name=name, **SELDOM) for name in ("whole", "halves"))
    train(whole)
    train(dataclasses.replace(halves, max_images=16))
    first_format(halves)
    train(halves)
    assert_same_end(whole, halves)


def test_going_back_to_the_first_format(make_recipe):
    """It has no record of lines and of skipped steps."""
    recipe = make_recipe(max_images=16, **SELDOM)
    train(recipe)
    first_format(recipe)
    longer = dataclasses.replace(recipe, max_images=80, checkpoint_every_images=24, log_every_images=8)
    session = setup(longer)
    break_loss(session, while_between(16, 1000, returns=[0]))
    loop.train(session)
    assert session.progress.returns == 1
    expected = [4, 8, 12, 16, *range(24, 81, 8)]
    assert images(longer) == expected
    train(dataclasses.replace(longer, max_images=88))
    assert images(longer) == [*expected, 88]


def test_a_newer_format_is_refused_and_not_passed_over(make_recipe, monkeypatch, capfd):
    recipe = make_recipe(max_images=16, **SELDOM)
    train(recipe)
    newest = recipe.run_dir / "checkpoints/images-00000016"
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(state | {"format": 3, "version": "7.7"}))
    seal(newest)
    before = end_of(recipe)[1]
    longer = dataclasses.replace(recipe, max_images=32)
    with pytest.raises(ValueError, match=r"written by fagan_hf 7\.7 in format 3, but .* reads formats up to 2"):
        train(longer)
    monkeypatch.setattr(command, "parse_recipe", lambda *_, **__: longer)
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    assert "fagan_hf 7.7 in format 3" in capfd.readouterr().err
    assert checkpoints(recipe) == [8, 16]
    assert lines(recipe)[-1]["images"] == before[-1]["images"] == 16


# Broken checkpoints.

WHOLE_FILES = (
    "generator.safetensors", "discriminator.safetensors", "averaged_generator.safetensors",
    "generator_optimizer.safetensors", "discriminator_optimizer.safetensors", "numbers.safetensors",
    "state.json", "manifest.json",
)  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one(make_recipe, damage, caplog):
    """Whichever file of the newest one is broken, the log says which and why, and the run ends as if undisturbed."""
    whole, broken = (make_recipe(name=name, sample_every_images=16) for name in ("whole", "broken"))
    train(whole)
    train(dataclasses.replace(broken, max_images=16))
    folder = broken.run_dir / "checkpoints/images-00000016"
    assert {path.name for path in folder.iterdir()} == set(WHOLE_FILES)
    kept = folder.rename(broken.run_dir.parent / "kept")
    for name in WHOLE_FILES:
        caplog.clear()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        content = bytearray((folder / name).read_bytes())
        if damage == "cut":
            del content[len(content) // 2 :]
        else:
            content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)
        session = setup(broken)
        resume.restore(session)
        session.lock.release()
        assert session.images_seen == 8, name
        [record] = [record.getMessage() for record in caplog.records if "images-00000016" in record.getMessage()]
        assert "is corrupt (" in record
        assert name in record or name == "manifest.json"
        assert "using the previous one" in record
    train(broken)
    assert_same_end(whole, broken)


def test_where_no_checkpoint_is_whole_nothing_begins_anew(make_recipe):
    recipe = make_recipe(max_images=16, **SELDOM)
    train(recipe)
    for folder in (recipe.run_dir / "checkpoints").iterdir():
        (folder / "manifest.json").write_text("")
    with pytest.raises(ValueError, match=r"all checkpoints in .* are corrupt \(.*start over"):
        train(dataclasses.replace(recipe, max_images=24))
    assert checkpoints(recipe) == [8, 16]
    assert images(recipe) == [4, 8, 12, 16]


# Symptoms.


def test_a_generator_that_makes_one_picture_is_warned_of_over_a_resume(make_recipe, monkeypatch, capfd):
    recipe = make_recipe(max_images=40, log_every_images=4, **SELDOM)
    is_broken = [True]

    def collapsed(session):
        """With a single latent, batch norm yields a single image."""
        inner = session.batches.make

        def make(images_seen):
            for_discriminator, for_generator = inner(images_seen)
            same = [dataclasses.replace(each, latents=torch.zeros_like(each.latents)) for each in for_discriminator]
            return (same if is_broken[0] else for_discriminator), for_generator

        session.batches.make = make
        return session

    loop.train(collapsed(setup(dataclasses.replace(recipe, max_images=24))))
    told = lines(recipe)
    assert [len(line.get("warnings", [])) for line in told] == [0, 0, 0, 0, 1, 1]
    assert all(line["fake_variance"] < 0.05 * line["real_variance"] for line in told)
    assert capfd.readouterr().out.count("Warning: the generated images hardly differ") == 1
    session = collapsed(setup(recipe))
    take_step = loop.take_step

    def heal_and_step(session):
        is_broken[0] = session.images_seen < 32
        take_step(session)

    monkeypatch.setattr(loop, "take_step", heal_and_step)
    loop.train(session)
    assert [len(line.get("warnings", [])) for line in lines(recipe)] == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    output = capfd.readouterr().out
    assert "Warning:" not in output
    assert output.count("Resolved: collapse.") == 1


def test_gates_and_norms_of_a_run_are_watched(make_recipe, capfd):
    recipe = make_recipe(max_images=24, **SELDOM)
    session = setup(recipe)
    with torch.no_grad():
        session.generator.layers[0].alpha.fill_(5.0)
        session.discriminator.layers[1].conv.parametrizations.weight.original.mul_(1e5)
    loop.train(session)
    texts = lines(recipe)[-1]["warnings"]
    assert any("the gate generator.layers.0.alpha is " in text for text in texts)
    assert any("largest singular value of the discriminator's weights" in text for text in texts)
    assert capfd.readouterr().out.count("Warning: ") == len(texts)


# Odd cases.


def test_a_clock_that_is_set_changes_nothing(make_recipe, monkeypatch):
    plain, odd = (make_recipe(name=name, max_minutes=5, **SELDOM) for name in ("plain", "odd"))
    train(plain)
    real, calls = time.time, []

    def jumping():
        calls.append(1)
        return real() + 1e6 * (-1) ** len(calls)

    monkeypatch.setattr(time, "time", jumping)
    session = train(odd)
    assert 0 < session.seconds < 300
    seconds = [line["seconds"] for line in lines(odd)]
    assert seconds == sorted(seconds)
    assert_same_end(plain, odd)


@pytest.mark.parametrize("place", ["/proc/runs", "/sys/runs", "file"])
def test_a_folder_that_takes_nothing_ends_a_run_with_a_sentence(make_recipe, tmp_path, monkeypatch, capfd, place):
    if place == "file":
        place = tmp_path / "file"
        place.write_text("mine")
    monkeypatch.setattr(command, "parse_recipe", lambda *_, **__: make_recipe(output_dir=str(place)))
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    error = capfd.readouterr().err
    assert f"can't create a run folder in {place} (" in error
    assert "Traceback" not in error


def test_a_second_run_in_the_folder_is_refused(make_recipe, monkeypatch, capfd):
    recipe = make_recipe(**SELDOM)
    first = setup(recipe)
    monkeypatch.setattr(command, "parse_recipe", lambda *_, **__: recipe)
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    assert f"another process is training in {recipe.run_dir}" in capfd.readouterr().err
    loop.train(first)
    assert train(dataclasses.replace(recipe, max_images=28)).images_seen == 28  # released at the end


def change_a_picture(folder):
    Image.new("RGB", (12, 12), (200, 30, 30)).save(folder / "07.png")


def test_other_data_is_refused_and_accepted_when_told_so(make_recipe, pictures, capfd):
    recipe = make_recipe(max_images=16, **SELDOM)
    train(recipe)
    change_a_picture(pictures)
    longer = dataclasses.replace(recipe, max_images=32)
    with pytest.raises(ValueError, match=r"have changed since the run began \(other pixels or labels\).*--accept_ch"):
        train(longer)
    (pictures / "03.png").unlink()
    with pytest.raises(ValueError, match=r"\(20 then, 19 now\)\. Restore them, choose another --name, or"):
        train(longer)
    assert images(recipe) == [4, 8, 12, 16]
    train(dataclasses.replace(longer, accept_changed_data=True))
    assert [line["images"] for line in lines(recipe) if "events" in line] == [20]
    said = "The images have changed since the last session; resuming because accept_changed_data"
    assert said in lines(recipe)[4]["events"][0]
    assert "The images have changed since the last session" in capfd.readouterr().out
    facts = json.loads((recipe.run_dir / "facts.json").read_text())
    assert [data["count"] for data in facts["earlier_data"]] == [20]
    assert facts["data"]["count"] == 19
    train(dataclasses.replace(recipe, max_images=40))  # the new data are recorded now
    facts = json.loads((recipe.run_dir / "facts.json").read_text())
    assert [data["count"] for data in facts["earlier_data"]] == [20]


def test_going_back_to_before_the_data_changed(make_recipe, pictures):
    recipe = make_recipe(max_images=16, **SELDOM)
    train(recipe)
    (pictures / "03.png").unlink()
    longer = dataclasses.replace(recipe, max_images=72, accept_changed_data=True, checkpoint_every_images=1000)
    session = setup(longer)
    break_loss(session, while_between(16, 1000, returns=[0]))
    loop.train(session)
    assert session.progress.returns == 1
    events = [event for line in lines(recipe) for event in line.get("events", [])]
    assert [event[:10] for event in events] == ["The images", "Rolled bac"]
    train(dataclasses.replace(recipe, max_images=80))  # which doesn't need to be accepted again
    facts = json.loads((recipe.run_dir / "facts.json").read_text())
    assert [data["count"] for data in facts["earlier_data"]] == [20]


def test_data_that_was_copied_is_the_same(make_recipe, pictures, tmp_path):
    recipe = make_recipe(max_images=16, **SELDOM)
    train(recipe)
    for path in pictures.iterdir():
        os.utime(path, (1e9, 1e9))
    assert train(dataclasses.replace(recipe, max_images=24)).images_seen == 24
    assert not any("events" in line for line in lines(recipe))


# Everything saved can be loaded at any time.


def test_model_files_can_be_loaded_at_every_instant(make_recipe):
    recipe = make_recipe(max_images=24, checkpoint_every_images=4, log_every_images=1000, **SELDOM)
    train(dataclasses.replace(recipe, max_images=4))
    outcomes, is_over = [], threading.Event()

    def load():
        while not is_over.is_set():
            try:
                Generator.from_pretrained(recipe.run_dir)
                Discriminator.from_pretrained(recipe.run_dir)
                outcomes.append(None)
            except Exception as error:
                outcomes.append(error)
            time.sleep(0.002)  # otherwise the run would hardly get any CPU time

    reader = threading.Thread(target=load)
    reader.start()
    try:
        train(recipe)
    finally:
        is_over.set()
        reader.join()
    assert [error for error in outcomes if error] == []
    assert len(outcomes) > 5


def test_dropout_draws_the_same_after_a_resume(make_recipe, monkeypatch):
    layers = DISCRIMINATOR.layers
    discriminator = dataclasses.replace(DISCRIMINATOR, layers=(layers[0], DropoutSpec(probability=0.5), layers[1]))
    generator = dataclasses.replace(
        GENERATOR, layers=(GENERATOR.layers[0], DropoutSpec(probability=0.3), *GENERATOR.layers[1:])
    )
    monkeypatch.setitem(PRESETS, "tiny", (generator, discriminator))
    fields = {"gradient_accumulation": 2, "r1_gamma": 1.0, "penalty_every_steps": 2} | SELDOM
    whole, halves = (make_recipe(name=name, **fields) for name in ("whole", "halves"))
    train(whole)
    train(dataclasses.replace(halves, max_images=16))
    torch.manual_seed(12345)
    train(halves)
    assert_same_end(whole, halves)


def test_a_streamed_folder_goes_on_where_it_was(make_recipe):
    whole, halves = (make_recipe(name=name, streaming=True, **SELDOM) for name in ("whole", "halves"))
    train(whole)
    train(dataclasses.replace(halves, max_images=16))
    train(halves)
    assert_same_end(whole, halves)


# In a separate process.

HEAD = """
import json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
import fagan_hf.training.run.disk
from fagan_hf.training.run import loop, resume
from fagan_hf.training.run.session import setup
from fagan_hf.training.recipe import Recipe
from tests.short_runs import take_shortcuts
take_shortcuts()
def after_step(session, do):
    take_step = loop.take_step
    def take_step_and_do(each):
        take_step(each)
        if each is session:
            do()
    loop.take_step = take_step_and_do
"""


@pytest.fixture
def fork(tmp_path, make_recipe):
    """Run Python with a recipe in a new process."""

    def run(code, **changes):
        save_architecture(tmp_path / "tiny.json", (GENERATOR, DISCRIMINATOR))
        recipe = make_recipe(model=str(tmp_path / "tiny.json"), **SELDOM | changes)
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_HUB")}
        env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        code = f"{HEAD}\nrecipe = Recipe(**{dataclasses.asdict(recipe)!r})\n{textwrap.dedent(code)}"
        with TemporaryDirectory() as log:
            return recipe, forked.run(["-c", code], env, ROOT, Path(log), timeout=120)

    return run


def test_a_killed_run_leaves_no_lock_and_goes_on(fork):
    recipe, done = fork(
        """
        session = setup(recipe)
        def die():
            if session.images_seen == 12:
                os.kill(os.getpid(), signal.SIGKILL)
        after_step(session, die)
        loop.train(session)
        """
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoints(recipe) == [0, 8]
    assert train(recipe).images_seen == 24
    whole = dataclasses.replace(recipe, name="whole")
    train(whole)
    assert_same_end(recipe, whole)


ON_A_SMALL_DISK = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        print("refused:", name, os.strerror(ctypes.get_errno()))
        sys.exit(77)
uid, gid = os.getuid(), os.getgid()
NEWNS, NEWUSER, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 1 << 18
call("unshare", NEWNS | (0 if uid == 0 else NEWUSER))
if uid:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
small = Path(recipe.output_dir) / "small"
small.mkdir(parents=True)
call("mount", b"tmpfs", str(small).encode(), b"tmpfs", 0, b"size=4m")
import dataclasses
recipe = dataclasses.replace(recipe, output_dir=str(small))
fagan_hf.training.run.disk.PAUSE_SECONDS, fagan_hf.training.run.disk.PATIENCE_SECONDS = 0.05, 0.3
def fill(session, leave=0):
    with open(small / "ballast", "wb") as file:
        file.write(bytes(max(shutil.disk_usage(small).free - leave, 0)))
def at(session, images, do):
    after_step(session, lambda: do() if session.images_seen == images else None)
def fetch(name):
    for path in recipe.run_dir.rglob("*"):
        assert ".tmp" not in path.name
    shutil.copytree(small / "try", Path(name))
"""


def skip_if_refused(done):
    if done.returncode == 77:
        pytest.skip(f"NOT TESTED, the kernel gives no small disk: {done.stdout}")


def test_a_disk_that_stays_full_ends_a_run_and_harms_nothing(fork, tmp_path):
    recipe, done = fork(
        ON_A_SMALL_DISK
        + f"""
from fagan_hf.training import command
def setup_and_fill(recipe):
    session = setup(recipe)
    at(session, 12, lambda: fill(session))
    return session
command.setup, command.parse_recipe = setup_and_fill, lambda *_, **__: recipe
try:
    command.main()
finally:
    fetch({str(tmp_path / "fetched/try")!r})
"""
    )
    skip_if_refused(done)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert "Run the same command to resume from the newest checkpoint." in done.stderr
    assert "is full (0.0 MB free). Existing checkpoints are kept; waiting" in done.stdout
    fetched = tmp_path / "fetched/try"
    Generator.from_pretrained(fetched), Discriminator.from_pretrained(fetched)
    kept = dataclasses.replace(recipe, output_dir=str(tmp_path / "fetched"))
    assert set(checkpoints(kept)) <= {0, 8}
    assert [path.name for path in fetched.rglob(".*")] == []  # no partially written files
    assert images(kept) in ([4, 8], [4, 8, 12], [4, 8, 12, 16])  # a log line may fit when nothing else does
    session = setup(kept)
    resume.restore(session)
    session.lock.release()
    assert session.images_seen == 8


@pytest.mark.parametrize("leave", [0, 60_000])
def test_a_disk_that_is_full_for_a_while_is_waited_for(fork, tmp_path, leave):
    """Whatever doesn't fit first: a line, a model, or a checkpoint."""
    recipe, done = fork(
        ON_A_SMALL_DISK
        + f"""
import time
from types import SimpleNamespace
pauses = []
fagan_hf.training.run.disk.PATIENCE_SECONDS = 60
def sleep(seconds):
    pauses.append(1)
    if len(pauses) == 3:
        (small / "ballast").unlink(missing_ok=True)
fagan_hf.training.run.disk.time = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
session = setup(recipe)
at(session, 12, lambda: fill(session, {leave}))
loop.train(session)
print("waited", len(pauses))
fetch({str(tmp_path / "runs/try")!r})
"""
    )
    skip_if_refused(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waited 3\n" in done.stdout
    assert done.stdout.count("is full (") == 1
    whole = dataclasses.replace(recipe, name="whole")
    train(whole)
    assert_same_end(recipe, whole)
