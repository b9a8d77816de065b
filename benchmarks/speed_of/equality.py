"""Check that our networks and the peer's compute the same, before comparing their speed."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.peer import copy_weights, paired_parameters, wake
from benchmarks.speed_of.our_step import Ours
from benchmarks.speed_of.peer_step import Peer
from fagan_hf.layers import refresh_spectral_norms
from fagan_hf.models import Discriminator, Generator

# Float32 rounds at 6e-8, and the two sides sum convolutions and softmaxes in different orders. Near 0 this can flip the
# sign of a leaky ReLU's input, where its gradient jumps: gradients usually agree to 1e-6, but then only to about 1e-3.
# So only few images are compared, which makes this rare, and other images are tried if it happens.
OUTPUT_TOLERANCE = 1e-4  # largest difference of images (in [-1, 1]) and of logits, relative to the largest logit
GRADIENT_TOLERANCE = 1e-2  # of each parameter's gradient, relative to its norm
FLOOR = 1e-3  # plus this share of the total gradient norm: a key bias's gradient is zero up to rounding
TINY = 1e-30
COMPARED_IMAGES = 2
DRAWS = 3


def check_equal(ours: Ours, theirs: Peer) -> dict[str, float]:
    """Copy the peer's weights to our networks, and compare the results of both in float32.

    Compared are images, logits, and the gradients of all parameters after a backward pass of each player. Each of the
    peer's networks is called only once before its gradients are compared: it updates its singular vectors in every
    call, also between a forward pass and its backward pass, so its gradients are wrong from the second call on.

    Returns:
        The largest differences, relative as described at the tolerances above.

    Raises:
        RuntimeError: They exceed the tolerances.
    """
    for their_network, our_network in _networks(ours, theirs):
        wake(their_network)  # gates of a new network are 0, so attention would not contribute
        copy_weights(their_network, our_network)
    found = {}
    for _ in range(DRAWS):
        found = _differences(ours, theirs)
        if _are_tolerable(found):
            break
    check_tolerances(found)
    return found


def _differences(ours: Ours, theirs: Peer) -> dict[str, float]:
    """Compare the results of both for random latents and images."""
    latents = torch.randn(COMPARED_IMAGES, ours.latent_dim, device=ours.device)
    real = torch.rand_like(ours.real[:COMPARED_IMAGES]) * 2 - 1

    def generated(images: Callable[[Tensor], Tensor], compute_logits: Callable[[Tensor], Tensor]) -> list[Tensor]:
        fake = images(latents[..., None, None])
        logits = compute_logits(fake).flatten()
        (-logits.mean()).backward()
        return [fake.detach(), logits.detach()]

    def on_real(images: Callable[[Tensor], Tensor], compute_logits: Callable[[Tensor], Tensor]) -> list[Tensor]:
        logits = compute_logits(real).flatten()
        logits.mean().backward()
        return [logits.detach()]

    found = {"output_difference": 0.0, "gradient_difference": 0.0}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for passes in (generated, on_real):
            expected = passes(theirs.generator, theirs.discriminator)
            # Bypass the autocast that Accelerate wraps around the forward pass of a prepared network.
            results = passes(_exact(ours.generator), _exact(ours.discriminator))
            differences = [_largest_difference(*pair) for pair in zip(results, expected, strict=True)]
            found["output_difference"] = max(found["output_difference"], *differences)
            found["gradient_difference"] = max(found["gradient_difference"], _gradient_difference(ours, theirs))
            for optimizer in (*ours.optimizers, *theirs.optimizers):
                optimizer.zero_grad(set_to_none=True)
    return found


def check_tolerances(found: Mapping[str, float]) -> None:
    """Refuse differences that rounding does not explain, and NaN.

    Args:
        found: ``output_difference``, and ``gradient_difference`` if there is one.

    Raises:
        RuntimeError: One exceeds its tolerance.
    """
    if not _are_tolerable(found):
        raise RuntimeError(f"our results differ from the peer's, so their speed is not compared: {dict(found)}")


def _are_tolerable(found: Mapping[str, float]) -> bool:
    tolerances = {"output_difference": OUTPUT_TOLERANCE, "gradient_difference": GRADIENT_TOLERANCE}
    return all(difference <= tolerances[name] for name, difference in found.items())


def _networks(ours: Ours, theirs: Peer) -> list[tuple[nn.Module, nn.Module]]:
    return [(theirs.generator, ours.generator), (theirs.discriminator, ours.discriminator)]


def _exact(network: Generator | Discriminator) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        refresh_spectral_norms(network, iterations=1)  # as a training step does, and the peer in every call
        return type(network).forward(cast(Any, network), inputs)

    return forward


def _largest_difference(result: Tensor, expected: Tensor) -> float:
    return ((result - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def _gradient_difference(ours: Ours, theirs: Peer) -> float:
    differences = []
    for networks in _networks(ours, theirs):
        gradients = [
            (_gradient(our_parameter), _gradient(their_parameter).view_as(our_parameter))
            for their_parameter, our_parameter in paired_parameters(*networks)
        ]
        whole = torch.stack([expected.norm() for _, expected in gradients]).norm()
        differences += [
            ((result - expected).norm() / (expected.norm() + FLOOR * whole).clamp(min=TINY)).item()
            for result, expected in gradients
        ]
    return max(differences)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return a gradient, or zeros if there is none: the generator has none in passes over real images."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
