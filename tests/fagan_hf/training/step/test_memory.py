from dataclasses import replace

import pytest
import torch

from benchmarks.memory import peak_megabytes
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.training.flags import build_recipe
from fagan_hf.training.run import loop
from fagan_hf.training.run.session import setup
from fagan_hf.training.step import memory
from fagan_hf.training.step.memory import OutOfMemoryError, StepMemory, check_memory, estimate, explained

RECIPE = build_recipe("avatars-32")
CPU = torch.device("cpu")
STEP = """
import torch
torch.set_num_threads(1)
from benchmarks.speed_of.our_step import Ours
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.training.step.regularization import Regularization
from fagan_hf.utils.allocator import keep_freed_memory
step = Ours(PRESETS["fagan-64-small"], "relativistic_pairing", 32, "no", Regularization(1.0, 1.0))
"""


@pytest.fixture
def small_machine(monkeypatch):
    """A machine with 300 MB of free memory, where every step is checked."""
    monkeypatch.setattr(memory, "available_memory", lambda: 300_000_000)
    monkeypatch.setattr(memory, "_NEVER_TOO_MANY_PIXELS", 0)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def recipe(**changes):
    return replace(RECIPE, mixed_precision="no", **changes)


def test_the_estimate_is_near_what_a_step_takes():
    measured = 1e6 * peak_megabytes(STEP, "step.step()")
    estimated = estimate(RECIPE, PRESETS["fagan-64-small"]).of(32)
    assert 0.4 < estimated / measured < 2


def test_a_larger_network_image_and_batch_take_more():
    at = {name: estimate(RECIPE, PRESETS[name]) for name in ("fagan-32", "fagan-64", "fagan-256-small")}
    assert at["fagan-64"].fixed > at["fagan-32"].fixed, "it has ten times the weights"
    assert at["fagan-256-small"].per_image > 10 * at["fagan-32"].per_image
    bare = estimate(recipe(r1_gamma=0, r2_gamma=0), PRESETS["fagan-32"])
    assert bare.per_image < at["fagan-32"].per_image, "penalties take memory"


@pytest.mark.usefixtures("small_machine")
def test_a_step_that_does_not_fit_is_refused_with_what_does():
    architecture = PRESETS["fagan-32"]
    needed = estimate(RECIPE, architecture)
    with pytest.raises(OutOfMemoryError, match=r"1024 images at a time at 32x32 needs about .* 0\.3 GB are") as error:
        check_memory(recipe(batch_size=1024), architecture, CPU, 1)
    words = str(error.value).replace(";", " ").replace(",", " ").split()
    parts = int(words[words.index("--gradient_accumulation") + 1])
    images = int(words[words.index("--batch_size") + 1])
    assert images == needed.images_in(300_000_000)
    assert 1024 % parts == 0
    assert needed.of(1024 // parts) <= 300_000_000 < needed.of(1024 // (parts // 2))
    check_memory(recipe(batch_size=1024, gradient_accumulation=parts), architecture, CPU, 1)
    check_memory(recipe(batch_size=images), architecture, CPU, 1)
    check_memory(recipe(batch_size=1024), architecture, torch.device("meta"), 1)


@pytest.mark.usefixtures("small_machine")
def test_processes_on_a_machine_share_its_memory(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(OutOfMemoryError, match=r"512 images at a time .* 0\.1 GB are there"):
        check_memory(recipe(batch_size=1024), PRESETS["fagan-32"], CPU, 2)


@pytest.mark.usefixtures("small_machine")
def test_where_not_even_one_image_fits_the_model_is_too_large():
    with pytest.raises(OutOfMemoryError, match=r"What fits: a model with fewer channels") as error:
        check_memory(recipe(batch_size=4), PRESETS["fagan-64"], CPU, 1)
    assert "--batch_size" not in str(error.value)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "cpu"],
)
@pytest.mark.usefixtures("small_machine")
def test_an_error_of_the_device_is_explained_and_kept(error):
    with (
        pytest.raises(OutOfMemoryError, match=r"What fits: --gradient_accumulation") as found,
        explained(recipe(batch_size=1024), PRESETS["fagan-32"], 1, "no"),
    ):
        raise error
    assert found.value.__cause__ is error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"), explained(RECIPE, PRESETS["fagan-32"], 1, "no"):
        raise RuntimeError("something else")


def test_layers_that_can_not_be_estimated_are_still_explained(monkeypatch):
    monkeypatch.setattr(memory, "_peak_of_a_step", lambda *arguments: 1 / 0)
    assert estimate(RECIPE, PRESETS["fagan-32"]) is None
    check_memory(recipe(batch_size=10**6), PRESETS["fagan-32"], CPU, 1)
    with (
        pytest.raises(OutOfMemoryError, match=r"not enough memory for 16 images .*--gradient_accumulation"),
        explained(RECIPE, PRESETS["fagan-32"], 1, "no"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.usefixtures("small_machine")
def test_a_run_is_refused_before_and_explained_in_its_steps(make_recipe, monkeypatch):
    monkeypatch.setattr(memory, "estimate", lambda *arguments: StepMemory(10**9, 10**6))
    with pytest.raises(OutOfMemoryError, match=r"4 images at a time at 8x8 needs about 1\.0 GB"):
        setup(make_recipe())
    monkeypatch.setattr(memory, "available_memory", lambda: 10**10)
    session = setup(make_recipe())
    monkeypatch.setattr(loop, "take_step", lambda session: torch.empty(10**18))
    with pytest.raises(OutOfMemoryError, match=r"4 images at a time at 8x8 needs about 1\.0 GB"):
        loop.train(session)
