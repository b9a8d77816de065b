import os
import pickle
import re

import pytest
import torch
import yaml
from torch import nn

from fagan_hf.architectures.specs import (
    BatchNormSpec,
    ConvSpec,
    ConvTransposeSpec,
    DropoutSpec,
    FullAttentionSpec,
    SelfAttentionSpec,
)
from fagan_hf.cli import main
from fagan_hf.models import Discriminator, Generator
from fagan_hf.models.legacy.conf import LegacyLayer, read_conf
from fagan_hf.models.legacy.configs import discriminator_config, generator_config
from fagan_hf.models.legacy.convert import convert
from fagan_hf.models.legacy.weights import convert_state_dict, read_state_dict

# As users write it: comments, dashes on separate lines, tuples that are text to YAML, names in any case.
CONF = """\
# a generator of 8x8 images
architecture:
  -
    name: "Full_Attention"
    channels: (10, 16)
    kernel_dims: (4, 4)
    stride: [1, 1]
    padding: "(0,0)"
    bias: True
    use_spectral_norm: True
    use_batch_norm: False
    squeeze_factor: 2
    transpose_conv: True
    activation: "LReLU(0.25)"
  -
    name: "ignore_attn_maps"
  - name: "batch_norm"
    num_channels: 16
  - name: "dropout"
    drop_prob: 0.4
  - name: "self_attention"
    channels: 16
    bias: False
    squeeze_factor: 4
  - name: "ignore_attn_maps"
  - name: "CONV_TRANSPOSE"
    channels: (16, 8)
    kernel_dims: (4, 4)
    stride: (2, 2)
    padding: (1, 1)
    bias: True
    batch_norm: True
    activation: "lrelu(1.0)"
  - name: "conv"
    channels: (8, 3)
    kernel_dims: (3, 3)
    stride: (1, 1)
    padding: (1, 1)
    bias: False
    batch_norm: False
    spectral_norm: True
    activation: "Tanh"
"""
SPECS = (
    FullAttentionSpec(
        in_channels=10, out_channels=16, kernel_size=4, transposed=True, squeeze_factor=2, batch_norm=False,
        activation="leaky_relu(0.25)",
    ),
    BatchNormSpec(in_channels=16),
    DropoutSpec(probability=0.4),
    SelfAttentionSpec(in_channels=16, squeeze_factor=4, bias=False),
    ConvTransposeSpec(
        in_channels=16, out_channels=8, kernel_size=4, stride=2, padding=1, spectral_norm=False, batch_norm=True
    ),
    ConvSpec(in_channels=8, out_channels=3, kernel_size=3, padding=1, bias=False, activation="tanh"),
)  # fmt: skip
CONV = {
    "name": "conv",
    "channels": "(3, 1)",
    "kernel_dims": "(8, 8)",
    "stride": "(1, 1)",
    "padding": "(0, 0)",
    "bias": True,
    "batch_norm": False,
    "activation": "relu",
}
SELF = {"name": "self_attention", "channels": 8, "bias": True, "squeeze_factor": 4}
FULL = {
    **{key: value for key, value in CONV.items() if key != "batch_norm"},
    "name": "full_attention",
    "use_spectral_norm": True,
    "use_batch_norm": True,
    "squeeze_factor": 1,
    "transpose_conv": False,
}
IGNORE = {"name": "ignore_attn_maps"}


@pytest.fixture
def conf(tmp_path):
    def write(content):
        path = tmp_path / "net.conf"
        text = content if isinstance(content, str) else yaml.safe_dump({"architecture": content})
        path.write_text(text, encoding="utf-8")
        return path

    return write


def without(entry, key):
    return {name: value for name, value in entry.items() if name != key}


def test_the_whole_language(conf):
    layers = read_conf(conf(CONF))
    assert tuple(layer.spec for layer in layers) == SPECS
    assert [layer.prefix for layer in layers] == [f"model.{index}" for index in (0, 2, 3, 4, 6, 7)]


