"""The test Hub against the real clients. What is asserted about a client's retries is a fact about huggingface_hub."""

import hashlib
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.hub import conftest
from tests.hub.conftest import ALICE, BOB, READER, STRANGER

client = conftest.fresh_client  # nothing here needs torch, and some must not

WEIGHTS = bytes(range(256)) * 800
LARGE = hashlib.shake_128(b"large").digest(25_000_000)
UPLOAD = "from huggingface_hub import HfApi; HfApi().upload_folder(repo_id='alice/gan', folder_path={!r})"
PULL = "from huggingface_hub import snapshot_download; print(snapshot_download('alice/gan'))"
CARD = b"---\nlicense: mit\nlibrary_name: diffusers\npipeline_tag: text-to-image\ntags: [gan]\n---\n# GAN\n"


def _write(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return str(folder)


def _read(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _pulled(tmp_path, stdout):
    snapshot = tmp_path / stdout.strip().splitlines()[-1]
    return {path: data for path, data in _read(snapshot).items() if path != ".gitattributes"}


def _blobs(tmp_path):
    """Return the contents of files in a client's cache, complete or not."""
    folders = (tmp_path / "cache" / "hub").glob("models--*/blobs")
    return [path.read_bytes() for folder in folders for path in folder.iterdir()]


def _statuses(hub, method, part):
    return [status for verb, path, status in hub.requests if verb == method and part in path]


@pytest.fixture
def gan(hub):
    """A model repository with one small and one LFS file."""
    hub.commit("alice/gan", {"config.json": b"{}", "unet/model.safetensors": WEIGHTS})
    return "alice/gan"


@pytest.fixture
def folder(tmp_path):
    return _write(tmp_path / "up", {"config.json": b"{}", "README.md": CARD, "unet/model.safetensors": WEIGHTS})


# ------------------------------------------------------------------------------------------------ push and pull


def test_what_is_pushed_is_pulled(hub, client, folder, tmp_path):
    client("from huggingface_hub import HfApi; HfApi().create_repo('alice/gan')")
    client(UPLOAD.format(folder))
    assert _statuses(hub, "PUT", "/lfs/") == [200]  # the weights and nothing else
    pulled = client(PULL, token=None)
    assert _pulled(tmp_path, pulled.stdout) == _read(tmp_path / "up")
    assert hub.files("alice/gan")["unet/model.safetensors"] == WEIGHTS


def test_the_second_push_of_the_same_files_commits_nothing(hub, client, folder, gan):
    client(UPLOAD.format(folder))
    head = hub.head(gan)
    client(UPLOAD.format(folder))
    assert hub.head(gan) == head
    assert _statuses(hub, "PUT", "/lfs/") == []  # hub.commit had put the weights there before


def test_commands_push_and_pull(hub, hf, folder, tmp_path):
    hf("upload", "alice/gan", folder)
    hf("download", "alice/gan", "--local-dir", tmp_path / "down", token=None)
    down = {path: data for path, data in _read(tmp_path / "down").items() if not path.startswith((".cache", ".git"))}
    assert down == _read(tmp_path / "up")


def test_a_large_file_goes_to_lfs_whatever_its_name(hub, client, tmp_path, gan):
    (tmp_path / "large.txt").write_bytes(LARGE)
    client(f"""
        from huggingface_hub import HfApi
        HfApi().upload_file(repo_id="{gan}", path_in_repo="large.txt", path_or_fileobj="{tmp_path}/large.txt")
    """)
    assert _statuses(hub, "PUT", "/lfs/") == [200]
    assert hub.files(gan)["large.txt"] == LARGE


def test_repository_info_reads_the_card(hub, client, gan):
    hub.commit(gan, {"README.md": CARD})
    done = client(f"""
        import json
        from huggingface_hub import HfApi
        info = HfApi().model_info("{gan}", files_metadata=True)
        sizes = {{file.rfilename: file.size for file in info.siblings}}
        print(json.dumps([info.sha, info.library_name, info.pipeline_tag, info.tags, info.card_data.license, sizes]))
    """)
    sha, library, task, tags, card_license, sizes = json.loads(done.stdout)
    assert (sha, library, task) == (hub.head(gan), "diffusers", "text-to-image")
    assert (tags, card_license, sizes["unet/model.safetensors"]) == (["gan"], "mit", len(WEIGHTS))


BAD_CARDS = {
    "license: [mit]": '"license" must be a string',
    "license: other": "license_name",
    "pipeline_tag: 3": '"pipeline_tag" must be a string',
    "tags: gan": '"tags" must be a list of strings',
    "- a list": "must be a mapping",
    "a: [": "not YAML",
    "model-index: [{name: GAN, results: [{task: {type: x}}]}]": "model-index",
}


def test_a_bad_card_stops_a_push(hub, client, gan):
    head, readmes = hub.head(gan), [f"---\n{card}\n---\n".encode() for card in BAD_CARDS]
    done = client(f"""
        from huggingface_hub import HfApi
        for readme in {readmes}:
            try:
                HfApi().upload_file(repo_id="{gan}", path_in_repo="README.md", path_or_fileobj=readme)
            except ValueError as error:
                print(str(error).replace("\\n", " "))
    """)
    answers = done.stdout.splitlines()
    assert len(answers) == len(BAD_CARDS)
    for answer, said in zip(answers, BAD_CARDS.values(), strict=True):
        assert answer.startswith("Invalid metadata in README.md.")
        assert said in answer
    assert hub.head(gan) == head


def test_a_good_card_passes(hub, client, gan):
    metrics = "metrics: [{type: fid, value: 9.5}]"
    result = f"{{task: {{type: text-to-image}}, dataset: {{type: avatars, name: Avatars}}, {metrics}}}"
    card = f"---\nlicense: other\nlicense_name: mine\nmodel-index: [{{name: GAN, results: [{result}]}}]\n---\n"
    client(f"""
        from huggingface_hub import HfApi, ModelCard
        ModelCard({card!r}).validate()
        HfApi().upload_file(repo_id="{gan}", path_in_repo="README.md", path_or_fileobj={card.encode()})
    """)
    assert hub.files(gan)["README.md"] == card.encode()


def test_files_and_folders_are_deleted(hub, client, gan):
    client(f"""
        from huggingface_hub import HfApi
        HfApi().delete_folder("unet", "{gan}")
        HfApi().delete_file("config.json", "{gan}")
    """)
    assert set(hub.files(gan)) == {".gitattributes"}


# --------------------------------------------------------------------------------------------------------- rights


def test_a_private_repository_is_hidden(hub, client, gan):
    client(f"from huggingface_hub import HfApi; HfApi().update_repo_settings('{gan}', visibility='private')")
    assert "RepositoryNotFoundError: 401" in client(PULL, token=None, check=False).stderr
    assert "RepositoryNotFoundError: 404" in client(PULL, token=BOB, check=False).stderr
    assert "Invalid credentials" in client(PULL, token=STRANGER, check=False).stderr
    assert client(PULL, token=READER).returncode == 0


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "RepositoryNotFoundError: 401"),
        (STRANGER, "Invalid credentials"),
        (READER, "403 Forbidden: Forbidden: you must use a write token"),
        (BOB, "403 Forbidden: You don't have the rights"),
    ],
)
def test_nobody_else_may_write(hub, client, gan, folder, token, said):
    head = hub.head(gan)
    assert said in client(UPLOAD.format(folder), token=token, check=False).stderr
    assert hub.head(gan) == head


