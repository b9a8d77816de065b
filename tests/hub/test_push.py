"""``fagan-hf push`` and ``push_to_hub`` with a server and the real client, without and with failures."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from tests.hub.conftest import ALICE, BOB, READER, STRANGER
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

# Several pushes in one process, because importing takes longer than all of them; and with shorter pauses than real.
CLI = """
import contextlib, io, json, sys
from fagan_hf.hub import client
from fagan_hf.cli import main
client.FIRST_PAUSE_SECONDS = 0.05
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture
def run(tmp_path):
    """A run folder with the files that a push reads."""
    folder = tmp_path / "runs/portraits"
    save_repository(folder, with_gates(Generator(GENERATOR)), Discriminator(DISCRIMINATOR))
    Image.new("RGB", (8, 8)).save(folder / "samples.png")
    (folder / "recipe.yaml").write_text("name: portraits\nmodel: fagan-32\noutput_dir: /home/alice/runs\n")
    return folder


@pytest.fixture
def push(client, run):
    def push(*commands, token=ALICE, check=True, **env):
        lines = [["push", str(run), *each] if each[0] != "push" else [*each] for each in commands]
        done = client(["-c", CLI, json.dumps(lines)], token=token, **env)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert not check or all(status == 0 for status, _, _ in results), results
        assert "Traceback" not in done.stdout + done.stderr
        return results

    return push


def test_where_a_push_goes(hub, push, run):
    flags = ["--private"], ["--revision", "dev"], []
    first, _, _ = push(*(["alice/portraits", *each] for each in flags))
    assert hub.repositories["model", "alice/portraits"].private
    hub.commit("alice/portraits", {"samples.png": None}, revision="main")
    [request] = push(["alice/portraits", "--create-pr"])
    assert "discussions/1" in request[1]
    assert "samples.png" in hub.files("alice/portraits", revision="refs/pr/1").keys() - hub.files("alice/portraits")
    for revision in ("main", "dev", "refs/pr/1"):
        files = hub.files("alice/portraits", revision=revision)
        assert files["generator/model.safetensors"] == (run / "generator/model.safetensors").read_bytes()
        assert b"/home/alice" not in files["recipe.yaml"]
    history = hub.repositories["model", "alice/portraits"].history("main")
    assert len(history) == 3, "one commit, none for what was there already, and the one that took samples.png away"
    assert history[1].oid in first[1]


def test_the_live_page(hub, client, tmp_path):
    page, web = tmp_path / "dist", tmp_path / "web"
    for name, content in {page / "index.html": b"<p>a page", web / "generator.onnx": b"a model"}.items():
        name.parent.mkdir()
        name.write_bytes(content)
    described = {"name": "portraits", "sha256": hashlib.sha256(b"a model").hexdigest()}
    (web / "web.json").write_text(json.dumps(described))
    publish = f"""
        from pathlib import Path
        from fagan_hf.hub.live_page import publish_page
        print(publish_page("alice/page", "alice/portraits", Path({str(web)!r}), page=Path({str(page)!r})))
    """
    assert "/spaces/alice/page/commit/" in client(publish).stdout
    assert hub.repositories["space", "alice/page"].sdk == "static"
    back = tmp_path / "back"
    client(f"""
        from huggingface_hub import snapshot_download
        snapshot_download("alice/page", repo_type="space", local_dir={str(back)!r})
    """)
    assert (back / "index.html").read_bytes() == b"<p>a page"
    assert (back / "model/generator.onnx").read_bytes() == b"a model"
    assert json.loads((back / "model/web.json").read_text()) == described | {"name": "alice/portraits"}
    card = (back / "README.md").read_text()
    assert "sdk: static" in card
    assert "cross-origin-opener-policy: same-origin" in card
    done = client(publish, token=BOB, check=False)
    assert "may not write to 'alice/page'" in done.stderr


def test_rights(push):
    [[status, _, err]] = push(["alice/portraits"], token=None, check=False)
    assert (status, "hf auth login" in err) == (2, True)
    [[status, _, err]] = push(["alice/portraits"], token=STRANGER, check=False)
    assert (status, "the token is not valid" in err) == (2, True)
    for token in (READER, BOB):
        [[status, _, err]] = push(["alice/portraits"], token=token, check=False)
        assert status == 2
        assert "may not write to 'alice/portraits'" in err
        assert "settings/tokens" in err
        assert token not in err


