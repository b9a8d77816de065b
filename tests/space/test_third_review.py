"""Regression tests of what a fourth attack found: models that visitors name, and uploads that take long."""

import asyncio
import io
import json
import shutil
import struct
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from fagan_space import child, decoding, rendering, work
from fagan_space.blocks import take_turns
from fagan_space.guard import VISITOR
from fagan_space.page import build
from fagan_space.tabs.compare import pictures_of
from fagan_space.visitors import Visitor
from fagan_space.work import GoneError, Work
from gradio.queueing import EventQueue
from PIL import Image, ImageCms
from pydantic import BeforeValidator

from fagan_hf import cli
from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.specs import ConvSpec, ConvTransposeSpec
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Generator
from tests.small import GENERATOR, with_gates

LAYERS = [{"type": "activation", "activation": "relu"}] * 1001


@pytest.fixture
def visited(model, tmp_path, monkeypatch):
    """Compare with a model that a visitor names: as if it had been downloaded."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    program = tmp_path / "renderer.py"
    text = rendering._PROGRAM.read_text()
    main = 'if __name__ == "__main__":'
    program.write_text(text.replace(main, f"fetch = lambda *_: Path({str(tmp_path / 'model')!r})\n\n\n{main}"))
    monkeypatch.setattr(rendering, "_PROGRAM", program)

    def visit(config, change=lambda text: text, seeds="0-3", truncation=1.0):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        save_repository(tmp_path / "model", with_gates(Generator(config)))
        path = tmp_path / "model/generator/config.json"
        path.write_text(change(path.read_text()))
        return pictures_of("evil/model", model, seeds, truncation)

    return visit


def convolving(*, size, channels, kernel_size):
    """Return a generator that first makes a large map of few weights, and then convolves it."""
    first = ConvTransposeSpec(in_channels=8, out_channels=channels, kernel_size=4, spectral_norm=False)
    plain = {"in_channels": channels, "spectral_norm": False}
    doubled = [
        ConvSpec(out_channels=channels, kernel_size=1, upsample=True, batch_norm=True, **plain)
        for _ in range((size // 4).bit_length() - 1)
    ]
    last = ConvSpec(out_channels=3, kernel_size=kernel_size, padding=kernel_size // 2, activation="tanh", **plain)
    return GeneratorConfig(image_size=size, latent_dim=8, layers=(first, *doubled, last))


@pytest.mark.parametrize("truncation", [1.0, 0.7])
def test_a_named_model_gives_the_images_of_the_command(visited, tmp_path, truncation):
    config = convolving(size=16, channels=4, kernel_size=3)
    side = visited(config, truncation=truncation)
    assert (side.title, side.seeds) == ("evil/model, 16x16", [0, 1, 2, 3])
    out = tmp_path / "out"
    flags = ["--seeds", "0-3", "--truncation", str(truncation), "--out", str(out)]
    assert cli.main(["generate", "--model", str(tmp_path / "model"), *flags]) in (0, None)
    assert [path.read_bytes() for path in side.paths] == [(out / path.name).read_bytes() for path in side.paths]


@pytest.mark.parametrize(
    ("config", "seeds", "words"),
    [
        (convolving(size=2048, channels=1, kernel_size=1), "0", "2,048x2,048 pixels; the limit is 1,024 per side"),
        (convolving(size=1024, channels=1, kernel_size=1), "0-8", "9 seeds are too many; at most 8 of 1024x1024"),
    ],
    ids=["large", "many"],
)
def test_images_of_too_many_pixels_are_refused(visited, config, seeds, words):
    with pytest.raises(ValueError, match=words):
        visited(config, seeds=seeds)


@pytest.mark.parametrize(
    ("config", "truncation"),
    [
        (
            convolving(size=256, channels=8, kernel_size=31),
            1.0,
        ),  # double precision takes a copy for each kernel position
        (convolving(size=512, channels=32, kernel_size=1), 0.9),  # statistics of 16 batches of 64 images
    ],
    ids=["kernels", "statistics"],
)
def test_a_model_that_takes_much_memory_or_time_harms_nobody(visited, monkeypatch, config, truncation):
    monkeypatch.setattr(rendering, "RENDER_SECONDS", 15)
    before = psutil.Process().memory_info().rss
    with pytest.raises(FileNotFoundError, match="takes too much memory or time"):
        visited(config, lambda text: text, seeds="0-3", truncation=truncation)
    assert psutil.Process().memory_info().rss < before + 2**28
    assert not [each for each in psutil.Process().children() if "renderer" in " ".join(each.cmdline())]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"out_channels": 16', '"out_channels": 30000', 1), "in_channels is 16, but"),
        (lambda text: text.replace("16", "30000"), "the layers need at least"),
        (lambda text: text.replace("16", "9" * 4000), "a whole number from 1 to 65,536|can't be used here"),
        (lambda text: text.replace("16", "9" * 6000), "Exceeds the limit"),
        (lambda text: "[" * 200_000, "nested too deeply"),
        (lambda text: text + " " * 2**20, "at most 1,048,576 are allowed"),
        (
            lambda text: json.dumps(json.loads(text) | {"layers": LAYERS}),
            "layers has 1,001 entries; at most 1,000",
        ),
    ],
    ids=["channels", "weights", "number", "digits", "depth", "length", "layers"],
)
def test_a_config_that_is_refused(visited, tmp_path, change, words):
    with pytest.raises(ValueError, match=words) as error:
        visited(GENERATOR, change)
    assert len(str(error.value)) < 400
    assert str(tmp_path) not in str(error.value)


@contextmanager
def client(seconds):
    """Stand for a request whose client leaves after that time."""
    left = time.monotonic() + seconds
    token = work.CURRENT.set(Work(lambda: time.monotonic() < left))
    try:
        yield
    finally:
        work.CURRENT.reset(token)


def program_of(text, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    program = tmp_path / "renderer.py"
    program.write_text(text)
    monkeypatch.setattr(rendering, "_PROGRAM", program)
    return program


def test_a_named_model_ends_when_its_client_leaves(model, monkeypatch, tmp_path):
    program = program_of("import time; time.sleep(60)", tmp_path, monkeypatch)
    started = time.monotonic()
    with client(0.3), pytest.raises(GoneError):
        pictures_of("evil/slow", model, "0", 1.0)
    assert time.monotonic() - started < 2
    assert not [each for each in psutil.Process().children() if str(program) in each.cmdline()]
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_a_named_model_has_a_limit_of_time(model, monkeypatch, tmp_path):
    program_of("while True: pass", tmp_path, monkeypatch)
    monkeypatch.setattr(rendering, "MAX_SECONDS", 1)
    with pytest.raises(FileNotFoundError, match="takes too much memory or time"):
        pictures_of("evil/slow", model, "0", 1.0)


ODD = ["evil/ok@.", "evil/.", "./x", "evil/ok@v1/.", "-a/b", "evil/ok@-v", "/etc", "../x/y", "user/..", "a/b/c"]
ODD += ["x" * 200, "user/na me", "a/b@", "@v1", "a@v1", "a/b@v1@v2", "a/b@../x", "a/b@/etc", "a/b@v1/", "a/b@v 1"]
ODD += ["a/b@v1?x", "a/b@v1\n/x"]


@pytest.mark.parametrize("name", ODD)
def test_no_path_is_taken_for_a_model_of_the_hub(model, name):
    with pytest.raises(ValueError, match="is not a model on the Hub"):
        pictures_of(name, model, "0", 1.0)


@pytest.mark.parametrize("name", ["user/name", "user/name@v1.0", " user/name@refs/pr/1 "])
def test_a_visitor_may_name_a_revision(model, monkeypatch, tmp_path, name):
    program_of("import sys; print(sys.argv[1]); sys.exit(3)", tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"can't be used here") as error:
        pictures_of(name, model, "0", 1.0)
    repo_id, _, revision = name.strip().partition("@")
    assert f'"repo_id": "{repo_id}", "revision": {json.dumps(revision or None)}' in str(error.value)


def test_the_pages_own_folder_is_no_name(model):
    assert Path(model.name).is_absolute()
    with pytest.raises(ValueError, match="is not a model on the Hub"):
        pictures_of(model.name, model, "0", 1.0)


class Waiting(SimpleNamespace):
    """An event of Gradio's queue."""

    def __init__(self, name, address):
        visitor = Visitor(f"address {address}", address, False)
        super().__init__(_id=name, request=SimpleNamespace(scope={VISITOR: visitor}))


