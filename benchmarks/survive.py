"""Kill a short training run repeatedly with SIGKILL, and compare its final state with that of an undisturbed run.

    python benchmarks/survive.py --kills 50 --out benchmarks/results/survive.json
    python benchmarks/survive.py --kills 20 --processes 2 --out benchmarks/results/survive-two-processes.json

Every session is the same command, ``training/train.py`` in new processes. Two thirds of the kills happen at moments
drawn uniformly from a session's life, including its start; the others while a checkpoint is being written. With several
processes, either one of them is killed, or all with their launcher. After the last kill the run continues to its end.

Compared bit for bit: all kept checkpoints (weights, averaged weights, moments, running sums, state), the models, every
line of metrics.jsonl, every grid, the plots, the training GIF, and the names of all files. Excluded are measurements of
the machine: seconds, images per second, peak memory. Checked after every kill: the models in the folder load, and the
next session redoes at most one checkpoint interval. The exit status is 1 if anything differs or fails.
"""

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import psutil  # comes with accelerate
from PIL import Image
from safetensors.torch import load_file

from fagan_hf import Discriminator, Generator
from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.load import save_architecture
from fagan_hf.architectures.specs import ConvSpec, DropoutSpec, FullAttentionSpec, SelfAttentionSpec
from fagan_hf.training.run.facts import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
NAME = "short"
PICTURES = 41  # not a multiple of the batch size, so checkpoints are inside of epochs
CHECKPOINT = 64  # images from one to the next
RECIPE = {
    "batch_size": 8,
    "gradient_accumulation": 2,
    "augment": "[color,translation,cutout]",
    "horizontal_flip": "true",
    "r1_gamma": 1,
    "penalty_every_steps": 3,
    "warmup_images": 400,
    "ema_half_life_images": 200,
    "cpu_threads": 1,
    # 7 and 13 steps, where checkpoints are 8 apart: most checkpoints are in the middle of a line's sums.
    "log_every_images": 56,
    "sample_every_images": 104,
    "checkpoint_every_images": CHECKPOINT,
}
# These layers have batch norm and spectral norm by default; dropout uses torch's global random generator.
GENERATOR = GeneratorConfig(
    latent_dim=8,
    image_size=8,
    layers=(
        FullAttentionSpec(in_channels=8, out_channels=16, kernel_size=4, transposed=True),
        SelfAttentionSpec(in_channels=16),
        FullAttentionSpec(
            in_channels=16, out_channels=3, kernel_size=4, stride=2, padding=1, transposed=True, batch_norm=False,
            activation="tanh",
        ),
    ),
)  # fmt: skip
DISCRIMINATOR = DiscriminatorConfig(
    image_size=8,
    layers=(
        FullAttentionSpec(in_channels=3, out_channels=16, kernel_size=4, stride=2, padding=1, squeeze_factor=1),
        DropoutSpec(probability=0.1),
        ConvSpec(in_channels=16, out_channels=1, kernel_size=4),
    ),
)
OF_THE_MACHINE = ("seconds", "logged_seconds", "images_per_second", "peak_memory_mb")
KINDS = {  # what is compared, by file name
    r"checkpoints/.*/(generator|discriminator)\.safetensors": "weights and batch statistics",
    r"checkpoints/.*/averaged_generator\.safetensors": "averaged weights",
    r"checkpoints/.*_optimizer\.safetensors": "optimizer moments",
    r"checkpoints/.*/numbers\.safetensors": "sums since the last line",
    r"checkpoints/.*/state\.json": "numbers of the state",
    r"(generator|discriminator)/.*": "files of the models",
    r"metrics\.jsonl": "lines of metrics.jsonl",
    r"samples/.*|samples\.png": "grids",
    r"loss\.png|alpha\.png": "plots",
    r"training_progress\.gif": "film",
}
POLL_SECONDS = 0.001
PATIENCE_SECONDS = 300  # for one session


