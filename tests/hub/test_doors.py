"""The four ways to load a model, each over HTTP: the result is bit-exact."""

import hashlib
import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.pipeline import FAGANPipeline
from tests.hub import forked
from tests.hub.conftest import ALICE, BOB, READER, ROOT, STRANGER
from tests.hub.server import Hub
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

DOORS = ["Generator", "Discriminator", "FAGANPipeline", "DiffusionPipeline"]
BARE = {"trust_remote_code": True}  # required by diffusers' own loader

# One process serves many tests, because importing torch and diffusers takes seconds: one line of JSON in, one out.
CLIENT = """
import hashlib, json, os, sys, traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever else is printed lies with the errors, to be searched for tokens
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from fagan_hf import Discriminator, FAGANPipeline, Generator

DOORS = {each.__name__: each.from_pretrained for each in (Generator, Discriminator, FAGANPipeline, DiffusionPipeline)}
DOORS["ModelCard"] = ModelCard.load

def describe(loaded):
    if isinstance(loaded, ModelCard):
        return {}
    network = getattr(loaded, "generator", loaded)
    names = {"type": type(loaded).__name__, "dtype": str(network.dtype), "training": network.training}
    if isinstance(network, Discriminator):
        with torch.no_grad():
            result = network(torch.linspace(-1, 1, 2 * 3 * 8 * 8, dtype=network.dtype).reshape(2, 3, 8, 8))
    else:
        result = FAGANPipeline(network)(seeds=[1, 2], output_type="pt").images
    return names | {"digest": hashlib.sha256(result.float().numpy().tobytes()).hexdigest()}

for line in sys.stdin:
    case = json.loads(line)
    os.environ["HF_TOKEN"] = case["token_of_environment"]
    options = {name: getattr(torch, value) if "dtype" in name else value for name, value in case["options"].items()}
    try:
        answer = describe(DOORS[case["door"]](*case["args"], **options))
    except Exception as error:
        traceback.print_exc()
        bases = [base.__name__ for base in type(error).__mro__]
        answer = {"error": type(error).__name__, "bases": bases, "message": str(error)}
    sys.stderr.flush()
    print(json.dumps(answer), file=answers, flush=True)
"""


class Client:
    """A process that loads models for the tests."""

    def __init__(self, hub, folder, **env):
        folder.mkdir()
        self.cache, self._log = folder / "cache", folder / "log"
        (theirs, ours), (answers, their_answers) = os.pipe(), os.pipe()
        self._input, self._answers = os.fdopen(ours, "w"), os.fdopen(answers)
        with self._log.open("wb") as log, os.fdopen(theirs) as stdin, os.fdopen(their_answers, "w") as stdout:
            environment = hub.environment(cache=self.cache) | env
            self._process = forked.Popen(["-c", CLIENT], environment, ROOT, stdout, log, stdin)

    def __call__(self, door, repo_id, *, token_of_environment="", **options):
        """Load a model one way; return the result or the error, and all output."""
        before = self._log.stat().st_size
        if door == "DiffusionPipeline":
            options = BARE | options
        case = {"door": door, "args": [repo_id], "options": options, "token_of_environment": token_of_environment}
        print(json.dumps(case), file=self._input, flush=True)
        answer = self._answers.readline()
        printed = self._log.read_bytes()[before:].decode()
        assert answer, printed
        return SimpleNamespace(**{"error": None, "printed": printed} | json.loads(answer))

    def close(self):
        self._input.close()
        self._process.wait(30)
        self._answers.close()


@pytest.fixture(scope="module")
def served():
    with Hub(tokens={ALICE: "alice", BOB: "bob"}, readers={READER: "alice"}) as hub:
        yield hub


@pytest.fixture
def hub(served):
    """A fresh Hub at the address that the module's client uses."""
    served.stop()
    served.start()
    for known in (served.repositories, served.requests, served.faults):
        known.clear()
    served.faults_used = 0
    yield served
    assert served.errors == []


