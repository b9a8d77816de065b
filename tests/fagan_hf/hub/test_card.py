import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.specs import LAYER_SPECS, ConvTransposeSpec, LayerSpec, SelfAttentionSpec
from fagan_hf.hub.card import write_card
from fagan_hf.hub.card_merge import published_as
from fagan_hf.hub.measurements import Measurement, add_measurement
from fagan_hf.hub.repository import save_repository, weights_hash, write_json
from fagan_hf.layers import LAYERS, SelfAttention, register_layer
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR

TOKEN = "hf_" + "OnlyInTestsOnlyInTestsOnlyInTests" + "A"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONVOLUTIONS = GeneratorConfig(
    latent_dim=8,
    image_size=8,
    layers=(
        ConvTransposeSpec(in_channels=8, out_channels=16, kernel_size=4),
        ConvTransposeSpec(in_channels=16, out_channels=3, kernel_size=4, stride=2, padding=1),
    ),
)
AVATARS = {
    "source": "avatars",
    "dataset": "avatars:adventurer",
    "split": "train",
    "license": "CC BY 4.0",
    "attribution": "Adapted from a work (https://example.com) by Somebody, CC BY 4.0 (https://example.com/by)",
    "count": 20_000,
    "preprocessing": "drawn at 8x8",
}
CELEBA = {
    "source": "hub",
    "dataset": "flwrlabs/celeba",
    "split": "train",
    "revision": COMMIT,
    "license": None,
    "attribution": None,
    "count": 162_770,
    "preprocessing": "center square of 178, resized to 8x8",
}
FLOWERS = CELEBA | {"dataset": "user/flowers", "license": "cc-by-2.0", "attribution": "@article{f,\n\n  title={F}\n}"}
FOLDER = {"source": "folder", "dataset": "my pictures", "split": None, "count": 20, "preprocessing": "resized to 8x8"}
TRAINING = {
    "images_seen": 12_345,
    "seconds": 321.5,
    "hardware": "4 cores of A Processor",
    "versions": {"Python": "3.11.1", "torch": "2.9.0"},
    "command": "accelerate launch training/train.py --config recipe.yaml",
    "commit": COMMIT,
    "commit_modified": False,
}
RECIPE = {
    "name": "try",
    "model": "fagan-32",
    "dataset": "avatars",
    "loss": "hinge",
    "batch_size": 32,
    "generator_learning_rate": 1e-4,
    "discriminator_learning_rate": 4e-4,
    "max_images": 20_000,
    "max_minutes": None,
}
PICTURES = ("samples.png", "loss.png", "alpha.png", "nearest.png", "training_progress.gif")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "bare"
    save_repository(folder, Generator(GENERATOR))
    return folder


@pytest.fixture
def make_run(tmp_path):
    """Folders of finished runs."""

    def make(data=AVATARS, config=GENERATOR, weights_license=None, recipe=RECIPE, **training):
        folder = tmp_path / "run"
        facts = {"data": data, "training": TRAINING | training, "weights_license": weights_license}
        save_repository(folder, Generator(config), Discriminator(DISCRIMINATOR), facts)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        for name in PICTURES:
            (folder / name).write_bytes(b"a picture")
        return folder

    return make


def measure(folder, **changes):
    fields = {
        "type": "fd_effnetlite0_2048",
        "name": "Fréchet distance",
        "value": 12.3456,
        "features": "EfficientNet-Lite0",
        "num_images": 2048,
        "reference": "2,048 images of the test split",
        "generator": weights_hash(folder),
        "dataset": "user/flowers",
        "split": "test",
    }
    measurement = Measurement(**fields | changes)
    add_measurement(folder, measurement)
    return measurement


def metadata(card):
    return ModelCard(card).data.to_dict()


def assert_sound(card):
    """Check that a card states what is known about the folder, and nothing else."""
    for sign in ("None", "{{", "}}", "{%", "{#", "nan", "Undefined", "[]", "``,", "``.", "\n\n\n"):
        assert sign not in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    for row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert all(cells) or row == "| | |", row  # the latter is a head without titles
    assert card.count("<!-- fagan_hf:begin") == card.count("<!-- fagan_hf:end") == 5
    assert len(re.findall("^```", card, re.MULTILINE)) % 2 == 0


