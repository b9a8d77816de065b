import json

import pytest
import torch
import yaml

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.cli import main
from fagan_hf.hub import client
from fagan_hf.hub.measurements import Measurement, add_measurement
from fagan_hf.hub.publishing import portable_recipe, publish
from fagan_hf.hub.repository import save_repository, weights_hash, write_json
from fagan_hf.hub.staging import is_up_to_date, take_snapshot
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR

REPO = "user/name"
TOKEN = "hf_" + "OnlyInTestsOnlyInTestsOnlyInTests" + "A"
RECIPE = {
    "name": "try",
    "model": "fagan-32",
    "dataset": "./pictures",
    "loss": "hinge",
    "batch_size": 4,
    "generator_learning_rate": 1e-4,
    "discriminator_learning_rate": 4e-4,
    "max_images": 100,
    "output_dir": "/home/me/runs",
    "cpu_threads": 3,
    "push_to_hub": REPO,
    "hub_private": True,
    "push_training_state": True,
    "resume_from": None,
    "finetune_from": "/home/me/base",
}
FACTS = {
    "data": {"source": "folder", "dataset": "pictures", "split": None, "count": 20},
    "training": {"images_seen": 100, "seconds": 2.0, "command": "python training/train.py"},
    "weights_license": "mit",
}
OF_A_RUN = ("samples.png", "loss.png", "nearest.png", "metrics.jsonl", "onnx/generator.onnx")


@pytest.fixture
def generator():
    return Generator(GENERATOR).eval()


@pytest.fixture
def run(tmp_path, generator):
    """The folder of a finished run."""
    folder = tmp_path / "runs/try"
    save_repository(folder, generator, Discriminator(DISCRIMINATOR), FACTS)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for name in OF_A_RUN:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}\n")
    measurement = Measurement(
        type="fd_x_10",
        name="Distance",
        value=12.5,
        features="x",
        num_images=10,
        reference="10 pictures",
        generator=weights_hash(folder),
        dataset="pictures",
    )
    add_measurement(folder, measurement)
    (folder / "events.log").write_text("of this machine")
    return folder


def add_checkpoint(run, images_seen, **state):
    folder = run / f"checkpoints/images-{images_seen:08d}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"images_seen": images_seen} | state))
    (folder / "generator.safetensors").write_bytes(b"weights")


def contents(hub):
    root = hub.root / REPO
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write_on_card(hub):
    """Add text by users before, between and after our regions."""
    path = hub.root / REPO / "README.md"
    card = path.read_text().replace("library_name", "thumbnail: x.png # mine\nlibrary_name", 1)
    card = card.replace("<!-- fagan_hf:begin summary", "BEFORE 🎨\n\n<!-- fagan_hf:begin summary")
    path.write_text(card.replace("<!-- fagan_hf:begin results", "BETWEEN\n\n<!-- fagan_hf:begin results") + "AFTER\n")


def is_kept(card):
    text = card.decode()
    return all(
        each in text for each in ("thumbnail: x.png # mine\n", "BEFORE 🎨\n\n<!--", "BETWEEN\n\n<!--", "AFTER\n")
    )


def test_the_first_push_brings_a_whole_repository(hub, run):
    assert publish(run, REPO, message="First") == f"folder://{REPO}/1"
    there = contents(hub)
    assert there.keys() == {
        *(f"{name}/{file}" for name in ("generator", "discriminator") for file in ("config.json", "model.safetensors")),
        *OF_A_RUN,
        *("README.md", "facts.json", "recipe.yaml", "metrics.json", "model_index.json", "pipeline.py"),
        "config.json",
        *("generator/modeling_fagan.py", "handler.py", "requirements.txt"),
    }
    assert hub.messages == ["First"]
    card = there["README.md"].decode()
    assert 'from_pretrained("user/name")' in card
    assert "# name\n" in card
    assert "12.5" in card


def test_a_card_in_the_folder_is_the_first_on_the_hub(hub, run):
    (run / "README.md").write_text("---\nlicense: bsd\n---\nMine\n")
    publish(run, REPO, message="First")
    card = contents(hub)["README.md"].decode()
    assert card.startswith("---\nlicense: bsd\n")
    assert "Mine\n" in card
    (run / "README.md").write_text("Newer\n")
    publish(run, REPO, message="Second")
    assert "Newer" not in contents(hub)["README.md"].decode()  # the one on the Hub counts