@pytest.fixture(scope="module")
def load(served, tmp_path_factory):
    client = Client(served, tmp_path_factory.mktemp("client") / "online")
    yield client
    client.close()


@pytest.fixture(scope="module")
def offline(served, load, tmp_path_factory):
    """A client in offline mode, sharing the cache of the one that is online."""
    client = Client(served, tmp_path_factory.mktemp("client") / "offline", HF_HOME=str(load.cache), HF_HUB_OFFLINE="1")
    yield client
    client.close()


class Model:
    """The files of a repository, and the expected result of each way to load it."""

    def __init__(self, seed, folder, configs=(GENERATOR, DISCRIMINATOR)):
        torch.manual_seed(seed)
        generator, discriminator = with_gates(Generator(configs[0])), with_gates(Discriminator(configs[1]))
        save_repository(folder, generator, discriminator)
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        images = FAGANPipeline(generator)(seeds=[1, 2], output_type="pt").images
        with torch.no_grad():
            scores = discriminator(torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8))
        self.digests = dict.fromkeys(DOORS, _digest(images)) | {"Discriminator": _digest(scores)}


def _digest(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [Model(seed, tmp_path_factory.mktemp("model")) for seed in (1, 2)]


@pytest.fixture
def model(models):
    return models[0]


@pytest.fixture
def other(models):
    return models[1]


@pytest.fixture
def wider(tmp_path):
    """A model whose weights fit only its own config."""
    first, *rest = GENERATOR.layers
    generator = replace(GENERATOR, latent_dim=9, layers=(replace(first, in_channels=9), *rest))
    first, last = DISCRIMINATOR.layers
    layers = (replace(first, out_channels=20), replace(last, in_channels=20))
    return Model(3, tmp_path / "wider", (generator, replace(DISCRIMINATOR, layers=layers)))


@pytest.fixture
def name(request):
    """A repository name that no other test uses, so the cache has nothing of it."""
    return "alice/" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]


@pytest.fixture
def gan(hub, name, model):
    hub.commit(name, model.files)
    return name


@pytest.fixture
def private(hub, gan):
    hub.repositories["model", gan].private = True
    return gan


def weights_sent(hub):
    return [path for method, path, status in hub.requests if method == "GET" and path.endswith(".safetensors")]


# ---------------------------------------------------------------------------------------------- what comes through


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_what_was_saved_to_the_bit(load, gan, model, door):
    loaded = load(door, gan)
    assert loaded.digest == model.digests[door], loaded.printed
    assert (loaded.type, loaded.dtype) == (door.replace("DiffusionP", "FAGANP"), "torch.float32")
    assert not loaded.training


@pytest.mark.parametrize("door", DOORS)
def test_a_revision_is_a_branch_a_tag_or_a_commit(load, hub, gan, model, other, door):
    first, second = hub.head(gan), hub.commit(gan, other.files, revision="dev")
    hub.repositories["model", gan].refs["refs/tags/v1"] = first
    hub.repositories["model", gan].refs["refs/tags/v2"] = second
    for revision in ("dev", "v2", second):
        assert load(door, gan, revision=revision).digest == other.digests[door], revision
    for revision in ("main", "v1", first):
        assert load(door, gan, revision=revision).digest == model.digests[door], revision
    if door != "DiffusionPipeline":  # diffusers' own knows no such names
        for revision in ("dev", "v2", second):
            assert load(door, f"{gan}@{revision}").digest == other.digests[door], revision


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("option", ["dtype", "torch_dtype"])
def test_dtype_under_both_of_its_names(load, gan, model, door, option):
    loaded = load(door, gan, **{option: "bfloat16"})
    assert loaded.dtype == "torch.bfloat16", loaded.printed
    assert loaded.digest != model.digests[door]


