"""A run from its first image to its last: when to step, show, save and stop."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, Literal, cast

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from PIL import Image
from torch import Tensor
from torch.optim import Adam
from tqdm import tqdm

from fagan_hf import __version__
from fagan_hf.architectures import Architecture, load_architecture, save_architecture
from fagan_hf.data import prepare_images
from fagan_hf.files import replacing
from fagan_hf.grids import image_grid
from fagan_hf.labels import label_values
from fagan_hf.layers import gates
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.repository import save_repository
from fagan_hf.sampling import generate_images, label_grid, latents_from_seeds
from training.batches import Batches
from training.checkpoint import Checkpoints
from training.ema import AveragedGenerator
from training.randomness import random_stream
from training.recipe import DEFAULTS, HOW_LONG_AND_WHERE, Recipe
from training.regularisation import Regularisation
from training.report import Report
from training.steps import Player, Trainer

ARCHITECTURE = "architecture.json"
MAX_LABEL_ROWS = 16  # of the grid of a run; `fagan-hf generate --by-label` draws all
SAMPLE_SEEDS = range(64)  # the grid of a run shows what `fagan-hf generate --seeds 0-63` gives


class Run:
    """A training run in its folder.

    Args:
        recipe: What to train, on what, and how.

    Raises:
        ValueError: The images can't be used or are too few, the batch can't be shared by the processes, or the folder
            belongs to another recipe.
        FileNotFoundError: There is no such data set.
        OSError: The folder or the image cache can't be written.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        check_launcher(recipe)
        self.accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            # Not told that there is no GPU, Accelerate takes several processes for so many runs of one process each.
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[
                # Buffers are not sent around before a forward pass: two passes of one network before its backward
                # pass would find them changed. Rank 0's are the ones that are saved.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                # The first process may decode a whole data set while the others wait for it.
                InitProcessGroupKwargs(timeout=timedelta(hours=6)),
            ],
        )
        self.is_main = self.accelerator.is_main_process
        if self.accelerator.device.type == "cpu":
            torch.set_num_threads(recipe.cpu_threads or cores_of_a_process())
        if self.is_main:
            check_folder(recipe)
        with self.accelerator.main_process_first():
            images = prepare_images(recipe.source(), progress=self.is_main)
        self.architecture = recipe.networks(images.label_names)
        generator_config, discriminator_config = self.architecture
        if self.is_main:
            check_architecture(recipe, self.architecture)
        self.batches = Batches(
            images,
            recipe,
            generator_config.latent_dim,
            self.accelerator.device,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        torch.manual_seed(random_stream(recipe.seed, "initial_weights").initial_seed())
        generator, discriminator = Generator(generator_config), Discriminator(discriminator_config)
        if generator.label_frequencies is not None:
            generator.label_frequencies.copy_(torch.from_numpy(images.labels).mean(0))
        self.generator, self.discriminator = generator, discriminator
        self.averaged = AveragedGenerator(generator, recipe.ema_half_life_images, recipe.ema_ramp)
        self.averaged.model.to(self.accelerator.device)
        players = self._player(generator), self._player(discriminator)
        self.trainer = Trainer(
            self.accelerator, *players, LOSSES[recipe.loss], recipe.augment, Regularisation.of(recipe)
        )
        self.checkpoints = Checkpoints(
            recipe.run_dir / "checkpoints",
            {"generator": generator, "discriminator": discriminator, "averaged_generator": self.averaged.model},
            {"generator_optimizer": players[0].optimizer, "discriminator_optimizer": players[1].optimizer},
            recipe.keep_checkpoints,
        )
        self.report = Report(recipe.run_dir)
        self.images_seen = 0
        self.seconds = 0.0  # of training, over all sessions
        self._started = time.monotonic()
        self._sums: dict[str, Tensor] = {}  # since the last line
        self._counts: dict[str, int] = {}  # of what each sum is made
        self._logged = (0, 0.0)  # images and seconds at the last line
        self._last_line: dict[str, float] = {}
        self._refreshed_at: int | None = None  # images seen when the averaged generator was last measured
        self._stop_requested = False

    def _player(self, network: Generator | Discriminator) -> Player:
        is_generator = isinstance(network, Generator)
        rate = self.recipe.generator_learning_rate if is_generator else self.recipe.discriminator_learning_rate
        # channels_last is what convolutions are fastest in, on CPU and GPU.
        wrapped = self.accelerator.prepare_model(network.train().to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
        optimizer = Adam(network.parameters(), lr=rate, betas=self.recipe.betas, fused=True)
        return Player(wrapped, optimizer, self.recipe.max_gradient_norm)

    def train(self) -> None:
        """Train until the recipe's end, from the newest checkpoint if there is one."""
        self._restore()
        with self._stopping_on_signals(), self._progress_bar() as bar:
            while not self._is_over():
                self._step()
                bar.update(self.recipe.batch_size)
                if self._is_due("log"):
                    self._log()
                    self._show_numbers(bar)
                if self._is_due("sample"):
                    self._show()
                is_stopped = self._all_agree(self._stop_requested)
                if self._is_due("checkpoint") or is_stopped:
                    self._save()
                if is_stopped:
                    self._tell("Asked to end, and saved; the same command goes on from here.")
                    return
        self._finish()

    def _restore(self) -> None:
        state = self.checkpoints.restore()
        self._started = time.monotonic()
        if state is not None:
            self.images_seen = state["images_seen"]
            self.seconds = state["seconds"]
            self._started -= self.seconds
            self._logged = (self.images_seen, self.seconds)
        if self.is_main:
            self.recipe.run_dir.mkdir(parents=True, exist_ok=True)
            with replacing(self.recipe.run_dir / "recipe.yaml") as path:
                path.write_text(self.recipe.to_yaml(), encoding="utf-8")
            with replacing(self.recipe.run_dir / ARCHITECTURE) as path:
                save_architecture(path, self.architecture)
            self.report.rewind(self.images_seen)
            if self.images_seen:
                self._tell(f"Going on after {self.images_seen:,} images.")

    def _step(self) -> None:
        batch_size = self.recipe.batch_size
        for_discriminator, for_generator = self.batches.make(self.images_seen)
        self._set_learning_rates(self.images_seen + batch_size)
        numbers = self.trainer.discriminator_step(for_discriminator, step=self.images_seen // batch_size)
        numbers |= self.trainer.generator_step(for_generator)
        self.images_seen += batch_size
        self.averaged.update(self.generator, batch_size, self.images_seen)
        for name, number in numbers.items():
            self._sums[name] = self._sums.get(name, 0) + number  # stays on the device: nothing waits for it
            self._counts[name] = self._counts.get(name, 0) + 1
        self.seconds = time.monotonic() - self._started

    def _set_learning_rates(self, images: int) -> None:
        """Warm up: the rates are those of the recipe times the share of `warmup_images` that the step ends at."""
        if self.recipe.warmup_images == 0:
            return
        share = min(1.0, images / self.recipe.warmup_images)
        self.trainer.generator.optimizer.param_groups[0]["lr"] = share * self.recipe.generator_learning_rate
        self.trainer.discriminator.optimizer.param_groups[0]["lr"] = share * self.recipe.discriminator_learning_rate

    def _is_due(self, what: str) -> bool:
        interval = getattr(self.recipe, f"{what}_every_images")
        return self.images_seen // interval > (self.images_seen - self.recipe.batch_size) // interval

    def _is_over(self) -> bool:
        minutes = self.recipe.max_minutes
        is_late = minutes is not None and self.seconds >= 60 * minutes
        return self._all_agree(is_late) or self.images_seen >= self.recipe.max_images

    def _all_agree(self, wish: bool) -> bool:
        """Let any process end the run for all, at the same step.

        Clocks differ and signals arrive at different moments. Asking costs a wait for the device, so with several
        processes it is done when a line is logged only.
        """
        if self.accelerator.num_processes == 1:
            return wish
        if not self._is_due("log"):
            return False
        return self._reduce(torch.tensor(float(wish), device=self.accelerator.device), "sum") > 0

    def _log(self) -> None:
        """Write a line of means since the last one; the same for all processes."""
        logged_images, logged_seconds = self._logged
        images, seconds = self.images_seen - logged_images, self.seconds - logged_seconds
        means = {name: self._reduce(total / self._counts[name], "mean") for name, total in self._sums.items()}
        self._sums, self._counts, self._logged = {}, {}, (self.images_seen, self.seconds)
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        blends = {
            f"{player}.{name}": gate.item()
            for player, network in networks.items()
            for name, gate in gates(network).items()
        }
        speed = images / max(seconds, 1e-9)
        numbers = {"images": self.images_seen, "seconds": round(self.seconds, 2), "images_per_second": round(speed, 2)}
        self._last_line = numbers | means | blends
        if self.is_main:
            self.report.add_line(self._last_line)

    def _show_numbers(self, bar: tqdm) -> None:
        bar.total = self._expected_images()
        losses = {player: self._last_line[f"{player}_loss"] for player in ("generator", "discriminator")}
        bar.set_postfix(G=f"{losses['generator']:.3f}", D=f"{losses['discriminator']:.3f}")

    def _reduce(self, number: Tensor, how: Literal["sum", "mean"]) -> float:
        """Combine a number of all processes, and read it."""
        return cast(Tensor, self.accelerator.reduce(number, how)).item()

    def _expected_images(self) -> int:
        """Estimate how many images the run will see, for the bar's time of arrival."""
        if self.recipe.max_minutes is None or not self.images_seen:
            return self.recipe.max_images
        by_then = round(self.images_seen * 60 * self.recipe.max_minutes / self.seconds)
        return min(self.recipe.max_images, max(by_then, self.images_seen))

    def _show(self) -> None:
        if self.is_main:
            self.report.add_samples(self.images_seen, sample_grid(self._averaged_generator()))
            self.report.draw_plots()
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.is_main:
            save_repository(self.recipe.run_dir, self._averaged_generator(), self.discriminator)
            state = {"images_seen": self.images_seen, "seconds": self.seconds, "version": __version__}
            self.checkpoints.save(self.images_seen, state)
        self.accelerator.wait_for_everyone()

    def _averaged_generator(self) -> Generator:
        """Give the averaged generator as it is shown and saved, measuring it once where both happen."""
        if self._refreshed_at != self.images_seen:
            self.averaged.refresh(self.generator, self.recipe.seed, self.batches.images.labels)
            self._refreshed_at = self.images_seen
        return self.averaged.model

    def _finish(self) -> None:
        if self._sums:  # what came after the last line
            self._log()
        self._show()
        self._save()
        if self.is_main:
            self.report.make_gif(self.recipe.gif_frames)
            self._tell(_farewell(self.recipe, self.images_seen, self.seconds))
        self.accelerator.end_training()

    def _progress_bar(self) -> tqdm:
        return tqdm(
            initial=self.images_seen,
            total=self._expected_images(),
            unit="img",
            desc=self.recipe.name,
            disable=not self.is_main,
            smoothing=0.05,
            mininterval=1 if sys.stderr.isatty() else 20,  # a log file wants fewer lines
        )

    def _tell(self, message: str) -> None:
        if self.is_main:
            tqdm.write(message)

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """Finish the step and save when asked to end (Ctrl-C, preemption); a second time ends at once."""

        def request(number: int, frame: FrameType | None) -> None:
            self._stop_requested = True
            for each in before:
                signal.signal(each, signal.SIG_DFL)

        before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def sample_grid(generator: Generator) -> Image.Image:
    """Draw what a run shows of itself: 64 seeds, or 8 seeds for each value of each label, up to `MAX_LABEL_ROWS`."""
    if generator.label_frequencies is not None:
        rows = label_values(generator.config.label_names)
        if len(rows) > MAX_LABEL_ROWS:  # then claims that hold say enough
            rows = [wishes for wishes in rows if False not in wishes.values()]
        return label_grid(generator, range(8), rows[:MAX_LABEL_ROWS])
    latents = latents_from_seeds(SAMPLE_SEEDS, generator.config.latent_dim)
    return image_grid(generate_images(generator, latents, progress=False))


def check_launcher(recipe: Recipe) -> None:
    """Refuse a precision that was given to `accelerate launch` and that the recipe would overrule in silence.

    Raises:
        ValueError: Says where the flag belongs.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", recipe.mixed_precision):
        raise ValueError(
            f"accelerate launch was given mixed precision {launched!r}, the recipe has {recipe.mixed_precision!r}; "
            "give --mixed_precision behind training/train.py"
        )


def cores_of_a_process() -> int:
    """Count the cores that each process of this machine can have; launchers set one thread where they are not told."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def check_folder(recipe: Recipe) -> None:
    """Refuse a run folder that another recipe has begun.

    Raises:
        ValueError: Says which fields differ.
    """
    path = recipe.run_dir / "recipe.yaml"
    if not path.exists():
        return
    wanted = yaml.safe_load(recipe.to_yaml())
    try:
        begun = DEFAULTS | yaml.safe_load(path.read_text(encoding="utf-8"))  # fields newer than the folder
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is broken: {error}. Remove {recipe.run_dir} to start anew.") from error
    names = [name for name in begun.keys() | wanted.keys() if name not in HOW_LONG_AND_WHERE]
    different = sorted(name for name in names if begun.get(name) != wanted.get(name))
    if different:
        changes = "; ".join(f"{name} was {begun.get(name)!r}, is {wanted.get(name)!r}" for name in different)
        raise ValueError(
            f"{recipe.run_dir} belongs to another recipe: {changes}. "
            "Give another --name, or remove that folder to start anew."
        )


def check_architecture(recipe: Recipe, architecture: Architecture) -> None:
    """Refuse to go on with networks that were changed: `model` may be a file, and labels come from the data.

    Raises:
        ValueError: Says which network differs.
    """
    path = recipe.run_dir / ARCHITECTURE
    if not path.exists():
        return
    begun = load_architecture(str(path))
    changes = [
        f"{name}{change}"
        for name, was, now in zip(("generator", "discriminator"), begun, architecture, strict=True)
        for change in _changes(was.to_dict(), now.to_dict())
    ]
    if changes:
        raise ValueError(
            f"{recipe.run_dir} was begun with another architecture (see {path}): {'; '.join(changes[:5])}. "
            "Give another --name, or remove that folder to start anew."
        )


def _changes(was: Any, now: Any) -> Iterator[str]:
    """Name what differs between two configs, as far down as both have the same form."""
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        for key in was:
            yield from (f".{key}{change}" for change in _changes(was[key], now[key]))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, pair in enumerate(zip(was, now, strict=True)):
            yield from (f"[{index}]{change}" for change in _changes(*pair))
    elif was != now:
        is_long = any(isinstance(each, dict | list) for each in (was, now))
        yield " differs" if is_long else f" was {was!r}, is {now!r}"


def _farewell(recipe: Recipe, images_seen: int, seconds: float) -> str:
    folder = recipe.run_dir
    is_own_code = recipe.model.endswith(".py")
    note = f"  (import {recipe.model} first, if it registers layers)" if is_own_code else ""
    flag = f" --import {recipe.model}" if is_own_code else ""
    return f"""
{images_seen:,} images in {seconds / 60:.1f} minutes.
  samples    {folder / "samples.png"}
  plots      {folder / "loss.png"}, {folder / "alpha.png"}
  progress   {folder / "training_progress.gif"}
  model      {folder}

Make images:{note}

  from fagan_hf import FAGANPipeline
  images = FAGANPipeline.from_pretrained("{folder}")(num_images=16).images

or: fagan-hf generate --model {folder}{flag} --seeds 0-15 --out grid.png"""
