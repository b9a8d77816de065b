import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor

from fagan_hf import FAGANPipeline
from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.layers import gates, override_alpha
from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds
from fagan_hf.sampling.standing_statistics import measure_batch_statistics
from tests.hub import forked
from tests.small import DISCRIMINATOR, GENERATOR, with_gates


@pytest.fixture
def pipe():
    return FAGANPipeline(Generator(GENERATOR).eval())


def test_seeds_are_pictures(pipe):
    expected = generate_images(pipe.generator, latents_from_seeds([3, 4], 8))
    output = pipe(seeds=[3, 4], chunk_size=1)
    assert output.seeds == [3, 4]
    assert all(np.array_equal(np.asarray(a), b) for a, b in zip(output.images, expected, strict=True))


def test_forms_of_output(pipe):
    pil, array, tensor = (pipe(seeds=range(3), output_type=form).images for form in ("pil", "np", "pt"))
    assert (array.shape, array.dtype, array.min() >= 0, array.max() <= 1) == ((3, 8, 8, 3), np.float32, True, True)
    assert np.array_equal(tensor.permute(0, 2, 3, 1), array)
    assert np.array_equal(np.asarray(pil[1]), (array[1] * 255).round().astype(np.uint8))
    assert isinstance(pipe(return_dict=False), tuple)


def test_numbers_of_pictures_and_their_seeds(pipe):
    torch.manual_seed(1)
    first = pipe(num_images=2)
    again = pipe(seeds=first.seeds)
    assert [a.tobytes() for a in first.images] == [b.tobytes() for b in again.images]
    assert pipe(num_images=2).seeds != first.seeds
    assert len(pipe().images) == 1


def test_latents(pipe):
    latents = latents_from_seeds([7], 8)
    output = pipe(latents=latents)
    assert output.seeds is None
    assert output.images[0].tobytes() == pipe(seeds=[7]).images[0].tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 2, "seeds": [1]}, "mutually exclusive"),
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": 2.0}, "num_images is 2.0"),
        ({"seeds": 5}, r"seeds is 5; it must be a list: seeds=\[5\], or num_images=5"),
        ({"chunk_size": 2.5}, "chunk_size is 2.5; it must be a whole number"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number of at least 1"),
        ({"num_images": 64, "batch_size": 16}, "num_images is 64 and batch_size is 16; .* per forward pass use chunk_"),
        ({"seeds": [1], "batch_size": 16}, "batch_size and seeds are mutually .* per forward pass use chunk_size="),
        ({"seeds": [1], "generator": torch.Generator()}, "seeds and generator are mutually exclusive"),
        ({"latents": torch.zeros(1, 8), "generator": torch.Generator()}, "latents and generator are mutually"),
        ({"generator": 5}, "generator is 5; it must be a torch.Generator, .*or a list .*for numbers use seeds="),
        ({"generator": []}, r"generator is \[\]; it must be"),
        ({"generator": [5]}, r"generator is \[5\]; it must be"),
        ({"generator": [torch.Generator()] * 2, "num_images": 3}, "2 generators for 3 images; give one generator, or"),
        ({"generator": torch.Generator(), "truncation": 0.0}, "truncation is 0.0; it must be above 0"),
        ({"num_inference_steps": 50}, "num_inference_steps is 50, but a GAN .* single forward pass; leave it out"),
        ({"output_type": "jpg"}, "output_type is 'jpg'; it must be 'pil', 'np' or 'pt'"),
        ({"latents": torch.zeros(1, 8), "truncation": 0.5}, "truncation applies to sampled latents only"),
        ({"latents": torch.zeros(1, 9)}, "latents are"),
    ],
)
def test_nonsense_is_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance_scale": 7.5}, "FAGANPipeline takes no argument 'guidance_scale': .*use truncation="),
        ({"prompt": "a cat"}, "'prompt': a GAN takes no text"),
        ({"eta": 0.0}, "'eta': a GAN generates an image in a single forward pass; leave it out"),
        ({"callback_on_step_end": print}, "'callback_on_step_end': a GAN generates"),
        ({"height": 64}, "'height': a model generates images of one size"),
        ({"num_image": 4}, r"'num_image'; did you mean 'num_images'\? There are: alpha, batch_size, chunk_size, "),
        ({"truncaton": 0.5}, "did you mean 'truncation'"),
        ({"output_typ": "np"}, "did you mean 'output_type'"),
    ],
)
def test_unknown_arguments_are_explained(pipe, arguments, message):
    with pytest.raises(TypeError, match=message):
        pipe(**arguments)


