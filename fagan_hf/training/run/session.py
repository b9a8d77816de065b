"""The components of a run: set up once from a recipe, and passed to the functions that train, resume and report."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from fagan_hf.architectures.configs import Architecture
from fagan_hf.data.cache import Images
from fagan_hf.data.prepare import prepare_images
from fagan_hf.data.stream import ImageStream, open_stream
from fagan_hf.hub.repository import CHECKPOINTS
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.distributed.launch import check_launcher, cores_of_a_process
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.distributed.signals import StopRequest
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.reporting.diversity import diversity
from fagan_hf.training.reporting.evaluation import Evaluation, Evaluator
from fagan_hf.training.reporting.health import SkippedSteps
from fagan_hf.training.reporting.means import Means
from fagan_hf.training.reporting.notebook import NotebookDisplay, find_display
from fagan_hf.training.reporting.publisher import Publisher
from fagan_hf.training.reporting.report import Report
from fagan_hf.training.reporting.trackers import Tracker, accelerator_options, check_tracker
from fagan_hf.training.run.checkpoint import Checkpoints
from fagan_hf.training.run.disk import when_there_is_room
from fagan_hf.training.run.folder import check_architecture, check_folder, check_same_recipe, hold_folder
from fagan_hf.training.run.last_done import LastDone
from fagan_hf.training.run.origin import Origin, check_frozen_origin, find_origin
from fagan_hf.training.run.progress import Progress
from fagan_hf.training.step.adaptive import AugmentProbability
from fagan_hf.training.step.batches import Batches
from fagan_hf.training.step.compilation import check_compilation
from fagan_hf.training.step.cuda_graphs import GraphedSteps
from fagan_hf.training.step.ema import AveragedGenerator
from fagan_hf.training.step.freezing import freeze_layers
from fagan_hf.training.step.memory import check_memory
from fagan_hf.training.step.precision import NAMES, choose_precision, tell_precision
from fagan_hf.training.step.randomness import random_seed
from fagan_hf.training.step.regularization import Regularization
from fagan_hf.training.step.steps import Player, Trainer, make_player
from fagan_hf.utils.devices import find_device

T = TypeVar("T")
MAX_COMPARED = 256
"""Number of real images whose diversity is measured, spread over all of them."""


@dataclass(kw_only=True, eq=False)
class Session:
    """A run in its folder, which no other run may use until `close`.

    Attributes:
        recipe: The recipe of the run.
        command: The command for the card, if it differs from that of this process.
        changes: How the recipe differs from that of the last session, in words.
        processes: Processes that share the work.
        lock: Lock on the folder; main process only.
        origin: The model that the run starts from.
        publisher: Pushes to the Hub; main process only.
        architecture: Configs of both networks.
        batches: Real images, labels and latents as functions of the images seen.
        generator, discriminator: The trained networks, unwrapped.
        averaged: The averaged generator, which is sampled, evaluated and saved.
        trainer: Training steps of both networks.
        graphed: The same steps as one CUDA graph, if the recipe asks for it.
        checkpoints: Checkpoints of the run.
        evaluator: Evaluates the averaged generator, if the recipe asks for it.
        report, tracker: Destinations of metrics and grids: the run folder, and a dashboard.
        display: Shows the newest metrics and grids below the cell, in a notebook.
        means: Means of the steps' metrics since the last line, on the device.
        skipped: Steps skipped because losses or gradients were not finite.
        stop_request: Whether the run was asked to stop.
        progress: Progress of the run: everything in a checkpoint besides tensors.
        started: Start of training, minus the time of earlier sessions, plus time that does not count as training
            [monotonic seconds].
        last_line: The newest line of ``metrics.jsonl``.
        evaluation: The newest evaluation.
        last_done: When the averaged generator was ``"refreshed"`` and ``"kept"`` as a snapshot, a grid ``"drawn"`` and
            ``"shown"``, and the model ``"evaluated"``.
    """

    recipe: Recipe
    command: str | None
    changes: list[str]
    processes: Processes
    lock: FileLock | None
    origin: Origin | None
    publisher: Publisher | None
    architecture: Architecture
    batches: Batches
    generator: Generator
    discriminator: Discriminator
    averaged: AveragedGenerator
    trainer: Trainer
    graphed: GraphedSteps | None
    checkpoints: Checkpoints
    evaluator: Evaluator | None
    report: Report
    tracker: Tracker
    display: NotebookDisplay | None
    means: Means
    skipped: SkippedSteps
    stop_request: StopRequest
    progress: Progress
    started: float = field(default_factory=time.monotonic)
    last_line: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    last_done: LastDone = field(default_factory=LastDone)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.processes.is_main

    @property
    def images_seen(self) -> int:
        """Real images seen in training steps."""
        return self.progress.images_seen

    @property
    def seconds(self) -> float:
        """Training time over all sessions, unaffected by changes of the system clock."""
        return self.progress.seconds

    @property
    def images(self) -> Images | ImageStream:
        """The training images."""
        return self.batches.images

    @cached_property
    def real_diversity(self) -> float | None:
        """How much real images differ; ``None`` if all are the same, and for a stream, which can't be looked into."""
        if isinstance(self.images, ImageStream) or len(self.images) < 2:
            return None
        rows = np.linspace(0, len(self.images) - 1, min(len(self.images), MAX_COMPARED)).astype(int)
        return diversity(self.images.array[rows]) or None

    def is_due(self, what: str) -> bool:
        """Return whether the last step crossed an interval of the recipe, such as ``"log"``."""
        interval = getattr(self.recipe, f"{what}_every_images")
        return bool(interval) and self.images_seen // interval > (self.images_seen - self.recipe.batch_size) // interval

    def averaged_generator(self) -> Generator:
        """Return the averaged generator for sampling and saving, refreshing its statistics once if both happen."""
        if not self.last_done.is_current("refreshed", self.images_seen):
            self.averaged.refresh(self.generator, self.recipe.seed, self.images.labels)
            self.last_done.note("refreshed", self.images_seen)
        return self.averaged.model

    def tell(self, message: str) -> None:
        """Print a message, once for all processes."""
        if self.is_main:
            tqdm.write(message)

    def note(self, event: str) -> None:
        """Print a message and add it to the events of the next line of ``metrics.jsonl``."""
        self.tell(event)
        self.progress.events = [*self.progress.events, event]

    def main_writes(self, write: Callable[[], Any]) -> None:
        """Let the main process write, waiting for free disk space if needed, while the others wait."""
        self.processes.run_on_main(lambda: self.when_there_is_room(write))

    def when_there_is_room(self, write: Callable[[], T]) -> T:
        """Call a function that writes, and retry while the disk is full.

        Raises:
            OSError: The disk stays full.
        """
        return when_there_is_room(
            write, self.recipe.run_dir, tell=self.tell, is_stopped=lambda: self.stop_request.is_made
        )

    def close(self) -> None:
        """Stop background work, and release the folder's lock."""
        self.tracker.finish()
        self.batches.close()
        if self.lock is not None:
            self.lock.release()
        self.processes.leave()


