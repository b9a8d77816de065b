import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from fagan_hf import FAGANPipeline
from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.load import load_architecture, save_architecture
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.reporting.samples import generate_samples
from fagan_hf.training.run import loop, outputs, resume
from fagan_hf.training.run.folder import check_folder
from fagan_hf.training.run.session import setup
from tests.sessions import after_step, train
from tests.small import DISCRIMINATOR, GENERATOR


def lines(recipe):
    return [json.loads(line) for line in (recipe.run_dir / "metrics.jsonl").read_text().splitlines()]


def weights(recipe):
    return load_file(recipe.run_dir / "generator/model.safetensors")


def test_a_run_leaves_everything_that_is_promised(make_recipe, capfd):
    recipe = make_recipe(augment=("color", "translation", "cutout"), gradient_accumulation=2, warmup_images=8)
    train(recipe)
    names = {str(path.relative_to(recipe.run_dir)) for path in recipe.run_dir.rglob("*") if path.is_file()}
    assert names >= {
        "generator/config.json", "generator/model.safetensors", "generator/modeling_fagan.py",
        "discriminator/config.json", "discriminator/model.safetensors", "model_index.json", "config.json",
        "pipeline.py", "recipe.yaml", "metrics.jsonl", "samples.png", "samples/images-00000008.png",
        "samples/images-00000024.png", "loss.png", "alpha.png", "training_progress.gif",
        "checkpoints/images-00000024/manifest.json",
    }  # fmt: skip
    assert [line["images"] for line in lines(recipe)] == [4, 8, 12, 16, 20, 24]
    assert {"generator_loss", "discriminator_loss", "images_per_second", "seconds"} <= lines(recipe)[-1].keys()
    assert lines(recipe)[-1]["generator.layers.0.alpha"] != 0
    assert len(FAGANPipeline.from_pretrained(recipe.run_dir)(num_images=2).images) == 2
    assert isinstance(Discriminator.from_pretrained(recipe.run_dir), Discriminator)
    output = capfd.readouterr()
    assert f'FAGANPipeline.from_pretrained("{recipe.run_dir}")' in output.out
    assert "24/24" in output.err


def test_the_averaged_generator_is_saved(make_recipe):
    session = train(make_recipe())
    saved = Generator.from_pretrained(session.recipe.run_dir)
    for name, tensor in saved.named_parameters():
        assert torch.equal(tensor, session.averaged.model.get_parameter(name))
    assert not torch.equal(saved.layers[0].value.weight, session.generator.layers[0].value.weight)


def test_the_same_recipe_gives_the_same_weights(make_recipe):
    first, second = (make_recipe(name=name) for name in "ab")
    train(first), train(second)
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())
    third = make_recipe(name="c", seed=1)
    train(third)
    assert not torch.equal(weights(first)["layers.0.alpha"], weights(third)["layers.0.alpha"])


def test_the_same_command_goes_on(make_recipe):
    """Stopped between checkpoints and restarted: unsaved steps are redone, no line is duplicated or lost."""
    whole = make_recipe(name="whole", augment=("translation",))
    train(whole)
    halves = make_recipe(name="halves", augment=("translation",))
    session = setup(halves)
    resume.restore(session)
    for _ in range(3):  # 12 images; the checkpoint is at 8
        loop.take_step(session)
        if session.images_seen == 8:
            outputs.save(session)
    session.report.add_line({"images": 12})
    session.lock.release()  # as when a process ends
    train(halves)
    assert [line["images"] for line in lines(halves)] == [12, 16, 20, 24]
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(halves)[name]), name


def test_a_longer_end_goes_on_and_a_reached_one_ends_at_once(make_recipe, capfd):
    train(make_recipe(max_images=8))
    session = train(make_recipe(max_images=16))
    assert session.images_seen == 16
    capfd.readouterr()
    train(make_recipe(max_images=16))
    assert "16 images in" in capfd.readouterr().out


def test_another_recipe_in_the_same_folder_is_refused(make_recipe):
    train(make_recipe(max_images=8))
    with pytest.raises(
        ValueError, match=r"belongs to another recipe: loss was 'relativistic_hinge', is 'hinge'.*--name"
    ):
        setup(make_recipe(loss="hinge"))
    (make_recipe().run_dir / "recipe.yaml").write_text(
        "".join(line for line in make_recipe().to_yaml().splitlines(keepends=True) if not line.startswith("ema_ramp"))
    )  # as written by an older version, before there was a ramp
    check_folder(make_recipe(max_images=10**6, max_minutes=5, log_every_images=7))


