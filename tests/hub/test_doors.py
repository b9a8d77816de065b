"""The four doors, each over HTTP: what comes through is what was put into the repository, to the bit."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fagan_hf.models import Discriminator, Generator
from fagan_hf.repository import save_repository
from tests.hub.conftest import ALICE, BOB, READER, ROOT, STRANGER
from tests.hub.server import Hub
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

DOORS = ["Generator", "Discriminator", "FAGANPipeline", "DiffusionPipeline"]
DRAWING = ["Generator", "FAGANPipeline", "DiffusionPipeline"]
BARE = {"trust_remote_code": True}  # what diffusers' own door asks for

# One process serves many tests, for torch and diffusers take seconds to import: a line of JSON in, a line out.
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
    try:
        answer = describe(DOORS[case["door"]](*case["args"], **case["options"]))
    except Exception as error:
        traceback.print_exc()
        bases = [base.__name__ for base in type(error).__mro__]
        answer = {"error": type(error).__name__, "bases": bases, "message": str(error)}
    sys.stderr.flush()
    print(json.dumps(answer), file=answers, flush=True)
"""


class Client:
    """A process that loads models for us."""

    def __init__(self, hub, folder, **env):
        folder.mkdir()
        self.cache, self._log = folder / "cache", folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CLIENT],
                env=hub.environment(cache=self.cache) | env,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __call__(self, door, repo_id, *, token_of_environment="", **options):
        """Go through a door; return what came out, or the error, and all that was printed."""
        before = self._log.stat().st_size
        if door == "DiffusionPipeline":
            options = BARE | options
        case = {"door": door, "args": [repo_id], "options": options, "token_of_environment": token_of_environment}
        print(json.dumps(case), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        printed = self._log.read_text()
        assert answer, printed
        return SimpleNamespace(**{"error": None, "printed": printed[before:]} | json.loads(answer))

    def close(self):
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def served():
    with Hub(tokens={ALICE: "alice", BOB: "bob"}, readers={READER: "alice"}) as hub:
        yield hub


@pytest.fixture
def hub(served):
    """A Hub as if new, at the address that the module's client knows."""
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
