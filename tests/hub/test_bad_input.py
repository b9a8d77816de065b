"""Errors in names, repositories, servers and transfers: each has a clear message and leaves nothing behind."""

import json
import threading
import time

import pytest

from tests.hub import test_doors
from tests.hub.conftest import ALICE, BOB, READER, STRANGER
from tests.hub.test_doors import DOORS, weights_sent

# Fixtures, by assignment: an imported name would be shadowed by each test's argument.
served, hub, load = test_doors.served, test_doors.hub, test_doors.load
models, model, name = test_doors.models, test_doors.model, test_doors.name
gan, private = test_doors.gan, test_doors.private

OURS = ["Generator", "Discriminator", "FAGANPipeline"]
ELSEWHERE = "is not a local folder (in ", " and was not found on the Hub. "
WEIGHTS = r"/resolve/.*\.safetensors"


def refused(outcome, *parts, error="FileNotFoundError"):
    """Check that loading failed with this message, and that no token was printed, not even in a traceback."""
    assert outcome.error == error, outcome
    for part in parts:
        assert part in outcome.message, outcome.message
    assert not tokens_in(outcome.message + outcome.printed)
    return outcome


def tokens_in(text):
    return [token for token in (ALICE, BOB, READER, STRANGER) if token[3:] in text]


def blobs(load, repo_id):
    """Return a repository's files in the cache, complete or not."""
    folder = load.cache / "hub" / f"models--{repo_id.replace('/', '--')}/blobs"
    return [path.read_bytes() for path in folder.iterdir()] if folder.is_dir() else []


# ------------------------------------------------------------------------------------------------- names and tokens


@pytest.mark.parametrize("door", OURS)
def test_a_repository_that_does_not_exist(load, door, name):
    said = "check the spelling; if it is private, log in with `hf auth login`, or set HF_TOKEN"
    refused(load(door, name), repr(name), *ELSEWHERE, said)
    refused(
        load(door, name, token=ALICE),
        *ELSEWHERE,
        "your token must have read access (`hf auth whoami` shows whose token it is)",
    )


@pytest.mark.parametrize("door", OURS)
def test_a_private_repository_and_a_strangers_token(load, hub, private, door):
    said = "check the spelling; if it is private, your token must have read access (`hf auth whoami` shows whose token"
    refused(load(door, private, token=BOB), said)
    refused(load(door, private, token_of_environment=BOB), said)
    assert weights_sent(hub) == []


@pytest.mark.parametrize("door", OURS)
def test_a_token_that_is_not_valid(load, gan, model, door):
    """The Hub refuses it for public models as well."""
    said = "your token is not valid, it may have expired: log in with `hf auth login`, or set HF_TOKEN; public models"
    for options in ({"token": STRANGER}, {"token_of_environment": STRANGER}):
        refused(load(door, gan, **options), f"{gan!r} can't be read from the Hub: ", said, error="PermissionError")
    assert load(door, gan, token=False, token_of_environment=STRANGER).digest == model.digests[door]


@pytest.mark.parametrize("door", OURS)
def test_a_gated_repository(load, hub, gan, model, door):
    hub.repositories["model", gan].gated = True
    terms = f"{gan!r} can't be read from the Hub: it is gated: accept its terms at {hub.url}/{gan}"
    refused(load(door, gan), f"{terms}, then log in with `hf auth login`", error="PermissionError")
    said = f"{terms} with the account of your token (`hf auth whoami` shows whose token it is); if you did, its authors"
    refused(load(door, gan, token=BOB), said, error="PermissionError")
    assert weights_sent(hub) == []
    assert load(door, gan, token=READER).digest == model.digests[door]


def test_a_private_repository_of_which_the_cache_holds_a_part(load, private):
    """The client's error is about the cache then, but the cause is still the token."""
    assert load("Generator", private, token=READER).error is None
    refused(load("Discriminator", private), "if it is private, log in with `hf auth login`, or set HF_TOKEN")
    refused(load("Discriminator", private, token=BOB), "your token must have read access")


@pytest.mark.parametrize("door", OURS)
def test_a_token_that_no_header_can_carry_is_not_shown(load, hub, gan, door):
    """The HTTP library's own error would quote it."""
    for token in (f"{ALICE}\nX", f"{ALICE} {BOB}", f"ü{ALICE}"):
        refused(load(door, gan, token=token), "the token contains an invalid character", error="ValueError")
    assert hub.requests == []


@pytest.mark.parametrize("door", OURS)
def test_a_revision_that_does_not_exist(load, gan, door):
    for revision in ("nowhere", "0" * 40):
        refused(
            load(door, gan, revision=revision),
            f"the repository exists, but has no branch, tag or commit {revision!r}",
        )


NO_NAMES = ["../x", "user/../name", "user//name", "user/name/more", "/no/such/folder", "", "x" * 3000, "ü/ü", "a\0b/c"]