@pytest.mark.parametrize(
    ("text", "activation"),
    [
        ("relu", "relu"),
        ("Sigmoid", "sigmoid"),
        ("TANH", "tanh"),
        ("lrelu(0.1)", "leaky_relu(0.1)"),
        ("LRELU(.1)", "leaky_relu(0.1)"),
        ("lrelu(1)", "identity"),
        ("lrelu(1e-05)", "leaky_relu(1e-05)"),
    ],
)
def test_activations(conf, text, activation):
    [layer] = read_conf(conf([CONV | {"activation": text}]))
    assert layer.spec.activation == activation


@pytest.mark.parametrize("entry", [SELF, FULL])
def test_attention_with_and_without_an_activation(conf, entry):
    entry = without(entry, "activation")
    [layer] = read_conf(conf([entry, IGNORE]))
    assert layer.spec.activation == "identity"
    [layer] = read_conf(conf([entry | {"activation": "lrelu(0.2)"}, IGNORE]))
    assert layer.spec.activation == "leaky_relu(0.2)"


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ([{"name": "convolution"}], "architecture[0]: name is 'convolution'; did you mean 'conv'? There are:"),
        ([CONV, {"channels": 3}], "architecture[1] is {'channels': 3}; it must be a mapping with a 'name'"),
        (["conv"], "architecture[0] is 'conv'; it must be a mapping with a 'name'"),
        (
            [CONV | {"activation": "swish"}],
            "architecture[0] (conv): activation is 'swish'; There are: lrelu(0.2), relu",
        ),
        ([CONV | {"activation": "tahn"}], "activation is 'tahn'; did you mean 'tanh'?"),
        ([CONV | {"activation": "relu(2)"}], "activation is 'relu(2)'"),
        ([CONV | {"activation": None}], "activation is None"),
        ([CONV | {"activation": "lrelu"}], "activation is 'lrelu'; it must be written like 'lrelu(0.2)'"),
        ([CONV | {"activation": "lrelu(x)"}], "activation is 'lrelu(x)'; it must be written like 'lrelu(0.2)'"),
        ([CONV | {"activation": "lrelu(inf)"}], "activation is 'lrelu(inf)'; it must be written like 'lrelu(0.2)'"),
        (
            [without(CONV, "activation")],
            "architecture[0] (conv): 'activation' is missing; the layer has ",
        ),
        ([without(CONV, "stride") | {"strides": "(1, 1)"}], "'stride' is missing; the layer has "),
        ([CONV | {"kernel_dims": "(4, 2)"}], "kernel_dims is '(4, 2)'; both numbers must be equal"),
        ([CONV | {"stride": [1, 2]}], "stride is [1, 2]; both numbers must be equal"),
        ([CONV | {"channels": "(3)"}], "channels is '(3)'; it must be two whole numbers like (4, 4)"),
        ([CONV | {"channels": 3}], "channels is 3; it must be two whole numbers like (4, 4)"),
        ([CONV | {"channels": [3, True]}], "channels is [3, True]; it must be two whole numbers"),
        ([CONV | {"channels": "(3, 0)"}], "out_channels is 0; it must be a whole number from 1 to 65,536"),
        ([CONV | {"padding": "(-1, -1)"}], "padding is -1"),
        ([CONV | {"bias": "maybe"}], "bias is 'maybe'; it must be true or false"),
        ([SELF | {"channels": "(8, 8)"}, IGNORE], "architecture[0] (self_attention): in_channels is '(8, 8)'"),
        ([SELF | {"squeeze_factor": 16}, IGNORE], "squeeze_factor is 16; it must be at most in_channels, 8"),
        ([without(SELF, "squeeze_factor"), IGNORE], "'squeeze_factor' is missing"),
        ([without(FULL, "transpose_conv"), IGNORE], "'transpose_conv' is missing"),
        ([{"name": "dropout", "drop_prob": 1.5}], "architecture[0] (dropout): probability is 1.5"),
        ([{"name": "batch_norm", "num_channels": "8"}], "architecture[0] (batch_norm): in_channels is '8'"),
        ([SELF], "architecture[0] (self_attention): nothing follows it; it must be ignore_attn_maps"),
        ([FULL, CONV], "architecture[0] (full_attention): conv follows it; it must be ignore_attn_maps"),
        ([CONV, IGNORE], "architecture[1] (ignore_attn_maps): it follows conv; it must directly follow an"),
        ([IGNORE], "architecture[0] (ignore_attn_maps): it follows nothing"),
        ([SELF, IGNORE, IGNORE], "architecture[2] (ignore_attn_maps): it follows ignore_attn_maps"),
        ("architecture: [", "it is not valid YAML"),
        ("architecture: !!python/object/apply:os.getcwd []", "it is not valid YAML"),
        ("layers: []", "it has no layers; it must be YAML with a list of layers under 'architecture:'"),
        ("architecture: []", "it has no layers"),
        ("architecture: {name: conv}", "it has no layers"),
        ("", "it has no layers"),
    ],
)
def test_what_is_wrong_in_a_conf(conf, architecture, message):
    path = conf(architecture)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_conf(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_conf_that_is_no_text(tmp_path):
    (tmp_path / "net.conf").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="it is not valid YAML"):
        read_conf(tmp_path / "net.conf")


