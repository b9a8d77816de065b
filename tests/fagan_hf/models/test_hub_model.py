import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR


@pytest.fixture
def generator():
    """A generator whose buffers and gates differ from those of a new one."""
    generator = Generator(GENERATOR).train()
    for parameter in generator.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    generator(torch.randn(4, 8))
    return generator.eval()


@pytest.fixture
def run(tmp_path, generator):
    save_repository(tmp_path / "run", generator, Discriminator(DISCRIMINATOR))
    return tmp_path / "run"


def test_saved_and_loaded_is_equal_to_the_bit(generator, run):
    loaded = Generator.from_pretrained(run)
    assert loaded.config == generator.config
    assert not loaded.training
    expected = generator.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    latents = torch.randn(3, 8)
    assert torch.equal(loaded(latents), generator(latents))


@pytest.mark.parametrize("network", [Generator, Discriminator])
@pytest.mark.parametrize("kind", ["run folder", "its subfolder", "named subfolder", "text"])
def test_doors(run, network, kind):
    path = {"its subfolder": run / network.subfolder, "text": str(run)}.get(kind, run)
    subfolder = network.subfolder if kind == "named subfolder" else None
    assert isinstance(network.from_pretrained(path, subfolder=subfolder), network)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_repository_without_the_index_still_loads(run, network):
    (run / "config.json").unlink()
    assert isinstance(network.from_pretrained(run), network)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_the_index_is_no_network(run, network):
    """Even beside weights in the top folder it is never read as a network's config."""
    shutil.copy(run / network.subfolder / "model.safetensors", run)
    shutil.rmtree(run / network.subfolder)
    for subfolder in (None, ""):
        with pytest.raises(FileNotFoundError, match=r"found config.json, .*describes a repository, not a network"):
            network.from_pretrained(run, subfolder=subfolder)


def test_the_index_is_requested_with_any_subfolder(run, monkeypatch):
    """The Hub counts these requests as downloads."""
    asked = []

    def snapshot(repo_id, *, allow_patterns, **_):
        asked.append(allow_patterns)
        return str(run)

    monkeypatch.setattr("fagan_hf.hub.client.snapshot_download", snapshot)
    for subfolder in (None, "generator"):
        Generator.from_pretrained("user/name", subfolder=subfolder)
    assert all("config.json" in patterns for patterns in asked)


def test_config_json_is_the_config(generator, run):
    data = json.loads((run / "generator/config.json").read_text())
    assert data == generator.config.to_dict()
    assert sorted(path.name for path in (run / "discriminator").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", torch.float64])
def test_dtype(run, dtype):
    generator = Generator.from_pretrained(run, dtype=dtype)
    assert str(generator.dtype).endswith(str(dtype).removeprefix("torch."))
    assert generator(torch.randn(2, 8, dtype=generator.dtype)).dtype == generator.dtype


def test_dtype_is_kept_by_default(tmp_path, generator):
    generator.double().save_pretrained(tmp_path / "double")
    assert Generator.from_pretrained(tmp_path / "double").dtype == torch.float64


@pytest.mark.parametrize("dtype", ["float31", "int8", torch.int64])
def test_no_dtype(run, dtype):
    with pytest.raises(ValueError, match=r"dtype is .*it must be a floating-point dtype"):
        Generator.from_pretrained(run, dtype=dtype)


def test_device_and_unknown_arguments(generator, run, tmp_path):
    assert generator.device == torch.device("cpu")
    with pytest.raises(TypeError, match="strict"):
        Generator.from_pretrained(run, strict=False)
    with pytest.raises(TypeError, match="not config"):
        generator.save_pretrained(tmp_path, config={})


def test_pickles_are_refused(run):
    weights = run / "generator/model.safetensors"
    torch.save(load_file(weights), run / "generator/pytorch_model.bin")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin is refused: it is a pickle, which can run code"):
        Generator.from_pretrained(run)


def test_a_missing_config_is_named_with_what_was_found(run):
    (run / "generator/config.json").unlink()
    said = r"is not a Generator repository: it needs config.json and .*found config.json, discriminator/"
    with pytest.raises(FileNotFoundError, match=said):
        Generator.from_pretrained(run)


def test_a_truncated_file_is_named(run):
    weights = run / "generator/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or not a safetensors file"):
        Generator.from_pretrained(run)


