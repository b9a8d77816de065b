"""The running statistics of batch norms, saved before a step and restored if the step is skipped."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """All running statistics of some networks, concatenated because there are many small tensors.

    Args:
        networks: Networks whose batch norms are included; their buffers must not be replaced.
    """

    def __init__(self, networks: Iterable[nn.Module]):
        by_dtype = defaultdict(list)
        for network in networks:
            for module in network.modules():
                if isinstance(module, _BatchNorm):
                    for statistic in (module.running_mean, module.running_var, module.num_batches_tracked):
                        if statistic is not None:
                            by_dtype[statistic.dtype].append(statistic)
        self._statistics: list[list[Tensor]] = list(by_dtype.values())

    def remember(self) -> list[Tensor]:
        """Copy them, for `keep_if`."""
        return [_joined(statistics) for statistics in self._statistics]

    @torch.no_grad()
    def keep_if(self, is_good: Bool[Tensor, ""], before: Sequence[Tensor]) -> None:
        """Restore what `remember` returned unless the step was good, without synchronizing with the device."""
        for statistics, remembered in zip(self._statistics, before, strict=True):
            chosen = torch.where(is_good, _joined(statistics), remembered)
            parts = chosen.split([statistic.numel() for statistic in statistics])
            shaped = [part.view(statistic.shape) for part, statistic in zip(parts, statistics, strict=True)]
            torch._foreach_copy_(statistics, shaped)


def _joined(statistics: Sequence[Tensor]) -> Tensor:
    return torch.cat([statistic.flatten() for statistic in statistics])
