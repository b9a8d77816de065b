import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from fagan_hf import FAGANPipeline
from fagan_hf.models import Generator
from fagan_hf.sampling import generate_images, latents_from_seeds
from tests.small import GENERATOR


@pytest.fixture
def pipe():
    return FAGANPipeline(Generator(GENERATOR).eval())


def test_seeds_are_pictures(pipe):
    expected = generate_images(pipe.generator, latents_from_seeds([3, 4], 8))
    output = pipe(seeds=[3, 4], batch_size=1)
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
        ({"num_images": 2, "seeds": [1]}, "exclude each other"),
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": 2.0}, "num_images is 2.0"),
        ({"seeds": 5}, r"seeds is 5; it must be a list: seeds=\[5\], or num_images=5"),
        ({"batch_size": 2.5}, "batch_size is 2.5; it must be a whole number"),
        ({"output_type": "jpg"}, "output_type is 'jpg'; it must be 'pil', 'np' or 'pt'"),
        ({"latents": torch.zeros(1, 8), "truncation": 0.5}, "truncation is for seeds"),
        ({"latents": torch.zeros(1, 9)}, "latents are"),
    ],
)
def test_nonsense_is_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def test_save_and_load(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    index = json.loads((tmp_path / "p/model_index.json").read_text())
    assert index["generator"] == ["modeling_fagan", "Generator"]
    loaded = FAGANPipeline.from_pretrained(tmp_path / "p", torch_dtype=torch.float64)
    assert loaded.dtype == torch.float64
    assert loaded.device == torch.device("cpu")
    assert loaded.to(torch.float32).generator.dtype == torch.float32
    assert loaded(seeds=[1]).images[0].tobytes() == pipe(seeds=[1]).images[0].tobytes()


def test_the_bare_diffusion_pipeline_loads_it(pipe, tmp_path):
    """In a process of its own, as a user of diffusers alone would."""
    pipe.save_pretrained(tmp_path / "p")
    expected = pipe(seeds=[1]).images[0].tobytes().hex()
    code = f"""
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(tmp_path / "p")!r}, trust_remote_code=True)
assert pipe(seeds=[1]).images[0].tobytes().hex() == {expected!r}
assert type(pipe).__module__ == "fagan_hf.pipeline", type(pipe)
"""
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert issubclass(FAGANPipeline, DiffusionPipeline)