def test_a_bare_generator_claims_nothing(bare):
    card = write_card(bare)
    assert_sound(card)
    for claim in ("## Results", "samples.png", "Discriminator", "onnx", "Trained", "accelerate", "To reproduce"):
        assert claim not in card
    assert "The publisher has not specified a license" in card
    assert "Nothing is recorded about the training data" in card
    assert "3 of its generator's 3 layers use attention" in card
    assert metadata(card) == {
        "library_name": "fagan_hf",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["gan", "attention", "full-attention", "safetensors"],
    }


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("fagan-64-small", "Every layer of its generator attends while it convolves: full attention, blended"),
        ("sagan-classic-64", "2 of its generator's 7 layers use attention"),
        ("dcgan-64", "A generative adversarial network of convolutions, without attention"),
    ],
)
def test_how_many_layers_attend(tmp_path, preset, words):
    save_repository(tmp_path / "run", Generator.from_preset(preset))
    assert words in write_card(tmp_path / "run")


def test_no_recipe_no_promise_to_go_on(tmp_path):
    save_repository(tmp_path / "run", Generator(GENERATOR), Discriminator(DISCRIMINATOR))
    card = write_card(tmp_path / "run", "user/name")
    assert_sound(card)
    assert "--resume_from" not in card
    assert "--finetune_from user/name" in card


@pytest.mark.parametrize(
    "data", [AVATARS, CELEBA, FLOWERS, FOLDER, None], ids=["avatars", "celeba", "hub", "folder", "unknown"]
)
@pytest.mark.parametrize("repo_id", [None, "user/name"], ids=["kept", "published"])
def test_a_run(make_run, data, repo_id):
    run = make_run(data)
    measure(run, floor=1.5)
    card = write_card(run, repo_id)
    assert_sound(card)
    for known in ("12,345 images", "5.4 minutes", "38 images a second", "torch 2.9.0", "Adam, generator 0.0001"):
        assert known in card
    assert all(f"]({name})" in card or f'<img src="{name}"' in card for name in PICTURES)
    assert "| 12.35 | 1.5 |" in card
    assert "2,048 generated images, features EfficientNet-Lite0, compared with 2,048 images of the test split." in card
    assert "--resume_from user/name --max_images 24690" in card or repo_id is None


@pytest.mark.parametrize(
    ("data", "keys", "sentence"),
    [
        (AVATARS, {"license": "cc-by-4.0", "tags": "cartoon"}, "cartoon portraits drawn by a program"),
        (CELEBA, {"license": "other", "license_name": "celeba-non-commercial-research"}, "do not use them"),
        (CELEBA, {"datasets": ["flwrlabs/celeba"], "tags": "faces"}, "opinions of a few annotators"),
        (FLOWERS, {"datasets": ["user/flowers"], "license": None}, "License: cc-by-2.0. @article{f, title={F} }."),
        (FOLDER, {"datasets": None, "license": None}, "20 images provided by the publisher (`my pictures`)"),
        (AVATARS, {"datasets": None, "base_model": None}, "Training data: Adapted from a work"),
    ],
)
def test_what_the_data_says(make_run, data, keys, sentence):
    card = write_card(make_run(data))
    assert sentence in card
    found = metadata(card)
    assert ("license_link" in found) == (data is CELEBA)
    for key, value in keys.items():
        assert value in found["tags"] if key == "tags" else found.get(key) == value


def test_the_publishers_license(make_run):
    run = make_run(FOLDER, weights_license="apache-2.0")
    assert metadata(write_card(run))["license"] == "apache-2.0"
    assert "published under `apache-2.0`" in write_card(run)


@pytest.mark.parametrize(
    ("origin", "base"),
    [(f"user/base@{COMMIT}", "user/base"), ("some-run", None), ("some-run@home", None), (None, None)],
)
def test_base_model_is_a_model_of_the_hub(make_run, origin, base):
    card = write_card(make_run(**({"finetuned_from": origin} if origin else {})))
    assert metadata(card).get("base_model") == base
    assert (origin is None) == ("fine-tuned from" not in card)


def test_a_resumed_model_has_no_base(make_run):
    card = write_card(make_run(resumed_from=f"user/base@{COMMIT}"))
    assert "base_model" not in metadata(card)
    assert f"| continued from | user/base@{COMMIT} |" in card


