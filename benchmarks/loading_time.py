"""Time a model from the start of a process to its first image, next to importing torch alone.

    python benchmarks/loading_time.py runs/avatars-32
    HF_HUB_OFFLINE=1 python benchmarks/loading_time.py user/name --out benchmarks/results/loading_time.json

The processes alternate, so that other load on the machine affects all of them alike; compare medians and their ratios.
A Hub id is loaded from the cache after the first download; online the client also asks for the newest commit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from fagan_hf.training.run.facts import hardware, versions

PROGRAMS = {
    "import torch": "import torch",
    "Generator, one image": """
import torch
from fagan_hf import Generator
generator = Generator.from_pretrained({model!r})
with torch.inference_mode():
    generator(torch.randn(1, generator.config.latent_dim))
""",
    "FAGANPipeline, one image": """
from fagan_hf import FAGANPipeline
FAGANPipeline.from_pretrained({model!r})(seeds=[0])
""",
    "fagan-hf generate, one image": """
import sys, tempfile
from fagan_hf.cli import main
with tempfile.TemporaryDirectory() as folder:
    sys.exit(main(["generate", "--model", {model!r}, "--seeds", "0", "--out", folder + "/0.png"]))
""",
}


def seconds_of(program: str) -> float:
    """Run a program in a new process, and time it from start to end [seconds]."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Print a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or Hub id without labels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    programs = {name: program.format(model=options.model) for name, program in PROGRAMS.items()}
    for program in programs.values():  # warm-up: the first run reads from disk
        seconds_of(program)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, program in programs.items():
            seconds[name].append(seconds_of(program))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["import torch"]
    for name, median in medians.items():
        print(f"{median:6.2f} s  {median / base:5.2f} x import torch  {name}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        results = {
            "date": date.today().isoformat(),
            "hardware": hardware("cpu", 1),
            "versions": versions(),
            "command": "python benchmarks/loading_time.py MODEL",
            "rounds": options.rounds,
            "median_seconds": {name: round(median, 3) for name, median in medians.items()},
            "ratio_to_import_torch": {name: round(median / base, 3) for name, median in medians.items()},
        }
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