@dataclass(frozen=True)
class Kill:
    """When to kill a session, and which of its processes.

    Attributes:
        when: At any moment, or while a checkpoint is being written.
        share: Moment as a share of a session's life, or of the time that writing takes.
        checkpoint: Which of the session's checkpoints, from 1.
        victim: A rank; ``None`` for all processes and their launcher.
    """

    when: Literal["any moment", "checkpoint"]
    share: float
    checkpoint: int = 1
    victim: int | None = None


def plan(kills: int, processes: int, seed: int) -> list[Kill]:
    """Draw the kills of a run at random, a third of them (rounded up) while a checkpoint is being written."""
    draw = random.Random(seed)
    whens: list[Literal["any moment", "checkpoint"]] = [
        "checkpoint" if i % 3 == 0 else "any moment" for i in range(kills)
    ]
    draw.shuffle(whens)
    victims = [None, *range(processes)] if processes > 1 else [None]
    return [Kill(when, draw.random(), draw.randint(1, 2), draw.choice(victims)) for when in whens]


@dataclass
class Place:
    """Location and size of a run.

    Attributes:
        work: Folder of everything that belongs to this run.
        shared: Folder of the images and the architecture.
        images: Training length [images].
        processes: Number of processes.
    """

    work: Path
    shared: Path
    images: int
    processes: int

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return self.work / "runs" / NAME

    def command(self) -> list[str]:
        """Return the command that starts and resumes the run."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes)]
        flags = RECIPE | {
            "name": NAME,
            "model": self.shared / "tiny.json",
            "dataset": self.shared / "pictures",
            "output_dir": self.work / "runs",
            "max_images": self.images,
        }
        arguments = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        return [sys.executable, *(launcher if self.processes > 1 else []), "training/train.py", *arguments]

    def checkpoints(self) -> tuple[set[int], set[str]]:
        """Return the images seen at each finished checkpoint, and the temporary folders of unfinished ones."""
        try:
            names = os.listdir(self.run / "checkpoints")
        except FileNotFoundError:
            return set(), set()
        asides = {name for name in names if name.startswith(".images-")}
        return {_images_of(name) for name in names if name not in asides}, asides

    def half_written(self) -> set[str]:
        """Return the temporary files that are, or were, being written."""
        return {str(path.relative_to(self.work)) for path in self.work.rglob(".*") if re.search(r"\.\d+$", path.name)}

    def images_seen(self) -> int:
        """Return how many images the run has seen at least, judging by the files that it has written."""
        whole, asides = self.checkpoints()
        grids = {_images_of(path.name) for path in (self.run / "samples").glob("images-*.png")}
        lines = {line["images"] for line in _lines(self.run / "metrics.jsonl")}
        return max(whole | {_images_of(name) for name in asides} | grids | lines, default=0)


def _images_of(name: str) -> int:
    return int(re.findall(r"images-(\d+)", name)[0])


def _lines(path: Path) -> list[dict[str, Any]]:
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


class Session:
    """One execution of the run's command.

    Args:
        place: Location of the run.
    """

    def __init__(self, place: Place):
        self.place = place
        self.log = place.work / "log.txt"
        self.asides_before = place.checkpoints()[1]
        self.half_written_before = place.half_written()
        environment = os.environ | {"FAGAN_CACHE": str(place.work / "cache"), "PYTHONUNBUFFERED": "1"}
        environment |= {"OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(place.command(), cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.started = time.monotonic()

    def output(self) -> str:
        """Return what the session has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def has_begun(self) -> bool:
        """Has training started? The progress bar appears just before the first step."""
        return "img/s" in self.output()

    def began_at(self) -> int | None:
        """Return the number of images at which it resumed; ``None`` if it was killed before."""
        found = re.search(r"Resuming at ([\d,]+) images", self.output())
        if found:
            return int(found[1].replace(",", ""))
        return 0 if self.has_begun else None

    def asides(self) -> set[str]:
        """Return the temporary folders of checkpoints that this session is writing."""
        return self.place.checkpoints()[1] - self.asides_before

    def running(self) -> Iterator[None]:
        """Yield every millisecond until the session ends.

        Raises:
            RuntimeError: The session failed, or takes too long.
        """
        while self.process.poll() is None:
            if time.monotonic() > self.started + PATIENCE_SECONDS:
                self.kill(None)
                raise RuntimeError(f"a session did not end:\n{self.output()[-3000:]}")
            yield
            time.sleep(POLL_SECONDS)
        if self.process.returncode:
            raise RuntimeError(f"a session ended with status {self.process.returncode}:\n{self.output()[-3000:]}")

    def kill(self, victim: int | None) -> str:
        """Send SIGKILL, and wait until all processes of the session have ended.

        Args:
            victim: The rank to kill; ``None`` for all processes. If that rank doesn't run yet, all are killed.

        Returns:
            Which processes were killed.
        """
        everybody = [psutil.Process(self.process.pid)]
        killed = "the process"
        if self.place.processes == 1:
            self.process.kill()
        else:
            everybody[0].suspend()  # otherwise it might start another one now
            ranks = {_rank(process): process for process in everybody[0].children()}
            everybody += everybody[0].children(recursive=True)
            if victim is not None and victim in ranks:
                everybody[0].resume()
                ranks[victim].kill()
                killed = f"process {victim}"
            else:
                for process in everybody:
                    process.kill()
                killed = "all processes and the launcher"
        self.process.wait(PATIENCE_SECONDS)
        psutil.wait_procs(everybody[1:], PATIENCE_SECONDS)
        return killed