def setup(recipe: Recipe, command: str | None = None) -> Session:
    """Build the components of a run.

    Args:
        recipe: The recipe of the run.
        command: Command on the card that reproduces the training; by default the command of this process.

    Raises:
        ValueError: The images can't be used or are too few, the batch can't be split over the processes, the folder
            belongs to another recipe, another process is training there, the device can't compute in the precision, or
            a step does not fit into memory.
        FileNotFoundError: There is no such dataset.
        ImportError: The tracker is not installed.
        OSError: The folder or the image cache can't be written.
    """
    check_launcher(recipe)
    check_tracker(recipe.report_to)
    precision = choose_precision(recipe.mixed_precision, find_device(None))
    processes = Processes(precision, **accelerator_options(recipe.report_to, recipe.run_dir))
    if precision != (of_main := processes.broadcast_from_main(precision)):
        raise ValueError(
            f"this process would compute in {NAMES[precision]}, the main process in {NAMES[of_main]}, because their "
            f"devices differ; give --mixed_precision {of_main}, no or another that all of them can compute in"
        )
    if processes.is_main:
        tell_precision(recipe.mixed_precision, precision, processes.device)
    check_compilation(
        recipe.compile, processes.device, processes=processes.count, accumulation=recipe.gradient_accumulation
    )
    if processes.device.type == "cpu":
        torch.set_num_threads(recipe.cpu_threads or cores_of_a_process())
    lock = None
    with processes.uneven_work():
        if processes.is_main:
            lock = hold_folder(recipe)
    try:
        return _assemble(recipe, command, processes, lock)
    except BaseException:  # in a notebook the process stays alive, and the traceback keeps its objects alive
        if lock is not None:
            lock.release()
        processes.leave()
        raise


