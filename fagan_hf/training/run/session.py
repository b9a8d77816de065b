"""What a run is made of: set up once from a recipe, and handed to the functions that train, resume and show."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
from fagan_hf.training.reporting.evaluation import Evaluation, Evaluator
from fagan_hf.training.reporting.health import SkippedSteps
from fagan_hf.training.reporting.means import Means
from fagan_hf.training.reporting.publisher import Publisher
from fagan_hf.training.reporting.report import Report
from fagan_hf.training.reporting.trackers import Tracker, accelerator_options, check_tracker
from fagan_hf.training.run.checkpoint import Checkpoints
from fagan_hf.training.run.disk import when_there_is_room
from fagan_hf.training.run.folder import check_architecture, check_folder, check_same_recipe, hold_folder
from fagan_hf.training.run.last_done import LastDone
from fagan_hf.training.run.origin import Origin, find_origin
from fagan_hf.training.run.progress import Progress
from fagan_hf.training.step.batches import Batches
from fagan_hf.training.step.compilation import check_compilation
from fagan_hf.training.step.cuda_graphs import GraphedSteps
from fagan_hf.training.step.ema import AveragedGenerator
from fagan_hf.training.step.randomness import random_seed
from fagan_hf.training.step.regularization import Regularization
from fagan_hf.training.step.steps import Player, Trainer, make_player

T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class Session:
    """A run in its folder, which no other run may use until `close`.

    Attributes:
        recipe: What to train, on what, and how.
        processes: Who share the work.
        lock: On the folder; of the main process.
        origin: The model that the run starts from.
        publisher: Pushes to the Hub; of the main process.
        architecture: Configs of both networks.
        batches: Real images, labels and latents as functions of the images seen.
        generator, discriminator: The trained networks, bare.
        averaged: The averaged generator, which is shown, measured and saved.
        trainer: The steps of both networks.
        graphed: The same as one CUDA graph, where the recipe compiles so.
        checkpoints: To come back to.
        evaluator: Measures the averaged generator, where the recipe wants it.
        report, tracker: Where numbers and grids go: the folder, and a dashboard.
        means: Of what the steps told since the last line, on the device.
        skipped: Steps that changed nothing because numbers were not finite.
        stop_request: Was the run asked to stop?
        progress: Where the run stands: all that a checkpoint holds besides tensors.
        started: When training began, less what took other sessions and plus what was no training [monotonic seconds].
        last_line: The newest of ``metrics.jsonl``.
        measured: Numbers for the next line.
        evaluation: The newest one.
        last_done: When the averaged generator was ``"refreshed"``, a grid ``"drawn"`` and ``"shown"``, and the model
            ``"evaluated"``.
    """

    recipe: Recipe
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
    means: Means
    skipped: SkippedSteps
    stop_request: StopRequest
    progress: Progress
    started: float = field(default_factory=time.monotonic)
    last_line: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    last_done: LastDone = field(default_factory=LastDone)

    @property
    def is_main(self) -> bool:
        """Is this the process that writes and tells?"""
        return self.processes.is_main

    @property
    def images_seen(self) -> int:
        """Real images that went through steps."""
        return self.progress.images_seen

    @property
    def seconds(self) -> float:
        """Time of training, over all sessions; a clock that is set does not change it."""
        return self.progress.seconds

    @property
    def images(self) -> Images | ImageStream:
        """What the run trains on."""
        return self.batches.images

    def is_due(self, what: str) -> bool:
        """Return whether the step that was just taken crossed an interval of the recipe, such as ``"log"``."""
        interval = getattr(self.recipe, f"{what}_every_images")
        return bool(interval) and self.images_seen // interval > (self.images_seen - self.recipe.batch_size) // interval

    def averaged_generator(self) -> Generator:
        """Return the averaged generator as it is shown and saved, measuring it once where both happen."""
        if not self.last_done.is_current("refreshed", self.images_seen):
            self.averaged.refresh(self.generator, self.recipe.seed, self.images.labels)
            self.last_done.note("refreshed", self.images_seen)
        return self.averaged.model

    def tell(self, message: str) -> None:
        """Show a message, once for all processes."""
        if self.is_main:
            tqdm.write(message)

    def note(self, event: str) -> None:
        """Tell something that the next line of ``metrics.jsonl`` tells as well."""
        self.tell(event)
        self.progress.events = [*self.progress.events, event]

    def main_writes(self, write: Callable[[], Any]) -> None:
        """Let the main process write, waiting for room on a full disk, and the others wait for it."""
        self.processes.run_on_main(lambda: self.when_there_is_room(write))

    def when_there_is_room(self, write: Callable[[], T]) -> T:
        """Write, again and again while the disk is full.

        Raises:
            OSError: It stays full.
        """
        return when_there_is_room(
            write, self.recipe.run_dir, tell=self.tell, is_stopped=lambda: self.stop_request.is_made
        )

    def close(self) -> None:
        """End what goes on beside the run, and give the folder free."""
        self.tracker.finish()
        self.batches.close()
        if self.lock is not None:
            self.lock.release()


def setup(recipe: Recipe) -> Session:
    """Build what a run is made of.

    Args:
        recipe: What to train, on what, and how.

    Raises:
        ValueError: The images can't be used or are too few, the batch can't be shared by the processes, the folder
            belongs to another recipe, or another process trains there.
        FileNotFoundError: There is no such data set.
        ImportError: There is no such tracker.
        OSError: The folder or the image cache can't be written.
    """
    check_launcher(recipe)
    check_tracker(recipe.report_to)
    processes = Processes(recipe.mixed_precision, **accelerator_options(recipe.report_to, recipe.run_dir))
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
        return _assemble(recipe, processes, lock)
    except BaseException:  # in a notebook the process lives on, and the traceback with everything in it
        if lock is not None:
            lock.release()
        raise


def _assemble(recipe: Recipe, processes: Processes, lock: FileLock | None) -> Session:
    processes.run_on_main(lambda: check_folder(recipe))
    check_same_recipe(recipe, processes.broadcast_from_main(recipe.to_yaml()))
    origin_name = recipe.resume_from or recipe.finetune_from
    origin = _find_origin(origin_name, processes) if origin_name else None
    with processes.uneven_work():
        publisher = _make_publisher(recipe) if processes.is_main else None
        images = _open_images(recipe, processes)
    architecture = recipe.networks(images.label_names)
    processes.run_on_main(lambda: check_architecture(recipe, architecture))
    batches = Batches(images, recipe, architecture[0].latent_dim, processes.device, processes.index, processes.count)
    if batches.content != processes.broadcast_from_main(batches.content):
        raise ValueError(f"{recipe.dataset} holds other images in this process than in the main one")
    generator, discriminator = _make_networks(recipe, architecture, images)
    # Copied before `prepare` makes the batch norms of several processes wait for each other: the main process alone
    # measures the average. Its parameters lie in memory as the trained ones do, so that all move in one pass.
    averaged = AveragedGenerator(generator, recipe.ema_half_life_images, recipe.ema_ramp)
    averaged.model.to(processes.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    players = _make_player(recipe, processes, generator), _make_player(recipe, processes, discriminator)
    trainer = Trainer(processes, *players, LOSSES[recipe.loss], recipe.augment, Regularization.of(recipe))
    evaluator = None
    if recipe.eval_every_images:
        assert isinstance(images, Images), "a recipe refuses to measure with a stream"
        with processes.uneven_work():
            evaluator = Evaluator(images, recipe.eval_features, recipe.eval_num_images, processes)

    def tell(message: str) -> None:
        if processes.is_main:
            tqdm.write(message)

    return Session(
        recipe=recipe,
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
        means=Means(processes.device),
        skipped=SkippedSteps(processes.device),
        stop_request=StopRequest(),
        progress=Progress(processes=processes.count),
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
        return open_stream(recipe.source(), seed=recipe.seed, process=processes.index, processes=processes.count)
    return prepare_images(recipe.source(), progress=processes.is_main)


def _make_publisher(recipe: Recipe) -> Publisher | None:
    """Check early that the run can be pushed: nobody wants to find out after hours."""
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
