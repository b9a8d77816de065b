"""What is chosen on hardware that is not here: torch's answers about it are replaced."""

import pytest
import torch

from fagan_hf.training.step import precision
from fagan_hf.training.step.precision import best_precision, check_built_for, choose_precision, warning_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CARDS = {  # compute capability, whether it has bfloat16
    "NVIDIA H100": ((9, 0), True),
    "NVIDIA A10": ((8, 6), True),
    "Tesla T4": ((7, 5), False),
    "Tesla V100": ((7, 0), False),
    "Tesla P100": ((6, 0), False),
}
BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def card(monkeypatch):
    def put(name, built_for=BUILT_FOR):
        capability, has_bf16 = CARDS[name]
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)

    return put


@pytest.fixture
def processor(monkeypatch):
    def put(**capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True} | capabilities, raising=False)

    return put


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("NVIDIA H100", "bf16"),
        ("NVIDIA A10", "bf16"),
        ("Tesla T4", "fp16"),
        ("Tesla V100", "fp16"),
        ("Tesla P100", "no"),
    ],
)
def test_what_a_card_computes_best_in(card, name, best):
    card(name)
    assert best_precision(CUDA) == best


@pytest.mark.parametrize(
    ("capabilities", "best"),
    [({}, "no"), ({"avx512_bf16": False}, "no"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
    ids=["old", "without", "avx512", "amx"],
)
def test_what_a_processor_computes_best_in(processor, capabilities, best):
    processor(**capabilities)
    assert best_precision(CPU) == best
    assert choose_precision("auto", CPU) == best


def test_a_torch_that_can_not_say_is_not_trusted(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert best_precision(CPU) == "no"


def test_others_compute_in_float32():
    assert best_precision(torch.device("mps")) == "no"


def test_what_was_asked_for_is_used(card):
    card("Tesla T4")
    assert choose_precision("bf16", CUDA) == "bf16"
    assert choose_precision("no", CUDA) == "no"


def test_what_is_emulated_is_named(card, processor):
    card("Tesla T4")
    assert "Tesla T4 has no bfloat16 and emulates it slowly; use --mixed_precision fp16" in warning_of("bf16", CUDA)
    assert warning_of("fp16", CUDA) is None
    card("NVIDIA A10")
    assert warning_of("bf16", CUDA) is None
    processor()
    assert "this processor has no bfloat16" in warning_of("bf16", CPU)
    assert "on a CPU it is slower" in warning_of("fp16", CPU)
    assert warning_of("no", CPU) is None


@pytest.mark.parametrize(
    ("name", "built_for"),
    [
        ("NVIDIA A10", ["sm_80"]),  # newer than what it was built for, of the same generation
        ("NVIDIA H100", ["sm_80", "compute_80"]),  # translated at the start
        ("Tesla T4", BUILT_FOR),
        ("Tesla P100", []),  # unknown
    ],
    ids=["same generation", "translated", "itself", "unknown"],
)
def test_cards_that_torch_was_built_for(card, name, built_for):
    card(name, built_for)
    check_built_for(CUDA)


@pytest.mark.parametrize(
    ("name", "built_for"),
    [("Tesla P100", BUILT_FOR), ("NVIDIA H100", ["sm_80", "sm_86"]), ("NVIDIA A10", ["sm_87", "sm_90"])],
    ids=["old card", "old torch", "between"],
)
def test_cards_that_torch_was_not_built_for_are_named(card, name, built_for):
    card(name, built_for)
    with pytest.raises(ValueError, match=rf"{name} has compute capability .* was built for {built_for[0]}.*hide it"):
        choose_precision("auto", CUDA)


def test_float16_without_kernels_is_refused(monkeypatch, processor):
    def missing(*args, **kwargs):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'\nand more")

    monkeypatch.setattr(precision.functional, "conv2d", missing)
    processor()
    with pytest.raises(ValueError, match=r"'fp16', which cpu can't compute in .*slow_conv2d_cpu.*Use 'auto', .* 'no'"):
        choose_precision("fp16", CPU)
    assert choose_precision("bf16", CPU) == "bf16"