def test_pushed_again_people_keep_what_they_wrote(hub, run):
    publish(run, REPO, message="First")
    before = contents(hub)
    publish(run, REPO, message="The same")
    assert contents(hub) == before
    write_on_card(hub)
    write_json(run / "facts.json", FACTS | {"training": {"images_seen": 200}})
    publish(run, REPO, message="Second")
    after = contents(hub)
    assert is_kept(after["README.md"])
    assert b"after 200 images" in after["README.md"]
    assert after.keys() == before.keys()


def test_a_bare_generator_of_other_weights_takes_the_old_facts_away(hub, run):
    add_checkpoint(run, 100)
    publish(run, REPO, message="First", with_training_state=True)
    write_on_card(hub)
    (hub.root / REPO / "notes.txt").write_text("of people")
    assert "training_state/state.json" in contents(hub)
    Generator(GENERATOR).push_to_hub(REPO)
    there = contents(hub)
    gone = {"recipe.yaml", "metrics.json", "training_state/state.json", *OF_A_RUN}
    assert gone.isdisjoint(there)
    assert there["notes.txt"] == b"of people"
    assert "discriminator/config.json" in there
    card = there["README.md"].decode()
    assert is_kept(there["README.md"])
    for claim in ("12.5", "model-index", "samples.png", "100 images", "onnx", "Trained", "--resume_from"):
        assert claim not in card
    assert json.loads(there["facts.json"]).keys() == {"fagan_hf", "parameters", "layers"}


def test_a_bare_generator_of_the_same_weights_changes_nothing(hub, run, generator):
    publish(run, REPO, message="First")
    write_on_card(hub)
    before = contents(hub)
    generator.push_to_hub(REPO)
    assert contents(hub) == before
    assert hub.messages == ["First", "Upload Generator"]


def test_a_bare_generator_brings_a_card(hub, generator):
    generator.push_to_hub(REPO)
    assert b"Nothing is recorded about the training data" in contents(hub)["README.md"]


def test_a_bare_generator_after_another_brings_its_own_facts(hub, generator):
    generator.push_to_hub(REPO)
    Generator(with_labels((GENERATOR, DISCRIMINATOR), ["beard"], "projection")[0]).push_to_hub(REPO)
    assert b"The labels: `beard`." in contents(hub)["README.md"]


def test_a_discriminator_alone_touches_its_folder_only(hub, run):
    publish(run, REPO, message="First")
    before = contents(hub)
    Discriminator(DISCRIMINATOR).push_to_hub(REPO)
    after = contents(hub)
    assert {name for name in after if after[name] != before[name]} == {"discriminator/model.safetensors"}
    assert after.keys() == before.keys()


def test_other_weights_of_a_run_replace_what_described_the_old(hub, run):
    publish(run, REPO, message="First")
    save_repository(run, Generator(GENERATOR), facts=FACTS)  # which takes away its exports
    (run / "samples.png").write_text("new")
    (run / "nearest.png").unlink(missing_ok=True)
    publish(run, REPO, message="Second")
    there = contents(hub)
    assert "nearest.png" not in there
    assert "onnx/generator.onnx" not in there
    assert there["samples.png"] == b"new"
    assert b"12.5" not in there["README.md"]  # measured of the old ones
    assert b"nearest.png" not in there["README.md"]


def test_requirements_of_people_stay(hub, run):
    publish(run, REPO, message="First")
    path = hub.root / REPO / "requirements.txt"
    assert path.read_text().startswith("fagan-hf==")
    path.write_text("fagan-hf @ https://example.com/mine.whl\n")
    publish(run, REPO, message="Second")
    assert path.read_text() == "fagan-hf @ https://example.com/mine.whl\n"


@pytest.mark.parametrize("ours", ["fagan-hf==0.0.1\n", "fagan-hf==0.0.1"])
def test_requirements_of_ours_follow(hub, run, ours):
    publish(run, REPO, message="First")
    path = hub.root / REPO / "requirements.txt"
    path.write_text(ours)
    publish(run, REPO, message="Second")
    assert path.read_text() == (run / "requirements.txt").read_text() != ours
    path.write_text(ours + "\ntorch\n")
    publish(run, REPO, message="Third")
    assert path.read_text() == ours + "\ntorch\n"


