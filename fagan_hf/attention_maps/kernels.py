"""How a layer's attention is computed: which kernel, and its memory."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from fagan_hf.attention_maps.observe import ObservedAttention
from fagan_hf.layers import AttentionLayer
from fagan_hf.layers.chunked_attention import WEIGHTS_PER_CORE, WEIGHTS_PER_KERNEL
from fagan_hf.layers.functional import Kernel, KernelChoice, choose_kernel


@dataclass(frozen=True)
class KernelReport:
    """How a layer's attention is computed, as chosen by `fagan_hf.layers.functional.choose_kernel`.

    Attributes:
        device, dtype: Of the tensors; together with positions and sizes they determine the kernel.
        heads: Number of attention heads, each a group of channels.
        key_size, value_size: Channels of a head's query and key, and of its value.
        kernel: ``"fused"``, torch's, or ``"chunked"``, ours.
        kernel_key_size, kernel_value_size: Both sizes in the kernel, including zero padding.
        backend: Torch's choice for a fused kernel: ``"flash"``, ``"efficient"``, ``"cudnn"``, or ``"math"``, which is
            not fused and holds all weights at once. ``None`` for our kernel, and on devices other than CPU and CUDA,
            where torch does not expose its choice.
        weights_held: How many of all queries' weights are held at a time, in words.
    """

    device: str
    dtype: str
    heads: int
    key_size: int
    value_size: int
    kernel: Kernel
    kernel_key_size: int
    kernel_value_size: int
    backend: str | None
    weights_held: str


def kernel_report(seen: ObservedAttention) -> KernelReport | None:
    """Report how a layer's attention is computed from these inputs; ``None`` if its `attend` is not ours."""
    layer, query, key, value = seen.layer, seen.query, seen.key, seen.value
    if type(layer).attend is not AttentionLayer.attend:
        return None
    positions = key.shape[2:].numel()
    key_size, value_size = query.shape[1] // layer.heads, value.shape[1] // layer.heads
    choice = choose_kernel(query.device, query.dtype, positions, key_size, value_size)
    backend = None
    if choice.kernel == "fused" and query.device.type in ("cpu", "cuda"):
        backend = _backend(query, key, layer.heads, choice)
    return KernelReport(
        device=query.device.type,
        dtype=str(query.dtype).removeprefix("torch."),
        heads=layer.heads,
        key_size=key_size,
        value_size=value_size,
        kernel=choice.kernel,
        kernel_key_size=choice.key_size,
        kernel_value_size=choice.value_size,
        backend=backend,
        weights_held=_weights_held(query.device, choice.kernel, backend),
    )


def _backend(query: Tensor, key: Tensor, heads: int, choice: KernelChoice) -> str:
    """Ask torch which kernel `scaled_dot_product_attention` chooses for the inputs of the fused kernel."""
    queries, keys, values = (
        like.new_empty(len(like), heads, like.shape[2:].numel(), size)
        for like, size in ((query, choice.key_size), (key, choice.key_size), (key, choice.value_size))
    )
    # The function that `scaled_dot_product_attention` itself calls. `torch.backends.cuda.can_use_flash_attention` and
    # the like report what is possible, and only on CUDA, not what is chosen.
    chosen = SDPBackend(torch._fused_sdp_choice(queries, keys, values, scale=1.0))
    return chosen.name.removesuffix("_ATTENTION").lower()


def _weights_held(device: torch.device, kernel: Kernel, backend: str | None) -> str:
    if kernel == "fused":
        return "all" if backend == "math" else "unknown" if backend is None else "none"
    return f"up to {WEIGHTS_PER_CORE:,} a core" if device.type == "cpu" else f"up to {WEIGHTS_PER_KERNEL:,}"