@pytest.mark.parametrize("door", OURS)
def test_names_that_are_none(load, hub, door):
    for text in (*NO_NAMES, "u/" + "x" * 200, "~nobody/x"):
        said = "a Hub id may contain only letters, digits, '-', '_' and '.'"
        assert "token" not in refused(load(door, text), repr(text), *ELSEWHERE, said).message
    refused(load(door, "/etc/passwd"), "'/etc/passwd' is a file; give a run folder")
    assert hub.requests == []


def test_names_that_are_none_at_diffusers_own_door(load, hub):
    for text in (*NO_NAMES, "/etc/passwd"):
        assert "ValueError" in load("DiffusionPipeline", text).bases
    assert hub.requests == []


# ------------------------------------------------------------------------------------------- what a repository holds


@pytest.mark.parametrize("door", OURS)
def test_a_repository_without_our_files_is_listed(load, hub, name, door):
    hub.commit(name, {"README.md": b"# Hi", "unet/weights.safetensors": b"1"} | {f"{i:02}.txt": b"" for i in range(9)})
    network = "Discriminator" if door == "Discriminator" else "Generator"
    refused(
        load(door, name),
        f"{name!r} is not a {network} repository: "
        f"it needs config.json and model.safetensors in {network.lower()}/ or the top folder",
        "found .gitattributes, 00.txt, 01.txt, 02.txt, 03.txt, 04.txt, 05.txt, 06.txt, 07.txt, 08.txt and 2 more",
    )


@pytest.mark.parametrize("door", DOORS)
def test_pickles_are_refused_and_never_fetched(load, hub, name, model, door):
    files = {path: data for path, data in model.files.items() if not path.endswith(".safetensors")}
    pickles = ("pytorch_model.bin", "generator/pytorch_model.bin", "discriminator/diffusion_pytorch_model.bin")
    hub.commit(name, files | dict.fromkeys(pickles, b"cos\nsystem\n"))
    outcome = load(door, name)
    if door == "DiffusionPipeline":  # may download some, but our class reads the network
        refused(outcome, "is not a Generator repository: it needs config.json and model.safetensors")
    else:
        refused(outcome, "is refused: it is a pickle, which can run code when loaded")
        assert [path for _, path, _ in hub.requests if path.endswith(".bin")] == []


@pytest.mark.parametrize("door", OURS)
@pytest.mark.parametrize(
    ("config", "library"),
    [
        ({"architectures": ["BertModel"], "transformers_version": "4.50.0"}, "transformers (transformers_version: 4.5"),
        ({"_class_name": "UNet2DModel", "_diffusers_version": "0.36.0"}, "diffusers (_diffusers_version: 0.36.0)"),
    ],
)
def test_another_librarys_model_is_named(load, hub, name, model, door, config, library):
    weights = model.files["generator/model.safetensors"]
    hub.commit(name, {"config.json": json.dumps(config).encode(), "model.safetensors": weights})
    said = f"it belongs to the library {library}", "load the model with that library"
    refused(load(door, name), *said, error="ValueError")