def test_repositories_are_made_once_and_deleted(hub, client, gan):
    create = "from huggingface_hub import HfApi; HfApi().create_repo('alice/gan', exist_ok={})"
    client(create.format(True))
    assert "409" in client(create.format(False), check=False).stderr
    client("from huggingface_hub import HfApi; HfApi().delete_repo('alice/gan')")
    assert "RepositoryNotFoundError: 404" in client(PULL, check=False).stderr


def test_what_is_missing_has_a_name(client, gan):
    done = client(f"""
        from huggingface_hub import HfApi, hf_hub_download
        for file, revision in (("nothing.txt", "main"), ("config.json", "nowhere")):
            try:
                hf_hub_download("{gan}", file, revision=revision)
            except Exception as error:
                print(type(error).__name__)
    """)
    assert done.stdout.split() == ["RemoteEntryNotFoundError", "RevisionNotFoundError"]


# ------------------------------------------------------------------------------------- branches, pulls, parents


def test_branches_and_tags(hub, client, gan):
    first = hub.head(gan)
    done = client(f"""
        from huggingface_hub import HfApi
        api = HfApi()
        api.create_tag("{gan}", tag="v1")
        api.create_branch("{gan}", branch="more/depth")
        api.upload_file(repo_id="{gan}", path_in_repo="a", path_or_fileobj=b"1", revision="more/depth")
        refs = api.list_repo_refs("{gan}")
        print(*sorted(ref.name for ref in refs.branches + refs.tags))
        print(*(commit.title for commit in api.list_repo_commits("{gan}", revision="more/depth")), sep=", ")
        api.delete_branch("{gan}", branch="more/depth")
        api.delete_tag("{gan}", tag="v1")
        print(len(api.list_repo_refs("{gan}").branches))
    """)
    assert done.stdout.splitlines() == [
        "main more/depth v1",
        "Upload a with huggingface_hub, Commit of somebody else, initial commit",
        "1",
    ]
    assert hub.head(gan) == first


