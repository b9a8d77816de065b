"""The notebook, executed as on Colab, with a small folder and the test Hub, and without the installation cell."""

import json
import os
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from PIL import Image

from fagan_hf.architectures.load import save_architecture
from tests.hub.conftest import ALICE
from tests.hub.server import Hub
from tests.small import DISCRIMINATOR, GENERATOR

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/notebooks/train_on_your_pictures.ipynb"
FIELDS = {"model": "tiny.json", "batch_size": 4, "max_images": 24, "cpu_threads": 1, "crop": None}
FIELDS |= {"log_every_images": 8, "sample_every_images": 8, "gradient_accumulation": 1, "mixed_precision": "no"}


@pytest.fixture
def place(tmp_path):
    """A folder with images and a small architecture."""
    (tmp_path / "images").mkdir()
    draw = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(draw.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(tmp_path / f"images/{index}.png")
    save_architecture(tmp_path / "tiny.json", (GENERATOR, DISCRIMINATOR))
    return tmp_path


@pytest.fixture
def hub():
    with Hub(tokens={ALICE: "alice"}) as hub:
        yield hub
    assert hub.errors == []


def cells(**settings):
    """The notebook with other settings, and without its installation."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += "".join(f"\n{name} = {value!r}" for name, value in settings.items())
    return notebook


def variables(place, hub):
    ours = {"FAGAN_CACHE": str(place / "prepared"), "PYTHONPATH": str(ROOT)}
    return os.environ | hub.environment(ALICE, cache=place / "cache") | ours


def training_cell(notebook):
    [found] = [
        (index, cell)
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and "fagan_hf.train(" in cell.source
    ]
    return found


def shown(cell, kind):
    return [output for output in cell.outputs if kind in output.get("data", {})]


def test_from_a_folder_to_a_pushed_model(place, hub):
    notebook = cells(dataset="images", name="mine", repo_id="alice/mine", fields=FIELDS)
    client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(place)}})
    client.execute(env=variables(place, hub))
    assert {"generator/model.safetensors", "README.md", "samples.png"} <= hub.files("alice/mine").keys()
    _, training = training_cell(notebook)
    assert len(shown(training, "image/png")) == 2  # the grid and the losses, redrawn in place three times
    assert any("24 images" in output["data"]["text/plain"] for output in shown(training, "text/plain"))
    lines = (place / "runs/mine/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [8, 16, 24]


def test_an_interrupted_cell_saves_and_the_same_cell_resumes(place, hub):
    manager, client = start_new_kernel(env=variables(place, hub), cwd=str(place))
    try:
        notebook = cells(dataset="images", name="mine", fields=FIELDS | {"max_images": 1_000_000})
        index, training = training_cell(notebook)
        for cell in notebook.cells[:index]:
            if cell.cell_type == "code":
                assert client.execute(cell.source, reply=True, timeout=60)["content"]["status"] == "ok"
        client.execute(training.source)
        metrics = place / "runs/mine/metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.is_file() and metrics.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)["content"]
        assert reply["ename"] == "KeyboardInterrupt"
        assert "make the same call again to resume" in reply["evalue"]
        images = json.loads(metrics.read_text().splitlines()[-1])["images"]
        more = client.execute(f"fields['max_images'] = {images + 40}\n{training.source}", reply=True, timeout=60)
        assert more["content"]["status"] == "ok"
        lines = [json.loads(line)["images"] for line in metrics.read_text().splitlines()]
        assert lines == [*range(8, images + 41, 8)], "none is missing or twice, which a fresh start would leave"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
