"""The gates: how much of each layer's output comes from attention."""

from torch import nn

from fagan_hf.layers.attention import FullAttention, SelfAttention


def gates(network: nn.Module) -> dict[str, nn.Parameter]:
    """Find the gate of every attention layer, in the network's order.

    Returns:
        For example ``{"layers.0.alpha": ..., "layers.3.gamma": ...}``: the parameters themselves, scalars without
        bounds; 0 is no attention.
    """
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, FullAttention):
            found[f"{name}.alpha"] = module.alpha
        if isinstance(module, SelfAttention):
            found[f"{name}.gamma"] = module.gamma
    return found