def test_visitors_take_turns():
    flood = [Waiting(f"flood{number}", "10.0.0.1") for number in range(4)]
    late, later = Waiting("late", "10.0.0.2"), Waiting("later", "10.0.0.3")
    waiting = [*flood, late, later, Waiting("late2", "10.0.0.2")]
    take_turns(waiting, [])
    assert [each._id for each in waiting] == ["flood0", "late", "later", "flood1", "late2", "flood2", "flood3"]
    take_turns(waiting, [Waiting("running", "10.0.0.1"), Waiting("running2", "10.0.0.1")])
    assert [each._id for each in waiting] == ["late", "later", "late2", "flood0", "flood1", "flood2", "flood3"]


def test_a_page_takes_turns(model):
    async def take():
        page = build(model)
        flood = [Waiting(f"flood{number}", "10.0.0.1") for number in range(4)]
        lane = page._queue.event_queue_per_concurrency_id["pictures"] = EventQueue("pictures", 2)
        page._queue.active_jobs = [[flood[0]], None]
        lane.queue = [*flood[1:], Waiting("late", "10.0.0.2")]
        for event in lane.queue:
            event.fn = SimpleNamespace(batch=False)
        return page._queue.get_events()

    [event], *_ = asyncio.run(take())
    assert event._id == "late"