def test_minutes_end_a_run(make_recipe):
    session = setup(make_recipe(max_images=10**9, max_minutes=0.02))
    loop.train(session)
    assert session.images_seen < 10**6
    assert (session.recipe.run_dir / "training_progress.gif").exists()


def test_bf16_computes_in_bfloat16_and_keeps_the_rest_in_float32(make_recipe):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        session = setup(make_recipe(mixed_precision="bf16"))
        seen = {}
        for name, network in (("G", session.generator), ("D", session.discriminator)):
            layer = network.layers[0]
            layer.query.register_forward_hook(
                lambda module, inputs, output, name=name: seen.update({name: output.dtype})
            )
        numbers = session.trainer.discriminator_step(session.batches.make(0)[0]) | session.trainer.generator_step(
            session.batches.make(0)[1]
        )
        assert seen == {"G": torch.bfloat16, "D": torch.bfloat16}
        assert {number.dtype for number in numbers.values()} == {torch.float32}
        assert {each.dtype for each in session.generator.parameters()} == {torch.float32}
        loop.train(session)
        assert all(torch.isfinite(tensor).all() for tensor in weights(session.recipe).values())
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_minutes_count_over_all_sessions(make_recipe, monkeypatch):
    restore = resume.restore

    def restore_long_ago(session):
        restore(session)
        session.started -= 1000

    with monkeypatch.context() as patch:
        patch.setattr(resume, "restore", restore_long_ago)
        train(make_recipe(max_images=4))
    second = train(make_recipe(max_images=8))
    assert second.seconds > 1000
    assert lines(second.recipe)[-1]["seconds"] > 1000


def test_warmup(make_recipe):
    session = setup(make_recipe(warmup_images=8))
    rates = []
    for _ in range(3):
        loop.take_step(session)
        rates.append(session.trainer.discriminator.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-4, 4e-4, 4e-4])


def test_decay_needs_no_end_of_the_run(make_recipe):
    session = setup(make_recipe(decay_after_images=8))
    rates = []
    for _ in range(8):
        loop.take_step(session)
        rates.append(session.trainer.discriminator.optimizer.param_groups[0]["lr"])
    expected = [4e-4 * max(1, images / 8) ** -0.5 for images in range(4, 33, 4)]
    assert rates == pytest.approx(expected)
    assert rates[-1] == pytest.approx(2e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_command_goes_on(make_recipe, monkeypatch, number, capfd):
    recipe = make_recipe(checkpoint_every_images=1000)
    session = setup(recipe)
    steps = []

    def stop():
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), number)

    after_step(monkeypatch, session, stop)
    handler = signal.getsignal(number)
    loop.train(session)
    assert signal.getsignal(number) is handler
    assert len(steps) == 2
    assert "Stop requested; checkpoint saved. Run the same command to resume." in capfd.readouterr().out
    assert not (recipe.run_dir / "training_progress.gif").exists()
    assert train(recipe).images_seen == 24
    assert "Resuming at 8 images." in capfd.readouterr().out


def test_nothing_on_the_hot_path_reads_a_number_back(make_recipe, monkeypatch):
    """`item` is called when a line is logged, and never in a step."""
    session = setup(make_recipe())
    loop.take_step(session)

    def refuse(self):
        raise AssertionError("a step waits for the device")

    monkeypatch.setattr(torch.Tensor, "item", refuse)
    loop.take_step(session)


def test_a_run_shorter_than_a_line_writes_one(make_recipe):
    recipe = make_recipe(max_images=8, log_every_images=1000)
    train(recipe)
    assert [line["images"] for line in lines(recipe)] == [8]
    assert (recipe.run_dir / "loss.png").exists()


@pytest.mark.parametrize("content", ["", "a: [", "- 1"])
def test_a_broken_recipe_in_the_folder_is_named(make_recipe, content):
    recipe = make_recipe()
    recipe.run_dir.mkdir(parents=True)
    (recipe.run_dir / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"(?s)recipe.yaml is corrupt: .*Remove .* to start over"):
        check_folder(recipe)


def test_a_precision_given_to_the_launcher_is_not_overruled_in_silence(make_recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match=r"pass --mixed_precision to the training script"):
        setup(make_recipe())


LABELED = {"label_columns": ("class",), "matching_aware": True, "r1_gamma": 1.0, "penalty_every_steps": 2}


