"""Pages of models with labels, without a discriminator, without attention."""

from pathlib import Path

import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from benchmarks.serving import ROOT, serving
from fagan_hf import FAGANPipeline
from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Generator
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

LABELS = ("beard", "hair=black", "hair=red")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional") / "model"
    torch.manual_seed(0)
    generator = with_gates(Generator(with_labels((GENERATOR, DISCRIMINATOR), LABELS, "projection")[0]))
    for parameter in generator.parameters():  # fresh ones don't tell labels apart
        parameter.data += 0.1 * torch.randn_like(parameter)
    save_repository(folder, generator)
    return folder


def shown(client, kind, what):
    """Return a property of the page's components of one type."""
    return [each["props"].get(what) for each in client.config["components"] if each["type"] == kind]


def test_labels_can_be_asked_for_and_what_is_missing_is_told(conditional, tmp_path):
    with serving(conditional, tmp_path / "uploads") as page:
        client = Client(page.url, verbose=False, download_files=str(tmp_path / "downloads"))
        assert client.predict(api_name="/about")["labels"] == {"beard": ["yes", "no"], "hair": ["black", "red"]}
        dropdowns = shown(client, "dropdown", "label")  # in words
        assert dropdowns.count("Hair") == dropdowns.count("Beard") >= 4
        wished = {"beard": True, "hair": "red"}
        [path] = client.predict(seeds="3", labels=wished, api_name="/generate")
        [wanted] = FAGANPipeline.from_pretrained(conditional)(seeds=[3], labels=wished).images
        with Image.open(path) as image:
            assert image.tobytes() == wanted.tobytes()
        [shaven] = client.predict(seeds="3", labels={**wished, "beard": False}, api_name="/generate")
        assert Path(path).read_bytes() != Path(shaven).read_bytes()

        picture = handle_file(next((ROOT / "space/examples").glob("*.png")))
        moved = client.predict(picture=picture, steps=2, labels={"beard": True}, api_name="/project")
        assert len(moved["latent"]) == GENERATOR.latent_dim
        for refused, words in (
            ({"labels": {"teeth": 1}, "api_name": "/generate"}, "teeth"),
            ({"picture": picture, "api_name": "/judge"}, "published without its discriminator"),
            ({"picture": picture, "strengths": {"beard": 1}, "api_name": "/project"}, "has no directions"),
        ):
            with pytest.raises(AppError, match=words):
                client.predict(**refused)
        client.close()


def test_a_baseline_without_attention_has_a_page_too(tmp_path):
    save_repository(tmp_path / "model", Generator.from_preset("dcgan-64"))
    with serving(tmp_path / "model", tmp_path / "uploads") as page:
        client = Client(page.url, verbose=False, download_files=str(tmp_path / "downloads"))
        said = [str(text) for text in shown(client, "markdown", "value")]
        assert sum("no attention layers" in each for each in said) == 2
        assert any("published without its discriminator" in each for each in said)
        for endpoint in ("/look_inside", "/dial"):
            with pytest.raises(AppError, match="no attention layer"):
                client.predict(api_name=endpoint)
        client.close()
