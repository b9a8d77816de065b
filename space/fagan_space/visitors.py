"""Visitors and their uploads: browsers are identified by a cookie, other clients by their address.

Each visitor's files are in a separate folder, out of reach of others' requests. Limits count by address, because
anybody can get a new cookie by requesting the page again.
"""

import hashlib
import hmac
import math
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fagan_space.files import storage
from fagan_space.limits import CACHE_SECONDS, MAX_ALL_BYTES, MAX_UPLOADS, MAX_VISITOR_BYTES

COOKIE = "fagan-visitor"
PUBLIC = "/files"  # name of the file folder in responses and requests
_UPLOADS = "uploads"
_SECRET = secrets.token_bytes(32)  # of this process: cookies and folders of other processes are invalid here


def _seal(text: str) -> str:
    return hmac.new(_SECRET, text.encode(), hashlib.sha256).hexdigest()[:32]


def new_cookie() -> str:
    """Make a cookie's value."""
    name = secrets.token_hex(16)
    return f"{name}.{_seal(name)}"


@dataclass(frozen=True)
class Visitor:
    """One visitor.

    Attributes:
        name: Name in the cookie, or else the address.
        address: Network address of the requests.
        has_cookie: Whether the visitor is identified by a cookie.
    """

    name: str
    address: str
    has_cookie: bool

    @property
    def folder(self) -> Path:
        """Folder of the visitor's uploads."""
        return storage() / _UPLOADS / _seal(f"folder {self.name}")

    def find(self, path: str) -> Path | None:
        """Find an upload of this visitor by the path that was returned for it; ``None`` for any other path."""
        try:
            real = real_path(path)
        except (OSError, ValueError):
            return None
        return real if real.parent == self.folder.resolve() and real.is_file() else None


def real_path(path: str) -> Path:
    """Return the real path of a public one.

    Raises:
        OSError: There is no such file.
        ValueError: The path is not below `PUBLIC`.
    """
    if not path.startswith(f"{PUBLIC}/") or "\0" in path:
        raise ValueError("not a file of this page")
    root = storage().resolve()
    real = (root / path.removeprefix(f"{PUBLIC}/").lstrip("/")).resolve(strict=True)
    if not real.is_relative_to(root):
        raise ValueError("not a file of this page")
    return real


def may_read(visitor: Visitor, real: Path) -> bool:
    """Return whether a visitor may fetch a stored file: any generated one, and the visitor's own uploads."""
    uploads = (storage() / _UPLOADS).resolve()
    return real.is_file() and (not real.is_relative_to(uploads) or real.parent == visitor.folder.resolve())


def count_proxies() -> int:
    """Return the number of proxies in front of the page."""
    return int(os.environ.get("FAGAN_PROXIES", "1" if os.environ.get("SPACE_ID") else "0"))


def visitor_of(address: str, headers: list[tuple[bytes, bytes]]) -> Visitor:
    """Identify the visitor of a request.

    Args:
        address: Address of the connection's other end.
        headers: The request's headers.
    """
    sent = [(name.lower(), value.decode("latin-1")) for name, value in headers]
    proxies = count_proxies()
    hops = [hop.strip() for name, value in sent if name == b"x-forwarded-for" for hop in value.split(",")]
    if proxies and len(hops) >= proxies:  # entries further left come from the visitor
        address = hops[-proxies]
    pairs = [pair.strip().partition("=") for name, value in sent if name == b"cookie" for pair in value.split(";")]
    for token, _, seal in (value.strip().partition(".") for name, _, value in pairs if name == COOKIE):
        if token and hmac.compare_digest(seal.encode(), _seal(token).encode()):
            return Visitor(f"cookie {token}", address, has_cookie=True)
    return Visitor(f"address {address}", address, has_cookie=False)


class TooMuchError(Exception):
    """A visitor's upload limit, or that of all visitors together, is exceeded."""


class Shelf:
    """Keeps track of uploads that have not been read yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Path, tuple[str, int, float]] = {}  # address, bytes, since when

    @contextmanager
    def place(self, visitor: Visitor, size: int) -> Iterator[Path]:
        """Reserve space for a file while it is received; the reservation is released if the block raises.

        Yields:
            Path for the file, with an unguessable name.

        Raises:
            TooMuchError: There is no space left.
        """
        path = visitor.folder / f"{secrets.token_hex(16)}.picture"
        with self._lock:
            self._forget()
            count, of_visitor, of_all = Counter[str](), 0, 0
            for address, held, _ in self._held.values():
                count[address] += 1
                of_all += held
                of_visitor += held if address == visitor.address else 0
            if count[visitor.address] >= MAX_UPLOADS or of_visitor + size > MAX_VISITOR_BYTES:
                raise TooMuchError(
                    f"{count[visitor.address]} of your uploads are waiting to be processed; at most {MAX_UPLOADS} and "
                    f"{MAX_VISITOR_BYTES:,} bytes are allowed; try again later"
                )
            if of_all + size > MAX_ALL_BYTES:
                raise TooMuchError("the upload storage is full; try again later")
            self._held[path] = visitor.address, size, math.inf
        try:
            yield path
            with self._lock:
                self._held[path] = visitor.address, path.stat().st_size, time.time()
        except BaseException:
            with self._lock:
                self._held.pop(path, None)
            path.unlink(missing_ok=True)
            raise

    def _forget(self) -> None:
        """Forget files that were read or deleted, but not those being received."""
        for path, (*_, since) in [*self._held.items()]:
            if time.time() > since + CACHE_SECONDS or (since < math.inf and not path.exists()):
                del self._held[path]
