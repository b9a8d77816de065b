"""Connections, before anything has been asked: how many there are, and how long one may take to say what it wants."""

from asyncio import TimerHandle, Transport
from collections import Counter

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fagan_space.limits import HEAD_SECONDS, MAX_ALL_CONNECTIONS, MAX_OPEN_CONNECTIONS, REFUSED_SECONDS
from fagan_space.visitors import count_proxies

_WORDS = b'{"error": "too many connections at a time; close some, or try again later"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_WORDS), _WORDS)
)
_open: Counter[str] = Counter()


class Connection(H11Protocol):
    """One connection, by HTTP only: the page has no use for websockets.

    Behind a proxy all connections come from there, so that only `Guard` can count them by visitor.
    """

    _waiting: TimerHandle | None = None
    _address = ""
    _is_refused = False

    def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin a connection, unless there are too many."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else "unknown"
        _open[self._address] += 1
        is_many = _open[self._address] > MAX_OPEN_CONNECTIONS and not count_proxies()
        self._is_refused = is_many or _open.total() > MAX_ALL_CONNECTIONS
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        super().connection_lost(exc)
        self._end_waiting()
        _open[self._address] -= 1
        if not _open[self._address]:
            del _open[self._address]

    def data_received(self, data: bytes) -> None:
        """Read on, and wait no longer once a request is there."""
        if self._is_refused:  # and told so now: what is said to somebody who has not asked yet gets lost
            self.transport.write(_FULL)
            self.transport.close()
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_waiting()
        elif self._waiting is None:
            self._wait()

    def _wait(self) -> None:
        seconds = REFUSED_SECONDS if self._is_refused else HEAD_SECONDS
        self._waiting = self.loop.call_later(seconds, self.transport.abort)

    def _end_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _should_upgrade(self) -> bool:
        return False
