"""The processes of a run: how they share a step, agree on values, and wait for each other without hanging."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar, cast
from uuid import uuid4

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, distributed, nn
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from fagan_hf.training.distributed.batch_norm import synchronize_batch_norm
from fagan_hf.training.distributed.float16 import compute_in_float16
from fagan_hf.training.recipe import Precision

START_SECONDS = 600.0  # processes on different machines may start this far apart
PATIENCE_SECONDS = 60.0  # a process that is silent for this long is considered dead
BEAT_SECONDS = 5.0  # interval of heartbeats during uneven work
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.002, 0.25  # between checks on the others

T = TypeVar("T")


class OtherProcessError(RuntimeError):
    """Another process has failed or stopped responding."""


_meetings = count(1)  # the same numbers in all processes: they are part of the store's keys


class Processes:
    """All processes of a run, as seen from one of them; a run with one process never waits.

    Every method that is not about one network must be called by all processes, in the same order.

    Args:
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``.
        **options: For `accelerate.Accelerator`.

    Attributes:
        accelerator: Of this process.
        precision: As given.
        count: Number of processes, over all machines.
        index: Index of this process, from 0.
        is_main: Whether this process writes files and prints messages.
        device: Device of this process.
    """

    def __init__(self, precision: Precision = "no", **options: Any):
        _init_process_group()
        self.accelerator = Accelerator(
            mixed_precision="no" if precision == "fp16" else precision,  # see compute_in_float16
            # Without an explicit CPU setting, Accelerate treats several processes as independent single-process runs.
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=START_SECONDS))],
            **options,
        )
        self.precision: Precision = precision
        self.count: int = self.accelerator.num_processes
        self.index: int = self.accelerator.process_index
        self.is_main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        if self.count > 1:
            # From here on all processes do the same things at the same time: a process that keeps the others waiting is
            # dead, or its network is. Work that only one of them does is wrapped in `uneven_work`.
            distributed_c10d._set_pg_timeout(timedelta(seconds=PATIENCE_SECONDS))

    def prepare(self, network: nn.Module) -> nn.Module:
        """Prepare a network for training on this device, together with its replicas in the other processes."""
        # Convolutions are fastest in channels_last, on CPU and GPU.
        network = network.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.count > 1:
            synchronize_batch_norm(network)
        if self.precision == "fp16":
            compute_in_float16(network, self.device)
        wrapped = self.accelerator.prepare_model(network)
        if self.count > 1:
            # Buffers are equal in all processes: spectral norms depend on weights only, batch statistics are those of
            # the whole batch. Broadcasting them would modify them between two forward passes and their backward pass.
            wrapped.broadcast_buffers = False  # pyright: ignore[reportArgumentType]
        return wrapped

    def unwrap(self, network: nn.Module) -> Any:
        """Return the network inside the wrapper that `prepare` returned."""
        return self.accelerator.unwrap_model(network)

    def backward(self, objective: Tensor) -> None:
        """Compute gradients; they are averaged over the processes, except inside `no_sync`."""
        self.accelerator.backward(objective)

    def no_sync(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Accumulate gradients locally, without synchronizing them."""
        return self.accelerator.no_sync(network)

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate a tensor from all processes along its first dimension, in process order."""
        if self.count == 1:
            return tensor
        if not tensor.numel():  # except on gloo, Accelerate can't restore the shape of an empty tensor
            return tensor.new_empty(self.count * len(tensor), *tensor.shape[1:])
        return cast(Tensor, self.accelerator.gather(tensor))

    def sums(self, numbers: list[float]) -> list[float]:
        """Sum numbers elementwise over the processes; this synchronizes with the device."""
        return cast(Tensor, self.accelerator.reduce(torch.tensor(numbers, device=self.device), "sum")).tolist()

    def broadcast_from_main(self, value: Any) -> Any:
        """Return the main process's value, which may be anything picklable except tensors."""
        return broadcast_object_list([value])[0] if self.count > 1 else value

    def share(self, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Return the main process's tensors, on the CPU, in every process.

        Args:
            files: Tensors by file and name; used in the main process only.
        """
        if self.count == 1:
            return {name: dict(tensors) for name, tensors in files.items()}
        kinds = {
            name: {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
            for name, tensors in files.items()
        }
        shared = {}
        for name, kinds_here in self.broadcast_from_main(kinds).items():
            shared[name] = {}
            for key, (shape, dtype) in kinds_here.items():
                tensor = files[name][key] if self.is_main else torch.empty(shape, dtype=dtype)
                tensor = tensor.to(self.device).contiguous()
                if tensor.numel():
                    distributed.broadcast(tensor, src=0)
                shared[name][key] = tensor.cpu()
        return shared

    @contextmanager
    def uneven_work(self) -> Iterator[None]:
        """Run a block that may take one process much longer than the others; it ends when all have finished.

        Raises:
            OtherProcessError: Another process has failed in the block, or has been silent for `PATIENCE_SECONDS`.
        """
        if self.count == 1:
            yield
            return
        meeting = _Meeting(self.index, self.count)
        meeting.start()
        try:
            yield
        except BaseException as error:
            meeting.end(f"{type(error).__name__}: {error}")
            meeting.join(BEAT_SECONDS)
            raise
        meeting.end()
        meeting.wait_for_all()

    def run_on_main(self, work: Callable[[], T]) -> T | None:
        """Run a function in the main process, however long it takes, while the others wait; they get ``None``."""
        with self.uneven_work():
            return work() if self.is_main else None

    def end(self) -> None:
        """Leave the process group at the end of a run, once all have finished: one of the processes hosts the store."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def leave(self) -> None:
        """Reset Accelerate's global state after a single-process run: the next run here may need different settings.

        `accelerate.notebook_launcher` also refuses to start while that state exists.
        """
        if self.count == 1:
            AcceleratorState._reset_state(reset_partial_state=True)


def _init_process_group() -> None:
    """Initialize the process group under a new prefix of torchrun's store, apart from leftovers of a crashed start.

    torchrun keeps one store for all restarts: torch's rendezvous (2.13) would read addresses of dead processes there,
    and meetings the messages of earlier ones, ending before they began. Accelerate uses an existing process group.
    """
    is_on_gpu = torch.cuda.is_available()
    if distributed.is_initialized() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if torch.accelerator.is_available() and not is_on_gpu:
        return  # a backend that only Accelerate supports
    patience = timedelta(seconds=START_SECONDS)
    store, index, count = next(rendezvous("env://", timeout=patience))
    distributed.init_process_group(
        "nccl" if is_on_gpu else "gloo",
        store=distributed.PrefixStore(f"start/{name_of_start(store, index, count)}", store),
        rank=index,
        world_size=count,
        timeout=patience,
    )


def name_of_start(store: distributed.Store, index: int, count: int, patience_seconds: float = START_SECONDS) -> str:
    """Agree with the other processes on a name that no earlier start has used, whatever those have left in the store.

    Counting restarts would not work: each machine's launcher counts separately. So process 0 chooses a name and answers
    every process that has asked; dead processes, whose requests are still in the store, never acknowledge it.

    Args:
        store: Shared by all processes, including those of earlier starts.
        index: Index of this process.
        count: Number of processes.
        patience_seconds: How long to wait for the others.

    Raises:
        OtherProcessError: Not all processes have arrived in time.
    """
    mine, deadline = uuid4().hex, time.monotonic() + patience_seconds
    if index:
        store.set(f"came/{index}", mine)
        start = store.get(f"answer/{mine}").decode()
        store.set(f"heard/{start}/{index}", "")
        return start
    others = range(1, count)
    while not all(store.check([f"heard/{mine}/{other}"]) for other in others):
        for other in others:
            if store.check([f"came/{other}"]):
                store.set(f"answer/{store.get(f'came/{other}').decode()}", mine)
        if time.monotonic() > deadline:
            raise OtherProcessError(f"not all {count} processes have started within {patience_seconds:.0f} seconds")
        time.sleep(FIRST_PAUSE_SECONDS)
    return mine


class _Meeting(threading.Thread):
    """Sends heartbeats through the store, then how this process has ended, and listens for the same from the others.

    Runs in a separate thread because the store has no timeout: over a dead network a request never returns.

    Args:
        index: Index of this process.
        count: Number of processes.
    """

    def __init__(self, index: int, count: int):
        super().__init__(name="meeting", daemon=True)
        self._store = distributed.PrefixStore(f"meeting/{next(_meetings)}", distributed_c10d._get_default_store())
        self._index = index
        self._failure_here: str | None = None
        self._is_through, self._is_over = threading.Event(), threading.Event()
        others = [each for each in range(count) if each != index]
        self._beats = dict.fromkeys(others, 0)  # of processes that have not finished yet
        self._heard = dict.fromkeys(others, time.monotonic())  # time of the last new heartbeat
        self._failure: str | None = None

    def end(self, failure: str | None = None) -> None:
        """Report how the block has ended in this process."""
        self._failure_here = failure
        self._is_through.set()

    def run(self) -> None:
        try:
            while not self._is_through.wait(BEAT_SECONDS):
                self._store.add(f"beat/{self._index}", 1)
            if self._failure_here is None:
                self._store.set(f"through/{self._index}", "")
                self._listen()
            else:
                self._store.set("failed", f"process {self._index} has failed: {self._failure_here}")
        except RuntimeError as error:  # the store's own
            self._failure = f"the launcher or the main process, whichever hosts the store, is gone: {error}"
        self._is_over.set()

    def _listen(self) -> None:
        pause, looked = FIRST_PAUSE_SECONDS, time.monotonic()
        while not self._store.check([f"through/{index}" for index in self._beats]):
            if self._store.check(["failed"]):
                self._failure = self._store.get("failed").decode()
                return
            if time.monotonic() - looked >= BEAT_SECONDS:
                self._look_at_each()
                looked = time.monotonic()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _look_at_each(self) -> None:
        for index, beats in list(self._beats.items()):
            if self._store.check([f"through/{index}"]):
                if len(self._beats) > 1:
                    del self._beats[index]
            elif (now := self._store.add(f"beat/{index}", 0)) != beats:
                self._beats[index], self._heard[index] = now, time.monotonic()

    def wait_for_all(self) -> None:
        """Wait for the others while they send heartbeats.

        Raises:
            OtherProcessError: Names the process that is silent or has failed.
        """
        came = time.monotonic()
        while not self._is_over.wait(BEAT_SECONDS):
            silence = {index: time.monotonic() - max(came, self._heard[index]) for index in list(self._beats)}
            index, seconds = max(silence.items(), key=lambda each: each[1])
            if seconds >= PATIENCE_SECONDS:
                raise OtherProcessError(
                    f"process {index} has been silent for {seconds:.0f} seconds; it, its machine or the network is "
                    "down. Run the same command to resume from the newest checkpoint"
                )
        if self._failure is not None:
            raise OtherProcessError(self._failure)