def test_a_conditional_model_shows_its_labels(make_run):
    config, _ = with_labels((GENERATOR, DISCRIMINATOR), ("beard", "hair=red", "hair=gray"), "projection")
    card = write_card(make_run(config=config))
    assert_sound(card)
    assert 'labels={"beard": True, "hair": "red"}).images' in card
    assert "The labels: `beard`, `hair=red`, `hair=gray`." in card
    assert "One row per label value" in card


def test_not_every_value_has_a_row_where_there_are_many(make_run):
    config, _ = with_labels((GENERATOR, DISCRIMINATOR), [f"claim {index}" for index in range(9)], "projection")
    card = write_card(make_run(config=config))
    assert "One row per label value" not in card
    assert "Each row shares a label" in card


def test_convolutions_alone_do_not_attend(make_run):
    card = write_card(make_run(config=CONVOLUTIONS))
    assert "without attention: a baseline" in card
    assert "full-attention" not in metadata(card)["tags"]


@pytest.mark.parametrize("missing", PICTURES)
def test_a_picture_that_is_not_there_is_not_shown(make_run, missing):
    run = make_run()
    (run / missing).unlink()
    card = write_card(run)
    assert missing not in card
    assert all(name in card for name in PICTURES if name != missing)


def test_what_is_on_the_hub_counts(make_run):
    """What the caller passes takes precedence over the folder."""
    card = write_card(make_run(), files={"onnx/generator.onnx", "torch_export/generator.pt2"})
    assert "samples.png" not in card
    assert "For ONNX Runtime: `onnx/generator.onnx`" in card
    assert "torch_export/generator.pt2" in card


def test_measurements_in_the_metadata(make_run):
    run = make_run(FLOWERS)
    first = measure(run, error=0.25, floor=1.5, command="python measure.py")
    second = measure(run, type="kd", name="Kernel distance", value=0.5, dataset="user/other")
    results = ModelCard(write_card(run, "user/name")).data.eval_results
    assert [(each.metric_type, each.metric_value) for each in results] == [
        ("fd_effnetlite0_2048", 12.3456),
        ("kd", 0.5),
    ]
    assert results[0].metric_args == {
        name: getattr(first, name) for name in ("features", "num_images", "reference", "floor", "error", "command")
    }
    assert results[1].metric_args == {name: getattr(second, name) for name in ("features", "num_images", "reference")}
    assert [each.dataset_revision for each in results] == [COMMIT, None]  # the revision is the training data's only
    assert metadata(write_card(run, "user/name"))["model-index"][0]["name"] == "name"


def test_what_was_measured_alike_is_explained_once(make_run):
    run = make_run()
    first = measure(run, command="fagan-hf evaluate MODEL")
    measure(run, type="kd", name="Kernel distance", command="fagan-hf evaluate MODEL")
    measure(run, type="pixels", features="pixels", num_images=64)
    card = write_card(run, "user/name")
    said = f"2,048 generated images, features {first.features}, compared with {first.reference}."
    assert f"`fd_effnetlite0_2048`, `kd`: {said} To reproduce: `fagan-hf evaluate MODEL`.\n\n`pixels`: 64 gen" in card
    assert card.count("fagan-hf evaluate MODEL`") == 1


def test_measurements_of_other_weights_are_not_shown(make_run):
    run = make_run()
    write_json(run / "metrics.json", [asdict(replace(measure(run), generator="0" * 64))])
    card = write_card(run)
    assert "12.35" not in card
    assert "model-index" not in metadata(card)


@pytest.mark.parametrize("name", ["/home/me/nets/mine.json", "mine.py", "/home/me/runs/try", "~/runs/try", "./try"])
def test_an_architecture_of_this_machine_is_beside_the_recipe(make_run, name):
    card = write_card(make_run(recipe=RECIPE | {"model": name}), "user/name")
    assert "| architecture | architecture.json |" in card
    assert "recipe.yaml architecture.json --local-dir name" in card
    assert "/me/" not in card


