"""What one request may ask for, so that the next visitor is not kept waiting."""

from fagan_hf import requests

MAX_IMAGES = 64
MAX_WALK_SEEDS = 12
MAX_FRAMES = 240
MAX_PIXELS = 2**23  # of all pictures of a request together
MAX_UPLOAD_BYTES = 10 * 2**20
MAX_UPLOAD_PIXELS = 25_000_000
MAX_UPLOAD_SIDE = 10_000
MAX_SCANS = 100  # of a JPEG: each is a pass over all pixels, for as little as ten bytes
DECODE_SECONDS = 15  # for an upload to be decoded
DECODE_BYTES = 2**30  # of memory that this may take
MAX_TEXT = 500  # characters of seeds
MAX_MODEL_BYTES = 500 * 2**20  # of a model that a visitor names
MAX_STEPS = 300  # of a projection

WAITING = 64  # requests in each lane's queue; further ones are told to come back
WAITING_PER_VISITOR = 48  # of those; the rest is kept for others
LONG_PER_VISITOR = 8  # projections and films of one visitor that wait or run
AT_ONCE = 2  # requests for pictures that are worked on at the same time; of long work, one
THREADS = AT_ONCE + 2  # that functions run in; every further thread would keep memory of torch's and of malloc's
CACHE_SECONDS = 600  # pictures that were drawn are kept this long, for browsers and clients to fetch
MAX_SECONDS = 120  # that one projection or film may take, once it has begun
LISTEN_SECONDS = 15  # work is given up when its client has not asked for the answer by then
RETURN_SECONDS = 1  # within which a client whose connection ended may open another one

MAX_BODY_BYTES = 100_000  # of a request that is no upload
MAX_DEPTH = 16  # of nested objects and lists in a request
MAX_HEADER_BYTES = 16_000
MAX_QUERY = 2_000  # characters of an address, and the same of what follows its question mark
HEAD_SECONDS = 10  # for a connection to say what it wants
REFUSED_SECONDS = 1  # the same, where there are too many
BODY_SECONDS = 10  # for a body to arrive
UPLOAD_SECONDS = 60  # for an upload
MAX_CONNECTIONS = 256  # of one visitor with a request at a time; one more is told so
MAX_OPEN_CONNECTIONS = 600  # of one address, with a request or without one; one more gets no further than a 503
MAX_ALL_CONNECTIONS = 1_000
MAX_SESSIONS = 5_000  # that are remembered
MAX_ADDRESS_SESSIONS = 500  # of one visitor; the oldest that nobody uses are forgotten
MAX_STATES = 2 * MAX_SESSIONS  # in Gradio, which forgets regardless of whose they are: never before `Sessions` does

MAX_UPLOADS = 16  # files of one visitor that were not read yet
PREVIEW_SECONDS = 5  # that a file stays which a tab has read, while the browser shows it
MAX_VISITOR_BYTES = 40 * 2**20  # of those
MAX_ALL_BYTES = 400 * 2**20  # of all visitors' together


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
            f"seeds is {len(text):,} characters long; at most {MAX_TEXT} are allowed: use ranges, like '0-15'"
        )
    seeds = requests.read_seeds(text)
    most = min(most, max(least, MAX_PIXELS // size**2))
    if len(seeds) > most:
        raise ValueError(f"{len(seeds):,} seeds are too many; at most {most} are allowed per request")
    if len(set(seeds)) < least:
        raise ValueError(f"seeds is {requests.shown(text)}; at least {least} different ones are needed, like '0-5'")
    return seeds
