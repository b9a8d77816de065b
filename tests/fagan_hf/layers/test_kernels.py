"""Which kernel attention selects, and that it is the one that runs."""

from itertools import product
from threading import Thread

import pytest
import torch

from fagan_hf.layers import attention, attention_kernel, choose_kernel, chunked_attention, twice_differentiable
from fagan_hf.layers.functional import KernelChoice

CPU, CUDA, OTHER = (torch.device(name) for name in ("cpu", "cuda", "mps"))
SINGLE, DOUBLE, HALF = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize(
    ("device", "dtype", "positions", "sizes", "expected"),
    [
        (CPU, SINGLE, 4096, (3, 20), ("fused", 32, 32)),
        (CPU, SINGLE, 4096, (20, 3), ("fused", 32, 32)),
        (CPU, SINGLE, 4096, (6, 47), ("fused", 48, 48)),
        (CPU, SINGLE, 4096, (16, 48), ("chunked", 16, 48)),
        (CPU, SINGLE, 256, (3, 20), ("chunked", 3, 20)),
        (CPU, SINGLE, 257, (3, 20), ("fused", 32, 32)),
        (CPU, HALF, 16, (8, 64), ("fused", 64, 64)),
        (CUDA, HALF, 4096, (6, 3), ("fused", 8, 8)),
        (CUDA, HALF, 4096, (13, 100), ("fused", 104, 104)),
        (CUDA, HALF, 16, (64, 512), ("fused", 64, 512)),
        (CUDA, SINGLE, 4096, (6, 3), ("fused", 8, 4)),
        (CUDA, DOUBLE, 4096, (6, 3), ("chunked", 6, 3)),
        (OTHER, SINGLE, 4096, (6, 3), ("chunked", 6, 3)),
    ],
)
def test_the_choice(device, dtype, positions, sizes, expected):
    assert choose_kernel(device, dtype, positions, *sizes) == KernelChoice(*expected)


def test_it_can_be_forced_and_the_innermost_decides():
    def chosen(positions=4096):
        return choose_kernel(CPU, SINGLE, positions, 3, 20).kernel

    with attention_kernel("chunked"):
        assert chosen() == "chunked"
        with attention_kernel("fused"):
            assert chosen(positions=16) == "fused"
            with twice_differentiable():
                assert chosen() == "chunked"
        assert chosen() == "chunked"
    with pytest.raises(ZeroDivisionError), attention_kernel("chunked"):
        raise ZeroDivisionError
    assert chosen() == "fused"
    with (
        pytest.raises(ValueError, match="kernel is 'flash'; it must be one of fused, chunked"),
        attention_kernel("flash"),
    ):
        pass


def test_forcing_does_not_reach_another_thread():
    seen = []
    with attention_kernel("chunked"):
        thread = Thread(target=lambda: seen.append(choose_kernel(CPU, SINGLE, 4096, 3, 20).kernel))
        thread.start()
        thread.join()
    assert seen == ["fused"]


def events(*tensors, device="cpu", **options):
    """Return the names of the operations of a forward and a backward pass."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
    tensors = [tensor.to(device).requires_grad_() for tensor in tensors]
    with torch.profiler.profile(activities=activities) as profile:
        attention(*tensors, **options).sum().backward()
    return {event.key for event in profile.key_averages()}


def feature_maps(size, key_channels, channels, dtype=SINGLE):
    return [torch.randn(2, each, size, size, dtype=dtype) for each in (key_channels, key_channels, channels)]


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "heads"), [((4, 16), 1), ((3, 20), 1), ((8, 40), 2)])
def test_the_fused_kernel_is_really_taken(dtype, layout, channels, heads):
    """For unequal sizes and transposed views, torch silently uses another one."""
    tensors = [tensor.to(memory_format=layout) for tensor in feature_maps(20, *channels, dtype)]
    names = events(*tensors, heads=heads)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in names
    assert not any("attention_math" in name for name in names)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "channels", "kernels"),
    [
        (HALF, (3, 20), ("flash", "cudnn")),
        (HALF, (13, 100), ("flash", "cudnn")),
        (HALF, (40, 320), ("efficient", "cudnn")),
        (SINGLE, (3, 20), ("efficient",)),
        (SINGLE, (6, 3), ("efficient",)),
    ],
)
def test_the_fused_kernel_is_really_taken_on_a_gpu(dtype, layout, channels, kernels):
    tensors = [tensor.to(memory_format=layout) for tensor in feature_maps(20, *channels, dtype)]
    names = events(*tensors, device="cuda")
    assert any(f"_scaled_dot_product_{kernel}_attention" in name for kernel in kernels for name in names)
    assert not any("attention_math" in name for name in names)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weights", [1, 1000, 2**20])
def test_all_kernels_agree(monkeypatch, layout, heads, weights):
    monkeypatch.setattr(chunked_attention, "WEIGHTS_PER_CORE", weights)
    results = []
    tensors = [tensor.to(memory_format=layout) for tensor in feature_maps(6, 4, 10, DOUBLE)]
    for kernel in ("fused", "chunked"):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        with attention_kernel(kernel):
            output = attention(*inputs, heads)
            output.sin().sum().backward()
        results.append([output, *(each.grad for each in inputs)])
    torch.testing.assert_close(*results)


def test_chunks_hold_no_more_weights_than_they_may(monkeypatch):
    """For any shape: the last chunks are smaller, and a query's weights are never split."""
    monkeypatch.setattr(chunked_attention, "WEIGHTS_PER_CORE", 100)
    budget = 100 * torch.get_num_threads()
    for groups, queries, keys in product((0, 1, 2, 5), (1, 7, 30, 100), (1, 30, 100)):
        sizes = (torch.empty(groups, 3, positions) for positions in (queries, keys))
        scratch = chunked_attention._Scratch(*sizes, buffers=1)
        covered = torch.zeros(groups, queries)
        for chunk_groups, rows in scratch.chunks:
            [weights] = scratch.take(chunk_groups, rows)
            assert weights.numel() <= budget
            assert weights.shape[2] == keys
            covered[chunk_groups, rows] += 1
        assert torch.equal(covered, torch.ones(groups, queries))
