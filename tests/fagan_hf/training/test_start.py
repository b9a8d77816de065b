"""Training from Python: results, exceptions, and the state that remains in the process."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

import fagan_hf
from fagan_hf.models import Discriminator, Generator
from tests.hub import forked
from tests.sessions import stopped_after_a_step


@pytest.fixture
def fields(make_recipe):
    return {name: value for name, value in make_recipe().to_plain().items() if value is not None}


def test_a_run_gives_back_what_it_has_left(fields):
    run = fagan_hf.train(**fields)
    assert run.folder.name == "try"
    assert isinstance(run.generator, Generator)
    assert isinstance(run.discriminator, Discriminator)
    assert not run.generator.training
    assert run.metrics[-1]["images"] == fields["max_images"]


def test_the_card_names_the_command_of_the_same_training(fields):
    run = fagan_hf.train(**fields | {"horizontal_flip": False, "augment": ("color", "cutout")})
    command = json.loads((run.folder / "facts.json").read_text())["training"]["command"]
    assert command.startswith("fagan-hf train --name=try --model=tiny --dataset=")
    assert "--horizontal_flip=false" in command
    assert "'--augment=[color, cutout]'" in command
    assert str(run.folder.parent) not in command


def test_the_same_call_with_more_images_resumes(fields, capsys):
    fagan_hf.train(**fields)
    capsys.readouterr()
    run = fagan_hf.train(**fields | {"max_images": fields["max_images"] + 8})
    assert f"Resuming at {fields['max_images']} images." in capsys.readouterr().out
    assert run.metrics[-1]["images"] == fields["max_images"] + 8


def test_a_recipe_of_ours_by_name_and_fields_that_differ(fields):
    changed = {"model": "tiny", "dataset": fields["dataset"], "output_dir": fields["output_dir"], "max_images": 16}
    run = fagan_hf.train("avatars-32", **changed, cpu_threads=1, log_every_images=16)
    assert (run.folder.name, run.metrics[-1]["images"]) == ("avatars-32", 16)


def test_in_a_thread(fields):
    """In a thread, where Python allows no signal handlers."""
    runs = []
    thread = threading.Thread(target=lambda: runs.append(fagan_hf.train(**fields)))
    thread.start()
    thread.join()
    assert runs[0].metrics[-1]["images"] == fields["max_images"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_sise": 8}, TypeError, "unknown field 'batch_sise'; did you mean 'batch_size'"),
        ({"batch_size": "many"}, ValueError, "batch_size"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; it must be above 0"),
        ({"loss": "hing"}, ValueError, "did you mean 'hinge'"),
        ({"dataset": "./nowhere"}, FileNotFoundError, "nowhere"),
        ({"recipe": "avatars-33"}, FileNotFoundError, "did you mean 'avatars-32'"),
    ],
)
def test_mistakes_are_raised(fields, change, error, message):
    with pytest.raises(error, match=message):
        fagan_hf.train(**fields | change)


def test_a_failed_start_gives_the_folder_free(fields):
    with pytest.raises(ValueError, match="fewer than a batch") as caught:
        fagan_hf.train(**fields | {"batch_size": 1_000})
    assert caught.tb is not None, "the traceback lives on, as in a notebook"
    assert fagan_hf.train(**fields).metrics


def test_a_stop_is_raised_after_saving(fields, monkeypatch, capsys):
    message = "after 4 images; make the same call again to resume"
    with stopped_after_a_step(monkeypatch), pytest.raises(KeyboardInterrupt, match=message):
        fagan_hf.train(**fields)
    fagan_hf.train(**fields)
    assert "Resuming at 4 images." in capsys.readouterr().out


def test_nothing_of_accelerate_is_left(fields):
    """Otherwise another precision, or notebook_launcher, would be refused."""
    fagan_hf.train(**fields)
    assert not AcceleratorState._shared_state
    assert not torch.distributed.is_initialized()


def test_several_processes_from_a_notebook(fields, tmp_path):
    """In a separate process, because the launcher fails if anything has used the accelerator before."""
    program = f"""
import json
from accelerate import notebook_launcher
from accelerate.utils.other import get_free_port
from fagan_hf.architectures.presets import PRESETS
from tests.small import DISCRIMINATOR, GENERATOR
PRESETS["tiny"] = GENERATOR, DISCRIMINATOR

def train():
    import fagan_hf
    fagan_hf.train(**{fields!r})

if __name__ == "__main__":
    notebook_launcher(train, num_processes=2, use_port=str(get_free_port()))
"""
    (tmp_path / "notebook.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(fagan_hf.__file__).parents[1])}
    done = forked.run([str(tmp_path / "notebook.py")], environment, tmp_path, tmp_path / "log", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(Path(fields["output_dir"], "try/facts.json").read_text())["training"]
    assert facts["images_seen"] == fields["max_images"]
    assert facts["hardware"].startswith("2 processes, each on ")