def test_the_right_to_write_is_asked_for_before_anything_is_sent(hub, push):
    """If a repository exists, creating it again doesn't need write access."""
    hub.commit("alice/portraits", {"notes.txt": b"1"})
    for token in (READER, BOB):
        [[status, _, err]] = push(["alice/portraits"], token=token, check=False)
        assert (status, "may not write to 'alice/portraits'" in err) == (2, True)
    [[status, _, err]] = push(["alice/portraits", "--private"], check=False)
    assert status == 2
    assert "exists and is public" in err
    assert f"{hub.url}/alice/portraits/settings" in err
    assert not any("preupload" in path or "/lfs/" in path for _, path, _ in hub.requests)
    push(["alice/portraits", "--create-pr"], token=BOB)  # which needs no right
    push(["alice/portraits", "--create-pr", "--revision", "main"], token=BOB)
    assert len(hub.repositories["model", "alice/portraits"].pulls) == 2


def test_a_tag_or_a_commit_is_no_branch(hub, push):
    tagged = hub.commit("alice/portraits", {"notes.txt": b"1"})
    refs = hub.repositories["model", "alice/portraits"].refs
    refs["refs/tags/v1"] = tagged
    before = dict(refs)
    results = push(*(["alice/portraits", "--revision", each] for each in ("v1", "refs/tags/v1", tagged)), check=False)
    for (status, _, err), kind in zip(results, ("tag", "tag", "commit"), strict=True):
        assert status == 2
        assert f"is a {kind} of 'alice/portraits'; give a branch, either a new one or one of: main" in err
    assert refs == before


