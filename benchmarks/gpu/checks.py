"""Correctness checks on a GPU, to pass before measuring speed."""

import math
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.step import Step
from fagan_hf.architectures.presets import preset
from fagan_hf.attention_maps.report import inspect_layers
from fagan_hf.layers import gates
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.penalties import zero_centered_gradient_penalty
from fagan_hf.training.step.regularization import Regularization

ROOT = Path(__file__).resolve().parents[2]
Found = dict[str, Any]
CUDA_TESTS = (
    "tests/fagan_hf/layers/test_kernels.py",
    "tests/fagan_hf/test_attention_maps.py",
    "tests/fagan_hf/training/test_cuda_graphs.py",
)


def no_reading_back(is_small: bool) -> Found:
    """Check that steps with and without penalties never synchronize with the device, and that losses are finite."""
    step = Step("fagan-32" if is_small else "fagan-64", 4 if is_small else 64, "no" if is_small else "bf16")
    numbers: list[dict[str, Tensor]] = []
    is_cuda = step.device.type == "cuda"
    step.step()
    if is_cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        numbers = [step.step() for _ in range(2 if is_small else 8)]
    finally:
        if is_cuda:
            torch.cuda.set_sync_debug_mode("default")
    losses = [each[name].item() for each in numbers for name in ("generator_loss", "discriminator_loss")]
    return {"passed": all(map(math.isfinite, losses)), "losses": losses}


def kernels_taken(is_small: bool) -> Found:
    """Check that no layer of the flagship falls back to the math kernel, which materializes all attention weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for dtype in (torch.float32,) if is_small else (torch.float32, torch.bfloat16, torch.float16):
        generator = Generator.from_preset("fagan-32" if is_small else "fagan-64").to(device, dtype).eval()
        reports = inspect_layers(generator, torch.randn(1, generator.config.latent_dim))
        found[str(dtype)] = {
            each.name: f"{each.kernel.kernel}/{each.kernel.backend}" for each in reports if each.kernel is not None
        }
    names = {kernel for layers in found.values() for kernel in layers.values()}
    return {"passed": not any(name.endswith("/math") for name in names), "kernels": found}


def gradients_as_on_cpu(is_small: bool) -> Found:
    """Compare float32 gradients (without TF32) with the CPU's, with and without R1."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        errors = {
            name: _gradient_error("fagan-32" if is_small else "fagan-64-small", device, with_penalty)
            for name, with_penalty in (("loss", False), ("loss and R1", True))
        }
    return {"passed": all(error < 2e-3 for error in errors.values()), "largest_relative_error": errors}


def _gradient_error(model: str, device: str, with_penalty: bool) -> float:
    torch.manual_seed(0)
    network = Discriminator(preset(model)[1])
    for gate in gates(network).values():
        gate.data.fill_(0.3)
    size = network.config.image_size
    real, fake = (torch.rand(4, 3, size, size) * 2 - 1 for _ in range(2))
    found = []
    for where in ("cpu", device):
        copy = deepcopy(network).to(where)
        loss = LOSSES["relativistic_pairing"].discriminator(copy(real.to(where)), copy(fake.to(where)))
        if with_penalty:
            loss = loss + zero_centered_gradient_penalty(copy, real.to(where))
        loss.backward()
        found.append([each.grad.cpu().double() for each in copy.parameters() if each.grad is not None])
    whole = torch.cat([each.flatten() for each in found[0]]).norm()
    # Per parameter, relative to its norm; gradients that are only rounding error, relative to the total norm.
    return max(((a - b).norm() / torch.maximum(a.norm(), 1e-3 * whole)).item() for a, b in zip(*found, strict=True))


def graphs_learn_the_same(is_small: bool) -> Found:
    """Check that CUDA-graph steps update the weights as eager ones do, penalties included.

    Kernels sum in any order, and Adam turns rounding errors of small gradients into full-size steps. So even two eager
    runs diverge; a graphed run must not diverge from an eager run much more than those from each other.
    """
    if not torch.cuda.is_available():
        return {"passed": None, "why": "needs CUDA"}
    eager, graphed = (Step("fagan-64-small", 16, "no", how) for how in ("no", "cuda_graphs"))
    start = [each.clone() for each in eager.weights()]
    losses = {}
    for _ in range(32):
        for name, each in (("eager", eager), ("graphed", graphed)):
            losses[name] = each.step()["discriminator_loss"].item()
    moved = _distance(start, eager.weights())
    apart = _distance(eager.weights(), graphed.weights())
    again = Step("fagan-64-small", 16, "no", "no")
    again.run(32)
    floor = _distance(eager.weights(), again.weights())
    return {
        "passed": moved > 0 and apart <= 1.5 * floor,
        "weights_moved": moved,
        "eager_from_graphed": apart,
        "eager_from_eager": floor,
        "last_losses": losses,
    }


def _distance(left: Any, right: Any) -> float:
    return torch.stack([(a - b).norm() for a, b in zip(left, right, strict=True)]).norm().item()


def penalties_are_finite_in_half(is_small: bool) -> Found:
    """Check that penalties stay in float32: R1 in a bf16 step equals that of a float32 step."""
    values = {}
    for precision in ("no",) if is_small else ("no", "bf16"):
        rules = Regularization(r1_gamma=2.0, r2_gamma=2.0, every_steps=1)
        step = Step("fagan-32" if is_small else "fagan-64-small", 8, precision, regularization=rules)
        values[precision] = step.step()["r1"].item()
    first, last = values["no"], values.get("bf16", values["no"])
    return {"passed": abs(first - last) <= 0.02 * abs(first), "r1": values}


def cuda_tests(is_small: bool) -> Found:
    """Run the tests that are skipped without CUDA."""
    if is_small:
        return {"passed": None, "why": "part of the test suite"}
    with TemporaryDirectory() as folder:
        # Separate options, because the machine may have pytest plug-ins that read pyproject.toml's differently.
        options = Path(folder, "pytest.ini")
        options.write_text(f"[pytest]\npythonpath = {ROOT}\n", encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            str(options),
            "--rootdir",
            str(ROOT),
            "-p",
            "no:cacheprovider",
        ]
        command += ["--import-mode=importlib", "-k", "cuda or gpu", *CUDA_TESTS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    skipped = "skipped" in last
    return {
        "passed": done.returncode == 0 and not skipped,
        "last_line": last,
        "output": (done.stdout + done.stderr)[-3000:],
    }


CHECKS: dict[str, Callable[[bool], Found]] = {
    check.__name__: check
    for check in (
        no_reading_back,
        kernels_taken,
        gradients_as_on_cpu,
        penalties_are_finite_in_half,
        graphs_learn_the_same,
        cuda_tests,
    )
}
