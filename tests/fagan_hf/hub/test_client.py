"""Retries of a push, without a server; tests/hub has one."""

import json
import threading
from importlib import import_module
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fagan_hf.hub import client
from fagan_hf.training.reporting.publisher import Publisher

TOKEN = "hf_" + "OnlyInTestsOnlyInTestsOnlyInTests" + "A"
# The client's HTTP library, which has changed before.
_ERROR = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
httpx = import_module(_ERROR.__module__.partition(".")[0])
COMMIT = "https://huggingface.co/api/models/me/x/commit/main"
MODELS = "https://huggingface.co/api/models/me/x"


def refused(status, address=COMMIT):
    response = httpx.Response(status, request=httpx.Request("POST", address))
    return HfHubHTTPError(f"{status}", response=response)


def dropped(address=COMMIT):
    return httpx.ReadError("gone", request=httpx.Request("POST", address))


class Clock:
    """Time that passes only while something waits; also stands in for the `hurry` of a push."""

    def __init__(self):
        self.now, self.pauses, self.is_set = 0.0, [], False

    def wait(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
        return self.is_set


class Api:
    """The client's API as used by `hub`. `answers` are the results of the next commits; the last one repeats."""

    answers, seconds_of_a_commit, commits = [], 0.0, []

    def __init__(self, **_):
        pass

    def create_repo(self, repo_id, **_):
        return SimpleNamespace(repo_id=repo_id)

    def auth_check(self, repo_id, *, write=False, repo_type):
        assert write
        assert repo_type == "model"

    def model_info(self, repo_id, **_):
        return SimpleNamespace(id=repo_id, sha="0" * 40, siblings=[], private=False)

    def create_commit(self, repo_id, operations, **options):
        Api.clock.now += Api.seconds_of_a_commit
        Api.commits.append(options)
        answer = Api.answers.pop(0) if len(Api.answers) > 1 else Api.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(pr_url=None, commit_url=answer)


@pytest.fixture
def clock(monkeypatch):
    Api.clock, Api.commits, Api.seconds_of_a_commit = Clock(), [], 0.0
    monkeypatch.setattr(client, "HfApi", Api)
    monkeypatch.setattr("time.monotonic", lambda: Api.clock.now)
    return Api.clock


def push(clock, *answers, **options):
    Api.answers = list(answers)
    return client.push("me/x", lambda _: {}, hurry=clock, **{"message": "m", "token": TOKEN} | options)


def test_patience_is_the_sum_of_the_pauses(clock):
    Api.seconds_of_a_commit = 1000.0  # a slow upload must not use it up
    assert push(clock, refused(503), refused(503), "there", patience_seconds=3.5) == "there"
    assert [round(pause) for pause in clock.pauses] == [1, 2]
    with pytest.raises(client.TemporaryHubError, match="503"):
        push(clock, refused(503), patience_seconds=3.5)


def test_a_branch_that_moves_for_ever_is_not_followed_for_ever(clock):
    Api.commits.clear()
    assert push(clock, refused(412), refused(412), "there") == "there"
    assert clock.pauses == []
    Api.commits.clear()
    with pytest.raises(client.TemporaryHubError, match="has received another commit"):
        push(clock, refused(412), patience_seconds=3.5)
    assert len(Api.commits) == client.TRIES_AT_ONCE + 2
    assert len(clock.pauses) == 2
    clock.is_set = True
    with pytest.raises(client.TemporaryHubError):
        push(clock, refused(412), patience_seconds=100)
    assert len(clock.pauses) == 3, "somebody is in a hurry"


@pytest.mark.parametrize("lost", [dropped(), refused(504), json.JSONDecodeError("cut", "{", 1)])
def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(clock, lost):
    with pytest.raises(ConnectionError, match=r"may have been opened .*me/x/discussions") as caught:
        push(clock, lost, create_pr=True)
    assert not isinstance(caught.value, client.TemporaryHubError)
    assert len(Api.commits) == 1
    assert push(clock, lost, "there") == "there"


@pytest.mark.parametrize("failed", [refused(503), refused(412), dropped(MODELS + "/preupload/main")])
def test_a_pull_request_that_was_not_opened_is_tried_again(clock, failed):
    assert push(clock, failed, "there", create_pr=True) == "there"


def no_answer_to_a_head():
    error = LocalEntryNotFoundError("nothing in the cache either")
    error.__cause__ = dropped(MODELS)
    return error


@pytest.mark.parametrize(
    "answer",
    [
        json.JSONDecodeError("cut", "{", 1),
        OSError("Consistency check failed: file should be of size 5"),
        no_answer_to_a_head(),
    ],
)
def test_an_answer_that_is_cut_is_asked_for_again(clock, monkeypatch, answer):
    answers = [answer, SimpleNamespace(sha="0" * 40, siblings=[])]

    def model_info(*_, **__):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(Api, "model_info", model_info)
    assert push(clock, "there") == "there"
    assert len(clock.pauses) == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), FileNotFoundError(2, "gone", "x")])
