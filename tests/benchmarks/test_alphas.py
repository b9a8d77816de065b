"""The study of gates: its controls, its numbers against known ones, and every figure from tiny runs."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from benchmarks import alphas
from benchmarks.alphas_of import controls, runs
from benchmarks.alphas_of.controls import CONTROLS, replaced_weights
from benchmarks.alphas_of.figures import draw_controls, draw_gates, draw_looks, draw_worth
from benchmarks.alphas_of.looks import looks
from benchmarks.alphas_of.measuring import measure
from benchmarks.alphas_of.trajectories import POINTS, check_same_gates, read_history, sign_agreement, spread
from benchmarks.alphas_of.worth import necessity, rank_correlation, sufficiency
from fagan_hf.architectures.specs import LAYER_SPECS, ConvTransposeSpec
from fagan_hf.attention_maps import capture_attention, inspect_layers
from fagan_hf.data.avatar_parts import PARTS
from fagan_hf.hub.repository import save_repository
from fagan_hf.layers import AttentionLayer, FullAttention, gates
from fagan_hf.layers.registry import LAYERS
from fagan_hf.models import Discriminator, Generator
from tests.sessions import stopped_after_a_step
from tests.small import DISCRIMINATOR, EXTRACTOR, GENERATOR, with_gates


@pytest.fixture(scope="module", autouse=True)
def control_layers():
    """Register the layers of controls, and forget them when this file is done: other tests list all layers."""
    before = [dict(registry) for registry in (LAYER_SPECS, LAYERS)]
    from benchmarks.alphas_of import control_layers

    yield control_layers
    for registry, content in zip((LAYER_SPECS, LAYERS), before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return with_gates(Generator(GENERATOR))


@pytest.fixture
def latents():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


# Controls.


@pytest.mark.parametrize("control", CONTROLS)
def test_what_a_control_attends_by_is_what_it_reports(generator, latents, control):
    own = generator(latents)
    with replaced_weights(generator, control), capture_attention(generator, whole=True):  # refuses other weights
        replaced = generator(latents)
    if control != "local":  # untrained attention is nearly uniform, so its window holds all keys
        assert not torch.allclose(replaced, own, atol=1e-4)
    torch.testing.assert_close(generator(latents), own, rtol=0, atol=0)


def test_uniform_weights_have_all_entropy_and_random_ones_are_the_same_for_all_images(generator, latents):
    with replaced_weights(generator, "uniform"):
        assert all(report.entropy == pytest.approx(1) for report in inspect_layers(generator, latents) if report.gate)
    with replaced_weights(generator, "random"), capture_attention(generator, whole=True) as captured:
        generator(latents)
    for each in captured.values():
        assert torch.equal(each.weights[0], each.weights[1])
        assert each.weights.std() > 0


def test_local_windows_hold_the_nearest_keys(generator, latents):
    with replaced_weights(generator, "local"), capture_attention(generator, whole=True) as captured:
        generator(latents)
    weights = captured["layers.1"].weights[0, 0]  # [16 queries, 4, 4]
    counts = (weights > 0).flatten(1).sum(1)
    assert counts.min() == counts.max() > 0
    assert all(weights[4 * row + column, row, column] > 0 for row in range(4) for column in range(4))


def test_a_window_of_as_many_keys_as_there_are_changes_nothing():
    layer = AttentionLayer()
    layer.heads = 1
    query, key = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    own = layer.weights(query, key, torch.arange(9))
    torch.testing.assert_close(controls.control_weights("local", layer, query, key, torch.arange(9), window=9), own)
    one = controls.control_weights("local", layer, query, key, torch.arange(9), window=1)
    torch.testing.assert_close(one, torch.eye(9).expand(2, 1, 9, 9))


def test_another_images_weights_are_those_of_the_one_before():
    layer = AttentionLayer()
    layer.heads = 1
    query, key = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    own = layer.weights(query, key, torch.arange(4))
    found = controls.control_weights("swapped", layer, query, key, torch.arange(4))
    torch.testing.assert_close(found, own[[2, 0, 1]])
    with pytest.raises(ValueError, match="need at least 2 images in a batch, and there is 1"):
        controls.control_weights("swapped", layer, query[:1], key[:1], torch.arange(4))


def test_unknown_controls_and_networks_without_attention_are_refused(generator, control_layers):
    with (
        pytest.raises(ValueError, match="control is 'equal'; there are uniform, random"),
        replaced_weights(generator, "equal"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="Linear has no attention layer"),
        replaced_weights(torch.nn.Linear(1, 1), "uniform"),
    ):
        pass
    with pytest.raises(ValueError, match="control is 'swapped'; it must be own or one of"):
        control_layers.ControlledAttentionSpec(
            in_channels=8, out_channels=8, kernel_size=3, padding=1, control="swapped"
        )


# Layers to train controls with.


@pytest.mark.parametrize("control", ["own", "uniform", "random", "local"])
def test_controlled_layers_attend_by_what_they_report(control, control_layers):
    layer = control_layers.ControlledAttention(
        in_channels=8, out_channels=8, kernel_size=3, padding=1, control=control
    ).eval()
    layer.alpha.data.fill_(0.5)
    with capture_attention(layer, [(1, 1)]) as captured:
        output = layer(torch.randn(2, 8, 4, 4))
    assert captured[""].weights.sum().item() == pytest.approx(2)
    output.sum().backward()
    assert layer.alpha.grad is not None


def test_own_weights_are_full_attention(control_layers):
    options = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1, "initial_alpha": 0.4}
    plain, controlled = FullAttention(**options).eval(), control_layers.ControlledAttention(**options).eval()
    controlled.load_state_dict(plain.state_dict())
    feature_map = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(controlled(feature_map), plain(feature_map))


def test_frozen_gates_get_no_gradient(control_layers):
    layer = control_layers.ControlledAttention(
        in_channels=8, out_channels=8, kernel_size=3, padding=1, initial_alpha=1.0, is_gate_frozen=True
    )
    layer(torch.randn(2, 8, 4, 4)).square().sum().backward()
    assert layer.alpha.grad is None
    assert layer.value.weight.grad is not None


@pytest.mark.parametrize("arm", [arm for arm in runs.ARMS if arm != "classic"])
def test_all_arms_have_as_many_parameters(arm):
    counts = [
        sum(parameter.numel() for parameter in Generator(runs.architecture(each, runs.QUICK_SIZE)[0]).parameters())
        for each in (arm, "flagship")
    ]
    assert counts[0] == counts[1]


def test_an_arm_without_one_layer_freezes_that_gate_only(control_layers):
    generator, discriminator = (
        network(config)
        for network, config in zip(
            (Generator, Discriminator), runs.architecture("without_layers.3", runs.QUICK_SIZE), strict=True
        )
    )
    frozen = {name for name, layer in generator.named_modules() if getattr(layer, "is_gate_frozen", False)}
    assert frozen == {"layers.3"}
    assert not any(isinstance(layer, control_layers.ControlledAttention) for layer in discriminator.modules())


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("gates_2", "unknown arm 'gates_2'; did you mean"),
        ("without_layers.1", "no attention layer 'layers.1'; did you"),
    ],
)
def test_unknown_arms_are_refused(arm, words):
    with pytest.raises(ValueError, match=words):
        runs.architecture(arm, runs.QUICK_SIZE)


# Where layers look.


class Fixed(FullAttention):
    """All weight of every query on one key: itself, or the one mirrored at the vertical axis."""

    is_mirrored = False

    def attend(self, query, key, value):
        return value.flip(3) if self.is_mirrored else value

    def weights(self, query, key, queries):
        side = query.shape[3]
        row, column = queries // side, queries % side
        target = row * side + (side - 1 - column if self.is_mirrored else column)
        return torch.nn.functional.one_hot(target, side * side).float().expand(len(query), 1, -1, -1)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_looks_at_itself_and_at_the_mirrored_position(is_mirrored):
    layer = Fixed(8, 8, kernel_size=3, padding=1)
    layer.is_mirrored = is_mirrored
    parts = np.zeros((2, 4, 4), np.uint8)
    parts[:, :, 2:] = 1  # left and right half
    [look] = looks(torch.nn.Sequential(layer), torch.randn(2, 8, 4, 4), parts=parts).values()
    assert (look["itself"], look["mirrored"]) == ((0, 16) if is_mirrored else (16, 0))
    assert look["same_part"] == (0 if is_mirrored else 2)
    assert look["entropy"] == 0
    assert layer.training


def test_uniform_looks_are_1(generator, latents):
    parts = np.random.default_rng(0).integers(0, len(PARTS), (3, 8, 8)).astype(np.uint8)
    with replaced_weights(generator, "uniform"):
        found = looks(generator, latents, parts=parts)
    for look in found.values():
        assert {name: value for name, value in look.items() if value != pytest.approx(1, abs=2e-3)} == {}
    assert list(found) == ["layers.0", "layers.1", "layers.2"]


def test_networks_without_attention_and_missing_masks_are_refused(generator, latents):
    with pytest.raises(ValueError, match="Linear has no attention layer, so it looks nowhere"):
        looks(torch.nn.Linear(1, 1), latents)
    with pytest.raises(ValueError, match="masks of 1 images for 3 inputs"):
        looks(generator, latents, parts=np.zeros((1, 8, 8), np.uint8))


# Gates over training.


def _history(*gate, name="generator.layers.0.alpha", every=10):
    return {"images": [every * (index + 1) for index in range(len(gate))], "gates": {name: list(gate)}}


def test_spread_is_that_of_the_span_that_all_runs_cover():
    images, mean, least, most = spread([_history(0, 1, 2), _history(0, 3)], "generator.layers.0.alpha")
    assert (images[0], images[-1]) == (10, 20)
    assert (mean[-1], least[-1], most[-1]) == (2, 1, 3)


def test_signs_agree_or_not():
    histories = [_history(1.0, -0.5), _history(0.2, 0.1), _history(0.3, 2.0)]
    assert sign_agreement(histories, "generator.layers.0.alpha") == (2, 3)


def test_long_histories_are_thinned_and_end_with_the_last_line(tmp_path):
    lines = [{"images": index + 1, "generator.layers.0.alpha": index / 7} for index in range(1000)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    history = read_history(tmp_path)
    assert len(history["images"]) == POINTS
    assert (history["images"][-1], history["gates"]["generator.layers.0.alpha"][-1]) == (1000, 142.7143)


def test_runs_of_different_architectures_are_not_plotted_together():
    both = {"one": {"arm": "one", "history": _history(1, 2)}}
    both["two"] = {"arm": "two", "history": _history(1, 2, name="generator.layers.1.gamma")}
    with pytest.raises(ValueError, match=r"runs one and two have different architectures: only one of them has "):
        draw_gates(both)
    with pytest.raises(ValueError, match="there are no runs to plot"):
        check_same_gates({})


# What gates are worth.


def _worth(alphas, without, alone):
    each = zip(alphas, without, alone, strict=True)
    names = [{"alpha": alpha, "without": one, "alone": other} for alpha, one, other in each]
    return {
        "metric": "kid",
        "trained": 1.0,
        "closed": 9.0,
        "gates": {str(index): gate for index, gate in enumerate(names)},
    }


def test_worth_and_rank_correlation():
    run = _worth([0.1, -0.5, 2.0], [1.0, 2.0, 8.0], [9.0, 8.5, 10.0])
    assert [necessity(run, name) for name in run["gates"]] == [0, 1, 7]
    assert [sufficiency(run, name) for name in run["gates"]] == [0, 0.5, -1]
    assert rank_correlation([run], "necessity")[::2] == (pytest.approx(1), 3)
    assert rank_correlation([run, run], "sufficiency")[::2] == (pytest.approx(-0.5), 6)
    assert rank_correlation([_worth([0, 0, 0], [1, 2, 3], [1, 2, 3])], "necessity") == (None, None, 3)


@pytest.mark.parametrize("draw", [draw_worth, draw_looks, draw_controls])
def test_figures_without_their_numbers_say_so(draw):
    run = {"arm": "flagship", "history": _history(1), "worth": {"metric": "kid", "trained": 1.0}}
    with pytest.raises(ValueError, match="none of the runs"):
        draw({"flagship-0": run})


# Models that can't be studied.


def _save(folder, config=GENERATOR):
    save_repository(folder, Generator(config).eval(), Discriminator(DISCRIMINATOR).eval())
    return folder


def test_a_model_without_history_or_gates_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no history"):
        measure(_save(tmp_path / "model"), None, None, num_images=8)
    layers = (ConvTransposeSpec(in_channels=8, out_channels=3, kernel_size=8, activation="tanh"),)
    plain = dataclasses.replace(GENERATOR, layers=layers)
    with pytest.raises(ValueError, match="without attention, so there are no gates to study"):
        measure(_save(tmp_path / "plain", plain), None, None, num_images=8)


# The command.


@pytest.fixture
def quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["--quick", "--images", "32", "--num-images", "16", "--arms", "flagship", "frozen_1", "uniform"]


def test_the_quick_study_draws_every_figure_and_repeats_nothing(quick, tmp_path, monkeypatch, capsys):
    alphas.main([*quick, "--seeds", "1"], EXTRACTOR)
    results = json.loads((tmp_path / "runs/alphas/quick/alphas.json").read_text())
    assert sorted(results) == ["avatars-16/flagship-0", "avatars-16/frozen_1-0", "avatars-16/uniform-0"]
    assert len((tmp_path / "runs/alphas/quick/alphas.json").read_text().splitlines()) == 5  # a line for each run
    kinds = sorted(path.name.partition("-")[0] for path in (tmp_path / "runs/alphas/quick/figures").glob("*.png"))
    assert kinds == ["controls", "ends", "gates", "looks", "worth"]
    flagship = results["avatars-16/flagship-0"]
    assert set(flagship["controls"]) == set(CONTROLS)
    assert "same_part" in flagship["looks"]["discriminator"]["layers.0"]
    assert "same_part" not in flagship["looks"]["generator"]["layers.0"]
    assert set(results["avatars-16/frozen_1-0"]["history"]["gates"]["generator.layers.0.alpha"]) == {1.0}
    assert "rank correlation of |alpha| and necessity" in capsys.readouterr().out

    alphas.main([*quick, "--seeds", "2"], EXTRACTOR)  # only the second seed of the flagship is new
    monkeypatch.setattr(alphas.loop, "train", lambda session: pytest.fail("trained again"))
    again = json.loads((tmp_path / "runs/alphas/quick/alphas.json").read_text())
    assert {name: again[name] for name in results} == results
    assert sorted(set(again) - set(results)) == ["avatars-16/flagship-1"]
    assert again["avatars-16/flagship-1"]["history"] != flagship["history"]
    alphas.main([*quick, "--seeds", "2"], EXTRACTOR)
    with pytest.raises(SystemExit, match="whose network or recipe has changed since"):
        alphas.main([*quick, "--images", "48"], EXTRACTOR)


def test_a_quick_run_gives_the_same_numbers_again(quick, tmp_path):
    found = []
    for place in ("one", "two"):
        files = ["--output-dir", place, "--results", f"{place}/alphas.json", "--out", f"{place}/figures"]
        alphas.main([*quick[:-3], "flagship", "--seeds", "1", *files], EXTRACTOR)
        found.append(json.loads((tmp_path / place / "alphas.json").read_text())["avatars-16/flagship-0"])
    for name in ("history", "worth", "looks", "controls", "identity"):
        assert found[0][name] == found[1][name]


def test_a_stopped_study_resumes_to_the_same_numbers(quick, tmp_path, monkeypatch):
    command = [*quick[:-3], "flagship", "--seeds", "1"]
    message = "flagship-0 stopped after 16 images; give the same command to resume"
    with stopped_after_a_step(monkeypatch), pytest.raises(SystemExit, match=message):
        alphas.main(command, EXTRACTOR)
    alphas.main(command, EXTRACTOR)
    files = ["--output-dir", "whole", "--results", "whole/alphas.json", "--out", "whole/figures"]
    alphas.main([*command, *files], EXTRACTOR)
    resumed, whole = (
        json.loads((tmp_path / place / "alphas.json").read_text())["avatars-16/flagship-0"]
        for place in ("runs/alphas/quick", "whole")
    )
    for name in ("worth", "looks", "controls"):
        assert resumed[name] == whole[name]


def test_a_trained_model_is_studied_with_its_own_images(quick, tmp_path):
    alphas.main([*quick[:-3], "flagship", "--seeds", "1"], EXTRACTOR)
    folder = tmp_path / "runs/alphas/quick/avatars-16/flagship-0"
    options = ["--models", str(folder), "--num-images", "16", "--num-avatars", "48"]
    alphas.main([*options, "--results", "models.json", "--out", "figures"], EXTRACTOR)
    [(name, found)] = json.loads((tmp_path / "models.json").read_text()).items()
    ours = json.loads((tmp_path / "runs/alphas/quick/alphas.json").read_text())["avatars-16/flagship-0"]
    assert (name, found["arm"], found["num_avatars"]) == ("models/flagship-0", "flagship-0", 48)
    assert found["history"] == ours["history"]
    assert found["looks"] == ours["looks"]
    assert len(list((tmp_path / "figures").iterdir())) == 5


def test_nothing_to_draw_and_unknown_arms_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="there are no results to draw"):
        alphas.main(["--figures", "--results", str(tmp_path / "none.json")])
    with pytest.raises(SystemExit):
        alphas.parse(["--arms", "flagshp"])
    assert "unknown arm 'flagshp'; did you mean 'flagship'" in capsys.readouterr().err


def test_recipes_of_the_study_share_the_runs_of_the_quality_benchmark(tmp_path):
    study = runs.Study("avatars", None, 32, 64, tmp_path)
    shared, other = study.recipe("flagship", 1), study.recipe("gates_0.5", 1)
    assert (shared.name, shared.imports, other.name) == ("flagship-1", (), "gates_0.5-1")
    assert shared.run_dir.parent == other.run_dir.parent
    assert (shared.loss, shared.batch_size, shared.seed) == (other.loss, other.batch_size, other.seed)
    begun = [gate.item() for gate in gates(Generator(runs.architecture("gates_0.5", 32)[0])).values()]
    assert begun == [0.5] * len(begun)