@pytest.mark.parametrize("door", ["Generator", "FAGANPipeline"])
def test_a_flat_repository_of_a_generator_alone(load, hub, name, model, door):
    flat = {
        path.removeprefix("generator/"): data for path, data in model.files.items() if path.startswith("generator/")
    }
    hub.commit(name, {path: flat[path] for path in ("config.json", "model.safetensors")})
    assert load(door, name).digest == model.digests[door]


def test_diffusers_own_door_needs_our_layout(load, hub, name, model):
    hub.commit(name, {"config.json": model.files["generator/config.json"]})
    assert "model_index.json" in load("DiffusionPipeline", name).message


@pytest.mark.parametrize("door", DOORS)
def test_a_branch_that_moves_between_two_requests_mixes_no_commits(load, hub, gan, model, wider, door):
    """The new commit's weights don't fit the old one's config, so a mixture would be refused."""
    moved = []
    for method in ("GET", "HEAD"):
        hub.fault(method, "/resolve/", lambda: moved.append(hub.commit(gan, wider.files)))
    assert load(door, gan).digest == model.digests[door]
    assert moved
    assert load(door, gan).digest == wider.digests[door]


# ----------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("door", ["Generator", "Discriminator", "FAGANPipeline"])
@pytest.mark.parametrize("token", [ALICE, READER], ids=["writer", "reader"])
def test_a_private_repository_opens_for_its_owners_tokens(load, private, model, tmp_path, door, token):
    assert load(door, private, token=token, cache_dir=str(tmp_path / "argument")).digest == model.digests[door]
    assert load(door, private, token_of_environment=token).digest == model.digests[door]


def test_a_token_with_a_line_end_is_the_token(load, private, model):
    assert load("Generator", private, token=f"{READER}\n").digest == model.digests["Generator"]


def test_diffusers_own_door_takes_a_token_from_the_environment_only(load, private, model):
    """A limit of diffusers: it fetches pipeline.py without the token it was given."""
    refused = load("DiffusionPipeline", private, token=ALICE)
    assert "RepositoryNotFoundError" in refused.bases
    assert "pipeline.py" in refused.message
    assert load("DiffusionPipeline", private, token_of_environment=READER).digest == model.digests["DiffusionPipeline"]


@pytest.mark.parametrize("door", DOORS)
def test_a_private_repository_stays_shut_for_everybody_else(load, hub, private, door):
    for token in (None, BOB, STRANGER):
        refused = load(door, private, token=token)
        assert "OSError" in refused.bases
    assert weights_sent(hub) == []


def test_a_token_passes_over_the_one_of_the_environment(load, private, model):
    assert load("Generator", private, token=BOB, token_of_environment=ALICE).error == "FileNotFoundError"
    loaded = load("Generator", private, token=ALICE, token_of_environment=BOB)
    assert loaded.digest == model.digests["Generator"]


# -------------------------------------------------------------------------------------------------------- the cache


@pytest.mark.parametrize("door", DOORS)
def test_cache_dir_is_where_everything_goes(load, gan, model, tmp_path, door):
    assert load(door, gan, cache_dir=str(tmp_path)).digest == model.digests[door]
    folder = f"models--{gan.replace('/', '--')}"
    assert (tmp_path / folder / "snapshots").is_dir()
    assert not (load.cache / "hub" / folder).exists()


@pytest.mark.parametrize("door", ["Generator", "Discriminator", "FAGANPipeline"])
def test_without_a_server_the_cache_answers(load, offline, hub, gan, model, door):
    assert load(door, gan).digest == model.digests[door]
    hub.requests.clear()
    assert load(door, gan, local_files_only=True).digest == model.digests[door]
    assert offline(door, gan).digest == model.digests[door]
    assert hub.requests == []
    hub.stop()
    assert load(door, gan).digest == model.digests[door]
    assert load(door, gan, local_files_only=True).digest == model.digests[door]


