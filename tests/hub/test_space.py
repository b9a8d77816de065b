"""The Space on the Hub: pushed as in its README, started from the downloaded copy, with models from the Hub."""

import re
import shutil
import subprocess
import threading
import time
import zipfile
from types import SimpleNamespace

import psutil
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from benchmarks.serving import ROOT, serving
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.pipeline import FAGANPipeline
from tests.hub import forked
from tests.hub.conftest import ALICE
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

PLACEHOLDER = "your-name/fagan-avatars-64"


@pytest.fixture
def models(hub, hf, tmp_path):
    """Two public models and a private one of Alice's on the Hub, and a repository that is not a fagan_hf model."""
    for seed, name in enumerate(("faces", "others", "secret")):
        torch.manual_seed(seed)
        save_repository(tmp_path / name, with_gates(Generator(GENERATOR)), with_gates(Discriminator(DISCRIMINATOR)))
        hf("upload", f"alice/{name}", tmp_path / name, *(["--private"] if name == "secret" else []))
    (tmp_path / "words").mkdir()
    (tmp_path / "words/README.md").write_text("# No model\n")
    hf("upload", "alice/words", tmp_path / "words")
    return tmp_path


def refused(client, **arguments):
    with pytest.raises(AppError) as error:
        client.predict(**arguments)
    return str(error.value)


def renderers(page):
    """Return the page's processes that download a model."""
    return [each for each in psutil.Process(page.pid).children() if "renderer.py" in " ".join(each.cmdline())]


def wait_until(happens, seconds=30):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_pushed_and_started_from_what_comes_back(hub, hf, models, tmp_path, monkeypatch):
    start = SimpleNamespace(Popen=forked.popen, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr("benchmarks.serving.subprocess", start)
    mine = tmp_path / "space"
    shutil.copytree(ROOT / "space", mine, ignore=shutil.ignore_patterns("__pycache__"))
    card = (mine / "README.md").read_text()
    assert card.count(f"  - {PLACEHOLDER}\n") == 1
    (mine / "README.md").write_text(card.replace(PLACEHOLDER, "alice/faces"))

    over = threading.Event()

    # The commands of the Space's README, on the copy.
    create, upload = re.findall(r"^hf (.*your-name/your-space.*)$", card, re.MULTILINE)
    assert upload == "upload your-name/your-space space . --repo-type space"
    hf(*create.replace("your-name/your-space", "alice/demo").split())
    hf("upload", "alice/demo", mine, *upload.split()[3:])
    back = tmp_path / "back"
    hf("download", "alice/demo", "--repo-type", "space", "--local-dir", back)
    kept = {path.relative_to(mine) for path in mine.rglob("*") if path.is_file()}
    assert {path.relative_to(back) for path in back.rglob("*") if path.is_file()} >= kept

    # The page's owner has a token for the private model; visitors must not be able to use it.
    environment = {**hub.environment(ALICE, cache=tmp_path / "page"), "FAGAN_MODEL": ""}
    with serving("", tmp_path / "uploads", space=back, **environment) as page:
        client = Client(page.url, verbose=False, download_files=str(tmp_path / "downloads"))
        assert client.predict(api_name="/about")["model"] == "alice/faces"
        [path] = client.predict(seeds="4", api_name="/generate")
        [wanted] = FAGANPipeline.from_pretrained(tmp_path / "faces")(seeds=[4]).images
        with Image.open(path) as image:
            assert image.tobytes() == wanted.tobytes()

        archives = client.predict(left="", right="alice/others", seeds="4", api_name="/compare")
        [other] = FAGANPipeline.from_pretrained(tmp_path / "others")(seeds=[4]).images
        for archive, picture in zip(archives, (wanted, other), strict=True):
            with zipfile.ZipFile(archive) as pictures, pictures.open("seed-00000004.png") as file:
                assert Image.open(file).tobytes() == picture.tobytes()

        for name in ("alice/none", "alice/secret"):
            assert name in refused(client, left="", right=name, seeds="4", api_name="/compare")
        assert "alice/words" in refused(client, left="", right="alice/words", seeds="4", api_name="/compare")
        assert len(list((tmp_path / "uploads").glob("*/*/models--*"))) == 0  # downloads are deleted

        # A model that takes long to download keeps nobody's images waiting, and ends with its client.
        hub.fault("GET", r"/api/models/alice/slow", lambda: over.wait(60), times=None)
        jobs = [client.submit(left="", right="alice/slow", seeds="4", api_name="/compare") for _ in range(2)]
        wait_until(lambda: renderers(page))
        started = time.monotonic()
        client.predict(seeds="5", api_name="/generate")
        assert time.monotonic() - started < 5
        assert renderers(page)
        for job in jobs:
            job.cancel()
        wait_until(lambda: not renderers(page), seconds=3)
        over.set()
        client.close()
