import pytest
import torch
from torch import nn

from fagan_hf.training.step.running_statistics import RunningStatistics


def networks():
    return [nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(2, track_running_stats=False)), nn.BatchNorm2d(4)]


@pytest.mark.parametrize("is_good", [True, False])
def test_a_skipped_step_leaves_no_trace(is_good):
    both = networks()
    buffers = [buffer for network in both for buffer in network.buffers()]
    assert len(buffers) == 6
    statistics = RunningStatistics(both)
    before, values = statistics.remember(), [buffer.clone() for buffer in buffers]
    for network, channels in zip(both, (3, 4), strict=True):
        first = network[0] if channels == 3 else network
        first(torch.full((2, channels, 2, 2), float("inf") if not is_good else 2.0))
    moved = [buffer.clone() for buffer in buffers]
    statistics.keep_if(torch.tensor(is_good), before)
    assert all(map(torch.equal, buffers, moved if is_good else values))
    assert not all(map(torch.equal, values, moved))


def test_networks_without_batch_norm():
    statistics = RunningStatistics([nn.Conv2d(1, 1, 1)])
    statistics.keep_if(torch.tensor(False), statistics.remember())