def test_a_conf_that_is_not_there(conf, tmp_path):
    conf(CONF)
    with pytest.raises(FileNotFoundError, match=r"nett\.conf' does not exist; did you mean 'net\.conf'"):
        read_conf(tmp_path / "nett.conf")


def legacy(*specs):
    return [LegacyLayer(spec, f"model.{index}") for index, spec in enumerate(specs)]


def test_a_generator_knows_its_sizes(conf):
    config = generator_config(read_conf(conf(CONF)))
    assert (config.latent_dim, config.image_size, config.layers) == (10, 8, SPECS)
    config = generator_config(read_conf(conf(CONF)), ["beard", "glasses"])
    assert (config.latent_dim, config.label_names, config.conditioning) == (8, ("beard", "glasses"), "concatenation")


HALVE = ConvSpec(in_channels=3, out_channels=8, kernel_size=4, stride=2, padding=1)


@pytest.mark.parametrize(
    ("specs", "known", "size"),
    [
        ((HALVE, ConvSpec(in_channels=8, out_channels=1, kernel_size=4)), None, 8),  # 8 or 9
        ((HALVE, ConvSpec(in_channels=8, out_channels=1, kernel_size=4)), 9, 9),
        ((HALVE, ConvSpec(in_channels=8, out_channels=1, kernel_size=4)), 16, 8),
        ((HALVE, ConvSpec(in_channels=8, out_channels=1, kernel_size=5)), None, 10),  # 10 or 11
        ((HALVE, ConvSpec(in_channels=8, out_channels=1, kernel_size=2, stride=4)), None, 8),  # 4 to 11
    ],
)
def test_a_discriminator_finds_its_image_size(specs, known, size):
    assert discriminator_config(legacy(*specs), image_size=known).image_size == size


def test_layers_that_are_no_generator():
    said = r"model\.0 \(conv\): .* the output for a 1x1 input is empty; is it a discriminator\?"
    with pytest.raises(ValueError, match=said):
        generator_config(legacy(HALVE))
    image = ConvTransposeSpec(in_channels=8, out_channels=3, kernel_size=4)
    with pytest.raises(ValueError, match="the layers don't form a generator: latent_dim is 0"):
        generator_config(legacy(image), list("abcdefgh"))
    wrong = ConvTransposeSpec(in_channels=8, out_channels=5, kernel_size=4)
    with pytest.raises(ValueError, match="the last layer outputs 5 channels at 4x4"):
        generator_config(legacy(wrong))


def test_layers_that_are_no_discriminator():
    same = ConvSpec(in_channels=3, out_channels=1, kernel_size=2048)
    with pytest.raises(ValueError, match="no image size from 1 to 1024 ends at 1x1"):
        discriminator_config(legacy(same))
    judge = ConvSpec(in_channels=10, out_channels=1, kernel_size=4)
    with pytest.raises(
        ValueError, match=r"layers\[0\] outputs 8 channels.* conditional network needs the names of its"
    ):
        discriminator_config(legacy(HALVE, judge))


