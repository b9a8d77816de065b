"""Interpolation between two latents, along several of them, and between any number."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_PARALLEL = 1e-4  # [radians] vectors closer to collinear than this do not define a circle within rounding


def slerp(
    start: Float[Tensor, "*rows latent_dim"], end: Float[Tensor, "*rows latent_dim"], share: float | Tensor
) -> Float[Tensor, "*rows latent_dim"]:
    """Interpolate on the sphere: the direction rotates at constant angular speed, the length changes linearly.

    Standard normal latents lie near a sphere. The straight line between two of them passes through its interior, where
    the generator was not trained.

    Args:
        start: Result for share 0, exactly.
        end: Result for share 1, exactly; broadcast with ``start``.
        share: Position between them, usually from 0 to 1: a number, or a tensor that is broadcast with the vectors'
            leading dimensions. Shares ``[frames]`` between two vectors ``[latent_dim]`` give ``[frames, latent_dim]``.

    Returns:
        In the dtype of ``start``. Collinear vectors are interpolated linearly.

    Reference:
        Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985; White, arXiv:1609.04468.
    """
    a, b = start.double(), end.double()
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device)[..., None]
    a_length, b_length = (vector.norm(dim=-1, keepdim=True) for vector in (a, b))
    tiny = torch.finfo(a.dtype).tiny
    a_unit, b_unit = a / a_length.clamp(min=tiny), b / b_length.clamp(min=tiny)
    # From sum and difference: for small angles, the arc cosine of the product loses half of the digits.
    angle = 2 * torch.atan2((a_unit - b_unit).norm(dim=-1, keepdim=True), (a_unit + b_unit).norm(dim=-1, keepdim=True))
    is_line = (angle < _PARALLEL) | (angle > torch.pi - _PARALLEL)
    angle = torch.where(is_line, 1.0, angle)  # avoids a division by zero in the unused branch
    length = torch.lerp(a_length, b_length, share)
    a_share = torch.sin((1 - share) * angle) / torch.sin(angle) * length / a_length.clamp(min=tiny)
    b_share = torch.sin(share * angle) / torch.sin(angle) * length / b_length.clamp(min=tiny)
    return torch.where(is_line, torch.lerp(a, b, share), a_share * a + b_share * b).to(start.dtype)


def lerp(
    start: Float[Tensor, "*rows length"], end: Float[Tensor, "*rows length"], share: float | Tensor
) -> Float[Tensor, "*rows length"]:
    """Interpolate linearly, for label vectors; arguments are those of `slerp`."""
    share = torch.as_tensor(share, dtype=start.dtype, device=start.device)[..., None]
    return torch.lerp(start, end, share)


def blend_latents(
    latents: Float[Tensor, "count latent_dim"], weights: Float[Tensor, "*points count"]
) -> Float[Tensor, "*points latent_dim"]:
    """Return points between latents: ``sum(w z) / sqrt(sum(w^2))``, standard normal like the latents themselves.

    Args:
        latents: Independent and standard normal.
        weights: Weights of each point, such as the four bilinear ones of a point in a square. Only their proportions
            matter. All but one being 0 gives that latent, exactly.

    Returns:
        In the dtype of ``latents``.

    Raises:
        ValueError: The number of weights differs from that of latents, or the weights of a point are all 0 or not
            finite.

    Example:
        >>> blend_latents(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([0.0, 1.0]))
        tensor([0., 4.])
    """
    if latents.ndim != 2 or weights.ndim < 1 or weights.shape[-1] != len(latents):
        raise ValueError(
            f"weights are {list(weights.shape)} for latents {list(latents.shape)}; they must be "
            "[..., count] and [count, latent_dim]"
        )
    shares = weights.double()
    lengths = shares.norm(dim=-1, keepdim=True)
    if not (lengths.isfinite() & (lengths > 0)).all():
        raise ValueError(f"weights are {weights.tolist()}; they must be finite, and not all 0 for a point")
    return ((shares / lengths) @ latents.double()).to(latents.dtype)


def walk(
    points: Float[Tensor, "count length"],
    frames_per_step: int,
    *,
    is_loop: bool = True,
    interpolation: Callable[[Tensor, Tensor, Tensor], Tensor] = slerp,
) -> Float[Tensor, "frames length"]:
    """Interpolate along all latents, or label vectors, in order.

    Args:
        points: At least two.
        frames_per_step: Frames from each point to the next, excluding the latter; at least 1.
        is_loop: Return from the last point to the first. Its frame is not repeated, so a video can loop seamlessly.
            Otherwise the last frame is the last point.
        interpolation: `slerp` for latents, `lerp` for label vectors.

    Returns:
        ``count * frames_per_step`` frames for a loop, otherwise ``(count - 1) * frames_per_step + 1``.

    Raises:
        ValueError: There are fewer than two points, or ``frames_per_step`` is not positive.
    """
    if points.ndim != 2 or len(points) < 2:
        raise ValueError(f"points are {list(points.shape)}; interpolation needs at least two: [count, length]")
    if isinstance(frames_per_step, bool) or not isinstance(frames_per_step, int) or frames_per_step < 1:
        raise ValueError(f"frames_per_step is {frames_per_step!r}; it must be a whole number of at least 1")
    shares = torch.arange(frames_per_step, dtype=torch.float64) / frames_per_step
    targets = points.roll(-1, dims=0)
    frames = interpolation(points[:, None], targets[:, None], shares.to(points.device))
    return frames.flatten(0, 1) if is_loop else torch.cat([frames[:-1].flatten(0, 1), points[-1:]])
