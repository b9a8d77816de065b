"""Floating-point operations of a network's layers."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fagan_hf.layers import attention_kernel
from fagan_hf.sampling.images import input_batches


def flops_of_one_image(
    network: nn.Module,
    reported: Mapping[str, tuple[str, nn.Module]],
    inputs: Tensor,
    labels: Tensor | None,
) -> dict[str, int]:
    """Count the operations of layers by name, as they are executed; a layer's count includes its attention."""
    arguments: dict[nn.Module, tuple[tuple, dict[str, Any]]] = {}

    def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        arguments[layer] = args, kwargs

    with ExitStack() as stack:
        for _, layer in reported.values():
            stack.enter_context(layer.register_forward_hook(hook, with_kwargs=True))
        for batch in input_batches(network, inputs, labels, batch_size=1):
            network(*batch)

    def flops(layer: nn.Module) -> int:
        # Which of attention's operations torch counts depends on the kernel, and it includes our zero padding of heads.
        # Our chunked kernel consists of plain products at the heads' true width, and so does torch's unfused one, in
        # layers that attend on their own.
        with ExitStack() as stack:
            stack.enter_context(attention_kernel("chunked"))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.inference_mode(False))  # in which the counter fails
            stack.enter_context(torch.no_grad())
            counter = stack.enter_context(FlopCounterMode(display=False))
            args, kwargs = arguments[layer]
            layer(*args, **kwargs)
        return sum(counter.get_flop_counts().get("Global", {}).values())  # no entry if nothing was counted

    return {name: flops(layer) for name, (_, layer) in reported.items() if layer in arguments}