# The original's names for the weights of CONF, without torch's additions.
def weights(dtype=torch.float32):
    def conv(*shape, bias=True):
        return {"weight": torch.randn(shape)} | ({"bias": torch.randn(shape[1])} if bias else {})

    def norm(channels):
        names = "weight", "bias", "running_mean", "running_var"
        return {name: torch.rand(channels) for name in names} | {"num_batches_tracked": torch.tensor(7)}

    matrix = torch.randn(10, 16, 4, 4)
    parts = {
        "0": {"gamma": torch.randn(1)},
        "0.query_conv": conv(10, 5, 4, 4),
        "0.key_conv": conv(10, 5, 4, 4),
        "0.value_conv": conv(10, 16, 4, 4),
        "0.residual_conv.module": {
            "bias": torch.randn(16),
            "weight_u": torch.randn(10),
            "weight_v": torch.randn(16 * 4 * 4),
            "weight_bar": matrix,
        },
        "0.batch_norm": norm(16),
        "2": norm(16),
        "4": {"gamma": torch.randn(1)},
        "4.query_conv": conv(4, 16, 1, 1, bias=False),
        "4.key_conv": conv(4, 16, 1, 1, bias=False),
        "4.value_conv": conv(16, 16, 1, 1, bias=False),
        "6.0": conv(16, 8, 4, 4),
        "6.1": norm(8),
        "7.0.module": {
            "weight_u": torch.randn(3),
            "weight_v": torch.randn(8 * 3 * 3),
            "weight_bar": torch.randn(3, 8, 3, 3),
        },
    }
    state = {f"model.{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@pytest.fixture
def files(conf, tmp_path):
    """CONF, and a file for weights."""
    return conf(CONF), tmp_path / "GAN_GEN_1.pth"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_every_weight_finds_its_place(files, dtype):
    state = weights(dtype)
    torch.save(state, files[1])
    generator, discriminator = convert(*files)
    assert discriminator is None
    assert generator.dtype == dtype
    assert not generator.training
    ours = generator.state_dict()
    for name, legacy_name in {
        "0.alpha": "0.gamma",
        "0.query.weight": "0.query_conv.weight",
        "0.residual.bias": "0.residual_conv.module.bias",
        "0.residual.parametrizations.weight.original": "0.residual_conv.module.weight_bar",
        "0.residual.parametrizations.weight.0.u": "0.residual_conv.module.weight_u",
        "0.residual.parametrizations.weight.0.v": "0.residual_conv.module.weight_v",
        "1.batch_norm.running_var": "2.running_var",
        "1.batch_norm.num_batches_tracked": "2.num_batches_tracked",
        "3.gamma": "4.gamma",
        "3.value.weight": "4.value_conv.weight",
        "4.conv.bias": "6.0.bias",
        "4.batch_norm.weight": "6.1.weight",
        "5.conv.parametrizations.weight.original": "7.0.module.weight_bar",
    }.items():
        assert torch.equal(ours[f"layers.{name}"].flatten(), state[f"model.{legacy_name}"].flatten()), name
    assert len(ours) == len(state) - 5  # the batch norm that is created but not used


def test_weights_of_two_precisions_become_the_wider(files):
    state = weights() | {"model.4.gamma": torch.tensor([1 / 3], dtype=torch.float64)}
    torch.save(state, files[1])
    generator, _ = convert(*files)
    assert generator.dtype == torch.float64
    assert generator.layers[3].gamma.item() == 1 / 3


def test_weights_from_before_batches_were_counted(files):
    state = {name: tensor for name, tensor in weights().items() if "num_batches_tracked" not in name}
    torch.save(state, files[1])
    generator, _ = convert(*files)
    assert generator.layers[1].batch_norm.num_batches_tracked == 0


def test_only_the_outer_prefix_of_data_parallel_is_removed(files):
    torch.save({f"module.{name}": tensor for name, tensor in weights().items()}, files[1])
    assert read_state_dict(files[1]).keys() == weights().keys()
    convert(*files)


def test_misfits_are_named_as_in_the_file(files):
    state = weights()
    del state["model.0.query_conv.bias"]
    state |= {
        "model.6.0.weight": torch.randn(16, 8, 3, 3),
        "model.4.gamma": torch.randn(2),
        "model.6.1.bias": torch.ones(8, dtype=torch.long),
        "model.9.weight": torch.ones(1),
    }
    torch.save(state, files[1])
    with pytest.raises(ValueError, match="the weights do not fit") as raised:
        convert(*files)
    assert str(raised.value).splitlines() == [
        f"{files[1]}: the weights do not fit the .conf:",
        "  model.0.query_conv.bias is missing",
        "  model.4.gamma is [2]; it must be [1]",
        "  model.6.0.weight is [16, 8, 3, 3]; it must be [16, 8, 4, 4]",
        "  model.6.1.bias is torch.int64; it must be like torch.float32",
        "  model.9.weight is unknown",
    ]


def test_ten_misfits_are_enough(files):
    layers = read_conf(files[0])
    expected = Generator(generator_config(layers)).state_dict()
    misfits = len([name for name in expected if "num_batches_tracked" not in name]) + 1
    with pytest.raises(ValueError, match=f"\n  and {misfits - 10} more$") as raised:
        convert_state_dict({"model.x": torch.ones(1)}, layers, expected)
    assert len(str(raised.value).splitlines()) == 12


def test_spectral_norm_that_the_conf_does_not_know_of(files):
    state = weights()
    state["model.7.0.weight"] = state.pop("model.7.0.module.weight_bar")
    torch.save(state, files[1])
    with pytest.raises(
        ValueError, match=r"model\.7\.0\.module\.weight_bar is missing\n  model\.7\.0\.weight is unknown"
    ):
        convert(*files)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", ["zip", "old", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(files, tmp_path, save):
    trap = tmp_path / "trap"
    state = weights() | {"model.0.gamma": Malicious(trap)}
    if save == "pickle":
        files[1].write_bytes(pickle.dumps(state["model.0.gamma"], protocol=2))
    else:
        torch.save(state, files[1], _use_new_zipfile_serialization=save == "zip")
    with pytest.raises(ValueError, match=r"was refused, and no code in it was run: it references \w+\.mkdir"):
        convert(*files)
    assert not trap.exists()


def test_a_whole_network_is_refused(files):
    torch.save(nn.Sequential(nn.Linear(1, 1)), files[1])
    with pytest.raises(
        ValueError, match=r"it references torch\.nn\.modules\.container\.Sequential.*save its state_dict"
    ):
        read_state_dict(files[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nn.Linear(1, 1).state_dict(), None),
        (torch.ones(3), "contains Tensor; it must contain a mapping of names to tensors"),
        ([torch.ones(3)], "contains list; it must contain a mapping"),
        ({}, "contains nothing; it must contain a mapping"),
        ({"epoch": 3}, "contains 'epoch': int; it must contain a mapping"),
        ({0: torch.ones(3)}, "contains 0: Tensor; it must contain a mapping"),
        (
            torch.optim.Adam(nn.Linear(1, 1).parameters()).state_dict(),
            "contains the state of an optimizer; use that of a network",
        ),
    ],
)
def test_what_a_file_holds(files, content, message):
    torch.save(content, files[1])
    if message is None:
        assert read_state_dict(files[1]).keys() == {"weight", "bias"}
    else:
        with pytest.raises(ValueError, match=message):
            read_state_dict(files[1])


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"PK\x03\x04 no zip either", b"\x80\x02}q\x00X", b"\x00" * 64]
)
def test_files_that_are_no_checkpoints(files, content):
    files[1].write_bytes(content)
    with pytest.raises(ValueError, match=r"GAN_GEN_1\.pth is truncated or was not saved by torch\.save"):
        read_state_dict(files[1])


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated_checkpoints(files, is_zip, share):
    torch.save(weights(), files[1], _use_new_zipfile_serialization=is_zip)
    content = files[1].read_bytes()
    files[1].write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="is truncated or was not saved by"):
        read_state_dict(files[1])