def _assemble(recipe: Recipe, command: str | None, processes: Processes, lock: FileLock | None) -> Session:
    changes = processes.broadcast_from_main(processes.run_on_main(lambda: check_folder(recipe)))
    check_same_recipe(recipe, processes.broadcast_from_main(recipe.to_yaml()))
    origin_name = recipe.resume_from or recipe.finetune_from
    origin = _find_origin(origin_name, processes) if origin_name else None
    if origin is not None and recipe.checkpoint is not None:
        origin = origin.at(recipe.checkpoint, recipe.run_dir)
    if origin is not None and recipe.freeze_discriminator_layers:
        check_frozen_origin(origin, is_resumed=recipe.resume_from is not None)
    with processes.uneven_work():
        publisher = _make_publisher(recipe) if processes.is_main else None
        images = _open_images(recipe, processes)
    architecture = recipe.networks(images.label_names)
    processes.run_on_main(lambda: check_architecture(recipe, architecture))
    processes.run_on_main(lambda: check_memory(recipe, architecture, processes.device, processes.count))
    batches = Batches(images, recipe, architecture[0].latent_dim, processes.device, processes.index, processes.count)
    if batches.content != processes.broadcast_from_main(batches.content):
        raise ValueError(f"{recipe.dataset} contains other images in this process than in the main process")
    generator, discriminator = _make_networks(recipe, architecture, images)
    freeze_layers(discriminator, recipe.freeze_discriminator_layers)
    # Copied before `prepare` synchronizes batch norms over processes, because the main process refreshes the average
    # alone. Its parameters have the trained ones' memory layout, so that all are updated in one pass.
    averaged = AveragedGenerator(generator, recipe.ema_half_life_images, recipe.ema_ramp)
    averaged.model.to(processes.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    players = _make_player(recipe, processes, generator), _make_player(recipe, processes, discriminator)
    trainer = Trainer(
        processes,
        *players,
        LOSSES[recipe.loss],
        recipe.augment,
        Regularization.of(recipe),
        AugmentProbability.of(recipe, processes.device),
        recipe.freeze_discriminator_layers,
    )
    evaluator = None
    if recipe.eval_every_images:
        assert isinstance(images, Images), "a recipe refuses to evaluate with a stream"
        with processes.uneven_work():
            evaluator = Evaluator(images, recipe.eval_features, recipe.eval_num_images, processes)

    def tell(message: str) -> None:
        if processes.is_main:
            tqdm.write(message)

    return Session(
        recipe=recipe,
        command=command,
        changes=changes,
        processes=processes,
        lock=lock,
        origin=origin,
        publisher=publisher,
        architecture=architecture,
        batches=batches,
        generator=generator,
        discriminator=discriminator,
        averaged=averaged,
        trainer=trainer,
        graphed=GraphedSteps(trainer) if recipe.compile == "cuda_graphs" else None,
        checkpoints=Checkpoints(
            recipe.run_dir / CHECKPOINTS,
            {"generator": generator, "discriminator": discriminator, "averaged_generator": averaged.model},
            {"generator_optimizer": players[0].optimizer, "discriminator_optimizer": players[1].optimizer},
            recipe.keep_checkpoints,
        ),
        evaluator=evaluator,
        report=Report(recipe.run_dir),
        tracker=Tracker(processes.accelerator, recipe.report_to, recipe.run_dir, recipe.to_plain(), tell),
        # Several processes in a notebook are started by `notebook_launcher`, and are not connected to its kernel.
        display=find_display() if processes.count == 1 else None,
        means=Means(processes.device),
        skipped=SkippedSteps(processes.device, has_loss_scales=processes.precision == "fp16"),
        stop_request=StopRequest(),
        progress=Progress(processes=processes.count, precision=processes.precision),
    )


def _find_origin(name: str, processes: Processes) -> Origin:
    """Find the model to start from, the same commit of it in every process."""
    with processes.uneven_work():
        origin = find_origin(name)
    commit = processes.broadcast_from_main(origin.commit)
    with processes.uneven_work():
        return origin if commit == origin.commit else find_origin(f"{name.partition('@')[0]}@{commit}")


def _open_images(recipe: Recipe, processes: Processes) -> Images | ImageStream:
    if recipe.streaming:
        stream = open_stream(recipe.source(), seed=recipe.seed, process=processes.index, processes=processes.count)
        if processes.is_main and stream.summary:
            tqdm.write(stream.summary)
        return stream
    return prepare_images(recipe.source(), progress=processes.is_main)


def _make_publisher(recipe: Recipe) -> Publisher | None:
    """Check early that the run can be pushed, rather than fail after hours of training."""
    if recipe.push_to_hub is None:
        return None
    publisher = Publisher(
        recipe.run_dir,
        recipe.push_to_hub,
        private=recipe.hub_private,
        with_training_state=recipe.push_training_state,
        tell=tqdm.write,
    )
    publisher.check()
    return publisher


def _make_networks(
    recipe: Recipe, architecture: Architecture, images: Images | ImageStream
) -> tuple[Generator, Discriminator]:
    """Initialize both networks, the same in every process."""
    torch.manual_seed(random_seed(recipe.seed, "initial_weights"))
    generator, discriminator = Generator(architecture[0]), Discriminator(architecture[1])
    if generator.label_frequencies is not None:
        generator.label_frequencies.copy_(torch.from_numpy(images.labels).mean(0))
    return generator, discriminator


def _make_player(recipe: Recipe, processes: Processes, network: Generator | Discriminator) -> Player:
    is_generator = isinstance(network, Generator)
    rate = recipe.generator_learning_rate if is_generator else recipe.discriminator_learning_rate
    return make_player(
        processes, network, rate, recipe.betas, recipe.compile, max_gradient_norm=recipe.max_gradient_norm
    )
