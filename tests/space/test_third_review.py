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

import psutil
import pytest
import torch
from fagan_space import child, decoding, fetching, limits, models, work
from fagan_space.page import build
from fagan_space.tabs.compare import pictures_of
from fagan_space.work import GoneError, Work
from PIL import Image, ImageCms
from pydantic import BeforeValidator

from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.specs import ConvSpec, ConvTransposeSpec
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Generator
from tests.small import GENERATOR

RELU = {"type": "activation", "activation": "relu"}


def tall(doublings, *, channels=1, kernel_size=1):
    """Return a small generator of large images."""
    first = ConvTransposeSpec(in_channels=8, out_channels=channels, kernel_size=4, spectral_norm=False)
    plain = {"in_channels": channels, "kernel_size": kernel_size, "padding": kernel_size // 2, "spectral_norm": False}
    doubling = [ConvSpec(out_channels=channels, upsample=True, **plain) for _ in range(doublings)]
    last = ConvSpec(out_channels=3, activation="tanh", **plain)
    return GeneratorConfig(image_size=4 * 2**doublings, latent_dim=8, layers=(first, *doubling, last))


@pytest.fixture
def visited(tmp_path, monkeypatch):
    """Let visitors name a model of a generator's config: as if it had been downloaded."""
    monkeypatch.setattr(models, "_kept", type(models._kept)())
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))

    @contextmanager
    def fetched(name):
        yield tmp_path / "model"

    def make(config, change=lambda data: data):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        save_repository(tmp_path / "model", Generator(config))
        path = tmp_path / "model/generator/config.json"
        path.write_text(change(path.read_text()))
        return "evil/model"

    monkeypatch.setattr(models, "fetched", fetched)
    return make


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (tall(9), "2,048 pixels as the height of its images"),
        (tall(8, channels=9), "values in a feature map; the limit is 8,388,608"),
        (tall(8, channels=2, kernel_size=201), "multiply-adds for an image"),
    ],
)
def test_a_model_whose_images_take_too_much_is_refused(model, visited, config, words):
    with pytest.raises(ValueError, match=words):
        models.load_named(visited(config), model)
    assert not models._kept


def test_a_model_within_the_limits_is_compared(model, visited):
    side = pictures_of(visited(tall(4)), model, "0-3", 1.0)
    assert side.model.shown == "evil/model"
    assert len(side.paths) == 4
    for path in side.paths:
        with Image.open(path) as image:
            assert image.size == (64, 64)


def test_models_in_memory_are_limited_in_number_and_size(model, visited, monkeypatch):
    visited(tall(1))
    for number in range(6):
        models.load_named(f"evil/model{number}", model)
    assert list(models._kept) == [f"evil/model{number}" for number in range(2, 6)]
    monkeypatch.setattr(models, "MAX_KEPT_BYTES", 2 * models._bytes_of(models._kept["evil/model5"]))
    models.load_named("evil/model6", model)
    assert list(models._kept) == ["evil/model5", "evil/model6"]
    monkeypatch.setattr(models, "MAX_KEPT_BYTES", 1)
    models.load_named("evil/model7", model)
    assert list(models._kept) == ["evil/model7"]


def test_the_work_of_all_images_together_is_limited(model, visited, monkeypatch):
    config = tall(4)
    monkeypatch.setattr(limits, "MAX_ALL_MULTIPLY_ADDS", 3 * config.multiply_adds)
    with pytest.raises(ValueError, match=r"4 seeds are too many; at most 3 are allowed"):
        pictures_of(visited(config), model, "0-3", 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"out_channels": 16', '"out_channels": 30000', 1), "in_channels is 16, but"),
        (lambda text: text.replace("16", "30000"), "the layers need at least"),
        (lambda text: text.replace("16", "9" * 4000), "a whole number from 1 to 65,536"),
        (lambda text: text.replace("16", "9" * 6000), "is not a valid GeneratorConfig"),
        (lambda text: "[" * 200_000, "nested too deeply"),
        (lambda text: text + " " * 2**20, "at most 1,048,576 are allowed"),
        (
            lambda text: json.dumps(
                json.loads(text) | {"layers": [{"type": "activation", "activation": "relu"}] * 1001}
            ),
            "layers has 1,001 entries; at most 1,000",
        ),
    ],
)
def test_a_config_is_refused_before_anything_is_built_from_it(model, visited, monkeypatch, change, words):
    name = visited(GENERATOR, change)
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self: pytest.fail("a network is built"))
    with pytest.raises(ValueError, match=words):
        models.load_named(name, model)


def test_a_header_that_is_too_long_is_not_parsed(model, visited, tmp_path):
    name = visited(GENERATOR)
    path = tmp_path / "model/generator/model.safetensors"
    path.write_bytes(struct.pack("<Q", 11 * 2**20) + b"{" + b" " * 11 * 2**20)
    with pytest.raises(ValueError, match="its header has 11,534,336 bytes"):
        models.load_named(name, model)


@contextmanager
def client(seconds):
    """Stand for a request whose client leaves after that time."""
    left = time.monotonic() + seconds
    token = work.CURRENT.set(Work(lambda: time.monotonic() < left))
    try:
        yield
    finally:
        work.CURRENT.reset(token)


def test_a_download_ends_when_its_client_leaves(model, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    program = tmp_path / "fetcher.py"
    program.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(fetching, "_PROGRAM", program)
    started = time.monotonic()
    with client(0.3), pytest.raises(GoneError):
        models.load_named("evil/slow", model)
    assert time.monotonic() - started < 2
    assert not [each for each in psutil.Process().children() if str(program) in each.cmdline()]
    assert not list((tmp_path / "files").iterdir())


def test_a_download_has_a_limit_of_time(model, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    program = tmp_path / "fetcher.py"
    program.write_text("while True: pass")
    monkeypatch.setattr(fetching, "_PROGRAM", program)
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 1)
    with pytest.raises(FileNotFoundError, match="could not be downloaded from the Hub within 1 seconds"):
        models.load_named("evil/slow", model)


def test_images_of_a_named_model_end_when_their_client_leaves(model, visited):
    other = models.load_named(visited(tall(4)), model)
    with client(0.0), pytest.raises(GoneError):
        other.pipe(seeds=[0])


@pytest.mark.parametrize("name", ["evil/ok@.", "evil/.", "./x", "evil/ok@v1/.", "-a/b", "evil/ok@-v"])
def test_odd_names_are_refused(model, name):
    with pytest.raises(ValueError, match="is not a model on the Hub"):
        models.load_named(name, model)


def test_the_pages_own_folder_is_no_name(model):
    assert Path(model.name).is_absolute()
    with pytest.raises(ValueError, match="is not a model on the Hub"):
        models.load_named(model.name, model)
    assert models.load_named(model.shown, model) is model


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
    ended = child.run(program, {"a": 1}, seconds=30)
    assert (ended.status, ended.answer, ended.log) == (3, b'{"a": 1} \n', "")
