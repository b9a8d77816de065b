import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fagan_hf.training.run import facts

TOKEN = "hf_" + "OnlyInTestsOnlyInTestsOnlyInTests" + "A"


@pytest.fixture(autouse=True)
def _plain_python(monkeypatch):
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A git repository with one commit."""
    root = tmp_path / "clone"
    root.mkdir()
    monkeypatch.setattr(facts, "ROOT", root.resolve())
    (root / "file.txt").write_text("first")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set by a hook that runs the tests
        monkeypatch.delenv(name, raising=False)
    git(root, "init", "--quiet")
    git(root, "add", "file.txt")
    git(root, "-c", "user.name=me", "-c", "user.email=me@example.com", "commit", "--quiet", "-m", "First")
    return root


def git(root, *arguments):
    return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_command_is_relative_to_the_clone(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = str(facts.ROOT / "training/train.py")
    command = facts.command([script, "--config", str(facts.ROOT / "training/recipes/x.yaml"), "--batch_size=4"])
    assert command == "training/train.py --config training/recipes/x.yaml --batch_size=4"


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("{home}/pictures", "path/to/pictures"),
        ("--dataset={home}/pictures", "--dataset=path/to/pictures"),
        ("--files=[{home}/a,{home}/b]", "--files=[path/to/a,path/to/b]"),
        ("file:{home}/a", "file:path/to/a"),
        ("/data/alice-smith/pictures/", "path/to/pictures"),
        ("~/alice/pictures", "path/to/pictures"),
        (r"C:\\Users\\alice\\pictures", "path/to/pictures"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("user/flowers", "user/flowers"),
        ("../flowers", "../flowers"),
        ("a b", "a b"),
    ],
)
def test_no_path_of_this_machine_is_told(home, argument, shown):
    assert shlex.split(facts.command(["train.py", argument.format(home=home)])) == ["train.py", shown]


def test_paths_below_here_are_relative(tmp_path, home, monkeypatch):
    (home / "work").mkdir(parents=True)
    monkeypatch.chdir(home / "work")
    assert facts.command(["train.py", f"--dataset={home}/work/pictures"]) == "train.py --dataset=pictures"


def test_by_default_the_command_of_this_process(monkeypatch):
    monkeypatch.setattr("sys.argv", [str(facts.ROOT / "training/train.py"), "--name", "try"])
    assert facts.command() == "python training/train.py --name try"


def test_no_token():
    assert facts.command(["train.py", f"--token={TOKEN}"]) == "train.py --token=REMOVED-TOKEN"
    assert TOKEN not in facts.command(["train.py", "--note", f"it's {TOKEN}_x"])


def test_commit_of_a_clone(clone):
    assert facts.commit() == {"commit": git(clone, "rev-parse", "HEAD"), "commit_modified": False}
    (clone / "another.txt").write_text("nobody added it")
    assert not facts.commit()["commit_modified"]
    (clone / "file.txt").write_text("second")
    assert facts.commit()["commit_modified"]


def test_no_commit_of_a_repository_around(clone, monkeypatch):
    inner = clone / "venv/copy"
    inner.mkdir(parents=True)
    monkeypatch.setattr(facts, "ROOT", inner.resolve())
    assert facts.commit() == {}


def test_no_commit_outside_of_git(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert facts.commit() == {}


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 30)])
def test_no_commit_without_an_answer_of_git(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert facts.commit() == {}


def test_hardware(monkeypatch):
    monkeypatch.setattr(facts, "_cpu_name", lambda: "A Processor")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Card")
    assert facts.hardware("cpu", 1).endswith(" cores of A Processor")
    assert facts.hardware("cuda", 1) == "A Card"
    assert facts.hardware("cuda", 2) == "2 processes, each on A Card"
    assert facts.hardware("mps", 1) == "mps on A Processor"


def test_hardware_names_no_machine(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "secret-host")
    name = facts.hardware("cpu", 1)
    assert "secret-host" not in name
    assert platform.uname().node not in name
    assert facts._cpu_name()


def test_cpu_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "Path", lambda name: tmp_path / Path(name).name)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert facts._cpu_name() == "aarch64"


def test_versions():
    found = facts.versions()
    assert {"Python", "fagan_hf", "torch"} <= found.keys()
    assert all(found.values())


def test_environment_facts_have_what_a_card_shows():
    found = facts.environment_facts("cpu", 1)
    assert (
        {"hardware", "versions", "command"}
        <= found.keys()
        <= {*("hardware", "versions", "command", "commit", "commit_modified")}
    )


def test_memory_is_the_process_own_and_at_its_peak():
    ballast = b"x" * (768 * 2**20)  # in the process that starts the other one
    script = (
        "import torch; from fagan_hf.training.run.facts import peak_memory_mb; cpu = torch.device('cpu'); "
        "first = peak_memory_mb(cpu); x = b'x' * (64 * 2**20); del x; print(first, peak_memory_mb(cpu))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=facts.ROOT, capture_output=True, text=True, check=True)
    first, last = map(float, result.stdout.split())
    assert 50 < first < len(ballast) / 2**20
    assert last - first > 32