@pytest.mark.parametrize(
    ("recipe", "row"),
    [
        (
            {"r1_gamma": 0.5, "r2_gamma": 0.5, "penalty_every_steps": 4},
            "R1 of weight 0.5, R2 of weight 0.5, every 4 steps",
        ),
        ({"wasserstein_penalty": 10.0, "penalty_every_steps": 1}, "WGAN-GP of weight 10"),
        ({"r1_gamma": 0.0, "penalty_every_steps": 4}, None),
        ({}, None),
    ],
)
def test_penalties(make_run, recipe, row):
    rows = re.findall(r"\| penalties \| (.*) \|", write_card(make_run(recipe=recipe)))
    assert rows == ([] if row is None else [row])


def test_a_recipe_with_few_fields(make_run):
    assert_sound(write_card(make_run(recipe={"loss": "hinge"})))
    assert "| learning rates | Adam, generator 1 |" in write_card(make_run(recipe={"generator_learning_rate": 1.0}))


NASTY = [
    "a|b",
    "{{ 7 * 7 }} {% for %}",
    "<script>alert(1)</script>",
    "line\n\n| a | table |\n```\n# Title",
    "<!-- fagan_hf:end training -->",
    'it\'s "quoted" `code` \\',
    "🎨 ünï",
]


@pytest.mark.parametrize("text", NASTY)
def test_texts_of_others_break_nothing(make_run, text):
    config, _ = with_labels((GENERATOR, DISCRIMINATOR), (text, f"{text}=a", f"{text}=b"), "projection")
    run = make_run(FOLDER | {"dataset": text, "preprocessing": text}, config, hardware=text, resumed_from=text)
    measure(run, reference=text, features=text, dataset=text)
    card = write_card(run, "user/name")
    tables = [line for line in card.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert widths == {3, 4}
    assert len(tables) == 3 + 15
    assert "<script" not in card
    assert text in card or any(sign in text for sign in "<|\n")  # nothing else is changed
    assert card.count("<!-- fagan_hf:begin") == card.count("<!-- fagan_hf:end") == 5
    example = re.search(r"labels=(\{.*\})\)\.images", card)
    compile(example[1], "card", "eval")
    assert write_card(run, "user/name", card) == card


@pytest.mark.parametrize("field", ["dataset", "command", "recipe", "human text"])
def test_no_token(make_run, field):
    run = make_run(
        FOLDER | {"dataset": f"x_{TOKEN}_y"} if field == "dataset" else FOLDER,
        recipe=RECIPE | {"loss": TOKEN} if field == "recipe" else RECIPE,
        command=f"train --token={TOKEN}" if field == "command" else "train",
    )
    card = write_card(run, existing=f"My token is {TOKEN}." if field == "human text" else None)
    assert TOKEN not in card
    assert "REMOVED-TOKEN" in card


# Merging


def regions(card):
    return re.findall(r"<!-- fagan_hf:begin .*?<!-- fagan_hf:end \w+ -->", card, re.DOTALL)


def human(card):
    """Return the text before, between and after our regions."""
    body = re.split(r"^---[ \t]*\r?\n", card, maxsplit=2, flags=re.MULTILINE)[2]
    return re.split(r"<!-- fagan_hf:begin .*?<!-- fagan_hf:end \w+ -->", body, flags=re.DOTALL)


@pytest.mark.parametrize("data", [AVATARS, CELEBA, None])
def test_its_own_output_is_a_fixed_point(make_run, data):
    run = make_run(data)
    measure(run)
    card = write_card(run, "user/name")
    assert write_card(run, "user/name", card) == card


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "  spaces  \n\n\n",
        "\r\nWindows\r\n",
        "🎨 日本語 \u2028 x",
        "---\nrule\n---\n",
        "{{ jinja }}",
        "<!-- mine -->",
    ],
)
def test_human_text_stays_byte_for_byte(bare, make_run, text):
    parts = regions(write_card(bare, "user/name"))
    old = "---\nlicense: mit\n---\n" + "".join(f"{text}{index}{part}" for index, part in enumerate(parts)) + text
    new = write_card(make_run(), "user/name", old)
    assert human(new) == human(old)
    assert regions(new) != parts