@pytest.mark.parametrize("door", DOORS)
def test_what_was_broken_before_its_upload_is_refused(load, hub, gan, model, door):
    network = "discriminator" if door == "Discriminator" else "generator"
    whole = model.files[f"{network}/model.safetensors"]
    broken = [b"\xff" * 8 + whole[8:], whole[:-50], whole[: len(whole) // 2], whole[:4], b"", b"<html>Not found</html>"]
    for data in broken:
        hub.commit(gan, {f"{network}/model.safetensors": data})
        refused(load(door, gan), "model.safetensors is truncated or not a safetensors file", error="ValueError")


@pytest.mark.parametrize("door", DOORS)
def test_names_of_files_that_lead_out_of_the_cache_write_nothing_there(load, hub, gan, model, tmp_path, door):
    up = "/".join([".."] * 30)
    evil = ["../evil", f"{up}{tmp_path}/evil", f"{tmp_path}/evil", f"discriminator/{up}{tmp_path}/model.safetensors"]
    hub.commit(gan, dict.fromkeys(evil, b"evil"))
    outcome = load(door, gan)
    if door == "DiffusionPipeline":  # downloads everything in that folder; the client stops it
        assert "cannot contain a '..' path segment" in outcome.message
    else:
        assert outcome.digest == model.digests[door]
    assert [path for _, path, _ in hub.requests if "evil" in path or tmp_path.name in path] == []
    assert list(tmp_path.iterdir()) == list(load.cache.rglob("evil*")) == []


# --------------------------------------------------------------------------------------------------- on the way here


@pytest.mark.parametrize("door", DOORS)
def test_bytes_changed_on_the_way_are_refused_until_the_download_is_forced(load, hub, gan, model, door):
    hub.fault("GET", WEIGHTS, "corrupt", times=2)  # diffusers' own loader downloads both networks
    said = "model.safetensors differs from the file on the Hub: it was corrupted during the download or on this disk"
    for _ in range(2):  # the second is from the cache
        refused(load(door, gan), said, "Load with force_download=True", error="ValueError")
    hub.faults.clear()
    # diffusers' own loader can't force the download of complete files; ours repairs the cache that both share.
    repair = "FAGANPipeline" if door == "DiffusionPipeline" else door
    assert load(repair, gan, force_download=True).digest == model.digests[door]
    assert load(door, gan).digest == model.digests[door]


@pytest.mark.parametrize("door", OURS)
@pytest.mark.parametrize("action", ["truncate", "truncate_silently"])
def test_a_cut_download_is_never_used(load, hub, gan, model, door, action):
    hub.fault("GET", WEIGHTS, action)
    hub.fault("GET", WEIGHTS, 500)  # the client retries after a cut that it noticed
    said = {"truncate": "the Hub has a server error: try again later", "truncate_silently": "try again"}[action]
    refused(load(door, gan), *ELSEWHERE, said)
    assert load(door, gan, local_files_only=True).error == "FileNotFoundError"
    assert set(blobs(load, gan)) <= set(hub.files(gan).values())  # whole files only
    hub.faults.clear()
    assert load(door, gan).digest == model.digests[door]


@pytest.mark.parametrize("door", OURS)
@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("asked", ["/api/models/", WEIGHTS])
def test_a_server_with_trouble_of_its_own(load, hub, gan, model, door, status, asked):
    hub.fault("GET", asked, status)
    said = refused(load(door, gan), *ELSEWHERE, "the Hub has a server error: try again later", str(status)).message
    assert "if it is private" not in said
    hub.faults.clear()
    assert load(door, gan).digest == model.digests[door]


@pytest.mark.parametrize("door", OURS)
def test_a_connection_that_breaks(load, hub, gan, model, door):
    for action in ("drop", "truncate"):
        hub.fault("GET", "/api/models/", action)
        refused(load(door, gan), *ELSEWHERE, "there is no connection, or it was interrupted: try again")
    assert load(door, gan).digest == model.digests[door]


@pytest.mark.parametrize("door", OURS)
def test_an_answer_that_is_not_the_hubs(load, hub, gan, model, door):
    for action in ("truncate_silently", "corrupt"):
        hub.fault("GET", "/api/models/", action)
        said = f"the server at {hub.url} does not respond like the Hub: is there a proxy or a login page"
        refused(load(door, gan), said)
    assert load(door, gan).digest == model.digests[door]


def test_a_slow_server_is_waited_for(load, hub, gan, model):
    hub.fault("GET", WEIGHTS, "slow")
    assert load("Generator", gan).digest == model.digests["Generator"]
    assert hub.faults_used == 1


def test_a_server_that_restarts_in_the_middle_is_waited_for(load, hub, gan, model):
    def restart():
        # Not while the other file is requested: the client retries started downloads, not each request.
        deadline = time.monotonic() + 10
        while not any(path.endswith("/config.json") and method == "GET" for method, path, _ in list(hub.requests)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        hub.stop()
        threading.Timer(0.5, hub.start).start()

    hub.fault("GET", WEIGHTS, restart)
    assert load("Generator", gan).digest == model.digests["Generator"]
    assert hub.faults_used == 1


def test_a_server_that_dies_in_the_middle_and_comes_back_later(load, hub, gan, model):
    hub.fault("GET", WEIGHTS, hub.stop)
    refused(load("Generator", gan), "there is no connection, or it was interrupted: try again")
    assert load("Generator", gan, local_files_only=True).error == "FileNotFoundError"
    hub.start()
    assert load("Generator", gan).digest == model.digests["Generator"]


@pytest.mark.parametrize("door", OURS)
def test_a_disk_that_cannot_be_written_to_is_not_called_a_broken_connection(load, gan, tmp_path, door):
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file/cache")
    said = f"{gan!r} could not be written to the cache ({cache}): "
    message = refused(
        load(door, gan, cache_dir=cache), said, "Free some space there, or choose another", error="OSError"
    ).message
    assert "connection" not in message


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_ends_with_status_2_and_one_sentence(client, private, tmp_path):
    """One process for all tokens."""
    done = client(f"""
        import os, sys
        from fagan_hf.cli import main
        os.chdir({str(tmp_path)!r})
        for token in ("", {BOB!r}, {STRANGER!r}):
            os.environ["HF_TOKEN"] = token
            print(main(["generate", "--model", {private!r}, "--out", "pictures.png"]))
    """)
    assert done.stdout.split() == ["2", "2", "2"]
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    for line, said in zip(lines, ("is not a local folder", "is not a local folder", "can't be read"), strict=True):
        assert line.startswith(f"fagan-hf: error: {private!r} {said}")
    assert "log in with `hf auth login`, or set HF_TOKEN" in lines[0]
    assert "`hf auth whoami` shows whose token it is" in lines[1]
    assert "your token is not valid" in lines[2]
    assert not tokens_in(done.stdout + done.stderr)
    assert list(tmp_path.glob("*.png")) == []
