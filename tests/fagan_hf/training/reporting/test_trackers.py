"""The real trackers: what they have written is read back."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from accelerate import Accelerator
from PIL import Image

from fagan_hf.hub.repository import published_files
from fagan_hf.training.reporting import trackers
from fagan_hf.training.reporting.trackers import Tracker, accelerator_options, check_tracker, group, plain, values_of
from tests.hub import forked

ROOT = Path(__file__).parents[4]
TOKEN = "hf_" + "a1B2c3D4" * 4
CONFIG = {
    "name": "try",
    "batch_size": 4,
    "horizontal_flip": True,
    "generator_learning_rate": 1e-4,
    "betas": (0.0, 0.9),
    "label_columns": (),
    "revision": None,
    "dataset": f"https://user:{TOKEN}@host/data",
}

# Sessions of a run, of which the first is killed after it has logged more than it has saved.
SESSIONS = """
import json, sys
from pathlib import Path
from accelerate import Accelerator
from PIL import Image
from fagan_hf.training.reporting.trackers import Tracker, accelerator_options

name, run_dir, config, count = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
told = []
for saved, steps in ((0, (100, 200, 300)), (100, (200, 300, 400)))[:count]:
    tracker = Tracker(Accelerator(cpu=True, **accelerator_options(name, run_dir)), name, run_dir, config, told.append)
    tracker.start(saved)
    for step in steps:
        line = {"images": step, "generator_loss": saved + step, "generator.layers.0.alpha": 0.5}
        tracker.log(line | {"events": ["one", "with " + config["dataset"]]}, step)
        tracker.show(Image.effect_noise((64, 32), step), step)
    tracker.finish()
    tracker.finish()
print(json.dumps(told))
"""

# Reads W&B's files of offline sessions: a list of the lines of each, and the config. The files are LevelDB
# logs after a header of 7 bytes: in blocks of 32 KiB, chunks of a checksum, a length, a kind, and a part of a record.
READ_WANDB = """
import json, struct, sys
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record

def records(data):
    position, record = 7, b""
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""

sessions, config = [], {}
for path in sorted(Path(sys.argv[1]).glob("offline-run-*/*.wandb")):
    lines = []
    for record in records(path.read_bytes()):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            lines.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
    sessions.append(lines)