def test_a_pull_request_is_a_revision(hub, client, gan):
    done = client(
        f"""
        from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
        add = [CommitOperationAdd("a.txt", b"of bob"), CommitOperationAdd("b.safetensors", b"of bob")]
        made = HfApi().create_commit("{gan}", add, commit_message="Look", create_pr=True)
        details = HfApi().get_discussion_details("{gan}", made.pr_num)
        print(made.pr_revision, details.title, details.author, details.status)
        print(open(hf_hub_download("{gan}", "b.safetensors", revision=made.pr_revision)).read())
        """,
        token=BOB,
    )
    assert done.stdout.splitlines() == ["refs/pr/1 Look bob open", "of bob"]
    assert "a.txt" not in hub.files(gan)
    assert hub.files(gan, "refs/pr/1")["a.txt"] == b"of bob"


def test_a_stale_parent_is_refused_and_its_operations_may_be_used_again(hub, client, gan):
    hub.fault("POST", "/commit/main", lambda: hub.commit(gan, {"theirs.txt": b"first"}))
    done = client(f"""
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError
        api, add = HfApi(), [CommitOperationAdd("a.safetensors", b"ours"), CommitOperationAdd("a.txt", b"ours")]
        def commit():
            api.create_commit("{gan}", add, commit_message="Ours", parent_commit=api.model_info("{gan}").sha)
        for _ in range(2):
            try:
                commit()
                print("landed")
            except HfHubHTTPError as error:
                print(error.response.status_code, error.server_message)
        try:
            commit()
        except ValueError as error:
            print("already being committed" in str(error))
    """)
    assert done.stdout.splitlines() == [
        "412 A commit has happened since. Please refresh and try again.",
        "landed",
        "True",  # but not after a successful commit
    ]
    assert _statuses(hub, "PUT", "/lfs/") == [200]  # nothing is sent twice
    files = hub.files(gan)
    assert (files["a.safetensors"], files["a.txt"], files["theirs.txt"]) == (b"ours", b"ours", b"first")


def test_two_pushes_at_once_lose_nothing(hub, client, gan, tmp_path):
    barrier = threading.Barrier(2, timeout=30)
    hub.fault("POST", "/commit/main", barrier.wait, times=2)

    def push(name):
        _write(tmp_path / name, {f"{name}.txt": b"1", f"{name}.safetensors": name.encode()})
        client(UPLOAD.format(str(tmp_path / name)), cache=name)

    with ThreadPoolExecutor() as pool:
        list(pool.map(push, ("one", "two")))
    assert {"one.txt", "one.safetensors", "two.txt", "two.safetensors", "config.json"} <= set(hub.files(gan))


def test_of_two_pushes_with_one_parent_one_is_refused(hub, client, gan):
    barrier = threading.Barrier(2, timeout=30)
    hub.fault("POST", "/commit/main", barrier.wait, times=2)
    code = f"""
        from huggingface_hub import HfApi
        HfApi().upload_file(
            repo_id="{gan}", path_in_repo="a", path_or_fileobj=b"1", parent_commit="{hub.head(gan)}")
    """
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda cache: client(code, cache=cache, check=False), ("one", "two")))
    assert sorted(_statuses(hub, "POST", "/commit/")) == [200, 412]
    assert sorted(process.returncode for process in done) == [0, 1]


# -------------------------------------------------------------------------------------------------------- datasets


def _png(red):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(data, "PNG")
    return data.getvalue()


LOAD = """
    import sys
    from datasets import load_dataset
    pictures = load_dataset("alice/pictures", split="train")
    print(*(row["image"].getpixel((0, 0))[0] for row in pictures), *pictures["label"])
    assert "torch" not in sys.modules
"""


