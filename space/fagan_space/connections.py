"""Limits on TCP connections: how many may be open, and how long one may take to send its request head."""

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
    """One HTTP connection; websockets are disabled because the page doesn't use them.

    Behind a proxy all connections come from the proxy, so only `Guard` can count them by visitor.
    """

    _waiting: TimerHandle | None = None
    _address = ""
    _is_refused = False

    def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Accept a connection, or mark it as refused if there are too many."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else "unknown"
        _open[self._address] += 1
        is_many = _open[self._address] > MAX_OPEN_CONNECTIONS and not count_proxies()
        self._is_refused = is_many or _open.total() > MAX_ALL_CONNECTIONS
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after a connection."""
        super().connection_lost(exc)
        self._end_waiting()
        _open[self._address] -= 1
        if not _open[self._address]:
            del _open[self._address]

    def data_received(self, data: bytes) -> None:
        """Process received bytes, and cancel the timeout once a request has arrived."""
        if self._is_refused:  # answered only now: a response sent before the request would get lost
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
