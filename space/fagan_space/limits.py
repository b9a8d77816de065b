"""What one request may ask for, so that the next visitor is not kept waiting."""

from fagan_hf.seeds import parse_seeds

MAX_IMAGES = 64
MAX_WALK_SEEDS = 12
MAX_FRAMES = 240
MAX_PIXELS = 2**23  # of all pictures of a request together
MAX_UPLOAD_BYTES = 10 * 2**20
MAX_UPLOAD_PIXELS = 50_000_000
MAX_TEXT = 500  # characters
MAX_MODEL_BYTES = 500 * 2**20  # of a model that a visitor names
MAX_STEPS = 300  # of a projection

WAITING = 64  # requests in the queue; further ones are told to come back
AT_ONCE = 2  # requests that are worked on at the same time
CACHE_SECONDS = 600  # pictures that were drawn are kept for so long, for browsers and clients to fetch


def read_seeds(text: str, most: int, *, size: int, least: int = 1) -> list[int]:
    """Read seeds and refuse more than a request may ask for.

    Args:
        text: Like ``"0-15, 42"``.
        most: Seeds at the most.
        size: Height and width of a picture [pixels].
        least: Seeds at the least.

    Raises:
        ValueError: It can't be read, or there are too few or too many.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(
            f"seeds are {len(text):,} characters long; at most {MAX_TEXT} are read: write ranges, like '0-15'"
        )
    seeds = parse_seeds(text)
    most = min(most, max(least, MAX_PIXELS // size**2))
    if len(seeds) > most:
        raise ValueError(f"{len(seeds):,} seeds are more than one request may have; ask for at most {most} at a time")
    if len(set(seeds)) < least:
        raise ValueError(f"seeds are {text!r}; give at least {least} different ones, like '0-5'")
    return seeds
