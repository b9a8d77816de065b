"""The processes of a run: how they share a step, agree, and wait for each other without hanging."""

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, distributed, nn
from torch.distributed import distributed_c10d

from training.batch_norm import synchronise_batch_norm

START_SECONDS = 600.0  # processes of different machines may start that far apart
PATIENCE_SECONDS = 60.0  # a process that is silent for so long counts as dead
BEAT_SECONDS = 5.0  # how often one that is busy by itself shows that it lives


class OtherProcessError(RuntimeError):
    """Another process has failed, or is silent."""


_meetings = count(1)  # of this process, as many as of the others: the store remembers what was said in each


class Processes:
    """All processes of a run as one of them sees them; a run of one process has nothing to wait for.

    Every method that is not about one network must be called by all processes, in the same order.

    Args:
        mixed_precision: ``"no"`` or ``"bf16"``.
        **options: For `accelerate.Accelerator`.

    Attributes:
        accelerator: Of this process.
        count: How many there are, over all machines.
        index: Number of this one, from 0.
        is_main: Is it the one that writes and tells?
        device: Where it computes.
    """

    def __init__(self, mixed_precision: str = "no", **options: Any):
        self.accelerator = Accelerator(
            mixed_precision=mixed_precision,
            # Not told that there is no GPU, Accelerate takes several processes for so many runs of one process each.
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=START_SECONDS))],
            **options,
        )
        self.count: int = self.accelerator.num_processes
        self.index: int = self.accelerator.process_index
        self.is_main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        if self.count > 1:
            # From here on all processes do the same things at the same time: whoever keeps the others waiting is dead,
            # or its network is. What one of them does alone stands in `at_own_pace`.
            distributed_c10d._set_pg_timeout(timedelta(seconds=PATIENCE_SECONDS))

    def prepare(self, network: nn.Module) -> nn.Module:
        """Make a network ready for training on this device, together with its copies in the other processes."""
        # channels_last is what convolutions are fastest in, on CPU and GPU.
        network = network.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.count > 1:
            synchronise_batch_norm(network)
        wrapped = self.accelerator.prepare_model(network)
        if self.count > 1:
            # Buffers are equal in all processes: spectral norms follow from weights, batch statistics are of the whole
            # batch. Sending them around would change them between two forward passes and their backward pass.
            wrapped.broadcast_buffers = False  # pyright: ignore[reportArgumentType]
        return wrapped

    def unwrap(self, network: nn.Module) -> Any:
        """Give the network inside of what `prepare` made."""
        return self.accelerator.unwrap_model(network)

    def backward(self, objective: Tensor) -> None:
        """Compute gradients; they are averaged over the processes, but inside of `no_sync`."""
        self.accelerator.backward(objective)

    def no_sync(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Keep gradients in this process for now."""
        return self.accelerator.no_sync(network)

    def gather(self, tensor: Tensor) -> Tensor:
        """Collect a tensor of all processes along its first dimension, in their order."""
        return cast(Tensor, self.accelerator.gather(tensor)) if self.count > 1 else tensor

    def sums(self, numbers: list[float]) -> list[float]:
        """Add up numbers over the processes, each by itself. It costs a wait for the device."""
        return cast(Tensor, self.accelerator.reduce(torch.tensor(numbers, device=self.device), "sum")).tolist()

    def told_by_main(self, value: Any) -> Any:
        """Give what the main process has, text or number or list of those."""
        return broadcast_object_list([value])[0] if self.count > 1 else value

    def share(self, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Give every process the tensors that the main one has, on the CPU.

        Args:
            files: Tensors by two names; looked at in the main process only.
        """
        if self.count == 1:
            return {name: dict(tensors) for name, tensors in files.items()}
        kinds = {
            name: {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
            for name, tensors in files.items()
        }
        shared = {}
        for name, kinds_here in self.told_by_main(kinds).items():
            shared[name] = {}
            for key, (shape, dtype) in kinds_here.items():
                tensor = files[name][key] if self.is_main else torch.empty(shape, dtype=dtype)
                tensor = tensor.to(self.device).contiguous()
                distributed.broadcast(tensor, src=0)
                shared[name][key] = tensor.cpu()
        return shared

    @contextmanager
    def at_own_pace(self) -> Iterator[None]:
        """Do a block that may take one process much longer than the others; it ends when all are through.

        Raises:
            OtherProcessError: A process has failed in it, or is silent for `PATIENCE_SECONDS`.
        """
        if self.count == 1:
            yield
            return
        store = distributed.PrefixStore(f"meeting/{next(_meetings)}", distributed_c10d._get_default_store())
        is_done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(store, is_done), name="heartbeat", daemon=True)
        beating.start()
        try:
            yield
        except BaseException as error:
            store.set(f"done/{self.index}", f"failed: {type(error).__name__}: {error}")
            raise
        finally:
            is_done.set()
            beating.join()
        store.set(f"done/{self.index}", "well")
        self._wait_for_all(store)

    def _beat(self, store: distributed.Store, is_done: threading.Event) -> None:
        while not is_done.wait(BEAT_SECONDS):
            store.add(f"beat/{self.index}", 1)

    def _wait_for_all(self, store: distributed.Store) -> None:
        # Number of the last beat of each, and how long it has been silent since.
        waiting: dict[int, tuple[int, float]] = dict.fromkeys(range(self.count), (0, 0.0))
        while waiting:
            missing = [f"done/{index}" for index in waiting]
            with suppress(distributed.DistStoreError):  # not in time, it means
                store.wait(missing, timedelta(seconds=BEAT_SECONDS))
            for index, (beats, silence) in list(waiting.items()):
                if store.check([f"done/{index}"]):
                    del waiting[index]
                    outcome = store.get(f"done/{index}").decode()
                    if outcome != "well":
                        raise OtherProcessError(f"process {index} has {outcome}")
                    continue
                now = store.add(f"beat/{index}", 0)
                waiting[index] = (now, 0.0 if now != beats else silence + BEAT_SECONDS)
                if waiting[index][1] >= PATIENCE_SECONDS:
                    raise OtherProcessError(
                        f"process {index} has been silent for {math.ceil(waiting[index][1])} seconds; it or its "
                        "machine is gone. The same command goes on from the newest checkpoint"
                    )

    def end(self) -> None:
        """Leave the others, at the end of a run."""
        self.accelerator.end_training()