def test_foreign_weights_are_listed_key_by_key(run):
    weights = run / "generator/model.safetensors"
    tensors = load_file(weights)
    tensors["stranger"] = tensors.pop("layers.0.alpha")
    tensors["layers.0.query.bias"] = torch.zeros(7)
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"does not fit its config.json") as caught:
        Generator.from_pretrained(run)
    assert "layers.0.alpha is missing" in str(caught.value)
    assert "stranger is unknown" in str(caught.value)
    assert "layers.0.query.bias is [7]; it must be [1]" in str(caught.value)


def test_many_mismatches_are_cut_short(run):
    save_file({"a": torch.zeros(1)}, run / "generator/model.safetensors")
    with pytest.raises(ValueError, match=r"and \d+ more$"):
        Generator.from_pretrained(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is not a valid GeneratorConfig: Expecting property name"),
        ("[]", "it is list"),
        ('{"color": "red"}', "unknown key 'color'"),
        ('{"architectures": ["BertModel"]}', r"to the library transformers \(architectures: \['BertModel'\]\)"),
        ('{"_class_name": "UNet2DModel"}', "to the library diffusers"),
    ],
)
def test_a_foreign_config_is_named(run, text, message):
    (run / "generator/config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Generator.from_pretrained(run)


def test_the_wrong_network_is_refused(run):
    shutil.copytree(run / "discriminator", run.parent / "flat")
    with pytest.raises(ValueError, match=r"is not a valid GeneratorConfig: unknown key 'labels_at'"):
        Generator.from_pretrained(run.parent / "flat")
    with pytest.raises(ValueError, match=r"takes a GeneratorConfig \(see also Generator.from_preset"):
        Generator(DISCRIMINATOR)


def test_neither_folder_nor_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"'runs/nothing' is not a local folder .* and was not found on the Hub"
    ):
        Generator.from_pretrained("runs/nothing")
    with pytest.raises(FileNotFoundError, match="is not a local folder"):
        Generator.from_pretrained("./a/b/c")


def test_one_snapshot_of_one_commit(run, monkeypatch):
    """Both files are downloaded by one call, so from one commit, and pickles are never requested."""
    calls = []

    def snapshot(repo_id, **kwargs):
        calls.append((repo_id, kwargs))
        return str(run)

    monkeypatch.setattr("fagan_hf.hub.client.snapshot_download", snapshot)
    Generator.from_pretrained("user/name", revision="v1", token="secret", local_files_only=True)
    [(repo_id, kwargs)] = calls
    assert repo_id == "user/name"
    assert (kwargs["revision"], kwargs["token"], kwargs["local_files_only"]) == ("v1", "secret", True)
    assert all(pattern.endswith(("config.json", "model.safetensors")) for pattern in kwargs["allow_patterns"])


def test_what_a_repository_holds_instead_is_said(tmp_path, monkeypatch):
    """Only our files are downloaded, so the Hub is asked what else there is."""
    monkeypatch.setattr("fagan_hf.hub.client.snapshot_download", lambda repo_id, **kwargs: str(tmp_path))
    monkeypatch.setattr("fagan_hf.hub.client.list_files", lambda repo_id, **kwargs: ["README.md", "pytorch_model.bin"])
    with pytest.raises(
        FileNotFoundError, match=r"found README.md, pytorch_model.bin. pytorch_model.bin is refused: it is a pickle"
    ):
        Generator.from_pretrained("user/name")


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn, torch.uint8], ids=str)
def test_dtypes_that_are_no_weights_are_named(run, dtype):
    weights = run / "generator/model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ValueError, match=rf"layers.0.alpha is {dtype}; it must be like torch.float32"):
        Generator.from_pretrained(run)


@pytest.mark.parametrize("subfolder", ["../elsewhere", "/etc", "a/../../b", "..\\elsewhere"])
def test_a_subfolder_stays_inside(run, subfolder):
    with pytest.raises(ValueError, match="must be a folder inside the repository"):
        Generator.from_pretrained(run, subfolder=subfolder)


def test_a_download_that_was_changed_on_disk_is_refused(generator, tmp_path):
    """The Hub's cache names a large file by its SHA-256 and links to it."""
    generator.save_pretrained(tmp_path / "saved")
    content = (tmp_path / "saved/model.safetensors").read_bytes()
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()
    snapshot = tmp_path / "snapshots/commit"
    for folder in (blob.parent, snapshot):
        folder.mkdir(parents=True)
    shutil.copy(tmp_path / "saved/config.json", snapshot)
    (snapshot / "model.safetensors").symlink_to(blob)
    blob.write_bytes(content)
    Generator.from_pretrained(snapshot)
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"differs from the file on the Hub: .* Load with force_download=True"):
        Generator.from_pretrained(snapshot)