def test_a_repository_of_the_web_site_gets_a_card(hub, generator):
    """It has a README, but no model that the README could describe."""
    (hub.root / REPO).mkdir(parents=True)
    (hub.root / REPO / "README.md").write_text("---\nlicense: apache-2.0\n---\nMine\n")
    generator.push_to_hub(REPO)
    there = contents(hub)
    assert b"library_name: fagan_hf" in there["README.md"]
    assert b"license: apache-2.0" in there["README.md"]
    assert b"Mine\n" in there["README.md"]
    assert "facts.json" in there


@pytest.mark.parametrize("theirs", ['{"accuracy": 1}', "[1, 2]", "no JSON"])
def test_another_programs_metrics_on_the_hub_are_no_reason_to_fail(hub, run, theirs):
    publish(run, REPO, message="First")
    ours = (run / "metrics.json").read_text()
    (run / "metrics.json").unlink()
    (hub.root / REPO / "metrics.json").write_text(theirs)
    publish(run, REPO, message="Second")
    assert "12.5" not in contents(hub)["README.md"].decode()
    assert contents(hub)["metrics.json"].decode() == theirs
    (run / "metrics.json").write_text(ours[:-5])
    with pytest.raises(ValueError, match=r"metrics.json"):
        publish(run, REPO, message="Third")


# Snapshots


def test_a_snapshot_holds_one_moment(run):
    (run / "README.md").write_text("Mine\n")
    add_checkpoint(run, 100)
    snapshot = take_snapshot(run, with_training_state=True)
    assert is_up_to_date(snapshot, run)
    before = weights_hash(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write("more\n")
    Generator(GENERATOR).save_pretrained(run / "generator")
    assert not is_up_to_date(snapshot, run)
    assert weights_hash(snapshot) == before
    assert (snapshot / "metrics.jsonl").read_text() == "{}\n"
    assert (snapshot / "checkpoints/images-00000100/state.json").is_file()
    assert not (snapshot / "events.log").exists()


def test_without_links_a_snapshot_is_a_copy(run, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", no_links)
    snapshot = take_snapshot(run, with_training_state=False)
    assert is_up_to_date(snapshot, run)
    (run / "samples.png").write_text("new")
    assert not is_up_to_date(snapshot, run)


def test_pushing_by_hand_leaves_the_run_as_it_is(hub, run):
    write_json(run / "facts.json", {"training": {"images_seen": 100}})
    for name in ("pipeline.py", "requirements.txt"):
        (run / name).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["push", str(run), REPO]) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    there = contents(hub)
    assert {"pipeline.py", "requirements.txt"} <= there.keys()
    assert json.loads(there["facts.json"]).keys() == {"training", "fagan_hf", "parameters", "layers"}
    assert not any(name.startswith(".push") for name in there)


def test_pushing_by_hand_during_a_training_mixes_no_moments(hub, run, monkeypatch):
    """A checkpoint is saved while the networks are being loaded: the snapshot is taken again."""
    load, saves = Generator.from_pretrained, []

    def load_while_saving(folder):
        if len(saves) < 2:
            saves.append(1)
            save_repository(run, Generator(GENERATOR), facts=FACTS | {"training": {"images_seen": 100 + len(saves)}})
        return load(folder)

    monkeypatch.setattr(Generator, "from_pretrained", load_while_saving)
    assert main(["push", str(run), REPO]) == 0
    assert (hub.root / REPO / "generator/model.safetensors").read_bytes() == (
        run / "generator/model.safetensors"
    ).read_bytes()
    assert json.loads(contents(hub)["facts.json"])["training"]["images_seen"] == 102
    assert json.loads((run / "facts.json").read_text())["training"]["images_seen"] == 102
    assert not list(run.glob(".push-*"))


def test_what_cannot_be_pushed_by_hand_is_named_as_the_user_knows_it(hub, run, capsys):
    (run / "generator/model.safetensors").write_bytes(b"no safetensors")
    assert main(["push", str(run), REPO]) == 2
    error = capsys.readouterr().err
    assert f"{run}/generator/model.safetensors is truncated" in error
    assert ".push-" not in error
    assert not list(run.glob(".push-*"))


def test_replace_card_drops_what_people_wrote_there(hub, run):
    publish(run, REPO, message="First")
    write_on_card(hub)
    (run / "README.md").write_text("Mine\n")
    publish(run, REPO, message="Second", replace_card=True)
    card = contents(hub)["README.md"].decode()
    assert "BEFORE" not in card
    assert "Mine" in card


def test_a_broken_card_stops_the_push_but_for_replace_card(hub, run):
    publish(run, REPO, message="First")
    (hub.root / REPO / "README.md").write_text("---\na: [\n---\n")
    before = contents(hub)
    with pytest.raises(ValueError, match=r"README.md has invalid YAML .*--replace-card"):
        publish(run, REPO, message="Second")
    assert contents(hub) == before
    publish(run, REPO, message="Third", replace_card=True)
    assert b"# name\n" in contents(hub)["README.md"]


@pytest.mark.parametrize("secret", [TOKEN, "of another form"])
def test_tokens_are_in_no_text(hub, run, secret):
    write_json(run / "facts.json", FACTS | {"training": {"command": f"train --token='{secret}'"}})
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"name": secret, "loss": f"x_{secret}"}))
    (run / "metrics.jsonl").write_text(json.dumps({"note": f"{secret}_x"}))
    (run / "requirements.txt").write_text(f"https://{secret}@example.com/x.whl")
    (run / "README.md").write_text(f"{secret} is mine")
    publish(run, REPO, message="First", token=secret)
    there = contents(hub)
    assert [name for name, content in there.items() if secret.encode() in content] == []
    for name in ("facts.json", "recipe.yaml", "metrics.jsonl", "requirements.txt", "README.md"):
        assert b"REMOVED-TOKEN" in there[name]
    assert secret in (run / "recipe.yaml").read_text()  # the run's own recipe is unchanged


