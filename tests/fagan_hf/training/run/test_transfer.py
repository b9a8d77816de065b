"""Fine-tuning across labels, image channels and image sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

import fagan_hf
from fagan_hf.architectures.conditioning import with_image_channels, with_labels
from fagan_hf.architectures.load import save_architecture
from fagan_hf.architectures.presets import PRESETS, flagship
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.run.transfer import carry_over, fits, layers_of

BASE = PRESETS["fagan-plain-32"]
# A flagship at three sizes: the larger has more layers next to the image.
WIDTHS = (16, 16, 8, 8)
SIZES = {
    8 * 2**more: flagship(
        image_size=8 * 2**more, latent_dim=8, generator=WIDTHS[: 2 + more], discriminator=(16, 8, 8)[: 1 + more][::-1]
    )
    for more in range(3)
}


@pytest.mark.parametrize("preset", ["fagan-32", "fagan-64-small", "fagan-plain-32", "dcgan-64"])
@pytest.mark.parametrize(("names", "channels"), [(("a", "b"), 3), ((), 1), (("a",), 4)])
def test_what_labels_and_channels_do_not_touch_is_kept(preset, names, channels):
    base = PRESETS[preset]
    changed = with_labels(with_image_channels(base, channels), names, "projection")
    for network, one, other in zip((Generator, Discriminator), base, changed, strict=True):
        assert fits(one, other)
        source, wanted = network(one), network(other)
        before = {name: tensor.clone() for name, tensor in wanted.state_dict().items()}
        state, converted, new = carry_over(source, wanted)
        wanted.load_state_dict(state)
        known = source.state_dict()
        has_bias = preset != "dcgan-64"
        assert bool(converted) == (channels == 1 or (channels == 4 and has_bias))
        for name, tensor in wanted.state_dict().items():
            if name in converted:
                assert tensor.shape == before[name].shape
                assert not torch.equal(tensor, before[name])
            else:
                assert torch.equal(tensor, before[name] if name in new else known[name]), name
        kept = sum(tensor.numel() for name, tensor in state.items() if name not in new)
        assert kept > 0.97 * sum(tensor.numel() for tensor in state.values())


def test_the_same_architecture_is_carried_over_whole():
    source, wanted = Generator(BASE[0]), Generator(BASE[0])
    state, converted, new = carry_over(source, wanted)
    assert converted == new == []
    assert all(torch.equal(state[name], tensor) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("other", ["fagan-32", "dcgan-64"])
def test_other_architectures_do_not_fit(other):
    assert not fits(BASE[0], PRESETS[other][0])
    assert not fits(BASE[1], PRESETS[other][1])


def test_concatenated_labels_do_not_fit():
    """They change the channels of a layer, and add one to the discriminator."""
    changed = with_labels(BASE, ("a",), "concatenation")
    assert [fits(*pair) for pair in zip(BASE, changed, strict=True)] == [False, False]


def test_names_of_layers():
    names = ["layers.3.norm.weight", "layers.3.bias", "projection.weight", "layers.10.x", "label_frequencies"]
    assert layers_of(names) == ["layers.3", "projection", "layers.10", "label_frequencies"]


@pytest.mark.parametrize(("small", "large"), [(8, 16), (16, 32), (8, 32)])
@pytest.mark.parametrize("is_growing", [True, False], ids=["growing", "shrinking"])
def test_a_model_for_another_size_keeps_what_is_away_from_the_image(small, large, is_growing):
    sizes = (small, large) if is_growing else (large, small)
    for network, one, other in zip((Generator, Discriminator), *(SIZES[size] for size in sizes), strict=True):
        assert fits(one, other)
        source, wanted = network(one), network(other)
        state, converted, new = carry_over(source, wanted)
        assert converted == []
        wanted.load_state_dict(state)
        fewer = min(len(one.layers), len(other.layers))
        for index in range(fewer - 1):  # all but the one from or to the image
            place = (index, index) if network is Generator else (-1 - index, -1 - index)
            known, own = (net.layers[at].state_dict() for net, at in zip((source, wanted), place, strict=True))
            assert known.keys() == own.keys()
            assert all(torch.equal(known[name], own[name]) for name in known)
        expected = len(other.layers) - fewer + 1
        assert 1 <= len(layers_of(new)) <= expected


def test_a_grown_models_keys_may_be_pooled_otherwise():
    pooled = flagship(image_size=32, latent_dim=8, generator=WIDTHS, discriminator=(8, 8, 16), keys=8)
    assert pooled != SIZES[32]
    assert all(fits(one, other) for one, other in zip(SIZES[16], pooled, strict=True))


def test_a_model_does_not_grow_into_one_with_other_channels():
    other = flagship(image_size=16, latent_dim=8, generator=(24, 16, 8), discriminator=(8, 24))
    assert [fits(*pair) for pair in zip(SIZES[8], other, strict=True)] == [False, False]
    deeper = flagship(image_size=16, latent_dim=9, generator=WIDTHS[:3], discriminator=(8, 16))
    assert not fits(SIZES[8][0], deeper[0]), "another latent"


# In a run


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_repository(tmp_path / "trained", Generator(BASE[0]), Discriminator(BASE[1]))
    for index in range(8):
        place = tmp_path / "gray" / ("cat", "dog")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40), 20 * index, np.uint8)).save(place / f"{index}.png")
    return tmp_path / "trained"


SHORT = {"batch_size": 4, "cpu_threads": 1, "max_images": 4, "log_every_images": 4, "name": "tuned"}


def test_a_run_says_what_is_new(trained, capsys):
    run = fagan_hf.train(
        dataset="gray", finetune_from=str(trained), channels=1, label_columns=["class"], upscale=True, **SHORT
    )
    said = capsys.readouterr().out
    assert "Converted to other image channels: generator layers.3, discriminator layers.0." in said
    assert "Reinitialized for other labels, channels or sizes: generator layers.0" in said
    assert "discriminator layers.0, discriminator projection" in said
    for network in (run.generator, run.discriminator):
        before = dict(type(network).from_pretrained(trained).named_parameters())
        after = dict(network.named_parameters())
        state, _, new = carry_over(type(network).from_pretrained(trained), network)
        kept = sum(after[name].numel() for name in after if name not in new)
        assert all(after[name].shape == state[name].shape and name in before for name in after.keys() - new)
        whole = sum(map(torch.numel, after.values()))
        assert kept < whole
        assert f"{kept:,} of {whole:,} parameters of the {network.subfolder}" in said
    assert run.generator.config.image_channels == 1
    assert run.generator.config.label_names == ("class=cat", "class=dog")


def test_a_layer_is_not_frozen_at_random_weights(trained):
    with pytest.raises(ValueError, match=r"layer 0 of the discriminator of .* would be frozen at random weights"):
        fagan_hf.train(
            dataset="gray", finetune_from=str(trained), channels=1, freeze_discriminator_layers=1, upscale=True, **SHORT
        )


def test_another_architecture_is_refused(trained):
    with pytest.raises(ValueError, match="has another architecture than this recipe; use --model"):
        fagan_hf.train(dataset="gray", finetune_from=str(trained), model="fagan-32", **SHORT)


def test_resuming_does_not_adapt_and_says_what_does(trained):
    wanted = (
        r"has other image channels than this recipe; use the same --channels, or start a new run with --finetune_from"
    )
    with pytest.raises(ValueError, match=wanted):
        fagan_hf.train(dataset="gray", resume_from=str(trained), channels=1, upscale=True, **SHORT)


def test_a_run_grows_a_smaller_model(trained, tmp_path, capsys):
    save_repository(tmp_path / "small", Generator(SIZES[8][0]), Discriminator(SIZES[8][1]))
    save_architecture(tmp_path / "large.json", SIZES[16])
    large = {"model": str(tmp_path / "large.json"), "dataset": "gray"}
    run = fagan_hf.train(finetune_from=str(tmp_path / "small"), **large, **SHORT)
    said = capsys.readouterr().out
    assert "Reinitialized for other labels, channels or sizes: generator layers.6" in said
    assert "discriminator layers.0, discriminator layers.1" in said
    assert run.generator.config.image_size == 16
    with pytest.raises(ValueError, match="has another image size than this recipe; use --model"):
        fagan_hf.train(resume_from=str(tmp_path / "small"), **large, **{**SHORT, "name": "other"})
    save_architecture(
        tmp_path / "wide.json", flagship(image_size=16, latent_dim=8, generator=(24, 16, 8), discriminator=(8, 24))
    )
    wide = large | {"model": str(tmp_path / "wide.json")}
    with pytest.raises(ValueError, match=r"from 8 to 16 pixels a model grows only into one whose layers away from"):
        fagan_hf.train(finetune_from=str(tmp_path / "small"), **wide, **{**SHORT, "name": "wide"})
