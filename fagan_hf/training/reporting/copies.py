"""Notice during training that the generator begins to copy its training images."""

from collections.abc import Mapping
from typing import Any

from fagan_hf.hub.repository import BEST, SNAPSHOTS
from fagan_hf.metrics.evaluate import MANY_COPIES, Evaluation


def compare_copies(
    evaluation: Evaluation, images_seen: int, before: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Compare the share of near copies with that of real images, and with the previous evaluation.

    Args:
        evaluation: The newest evaluation.
        images_seen: Images seen at it.
        before: What the previous call returned; empty at a run's first evaluation, which can't tell a rise.

    Returns:
        JSON-serializable values for the next call; and a warning, once for each time that the share has risen above
        `MANY_COPIES` times its floor.
    """
    share, floor = evaluation.nearness.copied, evaluation.real_nearness.copied
    is_high = share > MANY_COPIES * floor
    is_rising = is_high and bool(before) and share > before["share"]
    is_warned = is_high and (is_rising or before.get("is_warned", False))
    now = {"share": share, "images": images_seen, "is_warned": is_warned}
    if not is_rising or before.get("is_warned", False):
        return now, None
    return now, (
        f"Warning: the generator begins to copy its training images: {share:.1%} of its images are near copies, "
        f"{before['share']:.1%} at {before['images']:,} images; of real images {floor:.1%}. Try more augmentation, "
        f"more images, or stop here: {BEST}/ holds the best model that does not copy, if there is one, and "
        f"{SNAPSHOTS}/ earlier ones. A lower distance is no improvement if it is reached by copying"
    )