def test_an_error_of_the_disk_stays_what_it_is(clock, error):
    with pytest.raises(OSError, match=r"No space|gone") as caught:
        push(clock, error)
    assert caught.value is error
    assert clock.pauses == []


def test_tokens_are_in_no_message(clock):
    push(clock, "there", message=f"with {TOKEN}")
    assert Api.commits[0]["commit_message"] == "with REMOVED-TOKEN"


def test_token_true_is_the_stored_one(clock, monkeypatch):
    monkeypatch.setattr(client, "get_token", lambda: TOKEN)
    for token in (True, None):
        assert push(clock, "there", token=token) == "there"
    with pytest.raises(PermissionError, match="hf auth login"):
        push(clock, "there", token=False)
    monkeypatch.setattr(client, "get_token", lambda: None)
    for token in (True, None, False, ""):
        with pytest.raises(PermissionError, match="hf auth login"):
            push(clock, "there", token=token)


def test_a_client_that_cannot_ask_for_the_right_to_write_is_not_asked(clock, monkeypatch):
    monkeypatch.setattr(client, "_CAN_ASK_FOR_WRITE", False)
    monkeypatch.setattr(Api, "auth_check", None)
    assert push(clock, "there") == "there"


# ------------------------------------------------------------------------------------------------------- publishers


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run/generator").mkdir(parents=True)
    (tmp_path / "run/generator/config.json").write_text("{}")
    return tmp_path / "run"


def publisher(run, tell=print):
    return Publisher(run, "me/x", private=False, with_training_state=False, tell=tell)


def leftovers(run):
    return list(run.glob(".push-*"))


def test_a_publisher_ends_though_the_branch_always_moves(clock, run, monkeypatch):
    said = []
    monkeypatch.setattr("fagan_hf.training.reporting.publisher.PATIENCE_SECONDS", 0.5)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    Api.answers = [refused(412)]
    pushing = publisher(run, said.append)
    pushing.push(8)
    pushing.finish()
    assert "has received another commit" in said[0]
    assert "The last push failed" in said[1]
    assert leftovers(run) == []


def test_a_publisher_pushes_to_a_branch(clock, run, monkeypatch):
    said, pushed = [], []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(
        "fagan_hf.training.reporting.publisher.publish",
        lambda _, repo_id, revision, **__: pushed.append((repo_id, revision)),
    )
    pushing = Publisher(run, "me/x@trial", private=False, with_training_state=False, tell=said.append)
    pushing.check()
    pushing.push(8)
    pushing.finish()
    assert pushed == [("me/x", "trial")]
    assert pushing.repo_id == "me/x", "for the card"
    assert said[-1].endswith(f"fagan-hf push {run} me/x@trial")


def test_a_closed_output_ends_no_push(run, monkeypatch):
    errors = [ValueError("said"), None]

    def publish(*_, **__):
        if error := errors.pop(0):
            raise error
        return "there"

    def tell(text):
        raise BrokenPipeError(text)

    monkeypatch.setattr("fagan_hf.training.reporting.publisher.publish", publish)
    pushing = publisher(run, tell)
    for arrives in (None, "there"):
        pushing.push(8)
        pushing.finish()
        assert pushing.url == arrives
    assert errors == []