def _rank(process: psutil.Process) -> int | None:
    try:
        return int(process.environ().get("RANK", -1))
    except psutil.Error:
        return None


@dataclass
class Pace:
    """Durations measured in the newest session, because other load on the machine varies between sessions.

    Attributes:
        start: From the command to the first step [s].
        interval: From one checkpoint to the next [s].
        writing: Writing one checkpoint, the fastest time [s].
    """

    start: float
    interval: float
    writing: float


def run_alone(place: Place) -> Pace:
    """Run without kills from start to end, and measure durations."""
    session = Session(place)
    start, written_since, writing = 0.0, None, []
    for _ in session.running():
        now = time.monotonic()
        if not start and session.has_begun:
            start = now - session.started
        is_writing = bool(session.asides())
        if is_writing and written_since is None:
            written_since = now
        elif not is_writing and written_since is not None:
            writing.append(now - written_since)
            written_since = None
    training = time.monotonic() - session.started - start
    return Pace(start, training * CHECKPOINT / place.images, min(writing))


@dataclass
class Account:
    """Record of the kills and their effects.

    Attributes:
        phases: Number of kills by phase of the session.
        victims: Number of kills by victim.
        models_loaded: How often a model existed after a kill and could be loaded.
        most_images_redone: Most images redone by the session after a kill.
        problems: Everything that failed.
    """

    phases: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    models_loaded: int = 0
    most_images_redone: int = 0
    problems: list[str] = field(default_factory=list)


def run_killed(place: Place, kills: list[Kill], pace: Pace, intervals: int = 1) -> Account:
    """Kill a run as planned, restart it each time, and let it finish.

    Args:
        place: Location of the run.
        kills: The kills in order.
        pace: Durations of the undisturbed run.
        intervals: Checkpoint intervals per kill: on average no more than these pass before each kill, so that the run
            doesn't end before the last one.

    Raises:
        RuntimeError: A session failed by itself, or the run ended before the last kill.
    """
    account = Account()
    seen = 0  # images that the run has seen at least
    for number, kill in enumerate(kills):
        session = Session(place)
        writing = _wait_for(session, kill, pace, intervals, ceiling=CHECKPOINT * intervals * (number + 1))
        victim = session.kill(kill.victim)
        phase = _phase(session, writing, is_writer_killed=victim != "process 1")
        account.phases[phase] += 1
        account.victims[victim] += 1
        seen = _check_start(session, seen, account)
        seen = max(seen, place.images_seen())
        _check_models(place, f"kill {number + 1} ({phase})", account)
        print(f"kill {number + 1:3d}  {seen:6d} of {place.images} images  {victim}: {phase}", flush=True)
    session = Session(place)
    for _ in session.running():
        pass
    _check_start(session, seen, account)
    return account