print(json.dumps([sessions, config]))
"""


def run(code: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it in a separate process with an empty home: trackers keep much global state."""
    ours = ("WANDB", "TRACKIO", "HF_", "PYTEST")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    home = {"HOME": str(cwd.parent / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    cwd.mkdir(exist_ok=True)
    with TemporaryDirectory() as log:  # there is no stdin, so interactive prompts fail
        command = ["-c", code, *map(str, arguments)]
        done = forked.run(command, kept | home | environment, cwd, Path(log), timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def run_sessions(
    name: str, folder: Path, count: int = 2, before: str = "", **environment: str
) -> tuple[list[str], str]:
    """Return our messages, and the trackers' own output."""
    arguments = name, folder / "runs" / "try", json.dumps(CONFIG), count, TOKEN
    done = run(before + SESSIONS, *arguments, cwd=folder / "here", HF_TOKEN=TOKEN, **environment)
    (line,) = done.stdout.splitlines()
    return json.loads(line), done.stderr


def read_wandb(folder: Path) -> tuple[list[list[dict]], dict]:
    return json.loads(run(READ_WANDB, folder / "runs/try/trackers/wandb", cwd=folder / "here").stdout)


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def assert_nothing_but_the_run(folder: Path):
    assert list((folder / "here").iterdir()) == []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert published_files(folder / "runs" / "try") == {}


@pytest.fixture
def make_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make trackers of one run folder, and record their messages."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    told: list[str] = []
    run_dir = tmp_path / "runs" / "try"

    def make(name: trackers.TrackerName = "tensorboard") -> tuple[Tracker, list[str]]:
        accelerator = Accelerator(cpu=True, **accelerator_options(name, run_dir))
        return Tracker(accelerator, name, run_dir, CONFIG, told.append), told

    return make


@pytest.mark.parametrize(
    ("name", "grouped"),
    [
        ("generator_loss", "loss/generator"),
        ("real_logit", "logit/real"),
        ("wrong_label_logit", "logit/wrong_label"),
        ("fake_accuracy", "accuracy/fake"),
        ("discriminator_gradient_norm", "gradient_norm/discriminator"),
        ("wasserstein_penalty", "penalty/wasserstein"),
        ("r1", "penalty/r1"),
        ("images_per_second", "speed/images_per_second"),
        ("seconds", "speed/seconds"),
        ("generator.layers.0.alpha", "gates/generator.layers.0.alpha"),
        ("something_new", "training/something_new"),
    ],
)
def test_numbers_are_grouped(name: str, grouped: str):
    assert group(name) == grouped


def test_a_line_keeps_its_numbers_and_its_events():
    line = {"images": 4, "generator_loss": 1.5, "learning": "well", "lengths": [1, 2], "events": ["one", "two"]}
    assert values_of(line) == {"loss/generator": 1.5, "events": "one\ntwo"}
    assert values_of({"images": 4, "events": []}) == {}


def test_config_is_plain():
    assert {key: plain(value) for key, value in CONFIG.items()} == {
        "name": "try",
        "batch_size": 4,
        "horizontal_flip": True,
        "generator_learning_rate": 1e-4,
        "betas": "0.0, 0.9",
        "label_columns": "",
        "revision": "none",
        "dataset": "https://user:REMOVED-TOKEN@host/data",
    }


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_missing_package_is_named(name: trackers.TrackerName, monkeypatch: pytest.MonkeyPatch):
    check_tracker(name)
    check_tracker("none")
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=rf'pip install "fagan-hf\[{name}\]"'):
        check_tracker(name)
    check_tracker("none")


def test_none_does_nothing(make_tracker, tmp_path: Path):
    tracker, told = make_tracker("none")
    tracker.start(0)
    tracker.log({"images": 4, "generator_loss": 1.0}, 4)
    tracker.show(Image.new("RGB", (8, 8)), 4)
    tracker.finish()
    assert not told
    assert not (tmp_path / "runs").exists()


def test_only_the_main_process_writes(make_tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Accelerator, "is_main_process", False)
    test_none_does_nothing(lambda _: make_tracker("tensorboard"), tmp_path)


@pytest.fixture
def read_events(tmp_path: Path) -> Iterator:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read():
        everything = {"scalars": 0, "images": 0, "tensors": 0}
        return EventAccumulator(str(tmp_path / "runs/try/trackers/tensorboard"), size_guidance=everything).Reload()

    return read


def test_tensorboard_goes_on_without_doubled_points(make_tracker, read_events, tmp_path: Path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for saved, steps, loss in ((0, (100, 200, 300), 1.0), (100, (200, 300, 400), 2.0)):
        tracker, told = make_tracker()
        tracker.start(saved)
        for step in steps:
            numbers = {"images": step, "generator_loss": loss, "generator.layers.0.alpha": 0.5}
            tracker.log(numbers | {"events": ["one", f"with {TOKEN}"]}, step)
            tracker.show(Image.new("RGB", (16, 8), (200, 100, 30)), step)
        if saved:
            tracker.finish()
            tracker.accelerator.end_training()
    events = read_events()
    assert set(events.Tags()["scalars"]) == {"loss/generator", "gates/generator.layers.0.alpha"}
    points = [(point.step, point.value) for point in events.Scalars("loss/generator")]
    assert points == [(100, 1.0), (200, 2.0), (300, 2.0), (400, 2.0)]
    assert [image.step for image in events.Images("samples")] == [100, 200, 300, 400]
    image = events.Images("samples")[-1]
    assert (image.width, image.height) == (16, 8)
    assert image.encoded_image_string.startswith(b"\x89PNG")
    (text,) = events.Tensors("events/text_summary")[-1].tensor_proto.string_val
    assert text == b"one\nwith REMOVED-TOKEN"
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["batch_size"].number_value == 4
    assert hparams["betas"].string_value == "0.0, 0.9"
    assert hparams["revision"].string_value == "none"
    assert told == [f"Tracking with tensorboard: tensorboard --logdir {tmp_path / 'runs/try'}"] * 2
    assert all(path.is_file() for path in (tmp_path / "runs/try/trackers/tensorboard").iterdir())  # one run, not many
    assert_nothing_but_the_run(tmp_path)


def test_trackio_goes_on_without_doubled_points(tmp_path: Path):
    told, said = run_sessions("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert (told, said) == (["Tracking with trackio: trackio show --project fagan_hf"] * 2, "")
    with closing(sqlite3.connect(tmp_path / "trackio" / "fagan_hf.db")) as database:
        rows = database.execute("select run_id, run_name, step, metrics from metrics order by step").fetchall()
        [(config,)] = database.execute("select config from configs").fetchall()
    assert len({(run_id, run_name) for run_id, run_name, *_ in rows}) == 1
    assert rows[0][1].startswith("try-")
    lines = [(step, json.loads(metrics)) for *_, step, metrics in rows]
    losses = [(step, line["loss/generator"]) for step, line in lines if "loss/generator" in line]
    assert losses == [(100, 100), (200, 200), (300, 300), (400, 500)]
    assert lines[0][1]["events"] == "one\nwith https://user:REMOVED-TOKEN@host/data"
    pictures = [tmp_path / "trackio/media" / line["samples"]["file_path"] for _, line in lines if "samples" in line]
    assert [size(picture) for picture in pictures] == [(64, 32)] * 4
    config = json.loads(config)
    assert (config["batch_size"], config["betas"], config["revision"]) == (4, "0.0, 0.9", "none")
    assert_nothing_but_the_run(tmp_path)


def test_wandb_without_login_is_offline_and_doubles_no_points(tmp_path: Path):
    told, said = run_sessions("wandb", tmp_path)
    folder = tmp_path / "runs/try/trackers/wandb"
    assert len(told) == 2
    assert all(line.startswith(f"Tracking with wandb: offline; wandb sync {folder}/offline-run-") for line in told)
    assert said == ""
    sessions, config = read_wandb(tmp_path)
    losses = [[(line["_step"], line["loss/generator"]) for line in lines] for lines in sessions]
    assert losses == [[(100, 100), (200, 200), (300, 300)], [(400, 500)]]
    assert sessions[0][0]["gates/generator.layers.0.alpha"] == 0.5
    pictures = sorted(folder.glob("offline-run-*/files/media/images/*.png"), key=lambda picture: picture.name)
    assert [picture.name.rpartition("_")[0] for picture in pictures] == [f"samples_{step}00" for step in (1, 2, 3, 4)]
    assert size(pictures[0]) == (64, 32)
    assert (config["batch_size"], config["betas"], config["revision"]) == (4, "0.0, 0.9", "none")
    assert len({path.name for path in folder.glob("offline-run-*/*.wandb")}) == 1  # one run, in two sessions
    assert_nothing_but_the_run(tmp_path)


def test_wandb_that_is_not_reached_goes_on_offline(tmp_path: Path):
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40, "WANDB_INIT_TIMEOUT": "2"}
    (failed, tracked), _ = run_sessions("wandb", tmp_path, 1, **nowhere)
    assert failed.startswith("wandb failed, training continues: ")
    assert tracked.startswith("Tracking with wandb: offline; wandb sync ")
    sessions, _ = read_wandb(tmp_path)
    assert [line["_step"] for line in sessions[-1]] == [100, 200, 300]
    assert_nothing_but_the_run(tmp_path)


def test_failures_are_told_once_and_end_the_tracking(make_tracker, monkeypatch: pytest.MonkeyPatch):
    tracker, told = make_tracker()
    tracker.start(0)
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise OSError(28, f"No space left on device for {TOKEN}")

    monkeypatch.setattr(tracker.accelerator, "log", fail)
    del told[:]
    for step in (4, 8):
        tracker.log({"generator_loss": 1.0}, step)
    assert told == ["tensorboard failed, training continues: [Errno 28] No space left on device for REMOVED-TOKEN"]
    tracker.show(Image.new("RGB", (8, 8)), 8)  # works: the count of failures starts again
    for step in (12, 16):
        tracker.log({"generator_loss": 1.0}, step)
    assert len(told) == 1
    tracker.log({"generator_loss": 1.0}, 20)
    assert told[1:] == ["tensorboard failed 3 times in a row: tracking is disabled."]
    tracker.log({"generator_loss": 1.0}, 24)
    tracker.log({"events": 1}, 28)  # ignored
    tracker.finish()
    tracker.accelerator.end_training()
    assert (len(calls), len(told)) == (5, 2)


def test_a_tracker_that_does_not_begin_is_tried_again(make_tracker, monkeypatch: pytest.MonkeyPatch, read_events):
    tracker, told = make_tracker()
    begin = Accelerator.init_trackers

    def fail(self: Accelerator, *arguments, **options):
        begin(self, *arguments, **options)
        monkeypatch.undo()
        raise RuntimeError("not yet")

    monkeypatch.setattr(Accelerator, "init_trackers", fail)
    tracker.start(0)
    assert told == ["tensorboard failed, training continues: not yet"]
    assert tracker.accelerator.trackers == []
    tracker.log({"generator_loss": 1.0}, 4)
    tracker.finish()
    assert [point.step for point in read_events().Scalars("loss/generator")] == [4]


def test_a_finish_that_fails_ends_nothing(make_tracker, monkeypatch: pytest.MonkeyPatch):
    tracker, told = make_tracker()
    tracker.start(0)
    inner = tracker.accelerator.get_tracker("tensorboard")
    close = inner.finish
    monkeypatch.setattr(inner, "finish", lambda: [][1])
    tracker.finish()
    tracker.accelerator.end_training()
    close()
    assert told[1:] == ["tensorboard failed, training continues: list index out of range"]


def test_a_mouth_that_is_shut_ends_nothing(tmp_path: Path):
    def shut(_: str):
        raise BrokenPipeError

    (tmp_path / "file").touch()
    run_dir = tmp_path / "file" / "run"  # can't be made
    accelerator = Accelerator(cpu=True, **accelerator_options("tensorboard", run_dir))
    tracker = Tracker(accelerator, "tensorboard", run_dir, CONFIG, shut)
    tracker.start(0)
    tracker.log({"generator_loss": 1.0}, 4)
    tracker.finish()


# Limits the size of files: writing fails as on a full disk.
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, resource.RLIM_INFINITY))"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
def test_a_full_disk_ends_tensorboard_only(tmp_path: Path):
    (tracked, failed, *ended), _ = run_sessions("tensorboard", tmp_path, 1, FULL_DISK)
    assert tracked.startswith("Tracking with tensorboard")
    assert failed == "tensorboard failed, training continues: [Errno 27] File too large"
    assert ended == ["tensorboard failed 3 times in a row: tracking is disabled."]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
def test_a_full_disk_is_told_by_trackio_itself(tmp_path: Path):
    told, said = run_sessions("trackio", tmp_path, 1, FULL_DISK, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert told == ["Tracking with trackio: trackio show --project fagan_hf"]  # it writes in a separate thread
    assert "could not be persisted" in said