def test_batch_size_is_the_number_of_images(pipe):
    """As in diffusers, whose unconditional pipelines are called in the same way."""
    assert len(pipe(batch_size=16).images) == 16
    assert len(pipe(16).images) == 16
    assert len(pipe(num_images=3, batch_size=3).images) == 3
    images = pipe(batch_size=2, generator=torch.manual_seed(0), num_inference_steps=1, output_type="np").images
    assert images.shape == (2, 8, 8, 3)
    assert pipe(batch_size=2, return_dict=False, output_type="np")[0].shape == (2, 8, 8, 3)


def test_chunks_do_not_change_the_images(pipe):
    passes = []
    pipe.generator.register_forward_pre_hook(lambda module, arguments: passes.append(len(arguments[0])))
    expected = pipe(seeds=range(5), output_type="pt").images
    passes.clear()
    torch.testing.assert_close(pipe(seeds=range(5), chunk_size=2, output_type="pt").images, expected)
    assert passes == [2, 2, 1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_latents_from_a_torch_generator_are_those_of_diffusers(pipe):
    output = pipe(batch_size=3, generator=seeded(), output_type="pt")
    latents = randn_tensor((3, 8), generator=seeded())
    assert torch.equal(output.images, pipe(latents=latents, output_type="pt").images)
    assert output.seeds is None
    assert torch.equal(pipe(batch_size=3, generator=seeded(), output_type="pt").images, output.images)
    assert not torch.equal(pipe(batch_size=3, generator=seeded(1), output_type="pt").images, output.images)
    assert len(pipe(generator=seeded()).images) == 1


@pytest.mark.parametrize("kind", [list, tuple])
def test_one_torch_generator_for_each_image(pipe, kind):
    generators = kind(map(seeded, (5, 6, 7)))
    latents = randn_tensor((3, 8), generator=[*map(seeded, (5, 6, 7))])
    expected = pipe(latents=latents, output_type="pt").images
    assert torch.equal(pipe(generator=generators, output_type="pt").images, expected)
    alone = pipe(generator=[seeded(6)], num_images=1, output_type="pt").images
    torch.testing.assert_close(alone[0], expected[1])


def test_truncation_shortens_latents_from_a_torch_generator(pipe):
    expected = pipe(batch_size=2, generator=seeded(), truncation=0.5, output_type="pt").images
    assert torch.equal(expected, pipe(batch_size=2, generator=seeded(), truncation=0.5, output_type="pt").images)
    assert not torch.allclose(expected, pipe(batch_size=2, generator=seeded(), output_type="pt").images)


def test_save_and_load(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    index = json.loads((tmp_path / "p/model_index.json").read_text())
    assert index["generator"] == ["modeling_fagan", "Generator"]
    loaded = FAGANPipeline.from_pretrained(tmp_path / "p", torch_dtype=torch.float64)
    assert loaded.dtype == torch.float64
    assert loaded.device == torch.device("cpu")
    assert loaded.to(torch.float32).generator.dtype == torch.float32
    assert loaded(seeds=[1]).images[0].tobytes() == pipe(seeds=[1]).images[0].tobytes()


def test_a_revision_may_be_part_of_the_name(pipe, tmp_path, monkeypatch):
    asked = []

    def snapshot(repo_id, *, revision, **_):
        asked.append((repo_id, revision))
        return str(tmp_path)

    pipe.save_pretrained(tmp_path)
    monkeypatch.setattr("fagan_hf.hub.client.snapshot_download", snapshot)
    FAGANPipeline.from_pretrained("user/name@v1")
    FAGANPipeline.from_pretrained("user/name", revision="v1")
    assert asked == [("user/name", "v1")] * 2


def test_half_precision_draws_almost_the_same(tmp_path):
    generator = with_gates(Generator.from_preset("fagan-32"))
    measure_batch_statistics(generator, [(torch.randn(64, 64), None)])
    FAGANPipeline(generator).save_pretrained(tmp_path)
    single, half = (
        FAGANPipeline.from_pretrained(tmp_path, dtype=dtype)(seeds=range(4), output_type="pt").images
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == torch.float32
    assert single.std() > 0.08
    assert 0 < (single - half).abs().mean() < 1 / 255
    assert (single - half).abs().max() < 10 / 255


def test_a_loaded_pipeline_lies_channels_last(pipe, tmp_path):
    """Convolutions are faster in this layout; saving it again changes nothing."""
    pipe.save_pretrained(tmp_path / "p")
    loaded = FAGANPipeline.from_pretrained(tmp_path / "p")
    weight = loaded.generator.layers[0].value.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    loaded.save_pretrained(tmp_path / "again")
    first, again = (tmp_path / each / "generator" / "model.safetensors" for each in ("p", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_the_bare_diffusion_pipeline_loads_it(pipe, tmp_path):
    """In a separate process, like a user who imports only diffusers."""
    pipe.save_pretrained(tmp_path / "p")
    expected = pipe(seeds=[1]).images[0].tobytes().hex()
    code = f"""
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(tmp_path / "p")!r}, trust_remote_code=True)
assert pipe(seeds=[1]).images[0].tobytes().hex() == {expected!r}
assert type(pipe).__module__ == "fagan_hf.pipeline", type(pipe)
"""
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    result = forked.run(["-c", code], environment, tmp_path, tmp_path / "log", timeout=120)
    assert result.returncode == 0, result.stderr
    assert issubclass(FAGANPipeline, DiffusionPipeline)


NAMES = ("beard", "hair=red", "hair=black")


@pytest.fixture
def conditional():
    """A model whose images depend on labels; conditional batch norm has no effect at first."""
    generator = Generator(with_labels((GENERATOR, DISCRIMINATOR), NAMES, "projection")[0]).eval()
    torch.nn.init.normal_(generator.layers[0].batch_norm.scale.weight)
    torch.nn.init.normal_(generator.layers[0].batch_norm.shift.weight)
    return FAGANPipeline(generator)


def test_labels_by_name_or_as_vectors(conditional):
    by_name = conditional(seeds=[1, 2], labels={"beard": True, "hair": "black"}, output_type="pt").images
    vectors = torch.tensor([[1.0, 0, 1]]).expand(2, -1)
    assert torch.equal(by_name, conditional(seeds=[1, 2], labels=vectors, output_type="pt").images)
    for_each = conditional(
        seeds=[1, 2], labels=[{"beard": 1, "hair": "black"}, {"beard": 1, "hair": "red"}], output_type="pt"
    ).images
    assert torch.equal(for_each[0], by_name[0])
    assert not torch.equal(for_each[1], by_name[1])


def test_open_labels_are_drawn_by_seed(conditional):
    together = conditional(seeds=[3, 4, 5], output_type="pt").images
    torch.testing.assert_close(conditional(seeds=[5], output_type="pt").images[0], together[2])
    latents = latents_from_seeds([7, 8], 8)
    assert conditional(latents=latents, output_type="pt").images.shape == (2, 3, 8, 8)


def test_open_labels_are_drawn_from_the_torch_generator(conditional):
    conditional.generator.label_frequencies.copy_(torch.tensor([0.5, 0.5, 0.5]))
    latents = randn_tensor((16, 8), generator=seeded())

    def labels_of(images):
        """Recognize the labels of each image among all."""
        every = [torch.tensor(bits).expand(16, -1) for bits in ([0.0, 1, 0], [0.0, 0, 1], [1.0, 1, 0], [1.0, 0, 1])]
        options = [conditional(latents=latents, labels=each, output_type="pt").images for each in every]
        return [min(range(4), key=lambda which: (options[which][i] - images[i]).abs().sum()) for i in range(16)]

    first = conditional(16, generator=seeded(), output_type="pt").images
    assert torch.equal(conditional(16, generator=seeded(), output_type="pt").images, first)
    found = labels_of(first)
    assert len(set(found)) > 1
    by_position = labels_of(conditional(latents=latents, output_type="pt").images)
    assert found != by_position


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"moustache": 1}, r"unknown label 'moustache'; .*There are: beard, hair; hair is one of red, black"),
        ([{"beard": 1}], "1 label mappings for 2 images"),
        (torch.zeros(2, 2), r"labels are \[2, 2\]; they must be \[2, 3\], a column for each of beard, hair=red"),
    ],
)
def test_labels_that_do_not_fit(conditional, labels, message):
    with pytest.raises(ValueError, match=message):
        conditional(seeds=[1, 2], labels=labels)


def test_an_unconditional_model_has_no_labels():
    with pytest.raises(ValueError, match="this generator is unconditional"):
        FAGANPipeline(Generator(GENERATOR).eval())(labels={"beard": 1})


def test_label_frequencies_are_saved(conditional, tmp_path):
    conditional.generator.label_frequencies.copy_(torch.tensor([1.0, 0, 1]))
    conditional.save_pretrained(tmp_path)
    again = FAGANPipeline.from_pretrained(tmp_path)
    free = again(seeds=range(3), output_type="pt").images
    assert torch.equal(free, again(seeds=range(3), labels={"beard": 1, "hair": "black"}, output_type="pt").images)


@pytest.mark.parametrize("number", [-1.0, 1.5, float("nan")])
def test_label_vectors_stay_in_their_range(conditional, number):
    with pytest.raises(ValueError, match=r"labels are from .*each must be from 0 \(false\) to 1"):
        conditional(seeds=[1], labels=torch.tensor([[number, 1.0, 0.0]]))


def test_half_precision_draws_the_same_labels(conditional, tmp_path):
    conditional.generator.label_frequencies.copy_(torch.tensor([0.123456, 0.3, 0.7]))
    expected = conditional.generator.label_frequencies.clone()
    conditional.generator.to(torch.bfloat16)
    assert conditional.generator.dtype == torch.bfloat16
    assert torch.equal(conditional.generator.label_frequencies, expected)
    conditional.save_pretrained(tmp_path)
    again = FAGANPipeline.from_pretrained(tmp_path).generator
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.label_frequencies, expected)
    assert FAGANPipeline(again.double()).generator.label_frequencies.dtype == torch.float32


