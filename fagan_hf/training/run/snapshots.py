"""Light snapshots of the averaged generator, kept over the whole run within a number of bytes.

``snapshots/images-00008192.safetensors`` holds the weights as they are saved in the model, in full precision. Full
checkpoints are for resuming, and only the newest are kept; snapshots are for looking back.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from fagan_hf.hub.checkpoints import best_images, snapshots_in
from fagan_hf.hub.repository import SNAPSHOTS
from fagan_hf.models import Generator
from fagan_hf.utils.files import replacing, save_tensors


def save_snapshot(run_dir: Path, images_seen: int, generator: Generator, budget_bytes: int) -> None:
    """Save a snapshot atomically, then remove others that exceed the budget.

    Args:
        run_dir: The run folder.
        images_seen: Images seen, used as the name; a snapshot of this name is replaced.
        generator: The averaged generator, as it is saved in the model.
        budget_bytes: Size that all snapshots may have together, see `thinned`.

    Raises:
        OSError: It could not be written, for example because the disk is full; the others are untouched.
        ValueError: A file with measurements, which say which snapshot is the best, is not valid JSON.
    """
    weights = {name: tensor.detach().contiguous() for name, tensor in generator.state_dict().items()}
    with replacing(run_dir / SNAPSHOTS / f"images-{images_seen:08d}.safetensors", make_folder=True) as path:
        save_tensors(weights, path, metadata={"format": "pt"})
    found = snapshots_in(run_dir)
    sizes = {images: path.stat().st_size for images, path in found.items()}
    for images in thinned(sizes, budget_bytes, best_images(run_dir)):
        found[images].unlink()


def thinned(sizes: Mapping[int, int], budget_bytes: int, kept: Collection[int]) -> list[int]:
    """Choose the snapshots to remove, so that the others stay spread over the run.

    As long as the budget is exceeded, the one whose neighbors are closest to each other is removed. The first, the
    newest and those that must be kept stay, even if these alone exceed the budget.

    Args:
        sizes: Size of each snapshot [bytes], by images seen.
        budget_bytes: Size that all may have together.
        kept: Snapshots that must be kept, by images seen.

    Returns:
        Images seen of each snapshot to remove.
    """
    left, removed = sorted(sizes), []
    total = sum(sizes.values())
    while total > budget_bytes:
        gaps = [(left[at + 1] - left[at - 1], left[at]) for at in range(1, len(left) - 1) if left[at] not in kept]
        if not gaps:
            break
        _, images = min(gaps)
        left.remove(images)
        removed.append(images)
        total -= sizes[images]
    return removed


def forget_snapshots(run_dir: Path, images_seen: int) -> None:
    """Remove the snapshots written after a checkpoint, because they will be written again."""
    for images, path in snapshots_in(run_dir).items():
        if images > images_seen:
            path.unlink()