@pytest.mark.parametrize("conditioning", ["concatenation", "projection"])
def test_a_conditional_run(make_recipe, classes, conditioning):
    recipe = make_recipe(dataset=str(classes), conditioning=conditioning, **LABELED)
    session = train(recipe)
    config = session.generator.config
    assert config.label_names == session.discriminator.config.label_names == ("class=blue", "class=red")
    assert {"wrong_label_logit", "r1"} <= lines(recipe)[0].keys()
    with Image.open(recipe.run_dir / "samples.png") as grid:
        assert grid.height == 2 * 8  # a row for each class
        assert grid.width > 8 * 8  # eight seeds, and captions
    saved = Generator.from_pretrained(recipe.run_dir)
    torch.testing.assert_close(saved.label_frequencies, torch.tensor([0.4, 0.6]))
    pipe = FAGANPipeline.from_pretrained(recipe.run_dir)
    assert len(pipe(seeds=[1, 2], labels={"class": "red"}).images) == 2


def test_a_conditional_run_goes_on(make_recipe, classes):
    """With labels in addition to the latent, on which batch statistics depend."""
    fields = LABELED | {"dataset": str(classes), "conditioning": "concatenation"}
    whole, halves = (make_recipe(name=name, **fields) for name in ("whole", "halves"))
    train(whole)
    train(dataclasses.replace(halves, max_images=12, checkpoint_every_images=4))
    train(halves)
    assert [line["images"] for line in lines(halves)] == [4, 8, 12, 16, 20, 24]
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(halves)[name]), name


@pytest.mark.parametrize("loss", ["standard", "least_squares", "wasserstein", "relativistic_pairing"])
def test_the_other_losses_train(make_recipe, loss):
    recipe = make_recipe(loss=loss, wasserstein_penalty=10.0 if loss == "wasserstein" else 0.0, max_images=8)
    train(recipe)
    assert all(torch.isfinite(tensor).all() for tensor in weights(recipe).values())
    assert ("wasserstein_penalty" in lines(recipe)[-1]) == (loss == "wasserstein")


@pytest.mark.parametrize("conditioning", ["concatenation", "projection"])
def test_labels_and_penalties_under_bf16(make_recipe, classes, conditioning):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        fields = LABELED | {"dataset": str(classes), "conditioning": conditioning, "r2_gamma": 1.0}
        recipe = make_recipe(**fields, mixed_precision="bf16", max_images=8)
        train(recipe)
        assert all(torch.isfinite(tensor).all() for tensor in weights(recipe).values())
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_an_architecture_that_was_edited_is_refused(make_recipe, tmp_path):
    path = tmp_path / "mine.json"
    save_architecture(path, (GENERATOR, DISCRIMINATOR))
    recipe = make_recipe(model=str(path), max_images=8)
    train(recipe)
    assert load_architecture(str(recipe.run_dir / "architecture.json")) == (GENERATOR, DISCRIMINATOR)
    edited = dataclasses.replace(
        DISCRIMINATOR, layers=(dataclasses.replace(DISCRIMINATOR.layers[0], squeeze_factor=3), DISCRIMINATOR.layers[1])
    )
    save_architecture(path, (GENERATOR, edited))
    with pytest.raises(
        ValueError, match=r"another architecture .*: discriminator.layers\[0\].squeeze_factor was 1, is 3 now. Choose"
    ):
        setup(recipe)


def test_the_grid_of_many_labels_stays_in_bounds():
    """Attributes that are true come first, and there are at most 16 rows."""
    names = tuple(f"claim-{index}" for index in range(20))
    generator = Generator(with_labels((GENERATOR, DISCRIMINATOR), names, "projection")[0])
    assert generate_samples(generator).grid().height == 16 * 8
    few = Generator(with_labels((GENERATOR, DISCRIMINATOR), names[:8], "projection")[0])
    assert generate_samples(few).grid().height == 16 * 8
    fewer = Generator(with_labels((GENERATOR, DISCRIMINATOR), names[:9], "projection")[0])
    assert generate_samples(fewer).grid().height == 9 * 8


ADAPTIVE = {"augment": ("color", "rotation", "cutout"), "augment_target": 0.001, "augment_adjust_images": 40}


