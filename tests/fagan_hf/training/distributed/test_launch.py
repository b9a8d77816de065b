import pytest

from fagan_hf.training.distributed.launch import check_launcher
from fagan_hf.training.flags import build_recipe


def check(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    check_launcher(build_recipe("avatars-32"))


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ],
)
@pytest.mark.parametrize("yes", ["true", "True", "1"])
def test_ways_of_training_for_one_network_are_refused(monkeypatch, variable, name, yes):
    with pytest.raises(ValueError, match=rf"use {name}, .* a GAN has two of each.*--multi_gpu .* accelerate config"):
        check(monkeypatch, variable, yes)
    check(monkeypatch, variable, "false")


@pytest.mark.parametrize("backend", ["INDUCTOR", "inductor", "EAGER"])
def test_a_compiler_of_the_launcher_is_refused(monkeypatch, backend):
    with pytest.raises(ValueError, match=rf"compile with {backend.lower()}, .* --compile kernels"):
        check(monkeypatch, "ACCELERATE_DYNAMO_BACKEND", backend)
    check(monkeypatch, "ACCELERATE_DYNAMO_BACKEND", "NO")


def test_a_precision_of_the_launcher_is_refused_unless_it_is_the_recipes(monkeypatch):
    with pytest.raises(ValueError, match=r"mixed precision 'bf16', but the recipe has 'auto'; pass --mixed_precision"):
        check(monkeypatch, "ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match=r"'fp8', which convolutions can't compute in"):
        check(monkeypatch, "ACCELERATE_MIXED_PRECISION", "fp8")
    check(monkeypatch, "ACCELERATE_MIXED_PRECISION", "auto")
    check(monkeypatch, "ACCELERATE_MIXED_PRECISION", "no")