@pytest.mark.parametrize("value", ["A" * 199, "é\n'" * 66])
def test_no_message_repeats_much_of_what_was_sent(attacker, value):
    for name, inputs in (
        ("generate", ["0", 1.0, None, {value: 1.0}]),
        ("generate", ["0", 1.0, {value: True}, None]),
        ("dial", ["0", value, False, None]),
        ("compare", [value, "", "0", 1.0]),
    ):
        said = attacker.call(name, inputs)
        assert "error" in said
        assert value[:20] in said or name == "compare" or value[0] == "é"
        assert value[:80] not in said


def uploads_of(request):
    """Return whether a request holds an upload."""
    metadata = [each for field in request.model_fields.values() for each in [*field.metadata, field.annotation]]
    return any(isinstance(each, BeforeValidator) or "BeforeValidator" in repr(each) for each in metadata)


def test_no_image_waits_for_an_upload_or_a_named_model(model):
    async def build_page():  # outside of an event loop, Gradio would create loops and leave them open
        return build(model)

    lanes = {}
    for function in asyncio.run(build_page()).fns.values():
        takes = function.fn.takes
        if uploads_of(takes) or "left" in takes.model_fields:
            lanes[takes.__name__] = function.concurrency_id
    assert lanes == {
        "Judge": "uploads",
        "UploadTab": "uploads",
        "Project": "long",
        "Compare": "models",
        "CompareTab": "models",
    }


def profile_of_calculations(count):
    """Return a color profile whose transform is a list of many matrices."""
    element = b"matf\0\0\0\0" + struct.pack(">HH12f", 3, 3, *torch.eye(3).flatten().tolist(), 0, 0, 0)
    table = struct.pack(">II", 16 + 8 * count, len(element)) * count
    content = b"mpet\0\0\0\0" + struct.pack(">HHI", 3, 3, count) + table + element
    header = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:128])
    header[8:12], header[20:24] = b"\x04\x30\0\0", b"Lab "
    tags = struct.pack(">I4sII", 1, b"D2B0", 144, len(content))
    return struct.pack(">I", 144 + len(content)) + bytes(header[4:]) + tags + content


def decoded(content):
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return decoding.decoded(file, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_profile_that_takes_long_is_refused(kind):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind, icc_profile=profile_of_calculations(1000))
    with pytest.raises(ValueError, match="color profile is too complex"):
        decoded(file.getvalue())


def test_a_common_profile_is_applied():
    file = io.BytesIO()
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(file, "PNG", icc_profile=plain)
    assert decoded(file.getvalue())[:, 4, 4].tolist() == [9, 99, 199]


def test_a_program_gives_back_what_it_wrote(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys; print(sys.argv[1], sys.stdin.read()); sys.exit(3)")
    ended = child.run(program, {"a": 1}, seconds=30, cpu_seconds=30, memory=2**30)
    assert (ended.status, ended.answer, ended.log) == (3, b'{"a": 1} \n', "")


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("while True: pass", {"cpu_seconds": 1}),
        ("print(len(bytes(2**28)))", {"memory": 2**27}),
        ("import pathlib; pathlib.Path('file').write_bytes(bytes(2000))", {"file_size": 1000}),
    ],
    ids=["time", "memory", "file"],
)
def test_the_system_limits_a_program(tmp_path, monkeypatch, text, limits):
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "program.py"
    program.write_text(text)
    generous = {"cpu_seconds": 20, "memory": 2**29, "file_size": 2**20}
    started = time.monotonic()
    assert child.run(program, {}, seconds=30, **generous | limits).status not in (0, child.REFUSED)
    assert time.monotonic() - started < 10
    if "cpu_seconds" not in limits:
        assert child.run(program, {}, seconds=30, **generous).status == 0