def stop_after(recipe, images):
    """Train until a checkpoint at this many images, and three more steps that are lost."""
    session = setup(recipe)
    resume.restore(session)
    while session.images_seen < images + 3 * recipe.batch_size:
        loop.take_step(session)
        if session.is_due("log"):
            outputs.log(session)
        if session.is_due("sample"):
            outputs.show(session)
        if session.images_seen == images:
            outputs.save(session)
    session.lock.release()  # as when a process ends


def test_an_adaptive_probability_resumes_to_the_bit(make_recipe):
    """Stopped between two adjustments: the statistic is in the checkpoint, and so is the diversity of the last grid."""
    fields = ADAPTIVE | {"max_images": 48, "sample_every_images": 12}
    whole, halves = (make_recipe(name=name, **fields) for name in ("whole", "halves"))
    end = train(whole)
    stop_after(halves, 24)
    again = train(halves)
    assert torch.equal(end.trainer.probability.state, again.trainer.probability.state)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(halves)[name]), name
    varying = ("seconds", "images_per_second", "peak_memory_mb", "events")
    first, second = (
        [{k: v for k, v in line.items() if k not in varying} for line in lines(each)] for each in (whole, halves)
    )
    assert first == second
    seen = [line["augment_probability"] for line in first]
    assert seen[0] == 0
    assert len(set(seen)) > 1
    assert all(-1 <= line["overfitting"] <= 1 for line in first)
    assert [line["images"] for line in first if "sample_diversity" in line] == [16, 28, 40]
    assert (whole.run_dir / "augment.png").exists()


def test_a_checkpoint_without_a_probability_continues_from_0(make_recipe, tmp_path):
    """As of a version before adaptive augmentation."""
    train(make_recipe(name="old", augment=("color",), max_images=16))
    old = make_recipe(name="old").run_dir
    shutil.copytree(old / "checkpoints/images-00000016", old / "training_state")
    session = train(make_recipe(name="new", resume_from=str(old), **ADAPTIVE))
    seen = [line.get("augment_probability") for line in lines(session.recipe)]
    assert seen[:5] == [None] * 4 + [0]


def test_a_constant_probability_of_1_is_not_in_the_metrics(make_recipe):
    session = train(make_recipe(augment=("color",), max_images=8))
    assert session.trainer.probability is None
    assert not {"augment_probability", "overfitting"} & lines(session.recipe)[-1].keys()
    assert not (session.recipe.run_dir / "augment.png").exists()


def test_samples_that_look_alike_are_warned_about(make_recipe, monkeypatch, capfd):
    """Although their pixels vary, since a few differ; the warning ends when they do no more."""
    recipe = make_recipe(max_images=64, sample_every_images=4)
    generate, grids = outputs.generate_samples, []

    def generate_alike(generator):
        grids.append(1)
        samples = generate(generator)
        images = samples.images.copy()
        if len(grids) < 10:
            images[:40] = images[0]
        else:
            images[:] = np.random.default_rng(0).integers(0, 256, (len(images), 1, 1, 3))
        return dataclasses.replace(samples, images=images)

    monkeypatch.setattr(outputs, "generate_samples", generate_alike)
    train(recipe)
    told = capfd.readouterr().out
    assert told.count("Warning: most samples look alike") == 1
    assert "Resolved: similar samples." in told
    warned = [line["images"] for line in lines(recipe) if "most samples look alike" in str(line.get("warnings"))]
    assert warned == [24, 28, 32, 36, 40]


def test_a_moved_run_goes_on_and_says_what_changed(make_recipe, tmp_path, capfd):
    """The same pixels elsewhere, and another accumulation: noted in the history."""
    train(make_recipe(max_images=8))
    shutil.copytree(make_recipe().dataset, tmp_path / "moved")
    session = setup(make_recipe(max_images=16, dataset=str(tmp_path / "moved"), gradient_accumulation=2))
    loop.train(session)
    assert session.images_seen == 16
    assert "Resuming at 8 images" in capfd.readouterr().out
    events = [event for line in session.report.lines() for event in line.get("events", [])]
    assert any(event.startswith("Resuming with another recipe: dataset was ") for event in events)
    assert "Resuming with another recipe: gradient_accumulation was 1, is 2 now." in events
    shutil.rmtree(tmp_path / "moved")
    shutil.copytree(make_recipe().dataset, tmp_path / "moved")
    next((tmp_path / "moved").rglob("*.png")).unlink()
    with pytest.raises(ValueError, match="have changed since the run began"):
        train(make_recipe(max_images=24, dataset=str(tmp_path / "moved")))
