"""Limits on what one request may ask for, so that other visitors don't have to wait long."""

from fagan_hf import requests

MAX_IMAGES = 64
MAX_WALK_SEEDS = 12
MAX_FRAMES = 240
MAX_PIXELS = 2**23  # of all images of a request together
MAX_UPLOAD_BYTES = 10 * 2**20
MAX_UPLOAD_PIXELS = 25_000_000
MAX_UPLOAD_SIDE = 10_000
MAX_SCANS = 100  # of a JPEG: each is a pass over all pixels, and takes as little as ten bytes in the file
DECODE_SECONDS = 10  # processor time for decoding an upload; three times that on the clock
DECODE_BYTES = 2**30  # memory limit for decoding an upload
MAX_TEXT = 500  # length of the seeds [characters]
MAX_MODEL_BYTES = 100 * 2**20  # of the generator of a model that a visitor names
RENDER_SECONDS = 60  # processor time for downloading it and generating its images
RENDER_BYTES = 3 * 2**29  # memory limit for that
MAX_STEPS = 300  # of a projection

WAITING = 64  # requests in each lane's queue; further ones are refused and may retry later
WAITING_PER_VISITOR = 48  # of those, per visitor; the rest is reserved for others
LONG_PER_VISITOR = 8  # waiting projections and videos of one visitor, and as many comparisons
AT_ONCE = 2  # image requests served concurrently; of long-running requests, uploads and comparisons, one each
THREADS = AT_ONCE + 4  # for Gradio's functions; each further thread would hold memory of torch and malloc
CACHE_SECONDS = 600  # generated images are kept this long, for browsers and clients to fetch
MAX_SECONDS = 120  # time limit of one long-running request, once it has started
LISTEN_SECONDS = 15  # work is canceled if its client has not connected to fetch the result by then
RETURN_SECONDS = 1  # a client whose connection ended may reconnect within this time

MAX_BODY_BYTES = 100_000  # of requests other than uploads
MAX_DEPTH = 16  # of nested objects and lists in a request
MAX_HEADER_BYTES = 16_000
MAX_QUERY = 2_000  # length of a URL's path, and of its query string [characters]
HEAD_SECONDS = 10  # time limit for a request head
REFUSED_SECONDS = 1  # the same, for connections that are refused
BODY_SECONDS = 10  # time limit for a body
UPLOAD_SECONDS = 60  # time limit for an upload
MAX_CONNECTIONS = 256  # concurrent requests of one visitor; further ones are refused with a message
MAX_OPEN_CONNECTIONS = 600  # of one address, idle ones included; further ones only get a 503
MAX_ALL_CONNECTIONS = 1_000
MAX_SESSIONS = 5_000  # sessions kept
MAX_ADDRESS_SESSIONS = 500  # of one visitor; the oldest idle ones are forgotten
MAX_STATES = 2 * MAX_SESSIONS  # in Gradio, which evicts regardless of the owner: so `Sessions` must forget first

MAX_UPLOADS = 16  # unread files of one visitor
PREVIEW_SECONDS = 5  # a file stays this long after a tab has read it, because the browser displays it
MAX_VISITOR_BYTES = 40 * 2**20  # of one visitor's unread files
MAX_ALL_BYTES = 400 * 2**20  # of all visitors' unread files


def read_seeds(text: str, most: int, *, size: int, least: int = 1) -> list[int]:
    """Parse seeds, and refuse more than a request may ask for.

    Args:
        text: Like ``"0-15, 42"``.
        most: Maximum number of seeds.
        size: Height and width of an image [pixels].
        least: Minimum number of seeds.

    Raises:
        ValueError: The text can't be parsed, or there are too few or too many seeds.
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