def test_the_metadata_of_people_stays(make_run):
    front = (
        "# Why: 🎨\n"
        "license: mit # asked a lawyer\n"
        "tags: # mine\n- 漫画\n- gan\n"
        "language:\n  - en   # spaced\n"
        "thumbnail: 'x.png'\n\n"
        "description: |\n  # no comment\n  text\n"
    )
    card = write_card(make_run(), "user/name", f"---\n{front}---\n")
    for kept in (front.split("tags")[0], front[front.index("language") :]):
        assert kept in card
    assert "- 漫画\n" in card
    found = metadata(card)
    assert found["license"] == "mit"
    assert found["tags"] == ["漫画", "gan", "attention", "full-attention", "safetensors", "cartoon"]
    assert found["library_name"] == "fagan_hf"


@pytest.mark.parametrize(
    "front",
    ["tags: [a,\nb]\nx: 1\n", "tags:\n# why\n- a\n- b\nx: 1\n", '"tags": [a, b]\nx: 1\n', "{tags: [a, b], x: 1}\n"],
)
def test_metadata_in_other_forms(bare, front):
    found = metadata(write_card(bare, None, f"---\n{front}---\nHello\n"))
    assert found["tags"] == ["a", "b", "gan", "attention", "full-attention", "safetensors"]
    assert found["x"] == 1


def test_a_license_with_another_name_is_theirs(make_run):
    card = write_card(make_run(CELEBA), None, "---\nlicense: other\nlicense_name: mine\n---\n")
    found = metadata(card)
    assert (found["license"], found["license_name"]) == ("other", "mine")
    assert "license_link" not in found


def test_windows_line_endings(bare, make_run):
    old = write_card(bare, "user/name", "---\nlicense: mit\n---\nHello\n\nWorld\n").replace("\n", "\r\n")
    new = write_card(make_run(), "user/name", old)
    assert human(new) == human(old)
    assert metadata(new)["license"] == "mit"
    assert write_card(make_run(), "user/name", new) == write_card(make_run(), "user/name", new)
    assert len(regions(new)) == 5


@pytest.mark.parametrize(
    "old", ["Hello\n", "# Title\n\nText without end", "---\ntags: x\n---\n# Title\n", "\ufeff---\na: 1\n---\nHi"]
)
def test_a_readme_without_our_marks(bare, old):
    card = write_card(bare, "user/name", old)
    own = old.rpartition("---\n")[2]
    assert human(card)[0].startswith(own)
    assert human(card)[1:] == ["\n\n", "\n\n", "\n\n", "\n\n", "\n"]
    assert card.count("---\n") == 2 + card.count("| ---\n")
    assert write_card(bare, "user/name", card) == card


@pytest.mark.parametrize("old", ["", "\n", "---\n---\n", "---\n---\n\n"])
def test_an_empty_readme(bare, old):
    assert write_card(bare, "user/name", old) == write_card(bare, "user/name")


def test_front_matter_only(bare):
    """As created by the Hub."""
    card = write_card(bare, "user/name", "---\nlicense: openrail\n---\n")
    assert card.startswith("---\nlicense: openrail\nlibrary_name: fagan_hf\n")
    own = regions(write_card(bare, "user/name"))
    assert regions(card)[:4] == own[:4]
    assert "published under `openrail`" in regions(card)[4]
    assert write_card(bare, "user/name", card) == card


@pytest.mark.parametrize("index", range(5))
def test_a_region_that_was_taken_out_comes_back_in_its_place(bare, index):
    card = write_card(bare, "user/name")
    taken = regions(card)[index]
    again = write_card(bare, "user/name", card.replace(taken, "HERE"))
    assert regions(again) == regions(card)
    assert "HERE" in human(again)[index + 1 if index else 0]  # after the region that came back, or before the first


def test_a_region_may_become_empty_and_full_again(make_run):
    run = make_run()
    measure(run)
    full = write_card(run, "user/name")
    for name in ("metrics.json", *PICTURES):
        (run / name).unlink()
    empty = write_card(run, "user/name", full)
    assert "## Results" in full
    assert "## Results" not in empty
    assert human(empty) == human(full)
    for name in PICTURES:
        (run / name).touch()
    measure(run)
    assert regions(write_card(run, "user/name", empty)) == regions(full)