def test_names_and_folders(push, run, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = [
        (["alice/../portraits"], "not a valid repository name"),
        (["/etc/passwd"], "not a valid repository name"),
        (["push", str(run / "nowhere"), "alice/portraits"], "is not a folder"),
        (["push", str(tmp_path / "empty"), "alice/portraits"], "is not a Generator repository"),
        (["alice/portraits", "--training-state"], "no checkpoint of its weights"),
    ]
    for (status, _, err), (_, message) in zip(push(*(each for each, _ in cases), check=False), cases, strict=True):
        assert (status, message in err) == (2, True), err


def test_what_people_wrote_stays_and_what_is_broken_is_said(hub, push, run):
    push(["alice/portraits"])
    card = hub.files("alice/portraits")["README.md"].decode()
    mine = card.replace("library_name:", "# mine\nlibrary_name:", 1) + "\nMy notes.\n"
    hub.commit("alice/portraits", {"README.md": mine.encode()})
    Generator(GENERATOR).save_pretrained(run / "generator")  # other weights
    push(["alice/portraits"])
    again = hub.files("alice/portraits")["README.md"].decode()
    assert "# mine\nlibrary_name:" in again
    assert again.endswith("\nMy notes.\n")

    hub.commit("alice/portraits", {"README.md": b"---\ntags: [a\n---\nMy notes.\n"})
    [[status, _, err]] = push(["alice/portraits"], check=False)
    assert status == 2
    assert "README.md has invalid YAML" in err
    push(["alice/portraits", "--replace-card"])
    assert "My notes." not in hub.files("alice/portraits")["README.md"].decode()


def test_somebody_else_commits_in_between(hub, push):
    """The card is read, somebody changes it, and the commit on the old parent is refused: theirs must not be lost."""
    push(["alice/portraits"])
    card = hub.files("alice/portraits")["README.md"]
    hub.commit("alice/portraits", {"samples.png": None})  # so that there is something to push
    theirs = {"README.md": card + b"\nMeanwhile.\n", "notes.txt": b"theirs"}
    hub.fault("POST", "/commit/", lambda: hub.commit("alice/portraits", theirs))
    push(["alice/portraits"])
    assert [status for method, path, status in hub.requests if "/commit/" in path][-2:] == [412, 200]
    files = hub.files("alice/portraits")
    assert files["README.md"].endswith(b"\nMeanwhile.\n")
    assert files["notes.txt"] == b"theirs"
    assert "samples.png" in files


@pytest.mark.parametrize(
    "fault",
    [
        ("PUT", "/lfs/", "drop"),
        ("POST", "/commit/", "drop"),
        ("POST", "/commit/", "drop_after"),
        ("POST", "/commit/", 503),
        ("POST", "/commit/", "truncate_silently"),
    ],
)
def test_a_server_that_dies_in_the_middle_of_a_push(hub, push, fault):
    hub.fault(*fault)
    push(["alice/portraits"])
    assert hub.faults_used == 1
    history = hub.repositories["model", "alice/portraits"].history("main")
    assert len(history) == 2, "whatever the client heard of its first try, there is one commit"
    assert "samples.png" in hub.files("alice/portraits")


def test_a_server_that_answers_nonsense_while_its_repository_is_read(hub, push):
    push(["alice/portraits"])
    faults = [("GET", "/api/models/", action) for action in ("drop", "truncate", "truncate_silently", "corrupt", 503)]
    faults += [("GET", "/resolve/", "truncate_silently"), ("GET", "/refs", "drop")]
    for number, fault in enumerate(faults):
        hub.commit("alice/portraits", {"samples.png": None})
        hub.fault(*fault)
        push(["alice/portraits", "--message", f"try {number}", "--revision", "main"])
        hub.faults.clear()
        assert hub.faults_used > number, fault
        assert hub.repositories["model", "alice/portraits"].history("main")[0].title == f"try {number}"


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(hub, push):
    push(["alice/portraits"])
    hub.commit("alice/portraits", {"samples.png": None})
    for fault, number in ((("POST", "/commit/", "drop_after"), 1), (("POST", "/preupload/", "drop"), 2)):
        hub.fault(*fault)
        [[status, _, err]] = push(["alice/portraits", "--create-pr"], check=False)
        assert len(hub.repositories["model", "alice/portraits"].pulls) == number
        assert ("may have been opened anyway" in err, status) == ((True, 2) if number == 1 else (False, 0)), err
        assert number == 2 or f"{hub.url}/alice/portraits/discussions" in err


def test_a_server_that_stays_away_is_said_after_a_minute(hub, client, run):
    """Shorter than a minute here: the timeout is an argument."""
    hub.stop()
    code = f"""
        from fagan_hf.hub.publishing import publish
        try:
            publish({str(run)!r}, "alice/portraits", message="m", patience_seconds=2.5)
        except ConnectionError as error:
            print(error)
    """
    done = client(code)
    assert "no connection to the Hub for 'alice/portraits'" in done.stdout
    assert done.stderr.count("retrying in") == 1
    assert ALICE not in done.stdout + done.stderr


def test_two_pushes_at_once(hub, client, run, tmp_path):
    """Of two runs, to one repository: both arrive, one after the other, and the second keeps the first one's files."""
    networks = {"one": Discriminator(DISCRIMINATOR), "two": Generator(GENERATOR)}
    save_repository(tmp_path / "one", discriminator=networks["one"])
    save_repository(tmp_path / "two", generator=networks["two"])
    hub.commit("alice/portraits", {"notes.txt": b"theirs"})
    barrier = threading.Barrier(2, timeout=30)
    hub.fault("POST", "/commit/", barrier.wait, times=2)

    def publish(name):
        code = "from fagan_hf.hub.publishing import publish; publish({!r}, 'alice/portraits', message={!r})"
        client(code.format(str(tmp_path / name), name), cache=name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(publish, networks))
    titles = [commit.title for commit in hub.repositories["model", "alice/portraits"].history("main")]
    assert sorted(titles[:2]) == ["one", "two"]
    assert len(titles) == 4
    assert 412 in [status for _, path, status in hub.requests if "/commit/" in path]
    files = hub.files("alice/portraits")
    assert files["notes.txt"] == b"theirs"
    for name in ("one/discriminator", "two/generator"):
        network = name.partition("/")[2]
        assert files[f"{network}/model.safetensors"] == (tmp_path / name / "model.safetensors").read_bytes()


def test_networks_and_pipeline_push_themselves(hub, client, run):
    client(
        f"""
        from fagan_hf import Discriminator, FAGANPipeline, Generator
        print(Discriminator.from_pretrained({str(run)!r}).push_to_hub("alice/bare"))
        generator = Generator.from_pretrained({str(run)!r})
        generator.push_to_hub("alice/bare", commit_message="The generator", token={ALICE!r})
        FAGANPipeline(generator).push_to_hub("alice/pipe", private=True, token=True)
        for load in (Generator, Discriminator, FAGANPipeline):
            load.from_pretrained("alice/bare")
        """
    )
    titles = [commit.title for commit in hub.repositories["model", "alice/bare"].history("main")]
    assert titles == ["The generator", "Upload Discriminator", "initial commit"]
    assert hub.repositories["model", "alice/pipe"].private
    card = hub.files("alice/bare")["README.md"].decode()
    assert "discriminator = Discriminator.from_pretrained" in card, "it was there already"
    assert {"model_index.json", "pipeline.py"} <= hub.files("alice/pipe").keys()


def test_an_export_lands_beside_the_weights(hub, push, client, tmp_path):
    push(["alice/portraits"])
    out = tmp_path / "generator.pt2"
    line = ["export", "alice/portraits", "--format", "torch", "--out", str(out), "--push"]
    [status, _, err] = json.loads(client(["-c", CLI, json.dumps([line])]).stdout)
    assert status == 0, err
    files = hub.files("alice/portraits")
    assert files["torch_export/generator.pt2"] == out.read_bytes()
    assert "`torch_export/generator.pt2`" in files["README.md"].decode()
    assert files["samples.png"]
