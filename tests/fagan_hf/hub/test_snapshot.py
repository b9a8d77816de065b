import pytest

from fagan_hf.hub import client
from fagan_hf.hub.snapshot import Snapshot, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Records requests to a Hub that has every file."""
    calls = []

    def download(repo_id, **options):
        calls.append((repo_id, options["revision"]))
        return tmp_path / COMMIT

    monkeypatch.setattr(client, "download", download)
    return calls


@pytest.mark.parametrize(
    ("name", "revision", "wanted"),
    [
        ("alice/faces", None, ("alice/faces", None)),
        ("alice/faces", "v1", ("alice/faces", "v1")),
        ("alice/faces@v1", None, ("alice/faces", "v1")),
        ("alice/faces@refs/pr/1", None, ("alice/faces", "refs/pr/1")),
        ("alice/faces@v1", "v1", ("alice/faces", "v1")),
    ],
)
def test_a_repository_at_a_revision(asked, tmp_path, name, revision, wanted):
    assert resolve(name, allow_patterns=["*"], revision=revision) == Snapshot(tmp_path / COMMIT, COMMIT)
    assert asked == [wanted]


def test_two_revisions_are_refused(asked):
    with pytest.raises(ValueError, match="are two different revisions"):
        resolve("alice/faces@v1", allow_patterns=["*"], revision="v2")
    assert asked == []


def test_a_folder_comes_first_even_with_an_at(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice/faces@v1").mkdir(parents=True)
    assert resolve("alice/faces@v1", allow_patterns=["*"]).commit is None
    assert asked == []
