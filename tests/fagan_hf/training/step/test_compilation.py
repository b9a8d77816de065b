import os
from pathlib import Path

import pytest
import torch

from fagan_hf.training.run.session import setup
from fagan_hf.training.step.compilation import check_compilation
from tests.hub import forked

# In a separate process: under pytest each call is wrapped in a shape check, which can't be compiled.
PROGRAM = """
import sys
import torch
from torch._dynamo.utils import counters
from fagan_hf.architectures.presets import PRESETS
from tests.small import DISCRIMINATOR, GENERATOR
from fagan_hf.training.step import compilation
from fagan_hf.training.recipe import Recipe
from tests.sessions import train as train_from
from tests.short_runs import take_shortcuts

PRESETS["tiny"] = GENERATOR, DISCRIMINATOR
take_shortcuts()
compilation.OPTIONS["backend"] = "aot_eager"  # all of it but the C++ compiler, which takes minutes

def train(how):
    recipe = Recipe(name=how, model="tiny", dataset=sys.argv[1], output_dir=sys.argv[2], batch_size=4, cpu_threads=1,
                    compile=how, max_images=8, r1_gamma=1.0, penalty_every_steps=2)
    session = train_from(recipe)
    random = torch.Generator().manual_seed(0)
    images = session.generator.eval()(torch.randn(8, 8, generator=random))
    return images, session.discriminator.eval()(torch.rand(8, 3, 8, 8, generator=random))

# What the networks do, not their weights: some change nothing, such as a key's bias, and follow rounding alone.
for compiled, plain in zip(train("kernels"), train("no"), strict=True):
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-3)
print(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
"""


def test_a_compiled_run_learns_the_same(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    command, root = ["-c", PROGRAM, str(pictures), str(tmp_path / "runs")], Path(__file__).parents[4]
    result = forked.run(command, {**os.environ}, root, tmp_path / "log", timeout=240)
    assert result.returncode == 0, result.stderr
    graphs, breaks = map(int, result.stdout.split()[-2:])
    assert graphs >= 4  # each network with gradients and without
    assert breaks == 0


def test_cuda_graphs_want_cuda(make_recipe):
    with pytest.raises(ValueError, match="compile is 'cuda_graphs', but the device is cpu; try 'kernels' or 'no'"):
        setup(make_recipe(compile="cuda_graphs"))
    check_compilation("cuda_graphs", torch.device("cuda"))