def test_results_of_weights_that_are_gone_are_taken_out(bare, make_run):
    run = make_run()
    measure(run)
    old = write_card(run, "user/name")
    assert "model-index" in metadata(old)
    assert "model-index" not in metadata(write_card(bare, "user/name", old))


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        ("---\na: [\n---\n", "invalid YAML"),
        ("---\ndate: 2024-13-45\n---\n", "invalid YAML"),
        ("---\na: \udcff\n---\n", "invalid YAML"),
        ("---\n- a\n- b\n---\n", "list between its --- lines"),
        ("---\ntext\n---\n", "str between its --- lines"),
        ("<!-- fagan_hf:begin use -->", "an unpaired mark, fagan_hf:begin use"),
        ("<!-- fagan_hf:end use -->", "an unpaired mark, fagan_hf:end use"),
        ("<!-- fagan_hf:begin use --><!-- fagan_hf:end limits -->", "an unpaired mark, fagan_hf:begin use"),
        ("<!-- fagan_hf:begin use --><!-- fagan_hf:begin use -->", "an unpaired mark, fagan_hf:begin use"),
        ("<!-- fagan_hf:begin use\n text <!-- fagan_hf:end use -->", "does not end in -->"),
        ("<!-- fagan_hf:begin use --> text <!-- fagan_hf:end use-->", "does not end in -->"),
    ],
)
def test_a_broken_card_is_refused_with_the_way_out(bare, old, reason):
    with pytest.raises(ValueError, match=r"^README.md has .*Fix it there, or push with --replace-card") as caught:
        write_card(bare, "user/name", old)
    assert reason in str(caught.value)


# No characters that UTF-8 can't encode, and no accidental front matter.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "-->" not in text)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXTS, min_size=6, max_size=6), is_bare=st.lists(st.booleans(), min_size=1, max_size=3))
def test_whatever_people_write_is_kept_by_any_pushes(tmp_path_factory, texts, is_bare):
    root = tmp_path_factory.getbasetemp()
    folders = root / "of-property-bare", root / "of-property-run"
    if not folders[1].exists():
        for folder, facts in zip(folders, ({}, {"data": AVATARS, "training": TRAINING}), strict=True):
            save_repository(folder, Generator(GENERATOR), facts=facts)
    parts = [*regions(write_card(folders[0], "user/name")), ""]
    card = "---\n---\n" + "".join(f"{text}{part}" for text, part in zip(texts, parts, strict=True))
    for each in is_bare:
        card = write_card(folders[0 if each else 1], "user/name", card)
    assert (
        re.split(r"<!-- fagan_hf:begin .*?<!-- fagan_hf:end \w+ -->", card.partition("\n---\n")[2], flags=re.DOTALL)
        == texts
    )


def test_a_broken_file_of_facts_is_named(make_run):
    run = make_run()
    (run / "facts.json").write_text("{")
    with pytest.raises(ValueError, match=r"facts.json is not valid JSON"):
        write_card(run)
    (run / "facts.json").write_text(json.dumps({}))
    assert_sound(write_card(run))


def test_what_we_wrote_in_the_metadata_goes_with_the_weights_it_was_about(bare, make_run):
    """From CelebA to avatars to unknown weights: no license, data set or tag of the old ones stays."""
    celeba = write_card(make_run(CELEBA, finetuned_from=f"user/base@{COMMIT}"), "user/name")
    assert metadata(celeba)["license_name"] == "celeba-non-commercial-research"
    assert {"datasets", "base_model", "license_link"} <= metadata(celeba).keys()
    avatars = metadata(write_card(make_run(AVATARS), "user/name", celeba))
    assert avatars["license"] == "cc-by-4.0"
    assert {"datasets", "base_model", "license_name", "license_link"}.isdisjoint(avatars)
    assert "cartoon" in avatars["tags"]
    assert "faces" not in avatars["tags"]
    unknown = metadata(write_card(bare, "user/name", write_card(make_run(AVATARS), "user/name", celeba)))
    assert "license" not in unknown
    assert "cartoon" not in unknown["tags"]


