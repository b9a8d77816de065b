"""Training that pushes to the Hub in the background: with failures, and without leaking secrets."""

import json
import signal
import time

import psutil

from tests.hub.conftest import ALICE, READER, STRANGER

PUSH = "--push_to_hub", "alice/try"


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_slow_hub_does_not_slow_the_training(hub, train, tmp_path):
    """The first push hangs until the training is far ahead; then only the newest waiting snapshot is pushed."""
    history = tmp_path / "runs/try/metrics.jsonl"
    hub.fault("PUT", "/lfs/", lambda: wait_until(lambda: len(history.read_text().splitlines()) >= 64 // 4), times=None)
    done = train("--name", "try", "--max_images", 96, *PUSH)
    assert "Pushed: " in done.stdout
    titles = [commit.title for commit in hub.repositories["model", "alice/try"].history("main")]
    assert titles[0] == "96 images"
    assert "8 images" in titles
    assert not {"24 images", "32 images", "40 images", "48 images"} & set(titles), "newer ones took their places"
    assert len(history.read_text().splitlines()) == 96 // 4
    assert not list((tmp_path / "runs/try").glob(".push-*"))


def test_a_hub_that_is_away_for_a_while(hub, train):
    """The Hub goes down in the middle of the first push, and is back before the end."""
    hub.fault("PUT", "/lfs/", "drop")
    hub.fault("POST", "/commit/", 503)
    hub.fault("POST", "/preupload/", "drop")
    done = train("--name", "try", "--max_images", 16, *PUSH)
    assert hub.faults_used == 3
    assert "Pushed: " in done.stdout
    assert b"| images seen | 16, of 20 images |" in hub.files("alice/try")["README.md"]


def test_a_hub_that_refuses_ends_no_training(hub, train, tmp_path):
    """Somebody breaks the card during training: the log says so and what to do, and the run is complete."""
    hub.commit("alice/try", {"README.md": b"---\ntags: [a\n---\n"})
    done = train("--name", "try", "--max_images", 8, *PUSH)
    assert "README.md has invalid YAML" in done.stdout
    assert f"The run is complete in {tmp_path / 'runs/try'}; push it with: fagan-hf push" in done.stdout
    assert (tmp_path / "runs/try/generator/model.safetensors").exists()


def test_rights_are_checked_before_the_training(hub, train, tmp_path):
    for token, message in ((None, "hf auth login"), (STRANGER, "the token is not valid for 'alice/try'")):
        done = train("--name", "try", "--max_images", 8, *PUSH, token=token, check=False)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    hub.commit("alice/try", {"notes.txt": b"1"})  # a public repository, which a reader may read
    cases = ((READER, (), "may not write to 'alice/try'"), (ALICE, ("--hub_private", "true"), "exists and is public"))
    for token, flags, message in cases:
        done = train("--name", "try", "--max_images", 8, *PUSH, *flags, token=token, check=False)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "runs/try/generator").exists()


def test_a_run_that_is_asked_to_end_pushes_what_it_has(hub, train):
    process = train("--name", "try", "--max_images", 10**9, *PUSH, wait=False)
    wait_until(lambda: len(hub.repositories["model", "alice/try"].commits) > 1 if hub.repositories else False)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "Stop requested; checkpoint saved" in output
    assert "Pushed: " in output
    newest = hub.repositories["model", "alice/try"].history("main")[0].title
    facts = json.loads(hub.files("alice/try")["facts.json"])
    assert newest == f"{facts['training']['images_seen']:,} images"


def test_two_processes_of_which_one_is_asked_to_end(hub, train):
    """Both stop at the same step, and one of them pushes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = train("--name", "try", "--max_images", 10**9, *PUSH, wait=False, launcher=launcher)
    wait_until(lambda: "alice/try" in str(hub.repositories) and len(hub.repositories["model", "alice/try"].commits) > 1)
    ranks = [child for child in psutil.Process(process.pid).children() if child.name().startswith("rank ")]
    assert len(ranks) == 2
    ranks[1].terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert output.count("Stop requested; checkpoint saved") == output.count("Pushed: ") == 1
    facts = json.loads(hub.files("alice/try")["facts.json"])
    assert facts["training"]["hardware"].startswith("2 processes, each on ")


def test_no_token_is_ever_written_down(hub, train, tmp_path):
    """Not even if somebody passes one in a flag."""
    done = train("--name", "try", "--max_images", 8, *PUSH, "--image_column", ALICE)
    written = [path for path in (tmp_path / "runs/try").rglob("*") if path.is_file()]
    published = hub.files("alice/try")
    assert len(written) > 15
    assert b"image_column: REMOVED-TOKEN" in published["recipe.yaml"]
    assert b"--image_column REMOVED-TOKEN" in published["README.md"]
    for name, content in [(str(path), path.read_bytes()) for path in written] + list(published.items()):
        assert ALICE.encode() not in content, name
    assert ALICE not in done.stdout + done.stderr
    wrong = train("--name", "other", "--max_images", 8, dataset=f"https://{ALICE}@example.org/faces", check=False)
    assert wrong.returncode == 2
    assert ALICE not in wrong.stdout + wrong.stderr
