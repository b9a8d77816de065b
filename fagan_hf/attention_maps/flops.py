"""Floating-point operations of a network's layers."""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fagan_hf.layers import AttentionLayer
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import input_batches


def flops_of_one_image(
    network: Generator | Discriminator,
    reported: Mapping[str, tuple[str, nn.Module]],
    inputs: Tensor,
    labels: Tensor | None,
) -> dict[str, int]:
    """Count the operations of layers by name; a layer's count includes its attention."""
    arguments: dict[nn.Module, tuple] = {}

    def hook(layer: nn.Module, args: tuple, output: Tensor) -> None:
        arguments[layer] = args

    with ExitStack() as stack:
        for _, layer in reported.values():
            stack.enter_context(layer.register_forward_hook(hook))
        for batch in input_batches(network, inputs, labels, batch_size=1):
            network(*batch)

    def products(layer: AttentionLayer) -> int:
        query, key = layer.query_and_key(arguments[layer][0])
        _, gathered = layer.branches(*arguments[layer])
        return 2 * query.shape[2:].numel() * key.shape[2:].numel() * (query.shape[1] + gathered.shape[1])

    def flops(layer: nn.Module) -> int:
        # The counter fails in inference mode.
        with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(*arguments[layer])
        counts = counter.get_flop_counts().get("Global", {})  # no entry if nothing was counted
        attentive = [module for module in layer.modules() if isinstance(module, AttentionLayer)]
        if not attentive:
            return sum(counts.values())
        # Which of attention's operations torch counts depends on the kernel, and it includes our zero padding of heads;
        # so attention is counted by its definition, two products of all weights with channels.
        is_product = [any(word in str(operation) for word in ("attention", "bmm")) for operation in counts]
        others = sum(count for count, is_ours in zip(counts.values(), is_product, strict=True) if not is_ours)
        return others + sum(map(products, attentive))

    return {name: flops(layer) for name, (_, layer) in reported.items()}