def test_weights_that_are_not_there(files):
    torch.save(weights(), files[1])
    with pytest.raises(FileNotFoundError, match=r"GAN_GEN_2\.pth' does not exist; did you mean 'GAN_GEN_1\.pth'"):
        read_state_dict(files[1].with_name("GAN_GEN_2.pth"))
    with pytest.raises(OSError, match="directory"):
        read_state_dict(files[1].parent)


@pytest.fixture
def pair(files, tmp_path):
    """Flags for a generator and a discriminator of 8x8 images."""
    torch.save(weights(), files[1])
    (tmp_path / "dis.conf").write_text(yaml.safe_dump({"architecture": [CONV]}))
    torch.save({"model.0.0.weight": torch.randn(1, 3, 8, 8), "model.0.0.bias": torch.randn(1)}, tmp_path / "dis.pth")
    flags = "--generator-conf", "--generator-weights", "--discriminator-conf", "--discriminator-weights"
    paths = *files, tmp_path / "dis.conf", tmp_path / "dis.pth"
    return dict(zip(flags, map(str, paths), strict=True)) | {"--out": str(tmp_path / "model")}


def command(flags):
    return main(["convert", *(each for flag in flags.items() for each in flag)])


def test_the_command(pair, capsys):
    assert command(pair) == 0
    out = pair["--out"]
    assert capsys.readouterr().out.splitlines() == [
        f"generator and discriminator for 8x8 images, with a 10-dimensional latent, in {out}; load with",
        f"from fagan_hf import FAGANPipeline; pipe = FAGANPipeline.from_pretrained({out!r})",
    ]
    images = Generator.from_pretrained(out)(torch.randn(2, 10))
    assert Discriminator.from_pretrained(out)(images).shape == (2,)