def test_what_people_put_beside_it_stays(bare, make_run):
    card = write_card(make_run(CELEBA), "user/name")
    mine = card.replace("- faces\n", "- faces\n- mine\n").replace(
        "- flwrlabs/celeba\n", "- flwrlabs/celeba\n- my/own\n"
    )
    mine = re.sub("license: other\nlicense_name: .*\nlicense_link: .*\n", "license: cc-by-nc-4.0\n", mine)
    again = write_card(bare, "user/name", mine)
    assert metadata(again)["license"] == "cc-by-nc-4.0"
    assert metadata(again)["datasets"] == ["my/own"]
    assert "mine" in metadata(again)["tags"]
    assert "faces" not in metadata(again)["tags"]
    assert "published under `cc-by-nc-4.0`" in again, "words and metadata agree"
    assert metadata(write_card(make_run(AVATARS), "user/name", again))["license"] == "cc-by-nc-4.0"


def test_the_publishers_license_takes_the_place_of_ours(make_run):
    card = write_card(make_run(AVATARS), "user/name")
    assert metadata(write_card(make_run(AVATARS, weights_license="mit"), "user/name", card))["license"] == "mit"


def test_results_of_people_stay_in_the_model_index(bare, make_run):
    folder = make_run()
    measure(folder)
    card = write_card(folder, "user/name")
    front = yaml.safe_load(card.split("---\n")[1])
    theirs = {"task": {"type": "t"}, "dataset": {"type": "d", "name": "d"}, "metrics": [{"type": "votes", "value": 9}]}
    front["model-index"][0]["results"].append(theirs)
    edited = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{card.split('---' + chr(10), 2)[2]}"
    for folder_now, count in ((folder, 2), (bare, 1)):
        [index] = metadata(write_card(folder_now, "user/name", edited))["model-index"]
        assert len(index["results"]) == count
        assert theirs in index["results"]


def test_what_was_learned_from_earlier_is_told(make_run):
    folder = make_run(AVATARS, finetuned_from=f"user/faces@{COMMIT}")
    facts = json.loads((folder / "facts.json").read_text())
    write_json(folder / "facts.json", facts | {"earlier_data": [CELEBA]})
    card = write_card(folder, "user/name")
    assert "and before that on the 162,770 images of [flwrlabs/celeba]" in card
    assert metadata(card)["license_name"] == "celeba-non-commercial-research"
    assert "For research on generative models" in card
    assert f"recipe.yaml --finetune_from user/faces@{COMMIT}" in card
    assert "To reproduce the run" not in write_card(make_run(AVATARS, finetuned_from="runs/faces"), "user/name")


def test_the_same_again_is_of_the_same_data(make_run):
    card = write_card(make_run(CELEBA, images_seen=20_000), "user/name")
    assert f"recipe.yaml --revision {COMMIT}\n" in card


@pytest.mark.parametrize(
    ("images", "minutes", "flags"),
    [
        (20_000, None, ""),
        (20_008, 10, ""),
        (12_345, None, " --max_images 12345"),
        (9, 10, " --max_images 9 --max_minutes null"),
    ],
)
def test_the_same_again_takes_as_many_images(make_run, images, minutes, flags):
    """A run may have been stopped by hand or by a time limit, which is not reproducible on another machine."""
    run = make_run(recipe=RECIPE | {"max_minutes": minutes}, images_seen=images)
    assert f"recipe.yaml{flags}\n" in write_card(run, "user/name")


def test_models_of_people_stay_apart_in_the_model_index(bare, make_run):
    folder = make_run()
    measure(folder)
    result = {"task": {"type": "t"}, "dataset": {"type": "d", "name": "d"}, "metrics": [{"type": "m", "value": 1}]}
    theirs = [{"name": name, "results": [result]} for name in "AB"]
    old = write_card(bare, "user/name").replace("---\n", "---\n" + yaml.safe_dump({"model-index": theirs}), 1)
    with_ours = write_card(folder, "user/name", old)
    index = yaml.safe_load(with_ours.split("---\n")[1])["model-index"]
    assert index[:2] == theirs
    assert [model["name"] for model in index] == ["A", "B", "name"]
    again = write_card(bare, "user/name", with_ours)
    assert yaml.safe_load(again.split("---\n")[1])["model-index"] == theirs


def test_a_card_remembers_where_it_was_published(make_run):
    run = make_run()
    published = write_card(run, "user/name")
    assert published_as(published) == "user/name"
    assert write_card(run, existing=published) == published  # rewritten in the folder, for example by fagan-hf evaluate
    moved = write_card(run, "other/name", published)
    assert "user/name" not in moved
    assert published_as(moved) == "other/name"