def test_diffusers_own_door_needs_the_hub_even_for_the_cache(load, offline, hub, gan, model):
    """A limit of diffusers: it asks the Hub for the newest pipeline.py. The folder in the cache is a way round it."""
    digest = model.digests["DiffusionPipeline"]
    assert load("DiffusionPipeline", gan).digest == digest
    assert load("DiffusionPipeline", gan, local_files_only=True).digest == digest
    assert "OfflineModeIsEnabled" in offline("DiffusionPipeline", gan, local_files_only=True).bases
    snapshot = load.cache / "hub" / f"models--{gan.replace('/', '--')}" / "snapshots" / hub.head(gan)
    assert offline("DiffusionPipeline", str(snapshot)).digest == digest
    assert offline("FAGANPipeline", gan).digest == digest
    hub.stop()
    assert "ConnectError" in load("DiffusionPipeline", gan, local_files_only=True).bases


@pytest.mark.parametrize("door", ["Generator", "Discriminator", "FAGANPipeline"])
def test_what_is_not_in_the_cache_is_said(load, offline, hub, gan, door):
    for missing in (load(door, gan, local_files_only=True), offline(door, gan)):
        assert missing.error == "FileNotFoundError"
        assert "the cache is incomplete: load it once with a connection, without" in missing.message
        assert "token" not in missing.message
    assert hub.requests == []
    hub.stop()
    assert "it was interrupted: try again" in load(door, gan).message


@pytest.mark.parametrize("door", ["Generator", "Discriminator", "FAGANPipeline"])
def test_a_card_that_was_read_is_no_snapshot(load, hub, gan, model, door):
    """Reading a card leaves a folder in the cache that holds the card alone."""
    hub.commit(gan, {"README.md": b"---\nlicense: mit\n---\n# GAN\n"})
    assert load("ModelCard", gan).error is None
    hub.requests.clear()
    partial = load(door, gan, local_files_only=True)
    assert hub.requests == []
    assert partial.error == "FileNotFoundError"
    assert "found README.md. The cache is incomplete: load it once with a connection" in partial.message
    hub.stop()
    start = time.monotonic()
    assert "load it once with a connection" in load(door, gan).message
    assert time.monotonic() - start < 5  # the listing for the message doesn't wait for a missing server
    hub.start()
    assert load(door, gan).digest == model.digests[door]
    assert load(door, gan, local_files_only=True).digest == model.digests[door]


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_fetched_twice_unless_it_is_forced(load, hub, gan, model, door):
    load(door, gan)
    hub.requests.clear()
    assert load(door, gan).digest == model.digests[door]
    assert weights_sent(hub) == []
    assert load(door, gan, force_download=True).digest == model.digests[door]
    # A limit of diffusers: it looks whether the cache is complete before it looks at force_download.
    assert (weights_sent(hub) == []) == (door == "DiffusionPipeline")


def test_the_two_networks_share_a_cache(load, hub, gan, model):
    """If only the generator's files are cached, the discriminator's are not considered missing, and vice versa."""
    assert load("Generator", gan).digest == model.digests["Generator"]
    partial = load("Discriminator", gan, local_files_only=True)
    assert "the cache is incomplete: load it once with a connection" in partial.message
    assert load("Discriminator", gan).digest == model.digests["Discriminator"]
    for door in ("Generator", "Discriminator"):
        assert load(door, gan, local_files_only=True).digest == model.digests[door]
    assert len(weights_sent(hub)) == 2


def test_a_repository_without_a_discriminator_lists_what_it_has(load, hub, name, model):
    hub.commit(name, {path: data for path, data in model.files.items() if not path.startswith("discriminator/")})
    missing = load("Discriminator", name)
    assert missing.error == "FileNotFoundError"
    assert f"{name!r} is not a Discriminator repository: it needs config.json" in missing.message
    assert "config.json and model.safetensors in disc" in missing.message
    assert "generator/config.json, generator/model.safetensors, generator/modeling_fagan.py" in missing.message