def test_the_command_for_a_generator_alone(pair, tmp_path, capsys):
    assert command({flag: value for flag, value in pair.items() if "discriminator" not in flag}) == 0
    assert capsys.readouterr().out.startswith("generator for 8x8 images, with a 10-dimensional latent, in ")
    assert not (tmp_path / "model" / "discriminator").exists()


def test_what_is_converted_is_what_the_functions_give(pair):
    command(pair)
    generator, discriminator = convert(*list(pair.values())[:4])
    for network in (generator, discriminator):
        loaded = type(network).from_pretrained(pair["--out"])
        assert loaded.config == network.config
        for name, tensor in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--discriminator-weights": None}, "discriminator_weights missing; give both or neither"),
        ({"--discriminator-conf": None}, "discriminator_conf is missing and discriminator_weights '"),
        (
            {"--label-names": "beard,,glasses"},
            "--label-names is 'beard,,glasses'; it must be a comma-separated list of names",
        ),
        ({"--label-names": "beard,beard"}, "label_names is ('beard', 'beard')"),
        ({"--generator-weights": "nowhere.pth"}, "'nowhere.pth' does not exist"),
        ({"--discriminator-conf": "large.conf"}, "large.conf: it takes 16x16 images, but "),
    ],
)
def test_errors_of_the_command(pair, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    large = yaml.safe_dump({"architecture": [CONV | {"kernel_dims": "(16, 16)"}]})
    (tmp_path / "large.conf").write_text(large)
    assert command({flag: value for flag, value in (pair | changes).items() if value is not None}) == 2
    error = capsys.readouterr().err
    assert error.startswith("fagan-hf: error: ")
    assert message in error
    assert not (tmp_path / "model").exists()


def test_no_model_is_written_over(pair, capsys):
    assert command(pair) == 0
    assert command(pair) == 2
    assert "which already contains a generator; use another folder" in capsys.readouterr().err