def test_a_folder_of_images_is_a_dataset(hub, client):
    metadata = "file_name,label\n" + "".join(f"{red}.png,{red // 50}\n" for red in (0, 50, 200))
    images = {f"train/{red}.png": _png(red) for red in (0, 50, 200)}
    hub.commit("alice/pictures", images | {"train/metadata.csv": metadata.encode()}, kind="dataset")
    assert client(LOAD, token=None).stdout.split() == ["0", "50", "200", "0", "1", "4"]


def test_a_dataset_pushes_itself(hub, client):
    client("""
        import datasets
        from PIL import Image
        rows = {"image": [Image.new("RGB", (8, 8), (red, 0, 0)) for red in (3, 7)], "label": [1, 2]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        datasets.Dataset.from_dict(rows, features=features).push_to_hub("alice/pictures", private=True)
    """)
    assert any(path.endswith(".parquet") for path in hub.files("alice/pictures", kind="dataset"))
    assert client(LOAD, token=READER, cache="reader").stdout.split() == ["3", "7", "1", "2"]
    assert "DatasetNotFoundError" in client(LOAD, token=BOB, cache="bob", check=False).stderr


# --------------------------------------------------------------------------------------------- pushes that break


def test_a_dropped_upload_is_sent_again_by_the_client(hub, client, gan, tmp_path):
    hub.fault("PUT", "/lfs/", "drop")
    client(UPLOAD.format(_write(tmp_path / "up", {"new.safetensors": b"new"})))
    assert (hub.faults_used, _statuses(hub, "PUT", "/lfs/")) == (1, [0, 200])
    assert hub.files(gan)["new.safetensors"] == b"new"


def test_a_push_outlives_a_restart(hub, client, gan, tmp_path):
    def restart():
        hub.stop()
        threading.Timer(0.5, hub.start).start()

    hub.fault("PUT", "/lfs/", restart)
    client(UPLOAD.format(_write(tmp_path / "up", {"new.safetensors": b"new"})))
    assert hub.faults_used == 1
    assert hub.files(gan)["new.safetensors"] == b"new"


@pytest.mark.parametrize("action", ["drop", 503])
def test_a_broken_commit_is_not_retried_and_a_second_push_sends_no_weights(hub, client, gan, tmp_path, action):
    hub.fault("POST", "/commit/", action)
    push = UPLOAD.format(_write(tmp_path / "up", {"new.safetensors": b"new"}))
    broken = client(push, check=False)
    assert broken.returncode == 1
    assert {"drop": "RemoteProtocolError", 503: "HfHubHTTPError"}[action] in broken.stderr
    assert "new.safetensors" not in hub.files(gan)
    client(push)
    assert hub.files(gan)["new.safetensors"] == b"new"
    assert _statuses(hub, "PUT", "/lfs/") == [200]


def test_a_server_that_dies_at_the_commit_comes_back_with_its_files(hub, client, gan, tmp_path):
    port = hub.port
    hub.fault("POST", "/commit/", hub.stop)
    push = UPLOAD.format(_write(tmp_path / "up", {"new.safetensors": b"new"}))
    assert client(push, check=False).returncode == 1
    hub.start()
    assert hub.port == port
    assert "new.safetensors" not in hub.files(gan)
    client(push)
    assert hub.files(gan)["new.safetensors"] == b"new"


def test_a_commit_may_land_though_its_client_never_hears(hub, client, gan, tmp_path):
    hub.fault("POST", "/commit/", "drop_after")
    push = UPLOAD.format(_write(tmp_path / "up", {"new.safetensors": b"new"}))
    assert client(push, check=False).returncode == 1
    head = hub.head(gan)
    assert hub.files(gan)["new.safetensors"] == b"new"
    client(push)  # finds nothing left to commit
    assert hub.head(gan) == head


# --------------------------------------------------------------------------------------------- pulls that break


def test_a_cut_body_is_asked_for_again(hub, client, gan, tmp_path):
    hub.fault("GET", "model.safetensors", "truncate")
    done = client(PULL)
    # The bytes of the cut answer are lost: a client that has read less than its 10 MB buffer starts over.
    assert _statuses(hub, "GET", "model.safetensors") == [200, 200]
    assert _pulled(tmp_path, done.stdout)["unet/model.safetensors"] == WEIGHTS