# Recipes


def test_a_published_recipe_has_no_machine_in_it(hub, run):
    publish(run, REPO, message="First")
    recipe = yaml.safe_load(contents(hub)["recipe.yaml"])
    gone = "output_dir", "cpu_threads", "push_to_hub", "hub_private", "push_training_state", "resume_from"
    assert recipe == {name: value for name, value in RECIPE.items() if name not in (*gone, "finetune_from")}


@pytest.mark.parametrize("dataset", ["/home/me/pictures", "~/pictures", "pictures/", "../somewhere/pictures"])
def test_a_folder_of_pictures_goes_by_its_name(run, dataset):
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"dataset": dataset}))
    assert portable_recipe(run)["dataset"] == "./pictures"


@pytest.mark.parametrize("source", ["hub", "avatars"])
def test_other_data_keeps_its_name(run, source):
    write_json(run / "facts.json", {"data": FACTS["data"] | {"source": source}})
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"dataset": "user/flowers"}))
    assert portable_recipe(run)["dataset"] == "user/flowers"


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("fagan-32", "fagan-32"),
        ("user/name", "user/name"),
        ("user/name@v1", "user/name@v1"),
        ("/home/me/mine.json", "architecture.json"),
        ("mine.py", "architecture.json"),
        ("/home/me/runs/other", "architecture.json"),
        ("~/runs/other", "architecture.json"),
        ("runs/other", "architecture.json"),
    ],
)
def test_a_model_of_this_machine_is_the_architecture_beside(run, tmp_path, monkeypatch, model, published):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/other").mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"model": model}))
    assert portable_recipe(run)["model"] == published


def test_recipes_with_less(tmp_path):
    assert portable_recipe(tmp_path) == {}
    write_json(tmp_path / "facts.json", {"data": None})
    (tmp_path / "recipe.yaml").write_text("loss: hinge\n")
    assert portable_recipe(tmp_path) == {"loss": "hinge"}
    write_json(tmp_path / "facts.json", FACTS)
    assert portable_recipe(tmp_path) == {"loss": "hinge"}


# Training states