@pytest.mark.parametrize("spoilt", ['"user/name\\") --bad"', '"../.."', "7", '["user/name"]'])
def test_a_card_that_names_no_repository_stays_in_its_folder(make_run, spoilt):
    run = make_run()
    published = write_card(run, "user/name")
    changed = published.replace('"published": "user/name"', f'"published": {spoilt}', 1)
    assert changed != published
    assert published_as(changed) is None
    assert f'from_pretrained("{run.as_posix()}")' in write_card(run, existing=changed)


def test_a_card_of_a_folder_names_the_folder(make_run):
    run = make_run()
    assert published_as(write_card(run)) is None
    assert published_as("") is None


def test_the_released_card_is_the_one_that_we_write():
    folder = Path(__file__).resolve().parents[3] / "model_cards/fagan-avatars-64"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert write_card(folder, existing=card) == card
    assert published_as(card) == "your-name/fagan-avatars-64"


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({}, "| augmentation | color, scale |"),
        ({"augment_probability": 0.5}, "| augmentation | color, scale; probability 0.5 each |"),
        ({"augment_target": 0.6}, "| augmentation | color, scale; adaptive probability, target 0.6 |"),
        ({"freeze_discriminator_layers": 2}, "| frozen | the discriminator's first 2 layers |"),
    ],
)
def test_how_few_pictures_were_made_more(make_run, fields, row):
    folder = make_run(recipe=RECIPE | {"augment": ["color", "scale"], **fields})
    assert "augment.png" not in write_card(folder)
    (folder / "augment.png").write_bytes(b"a picture")
    card = write_card(folder)
    assert row in card
    assert "(augment.png)" in card


def test_without_augmentation_there_is_no_row(make_run):
    card = write_card(make_run(recipe=RECIPE | {"augment": [], "augment_probability": 1.0, "augment_target": None}))
    assert "| augmentation |" not in card
    assert "| frozen |" not in card


@dataclass(frozen=True, kw_only=True)
class OwnAttentionSpec(SelfAttentionSpec):
    type: ClassVar[str] = "test_card_attention"


class OwnAttention(SelfAttention):
    pass


@dataclass(frozen=True, kw_only=True)
class OwnNormSpec(LayerSpec):
    type: ClassVar[str] = "test_card_norm"


@pytest.fixture
def own_layers():
    register_layer(OwnAttentionSpec, OwnAttention)
    register_layer(OwnNormSpec, nn.Identity)
    yield
    for spec in (OwnAttentionSpec, OwnNormSpec):
        del LAYER_SPECS[spec.type], LAYERS[spec.type]


@pytest.mark.usefixtures("own_layers")
def test_layers_that_are_not_ours(tmp_path):
    first, _, last = GENERATOR.layers
    own = OwnAttentionSpec(in_channels=16)
    config = replace(GENERATOR, layers=(first, OwnNormSpec(), own, OwnNormSpec(), last))
    save_repository(tmp_path, Generator(config))
    card = write_card(tmp_path)
    assert "3 of its generator's 3 layers use attention" in card
    assert "Custom layers among them: `test_card_attention`." in card
    [line] = re.findall(r"^import_code.*", card, flags=re.MULTILINE)
    assert line == f'import_code("{__name__}")  # registers test_card_norm, test_card_attention'

    save_repository(
        tmp_path,
        Generator(replace(CONVOLUTIONS, layers=(CONVOLUTIONS.layers[0], OwnNormSpec(), CONVOLUTIONS.layers[1]))),
    )
    card = write_card(tmp_path)
    assert "A generative adversarial network, without attention" in card


def test_images_seen_of_more(tmp_path):
    facts = {"data": AVATARS, "training": TRAINING | {"images_seen": 64}}
    save_repository(tmp_path, Generator(GENERATOR), facts=facts)
    card = write_card(tmp_path)
    assert "Trained on 64 of 20,000 cartoon portraits" in card
    assert "| images seen | 64, of 20,000 images |" in card
    assert "import_code" not in card
    save_repository(tmp_path, Generator(GENERATOR), facts=facts | {"training": TRAINING | {"images_seen": 20_000}})
    assert "Trained on 20,000 cartoon portraits" in write_card(tmp_path)