def _wait_for(session: Session, kill: Kill, pace: Pace, intervals: int, ceiling: int) -> set[str]:
    """Wait for the moment of a kill, or until the run reaches its ceiling of images.

    Returns:
        The checkpoint that is being written at that moment, or was when the wait began.
    """
    moment = kill.share * (pace.start + 2 * intervals * pace.interval)
    passed, rest = divmod(max(0.0, moment - pace.start) / pace.interval, 1)
    start_moment = session.started + moment if moment < pace.start else math.inf
    marks: list[float] = []  # seconds of the first step and of each checkpoint after it
    newest, written = 0, set()
    for _ in session.running():
        now, was_newest = time.monotonic(), newest
        newest = max(session.place.checkpoints()[0], default=0)
        if not marks and session.has_begun:
            marks.append(now)
            pace.start = now - session.started
        elif marks and newest > was_newest:
            marks.append(now)
            pace.interval = marks[-1] - marks[-2]
        asides = session.asides()
        written |= asides
        if kill.when == "checkpoint" and newest <= ceiling:
            if asides and (len(written) >= kill.checkpoint or newest == ceiling):
                time.sleep(kill.share * pace.writing)
                return asides
        elif newest >= ceiling:
            time.sleep(kill.share * pace.interval / 2)  # or all of these kills would come just after a checkpoint
            return session.asides()
        elif now >= (marks[int(passed)] + rest * pace.interval if len(marks) > passed else start_moment):
            return asides
    raise RuntimeError("the run was over before its last kill")


def _phase(session: Session, writing: set[str], is_writer_killed: bool) -> str:
    """Infer what a killed session was doing from the files that it left.

    Args:
        session: The session, after all of its processes have ended.
        writing: Result of `_wait_for`.
        is_writer_killed: Was the process that writes checkpoints killed? Otherwise it may have finished them.
    """
    if left := session.asides():
        manifests = [session.place.run / "checkpoints" / name / "manifest.json" for name in left]
        return "syncing a checkpoint" if any(path.exists() for path in manifests) else "writing a checkpoint"
    if writing:
        return (
            "just after a checkpoint's renaming" if is_writer_killed else "a checkpoint, which the other one finished"
        )
    if session.place.half_written() - session.half_written_before:
        return "writing another file"
    return "training" if session.has_begun else "start-up"


def _check_start(session: Session, seen: int, account: Account) -> int:
    """Check how many images a session redid; return the number at which it resumed."""
    began_at = session.began_at()
    if began_at is None:
        return seen
    redone = seen - began_at
    account.most_images_redone = max(account.most_images_redone, redone)
    if redone > CHECKPOINT:
        account.problems.append(f"{redone} images were redone after {seen}, more than {CHECKPOINT}")
    return began_at


def _check_models(place: Place, when: str, account: Account) -> None:
    for network, folder in ((Generator, "generator"), (Discriminator, "discriminator")):
        if not (place.run / folder).exists():
            continue
        try:
            network.from_pretrained(place.run)
            account.models_loaded += 1
        except Exception as error:
            account.problems.append(f"after {when} {folder}/ does not load: {type(error).__name__}: {error}")