def test_a_large_body_is_resumed_where_it_was_cut(hub, client, gan, tmp_path):
    hub.commit(gan, {"large.safetensors": LARGE})
    hub.fault("GET", "large.safetensors", "truncate")
    done = client(PULL)
    assert _statuses(hub, "GET", "large.safetensors") == [200, 206]
    assert _pulled(tmp_path, done.stdout)["large.safetensors"] == LARGE


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_body_cut_in_silence_is_refused_and_not_kept(hub, client, gan, tmp_path, name):
    hub.fault("GET", name, "truncate_silently")
    broken = client(PULL, check=False)
    assert "OSError: Consistency check failed" in broken.stderr
    assert set(_blobs(tmp_path)) <= set(hub.files(gan).values())  # whole files only
    assert set(_pulled(tmp_path, client(PULL).stdout)) == {"config.json", "unet/model.safetensors"}


def test_the_client_does_not_notice_corrupt_bytes(hub, client, hf, gan, tmp_path):
    hub.fault("GET", "model.safetensors", "corrupt")
    pulled = _pulled(tmp_path, client(PULL).stdout)["unet/model.safetensors"]
    assert len(pulled) == len(WEIGHTS)
    assert pulled != WEIGHTS
    pulled = _pulled(tmp_path, client(PULL).stdout)["unet/model.safetensors"]
    assert pulled != WEIGHTS  # and it stays in the cache
    assert hf("cache", "verify", gan, check=False).returncode != 0  # unless somebody asks


def test_a_slow_body_arrives(hub, client, gan, tmp_path):
    hub.fault("GET", "model.safetensors", "slow")
    done = client(PULL, HF_HUB_DOWNLOAD_TIMEOUT="1")  # between two pieces, not for the whole
    assert _statuses(hub, "GET", "model.safetensors") == [200]
    assert _pulled(tmp_path, done.stdout)["unet/model.safetensors"] == WEIGHTS


def test_a_pull_outlives_a_restart_in_the_middle_of_a_body(hub, client, gan, tmp_path):
    hub.fault("GET", "model.safetensors", "slow")
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(client, PULL)
        while not _statuses(hub, "GET", "model.safetensors") and not pull.done():
            time.sleep(0.02)
        hub.stop()
        time.sleep(0.3)
        hub.start()
        done = pull.result()
    assert _statuses(hub, "GET", "model.safetensors") == [200, 200]
    assert _pulled(tmp_path, done.stdout)["unet/model.safetensors"] == WEIGHTS


def test_a_pull_that_fails_in_the_middle_leaves_no_part_of_a_file(hub, client, gan, tmp_path):
    hub.fault("GET", "model.safetensors", "truncate")
    hub.fault("GET", "model.safetensors", 500)  # a body is asked for again after a cut, not after this
    broken = client(PULL, check=False)
    assert "HfHubHTTPError: Server error '500" in broken.stderr
    assert _statuses(hub, "GET", "model.safetensors") == [200, 500]
    assert set(_blobs(tmp_path)) <= set(hub.files(gan).values()) - {WEIGHTS}
    assert _pulled(tmp_path, client(PULL).stdout)["unet/model.safetensors"] == WEIGHTS


def test_without_a_server_the_cache_answers(hub, client, gan, tmp_path):
    first = client(PULL).stdout
    hub.stop()
    assert client(PULL).stdout == first
    assert "LocalEntryNotFoundError" in client(PULL, cache="empty", check=False).stderr


def test_a_branch_that_moves_in_the_middle_of_a_pull_mixes_no_commits(hub, client, gan, tmp_path):
    hub.fault("GET", "/resolve/", lambda: hub.commit(gan, {"config.json": b"[]", "unet/model.safetensors": b"new"}))
    done = client(PULL)
    assert _pulled(tmp_path, done.stdout) == {"config.json": b"{}", "unet/model.safetensors": WEIGHTS}
    assert hub.files(gan)["config.json"] == b"[]"


def test_an_unknown_action_is_refused(hub):
    with pytest.raises(ValueError, match="truncate_silently"):
        hub.fault("GET", "/", "trunctate")


def test_a_client_is_not_offline_and_hears_nothing_of_other_tokens(hub, client, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", ALICE)
    done = client("from huggingface_hub import get_token, is_offline_mode; print(get_token(), is_offline_mode())", None)
    assert done.stdout.split() == ["None", "False"]
