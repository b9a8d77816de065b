"""Train, publish, load in every way, resume elsewhere, publish again: real clients over HTTP."""

import json

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from fagan_hf import Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds
from tests.hub.conftest import ALICE

SEEDS = [0, 1, 7]

# Each way of loading, in a process that has never seen the model, writes the images it generates.
DOORS = {
    "generator": """
        from fagan_hf import Generator
        from fagan_hf.sampling.images import generate_images, latents_from_seeds
        generator = Generator.from_pretrained("alice/portraits")
        images = generate_images(generator, latents_from_seeds({seeds}, generator.config.latent_dim))
    """,
    "pipeline": """
        from fagan_hf import FAGANPipeline
        images = FAGANPipeline.from_pretrained("alice/portraits")(seeds={seeds}).images
    """,
    "diffusers": """
        from diffusers import DiffusionPipeline
        pipe = DiffusionPipeline.from_pretrained("alice/portraits", trust_remote_code=True)
        images = pipe(seeds={seeds}).images
    """,
}


def drawn(folder):
    generator = Generator.from_pretrained(folder)
    return generate_images(generator, latents_from_seeds(SEEDS, generator.config.latent_dim))


@pytest.mark.timeout(240)
def test_from_a_training_to_the_hub_and_back(hub, client, train, tmp_path):
    push = "--push_to_hub", "alice/portraits"
    train("--name", "portraits", "--max_images", 24, *push, "--push_training_state", "true")
    here = tmp_path / "runs/portraits"
    files = hub.files("alice/portraits")
    assert files.keys() >= {
        "README.md", "model_index.json", "pipeline.py", "handler.py", "generator/modeling_fagan.py", "recipe.yaml",
        "generator/config.json", "generator/model.safetensors", "discriminator/config.json", "samples.png", "loss.png",
        "discriminator/model.safetensors", "training_progress.gif", "alpha.png", "metrics.jsonl", "facts.json",
        "training_state/manifest.json", "config.json",
    }  # fmt: skip
    assert files["generator/model.safetensors"] == (here / "generator/model.safetensors").read_bytes()

    for name, code in DOORS.items():
        save = f"\nimport numpy; numpy.save(r'{tmp_path / name}.npy', numpy.stack([numpy.asarray(i) for i in images]))"
        client("\n".join(line.strip() for line in code.format(seeds=SEEDS).splitlines()) + save, cache=f"cache-{name}")
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), drawn(here)), name

    card = files["README.md"].decode()
    client(f"from huggingface_hub import ModelCard; ModelCard({card!r}).validate()")
    assert ModelCard(card).data.pipeline_tag == "unconditional-image-generation"
    ours = "<!-- fagan_hf:begin training -->"
    mine = card.replace(ours, f"## Why\n\nFor my students.\n\n{ours}")
    begun = hub.commit("alice/portraits", {"README.md": mine.encode()}, message="Say why")

    # Another machine: no run folder, another cache. The result is bit-exact that of an uninterrupted run.
    go_on = "--resume_from", "alice/portraits", "--max_images", 40
    train(*go_on, *push, output_dir="elsewhere", is_from_model=True)
    train("--name", "whole", "--max_images", 40)
    ends = [load_file(tmp_path / end / "generator/model.safetensors") for end in ("elsewhere/portraits", "runs/whole")]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[1])
    lines = (tmp_path / "elsewhere/portraits/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == list(range(4, 44, 4))

    again = hub.files("alice/portraits")["README.md"].decode()
    assert f"## Why\n\nFor my students.\n\n{ours}" in again
    assert "| images seen | 40 |" in again
    assert f"| continued from | alice/portraits@{begun} |" in again
    assert "training_state/manifest.json" not in hub.files("alice/portraits")  # that of other weights


@pytest.fixture
def celeba_like(client):
    client(
        f"""
        import numpy, datasets
        from PIL import Image
        draw = numpy.random.default_rng(0)
        faces = [Image.fromarray(draw.integers(0, 256, (24, 20, 3), dtype=numpy.uint8)) for _ in range(16)]
        rows = {{"image": faces, "Smiling": [index % 2 == 0 for index in range(16)]}}
        datasets.Dataset.from_dict(rows).push_to_hub("alice/celeba-like", token={ALICE!r}, num_shards=4)
        """
    )
    return "alice/celeba-like"


@pytest.mark.timeout(120)
def test_a_data_set_of_the_hub_is_streamed_by_two_processes(celeba_like, train, tmp_path):
    arguments = "--name", "streamed", "--streaming", "true", "--label_columns", "Smiling"
    two = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"
    train(*arguments, "--max_images", 8, dataset=celeba_like, launcher=two)
    done = train(*arguments, "--max_images", 16, dataset=celeba_like, launcher=two)
    folder = tmp_path / "runs/streamed"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [4, 8, 12, 16]
    warning = "The images are streamed: around this point some may repeat"
    assert done.stdout.count(warning) == 1
    assert [warning in "".join(line.get("events", [])) for line in lines] == [False, False, True, False]
    assert ", 16 images, streamed |" in (folder / "README.md").read_text()
    assert not list((tmp_path / "data").glob("*"))  # no cache of prepared images


@pytest.mark.timeout(120)
def test_a_data_set_of_the_hub_feeds_a_training(hub, client, celeba_like, train, tmp_path):
    train(
        "--name", "smiles", "--max_images", 8, "--push_to_hub", "alice/smiles", "--label_columns", "Smiling",
        dataset=celeba_like,
    )  # fmt: skip
    card = ModelCard(hub.files("alice/smiles")["README.md"].decode())
    assert card.data.datasets == ["alice/celeba-like"]
    assert (card.data.license, card.data.license_name) == ("other", "celeba-non-commercial-research")
    assert f"revision `{hub.head('alice/celeba-like', kind='dataset')}`" in card.content
    shown = client(
        """
        from fagan_hf import FAGANPipeline
        pipe = FAGANPipeline.from_pretrained("alice/smiles")
        print(pipe(seeds=[3], labels={"Smiling": True}).images[0].size)
        """
    )
    assert shown.stdout.strip() == "(8, 8)"


@pytest.mark.timeout(120)
def test_fine_tuning_starts_from_the_weights_and_names_them(hub, train, tmp_path):
    train("--name", "first", "--max_images", 8, "--push_to_hub", "alice/first")
    done = train(
        "--finetune_from", "alice/first", "--name", "second", "--max_images", 4, "--push_to_hub", "alice/second",
        "--generator_learning_rate", "1e-12", is_from_model=True,
    )  # fmt: skip
    assert "Starting from the weights of alice/first; optimizers are reinitialized." in done.stdout
    card = ModelCard(hub.files("alice/second")["README.md"].decode())
    assert card.data.base_model == "alice/first"
    assert f"| fine-tuned from | alice/first@{hub.head('alice/first')} |" in card.content
    assert "| images seen | 4, of 20 images |" in card.content
    first, second = (load_file(tmp_path / f"runs/{name}/generator/model.safetensors") for name in ("first", "second"))
    name = "layers.0.query.weight"
    assert np.allclose(first[name], second[name], atol=1e-9)
    labeled = train(
        "--finetune_from", "alice/first", "--name", "third", "--label_columns", "class", "--max_images", 4,
        is_from_model=True, dataset=tmp_path,
    )  # fmt: skip
    assert "Reinitialized for other labels, channels or sizes: generator layers.0" in labeled.stdout
