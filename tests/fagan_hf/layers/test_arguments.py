"""A layer built in Python refuses what its spec refuses, in the same words, and its text says what it is."""

import math
import re
from dataclasses import fields

import pytest
import torch

from fagan_hf.architectures.specs import BUILT_IN, LAYER_SPECS
from fagan_hf.layers import (
    LAYERS,
    Conv,
    Dropout,
    FullAttention,
    FullAttentionBlock,
    SelfAttention,
    override_alpha,
)
from fagan_hf.layers.upsampling import UpsamplingConv2d

ENOUGH = {
    "in_channels": 16,
    "out_channels": 8,
    "kernel_size": 3,
    "padding": 1,
    "activation": "tanh",
    "probability": 0.5,
}
# Of the right type: others are refused by the shape checker here, before the constructor runs.
# Without numbers that are too large: should a check be lost, they would allocate gigabytes.
NONSENSE = {int: (-1, 0), bool: (), float: (math.nan,), str: ("cos",)}


def enough(spec_class):
    """Return arguments with which a layer can be built."""
    return {field.name: ENOUGH[field.name] for field in fields(spec_class) if field.name in ENOUGH}


def refused():
    """Return type, arguments and message for every single argument that a spec refuses."""
    for name, spec_class in LAYER_SPECS.items():
        assert spec_class in BUILT_IN
        odd = ({"heads": 3}, {"squeeze_factor": 17}, {"upsample": True, "key_pooling": 3}, {"num_labels": 1})
        single = ({field.name: value} for field in fields(spec_class) for value in NONSENSE[field.type])
        for change in (*odd, *single):
            if not change.keys() <= {field.name for field in fields(spec_class)}:
                continue
            arguments = enough(spec_class) | change
            try:
                spec_class(**arguments)
            except ValueError as error:
                yield name, arguments, change, str(error)


REFUSED = list(refused())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [(name, arguments, message) for name, arguments, _, message in REFUSED],
    ids=[f"{name}-{change}-{index}" for index, (name, _, change, _) in enumerate(REFUSED)],
)
def test_a_layer_refuses_what_its_spec_refuses(name, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LAYERS[name](**arguments)


def test_every_number_and_name_is_among_the_refused():
    for name, spec_class in LAYER_SPECS.items():
        changed = {field for kind, _, change, _ in REFUSED if kind == name for field in change}
        assert changed >= {field.name for field in fields(spec_class) if field.type is not bool}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: FullAttention(8, 8, kernel_size=3, similarity="cos"),
            "similarity is 'cos'; it must be one of dot_pro",
        ),
        (lambda: FullAttention(-8, 8, kernel_size=3), "in_channels is -8; it must be a whole number from 1 to 65,536"),
        (lambda: SelfAttention(4), "squeeze_factor is 8; it must be at most in_channels, 4"),
        (lambda: SelfAttention(16, heads=3), r"heads is 3; it must divide the query's 2 channels"),
        (
            lambda: FullAttention(8, 8, kernel_size=3, key_pooling=-2),
            "key_pooling is -2; it must be a whole number from 1",
        ),
        (lambda: FullAttentionBlock(8, 8, resample="up", key_pooling=3), "key_pooling is 3; it must be 1 or even"),
        (lambda: FullAttentionBlock(8, 8, norm="layer"), "norm is 'layer'; it must be one of none, batch, rms"),
        (lambda: Conv(0, 8, kernel_size=3), "in_channels is 0; it must be a whole number from 1 to 65,536"),
        (lambda: UpsamplingConv2d(8, 8, 4), "upsample is True; it must be false unless kernel_size is odd"),
        (lambda: Dropout(probability=1.5), "probability is 1.5; it must be from 0 to 1"),
    ],
)
def test_what_is_refused_in_words(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("size", [(6, 5), (5, 6)])
def test_pooling_that_does_not_divide_the_map_is_refused(size):
    layer = FullAttention(8, 8, kernel_size=3, padding=1, key_pooling=2)
    with pytest.raises(ValueError, match=r"key_pooling is 2; it must divide 5, the height or width of its input$"):
        layer(torch.zeros(1, 8, *size))


# Text


def test_the_text_says_what_a_layer_is():
    options = {"similarity": "cosine", "key_pooling": 4, "upsample": True, "heads": 2}
    layer = FullAttention(16, 8, kernel_size=3, padding=1, initial_alpha=0.25, **options)
    assert layer.extra_repr() == (
        "16, 8, kernel_size=3, stride=1, padding=1, upsample=True, squeeze_factor=8, similarity='cosine', "
        "key_pooling=4, heads=2, alpha=0.25"
    )
    assert "transposed=True" in repr(FullAttention(16, 8, kernel_size=4, transposed=True))
    text = repr(layer)
    assert "(similarity): Cosine(heads=2)" in text
    assert "SpectralNorm(dim=0, rows=8, columns=144)" in text
    with override_alpha(layer, 0.5):
        assert "alpha=0.5" in repr(layer)
    block = repr(FullAttentionBlock(16, 8, resample="up", similarity="negative_distance"))
    assert "resample='up'" in block
    assert "NegativeDistance(heads=1)" in block


def test_the_text_of_a_layer_without_numbers():
    with torch.device("meta"):
        layer = SelfAttention(16, squeeze_factor=4)
    assert layer.extra_repr() == "16, squeeze_factor=4, heads=1, gamma=?"