def compare(expected: Path, actual: Path) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Compare two finished run folders.

    Returns:
        How many items of each kind were compared and how many differ, and a description of each difference.
    """
    counts = {kind: {"compared": 0, "different": 0} for kind in KINDS.values()}
    problems = []
    for name in sorted(_files(expected) & _files(actual)):
        kind = next((kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, name)), None)
        if kind is None:
            continue
        first, second = _parts(expected / name), _parts(actual / name)
        keys = first.keys() | second.keys()
        different = sorted(key for key in keys if first.get(key) != second.get(key))
        counts[kind]["compared"] += len(keys)
        counts[kind]["different"] += len(different)
        if different:
            problems.append(f"{name} differs in {', '.join(different[:5])}{', ...' if len(different) > 5 else ''}")
    return counts, problems


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _parts(path: Path) -> dict[str, Any]:
    """Split a file into comparable parts: tensors, lines, numbers, or its bytes."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {name: (str(t.dtype), tuple(t.shape), t.numpy().tobytes()) for name, t in tensors.items()}
    if path.suffix == ".jsonl":  # a duplicated line shifts all that follow
        lines = enumerate(_lines(path), start=1)
        return {f"line {number}": json.dumps(_without_machine(line)) for number, line in lines}
    if path.name == "state.json":
        return _without_machine(json.loads(path.read_text(encoding="utf-8")))
    return {"its bytes": path.read_bytes()}


def _without_machine(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name not in OF_THE_MACHINE}


def compare_names(expected: Path, actual: Path) -> list[str]:
    """List the files that only one of two folders has."""
    first, second = _files(expected) - {"log.txt"}, _files(actual) - {"log.txt"}
    return [
        *(f"{name} is missing" for name in sorted(first - second)),
        *(f"{name} is left over" for name in sorted(second - first)),
    ]


def survive(work: Path, kills: list[Kill], processes: int, intervals: int = 1) -> dict[str, Any]:
    """Run without kills, run with kills, and compare.

    Args:
        work: An empty folder.
        kills: The kills in order.
        processes: Number of processes of the run.
        intervals: See `run_killed`.

    Returns:
        The results; ``problems`` is empty if everything is equal.
    """
    (work / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for index in range(PICTURES):
        pixels = draw.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(work / "pictures" / f"{index:02d}.png")
    save_architecture(work / "tiny.json", (GENERATOR, DISCRIMINATOR))
    images = CHECKPOINT * (intervals * len(kills) + 2)
    alone, killed = (Place(work / name, work, images, processes) for name in ("alone", "killed"))
    for place in (alone, killed):
        place.work.mkdir()
    pace = run_alone(alone)
    seconds = {name: round(each, 3) for name, each in asdict(pace).items()}
    account = run_killed(killed, kills, pace, intervals)
    compared, different = compare(alone.run, killed.run)
    problems = [*account.problems, *different, *compare_names(alone.work, killed.work)]
    return {
        "processes": processes,
        "images": images,
        "recipe": RECIPE,
        "kills": len(kills),
        "kills_meant_for": dict(Counter(kill.when for kill in kills)),
        "kills_by_phase": dict(account.phases.most_common()),
        "kills_by_victim": dict(account.victims.most_common()),
        "sessions": len(kills) + 1,
        "models_loaded_after_kills": account.models_loaded,
        "most_images_redone": account.most_images_redone,
        "seconds": seconds,
        "compared": compared,
        "equal": not different,
        "problems": problems,
    }


def _command(options: argparse.Namespace) -> str:
    named = {name: value for name, value in vars(options).items() if name != "out"}
    return "python benchmarks/survive.py " + " ".join(f"--{name} {value}" for name, value in named.items())


def main() -> None:
    """Print a line for each kill, then the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--intervals", type=int, default=1, help="checkpoint intervals per kill (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills' moments (default: 0)")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    with TemporaryDirectory() as work:
        kills = plan(options.kills, options.processes, options.seed)
        found = survive(Path(work), kills, options.processes, options.intervals)
    results = {
        "date": date.today().isoformat(),
        "hardware": hardware("cpu", options.processes),
        "versions": versions(),
        "command": _command(options),
        **found,
    }
    print(json.dumps(results, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if found["problems"] else 0)


if __name__ == "__main__":
    main()