def test_a_publisher_whose_thread_is_gone_is_not_waited_for(run, monkeypatch):
    said = []
    monkeypatch.setattr("fagan_hf.training.reporting.publisher.publish", lambda *_, **__: "there")
    pushing = publisher(run, said.append)
    monkeypatch.setattr(pushing, "_work", lambda: None)
    pushing.push(8)
    pushing.finish()
    assert "Stopped waiting for the push" in said[-1]
    assert leftovers(run) == []


def test_what_is_left_of_killed_sessions_goes(run, monkeypatch):
    (run / f".push-{'x' * 8}/generator").mkdir(parents=True)
    publisher(run.parent / "not there yet")
    pushing = publisher(run)
    assert leftovers(run) == []
    is_through = threading.Event()
    monkeypatch.setattr("fagan_hf.training.reporting.publisher.publish", lambda *_, **__: is_through.wait(10))
    pushing.push(8)
    pushing.push(16)
    pushing.finish(patience_seconds=0.05)
    assert leftovers(run) == []
    is_through.set()


@pytest.mark.parametrize("broken", ["published_files", "tempfile.mkdtemp"])
def test_a_disk_error_while_files_are_laid_aside_is_said(run, monkeypatch, broken):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    said = []
    monkeypatch.setattr(f"fagan_hf.hub.staging.{broken}", fail)
    pushing = publisher(run, said.append)
    pushing.push(8)
    assert "Nothing is pushed this time" in said[0]
    assert leftovers(run) == []


# -------------------------------------------------------------------------------------------------------- downloads


def wrapped(error):
    """The client's error if the cache, its fallback, holds a part."""
    outer = LocalEntryNotFoundError("the cache is incomplete")
    outer.__cause__ = error
    return outer


def answered(status, kind=HfHubHTTPError):
    response = httpx.Response(status, request=httpx.Request("GET", MODELS))
    return kind(f"{status} Client Error", response=response)


ACCESS = [
    (answered(401, RepositoryNotFoundError), None, FileNotFoundError, "check the spelling; if it is private, log in"),
    (answered(404, RepositoryNotFoundError), TOKEN, FileNotFoundError, "check the spelling; if it is .* read access"),
    (answered(401, GatedRepoError), None, PermissionError, r"accept its terms at https://\S+/me/x, then log in with"),
    (answered(403, GatedRepoError), TOKEN, PermissionError, "accept its terms at .* with the account of your token"),
    (
        answered(401),
        TOKEN,
        PermissionError,
        "your token is not valid, it may have expired: log in with `hf auth login`",
    ),
    (
        answered(403),
        TOKEN,
        PermissionError,
        "your token may not read it .*create one with read access .*settings/token",
    ),
    (answered(403, DisabledRepoError), None, FileNotFoundError, "the Hub has disabled this repository"),
    (answered(404, RevisionNotFoundError), None, FileNotFoundError, "exists, but has no branch, tag or commit 'v9'"),
    (answered(503), None, FileNotFoundError, "the Hub has a server error: try again later"),
]


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(("error", "token", "kind", "message"), ACCESS)
def test_missing_private_and_gated_are_told_apart(monkeypatch, tmp_path, error, token, kind, message, is_cached):
    def fail(*_, **__):
        raise wrapped(error) if is_cached else error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "get_token", lambda: None)
    monkeypatch.setattr(client, "snapshot_download", fail)
    with pytest.raises(kind, match=message) as caught:
        client.download("me/x", allow_patterns=["*"], revision="v9", token=token)
    assert TOKEN not in str(caught.value)
    assert ("not a local folder" in str(caught.value)) == (kind is FileNotFoundError)


@pytest.mark.parametrize(("token", "stored", "has_one"), [
    (None, None, False), (None, TOKEN, True), (True, TOKEN, True), (False, TOKEN, False), (TOKEN, None, True),
])  # fmt: skip
def test_a_login_is_not_suggested_to_who_has_one(monkeypatch, token, stored, has_one):
    def fail(*_, **__):
        raise answered(404, RepositoryNotFoundError)

    monkeypatch.setattr(client, "get_token", lambda: stored)
    monkeypatch.setattr(client, "snapshot_download", fail)
    said = "your token must have read access" if has_one else "log in with `hf auth login`"
    with pytest.raises(FileNotFoundError, match=said):
        client.download("me/x", allow_patterns=["*"], token=token)