def test_gates_stay_turned_for_truncated_latents():
    generator = Generator(GENERATOR).eval()
    for gate in gates(generator).values():
        torch.nn.init.constant_(gate, 0.5)
    pipe = FAGANPipeline(generator)
    with override_alpha(generator, 0.0):
        outside = pipe(seeds=[1, 2], truncation=0.7, output_type="pt").images
        mixed = pipe(seeds=[1, 2], truncation=0.7, alpha={"layers.2": 0.5}, output_type="pt").images
    inside = pipe(seeds=[1, 2], truncation=0.7, alpha=0.0, output_type="pt").images
    assert torch.equal(outside, inside)
    assert not torch.allclose(inside, pipe(seeds=[1, 2], truncation=0.7, output_type="pt").images)
    alpha = {"layers.0": 0.0, "layers.1": 0.0}
    assert torch.equal(mixed, pipe(seeds=[1, 2], truncation=0.7, alpha=alpha, output_type="pt").images)


def test_a_generator_made_in_inference_mode():
    with torch.inference_mode():
        generator = Generator(GENERATOR).eval()
    assert len(FAGANPipeline(generator)(seeds=[1], truncation=0.5).images) == 1


def test_weights_changed_behind_torchs_back_are_measured_anew(pipe):
    before = pipe(seeds=[1], truncation=0.5, output_type="pt").images
    pipe.generator.layers[0].value.weight.data.mul_(1.5)
    pipe.generator.layers[0].alpha.data.fill_(1.0)
    after = pipe(seeds=[1], truncation=0.5, output_type="pt").images
    assert torch.equal(after, FAGANPipeline(pipe.generator)(seeds=[1], truncation=0.5, output_type="pt").images)
    assert not torch.equal(before, after)