def test_the_newest_checkpoint_is_the_training_state(hub, run):
    add_checkpoint(run, 99)
    add_checkpoint(run, 100, version="newest")
    publish(run, REPO, message="First", with_training_state=True)
    there = contents(hub)
    assert json.loads(there["training_state/state.json"]) == {"images_seen": 100, "version": "newest"}
    assert there["training_state/generator.safetensors"] == b"weights"
    assert not any(name.startswith("checkpoints") for name in there)


def test_none_is_pushed_unasked(hub, run):
    add_checkpoint(run, 100)
    publish(run, REPO, message="First")
    assert not any(name.startswith("training_state") for name in contents(hub))


@pytest.mark.parametrize("checkpoints", [(), (99,), (100, 101)])
def test_a_state_of_another_moment_is_refused(hub, run, checkpoints):
    for images_seen in checkpoints:
        add_checkpoint(run, images_seen)
    with pytest.raises(FileNotFoundError, match="no checkpoint of its weights at 100 images"):
        publish(run, REPO, message="First", with_training_state=True)
    assert hub.messages == []


def test_a_state_that_does_not_say_of_which_moment_is_refused(hub, run):
    write_json(run / "facts.json", {})
    (run / "checkpoints/images-00000100").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        publish(run, REPO, message="First", with_training_state=True)


def test_a_generator_that_was_pushed_loads(hub, run, generator):
    publish(run, REPO, message="First")
    loaded = Generator.from_pretrained(hub.root / REPO)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in generator.state_dict().items())


def test_numbers_on_the_hub_stay_with_their_weights(hub, run, generator):
    """Measured on one machine, then pushed from another one with the same weights but without the metrics."""
    publish(run, REPO, message="First")
    (run / "metrics.json").unlink()
    publish(run, REPO, message="Second")
    assert "12.5" in contents(hub)["README.md"].decode()
    Generator(GENERATOR).save_pretrained(run / "generator")
    publish(run, REPO, message="Third")
    assert "12.5" not in contents(hub)["README.md"].decode()
    assert "metrics.json" not in contents(hub)


def test_a_bare_generator_can_replace_the_card(hub, run, generator):
    publish(run, REPO, message="First")
    write_on_card(hub)
    save_repository(run.parent / "bare", generator)
    publish(run.parent / "bare", REPO, message="Again", replace_card=True)
    assert not is_kept(contents(hub)["README.md"])


def test_a_part_of_a_run_is_not_pushed_without_the_rest(hub, run, capsys):
    write_json(run / "facts.json", {"training": {"images_seen": 100}})
    assert main(["push", str(run / "generator"), REPO]) == 2
    assert "is part of try, whose card would be lost; push that" in capsys.readouterr().err


def test_a_pull_request_of_nothing_is_none(hub, run, capsys):
    assert main(["push", str(run), REPO, "--create-pr"]) == 0
    assert "no pull request was opened" in capsys.readouterr().out


def test_the_config_of_a_network_in_the_top_folder_is_kept(hub, run):
    """A flat repository that receives the other layout as well."""
    there = hub.root / REPO
    Generator(GENERATOR).save_pretrained(there)
    config = (there / "config.json").read_bytes()
    publish(run, REPO, message="Beside it")
    assert contents(hub)["config.json"] == config
    assert "generator/config.json" in contents(hub)


def test_the_index_is_replaced_by_a_newer_one(hub, run):
    publish(run, REPO, message="First")
    (hub.root / REPO / "config.json").write_text('{"library_name": "fagan_hf", "layout": 0}')
    publish(run, REPO, message="Second")
    assert contents(hub)["config.json"] == (run / "config.json").read_bytes()


def test_a_branch_may_be_part_of_the_name(run, monkeypatch):
    pushed = []
    monkeypatch.setattr(client, "push", lambda repo_id, _, revision, **__: pushed.append((repo_id, revision)))
    publish(run, f"{REPO}@trial", message="On a branch")
    publish(run, REPO, message="On a branch", revision="trial")
    Generator(GENERATOR).push_to_hub(f"{REPO}@trial")
    assert pushed == [(REPO, "trial")] * 3
    with pytest.raises(ValueError, match="are two different revisions"):
        publish(run, f"{REPO}@trial", message="Two", revision="main")
