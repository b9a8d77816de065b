"""A run from its first image to its last: when to step, show, save and stop."""

import math
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
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list
from PIL import Image
from torch import Tensor
from torch.optim import Adam
from tqdm import tqdm

from fagan_hf import __version__
from fagan_hf.architectures import save_architecture
from fagan_hf.cards import write_card
from fagan_hf.data import prepare_images
from fagan_hf.devices import available_cores
from fagan_hf.files import replacing
from fagan_hf.grids import image_grid
from fagan_hf.labels import label_values
from fagan_hf.layers import gates
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.redaction import redact
from fagan_hf.repository import ARCHITECTURE, CARD, CHECKPOINTS, RECIPE, save_repository, write_text
from fagan_hf.sampling import generate_images, label_grid, latents_from_seeds
from training.batches import Batches
from training.checkpoint import Checkpoints
from training.ema import AveragedGenerator
from training.facts import environment_facts
from training.origin import Origin, copy_history, copy_training_state, find_origin, restore_weights
from training.publisher import STOPPED_PATIENCE_SECONDS, Publisher
from training.randomness import random_stream
from training.recipe import Recipe
from training.regularisation import Regularisation
from training.report import Report
from training.run_folder import check_architecture, check_folder
from training.steps import Player, Trainer

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
        self.origin: Origin | None = None
        self.lineage: dict[str, Any] = {}  # the models that its weights come from, and what those have seen
        if recipe.resume_from or recipe.finetune_from:
            self.origin = self._find_origin(recipe.resume_from or recipe.finetune_from or "")
        self.publisher = self._make_publisher()
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
            recipe.run_dir / CHECKPOINTS,
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
        self._shown_at: int | None = None  # the same of samples.png
        self._stop_requested = False

    def _find_origin(self, name: str) -> Origin:
        """Find the model to start from, the same commit of it in every process."""
        with self.accelerator.main_process_first():
            origin = find_origin(name)
        [commit] = broadcast_object_list([origin.commit])
        return origin if commit == origin.commit else find_origin(f"{name.partition('@')[0]}@{commit}")

    def _make_publisher(self) -> Publisher | None:
        """Check early that the run can be pushed: nobody wants to find out after hours."""
        if self.recipe.push_to_hub is None or not self.is_main:
            return None
        publisher = Publisher(
            self.recipe.run_dir,
            self.recipe.push_to_hub,
            private=self.recipe.hub_private,
            with_training_state=self.recipe.push_training_state,
            tell=tqdm.write,
        )
        publisher.check()
        return publisher

    def _player(self, network: Generator | Discriminator) -> Player:
        is_generator = isinstance(network, Generator)
        rate = self.recipe.generator_learning_rate if is_generator else self.recipe.discriminator_learning_rate
        # channels_last is what convolutions are fastest in, on CPU and GPU.
        wrapped = self.accelerator.prepare_model(network.train().to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
        optimizer = Adam(network.parameters(), lr=rate, betas=self.recipe.betas, fused=True)
        return Player(wrapped, optimizer, self.recipe.max_gradient_norm)

    def train(self) -> None:
        """Train until the recipe's end, from the newest checkpoint if there is one.

        Raises:
            ValueError: The model that the run starts from has another architecture.
            FileNotFoundError: It lacks a file.
            OSError: The disk is full.
        """
        self._restore()
        if self._is_over():
            self._tell(f"Nothing is left to do after {self.images_seen:,} images: raise --max_images or --max_minutes.")
        is_stopped = False  # agreed on by all processes, which then all take the same way out
        with self._stopping_on_signals(), self._progress_bar() as bar:
            while not is_stopped and not self._is_over():
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
                    self._publish()
        if is_stopped:
            self._tell("Asked to end, and saved; the same command goes on from here.")
            if self.publisher is not None:
                self.publisher.finish(STOPPED_PATIENCE_SECONDS)
        else:
            self._finish()

    def _restore(self) -> None:
        state = self.checkpoints.restore()
        # Else a slow process would find what the first one lays there, and take another way than that.
        self.accelerator.wait_for_everyone()
        if state is not None:
            self._refuse_to_fall_behind(state["images_seen"])
            self.lineage = state.get("lineage", {})
        else:
            state = self._start_from_origin()
        self._started = time.monotonic()
        if state is not None:
            self.images_seen = state["images_seen"]
            self.seconds = state["seconds"]
            self._started -= self.seconds
            self._logged = (self.images_seen, self.seconds)
        if self.is_main:
            self.recipe.run_dir.mkdir(parents=True, exist_ok=True)
            write_text(self.recipe.run_dir / RECIPE, redact(self.recipe.to_yaml()))
            with replacing(self.recipe.run_dir / ARCHITECTURE) as path:
                save_architecture(path, self.architecture)
            self.report.rewind(self.images_seen)
            if self.images_seen:
                self._tell(f"Going on after {self.images_seen:,} images.")

    def _refuse_to_fall_behind(self, images_seen: int) -> None:
        """Keep a run that is resumed from a model from going on before that, from what an earlier try left here.

        Raises:
            ValueError: The model is ahead of the folder.
        """
        ahead = self.origin.facts.get("images_seen", 0) if self.origin and self.recipe.resume_from else 0
        if ahead > images_seen:
            raise ValueError(
                f"{self.recipe.run_dir} has seen {images_seen:,} images, {self.recipe.resume_from} {ahead:,}: to go on "
                "from there remove the folder or give another --name, to go on from here leave out --resume_from"
            )

    def _refuse_to_do_nothing(self, origin: Origin) -> None:
        """Say so before anything is written if the model has come to the recipe's end already.

        Raises:
            ValueError: It has.
        """
        images, minutes = origin.facts.get("images_seen", 0), origin.facts.get("seconds", 0.0) / 60
        if images >= self.recipe.max_images or minutes >= (self.recipe.max_minutes or math.inf):
            raise ValueError(
                f"nothing is left to do: {origin.name} has seen {images:,} images in {minutes:.1f} minutes, where the "
                "recipe ends; raise --max_images or --max_minutes"
            )

    def _start_from_origin(self) -> dict[str, Any] | None:
        """Take over the weights of another model, and with `resume_from` its progress or all of its state."""
        if self.origin is None:
            return None
        is_resumed = self.recipe.resume_from is not None
        self.lineage = self.origin.lineage(is_resumed=is_resumed, data=self.batches.images.description)
        if is_resumed:
            self._refuse_to_do_nothing(self.origin)
        if is_resumed and self.origin.training_state is not None:
            networks = self.generator, self.discriminator
            with self.accelerator.main_process_first():
                if self.is_main:
                    copy_training_state(self.origin, *networks, self.checkpoints.folder, self.report.metrics_path)
            return self.checkpoints.restore()
        told = restore_weights(self.origin, self.generator, self.discriminator, self.averaged.model)
        self._tell(f"{self.origin.name} has no training state. {told}" if is_resumed else told)
        if not is_resumed:
            return None
        if self.is_main:
            copy_history(self.origin, self.report.metrics_path)
        facts = self.origin.facts
        if "images_seen" not in facts:
            self._tell(f"{self.origin.name} does not say how many images it has seen: counting from 0.")
        return {"images_seen": facts.get("images_seen", 0), "seconds": facts.get("seconds", 0.0)}

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
            self._shown_at = self.images_seen
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.is_main:
            if self._shown_at != self.images_seen:  # what is saved is what is shown
                self.report.show_samples(sample_grid(self._averaged_generator()))
                self._shown_at = self.images_seen
            folder = self.recipe.run_dir
            save_repository(folder, self._averaged_generator(), self.discriminator, self._facts())
            self._write_card()
            state = {"images_seen": self.images_seen, "seconds": self.seconds, "version": __version__}
            self.checkpoints.save(self.images_seen, state | {"lineage": self.lineage})
        self.accelerator.wait_for_everyone()

    def _facts(self) -> dict[str, Any]:
        """Collect what the card is written from."""
        device, num_processes = self.accelerator.device.type, self.accelerator.num_processes
        environment = environment_facts(device, num_processes)
        # Sessions of a run may be on different machines: the wall time is that of all.
        hardware = self.lineage.setdefault("hardware", [])
        if environment["hardware"] not in hardware:
            hardware.append(environment["hardware"])
        names = {name: self.lineage[name] for name in ("finetuned_from", "resumed_from") if name in self.lineage}
        return {
            "data": self.batches.images.description,
            "training": {
                "images_seen": self.images_seen,
                "seconds": round(self.seconds, 1),
                **environment,
                "hardware": ", then ".join(hardware),
                **names,
            },
            "earlier_data": self.lineage.get("earlier_data", []),
            "weights_licence": self.recipe.weights_licence,
        }

    def _write_card(self) -> None:
        path = self.recipe.run_dir / CARD
        existing = path.read_text(encoding="utf-8") if path.is_file() else None
        try:
            repo_id = self.publisher.repo_id if self.publisher else None
            write_text(path, write_card(self.recipe.run_dir, repo_id, existing))
        except Exception as error:  # whatever people wrote there, it is no reason to end a run
            self._tell(f"{path} is left as it is: {error}")

    def _publish(self) -> None:
        if self.publisher is not None:
            self.publisher.push(self.images_seen)

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
        if self.is_main:
            self.report.make_gif(self.recipe.gif_frames)
        self._save()
        self._tell(_farewell(self.recipe, self.images_seen, self.seconds))
        self._publish()
        self.accelerator.end_training()
        if self.publisher is not None:
            self.publisher.finish()

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
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


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