def test_the_alpha_dial():
    generator = Generator(GENERATOR).eval()
    for gate in gates(generator).values():
        torch.nn.init.constant_(gate, 0.5)
    pipe = FAGANPipeline(generator)

    def draw(alpha):
        return pipe(seeds=[1], alpha=alpha, output_type="pt").images

    assert torch.equal(draw(0.5), draw(None))
    assert not torch.allclose(draw(0.0), draw(None))
    assert not torch.allclose(draw({"layers.2": 1.0}), draw(None))
    assert torch.equal(draw(None), draw({"layers.0": 0.5}))
    with pytest.raises(ValueError, match=r"unknown attention layer 'layers\.9'"):
        draw({"layers.9": 1.0})


def test_outside_of_the_main_thread(pipe, tmp_path):
    """Several at once, as in a web server: saving, loading, and generating with different settings."""
    torch.nn.init.constant_(pipe.generator.layers[0].alpha, 0.5)
    settings = [{"truncation": 0.5}, {"alpha": 0.0}, {"chunk_size": 1}, {"truncation": 0.7}]
    expected = [pipe(seeds=[1, 2], output_type="pt", **each).images for each in settings]

    def work(number):
        assert threading.current_thread() is not threading.main_thread()
        pipe.save_pretrained(tmp_path / str(number))
        loaded = FAGANPipeline.from_pretrained(tmp_path / str(number), device_map="cpu")
        shared = pipe(seeds=[1, 2], output_type="pt", **settings[number]).images
        return shared, loaded(seeds=[1, 2], output_type="pt", **settings[number]).images

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    for (shared, loaded), images in zip(found, expected, strict=True):
        torch.testing.assert_close(shared, images)
        torch.testing.assert_close(loaded, images)
    assert torch.is_grad_enabled()
