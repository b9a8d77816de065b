"""HTTP guard: which routes of Gradio's server are reachable, and how large requests may be.

Gradio's server has more routes than this page needs, accepts bodies of any size, and echoes input that it can't parse.
So each request is checked before Gradio sees it: the route must be on the allow list, the size within the limits, the
JSON must match the schema, and the session must be the visitor's own. Visitors see files below `PUBLIC`, never their
real paths.
"""

import asyncio
import json
import logging
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Container, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

import gradio as gr
from pydantic import ConfigDict
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fagan_hf.requests import Allowed, Request, check_characters, shown, whole
from fagan_space.controls import LONG, MODELS
from fagan_space.files import storage
from fagan_space.limits import (
    BODY_SECONDS,
    CACHE_SECONDS,
    LISTEN_SECONDS,
    LONG_PER_VISITOR,
    MAX_ADDRESS_SESSIONS,
    MAX_ALL_CONNECTIONS,
    MAX_BODY_BYTES,
    MAX_CONNECTIONS,
    MAX_DEPTH,
    MAX_HEADER_BYTES,
    MAX_QUERY,
    MAX_SESSIONS,
    MAX_UPLOAD_BYTES,
    RETURN_SECONDS,
    UPLOAD_SECONDS,
    WAITING,
    WAITING_PER_VISITOR,
)
from fagan_space.visitors import (
    COOKIE,
    PUBLIC,
    Shelf,
    TooMuchError,
    Visitor,
    may_read,
    new_cookie,
    real_path,
    visitor_of,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger(__name__)

VISITOR = "fagan.visitor"  # key in the ASGI scope
_API = "/gradio_api"
_OPEN = re.compile(
    r"/|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/(?:assets|static|svelte)/[\w./-]+"
    rf"|{_API}/(?:info/?|theme\.css|startup-events|app_id/?|queue/status|user/?|login_check/?)"
)
_STREAM = re.compile(rf"{_API}/(?:queue/data|heartbeat/(?P<heartbeat>[^/]+)|call/[\w-]+/(?P<event>[^/]+))")
_CALL = re.compile(rf"{_API}/call/(?P<name>[^/]+)/?")
_LENGTH = re.compile(r"[0-9]{1,12}")
_SLACK = 10_000  # overhead of an upload's body besides the file [bytes]

# Possessive quantifiers, and an unterminated string ends with the body: each byte is scanned once, whatever the input.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z|\\\Z)|[\[{]|[\]}]', re.DOTALL)
Session = Annotated[
    str, Allowed("at most 64 letters and digits", {"strict": True, "pattern": r"^[A-Za-z0-9_-]{1,64}$"})
]


class _Body(Request):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


Inputs = Annotated[list[Any], Allowed("a list of the inputs", {"max_length": 300})]


class Call(_Body):
    """Call an endpoint by name."""

    data: Inputs
    session_hash: Session | None = None


class Join(_Body):
    """Join the queue, as the page and gradio_client do."""

    data: Inputs
    fn_index: Annotated[int, whole(0, 10_000)]
    session_hash: Session
    event_data: Any = None
    trigger_id: Annotated[int, whole(0, 100_000)] | None = None


class Cancel(_Body):
    """Cancel one of the visitor's own events."""

    session_hash: Session
    fn_index: Annotated[int, whole(0, 10_000)]
    event_id: Session


class Reset(_Body):
    """Accept a request of old clients that has no effect."""

    event_id: Session


class Refusal(Exception):  # noqa: N818  # a response
    """An error response, sent instead of forwarding the request."""

    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status = status


@dataclass
class _Session:
    owner: Visitor
    used: float  # when it was last used [monotonic seconds]
    listeners: int = 0
    tabs: int = 0
    left: float = 0.0  # when the last listener left [monotonic seconds]


class Sessions:
    """Tracks the owner of each session, and how many clients listen to it.

    Sessions that have been unused for `CACHE_SECONDS` are forgotten. If there are too many, one is forgotten earlier,
    of the address that has most. A session is kept while a tab shows it, a client listens to it, or one of its requests
    is queued or running.

    Args:
        live: Returns the sessions with queued or running requests.
        forget: Called with each session that is forgotten.
    """

    def __init__(self, live: Callable[[], Container[str]] = tuple, forget: Callable[[str], None] = lambda _: None):
        self._live, self._forget = live, forget
        self._known: OrderedDict[str, _Session] = OrderedDict()  # least recently used first
        self._of_address: Counter[str] = Counter()

    def claim(self, session: str, visitor: Visitor) -> None:
        """Assign a session to the first visitor who uses it, and refuse it to others."""
        known = self._known.get(session)
        if known is None:
            self.make_room(visitor)
            self.add(session, visitor)
        elif known.owner.name != visitor.name:
            raise Refusal(403, "that session is another visitor's; start a new one")
        self._use(session)

    def add(self, session: str, visitor: Visitor) -> None:
        """Record the owner of a new session, after `make_room`."""
        self._known[session] = _Session(visitor, time.monotonic())
        self._of_address[visitor.address] += 1

    def make_room(self, visitor: Visitor) -> None:
        """Forget old sessions, and an idle one if necessary, so that a visitor can have one more."""
        live = self._live()
        self._forget_old(live)
        is_many = self._of_address[visitor.address] >= MAX_ADDRESS_SESSIONS
        if not is_many and len(self._known) < MAX_SESSIONS:
            return
        idle = [
            (name, each.owner.address)
            for name, each in self._known.items()
            if (not is_many or each.owner.address == visitor.address) and self._is_idle(name, live)
        ]
        if not idle:
            raise Refusal(503, "too many sessions; try again later")
        self._drop(max(idle, key=lambda each: self._of_address[each[1]])[0])

    def _forget_old(self, live: Container[str]) -> None:
        oldest = time.monotonic() - CACHE_SECONDS
        while self._known and next(iter(self._known.values())).used < oldest:
            name = next(iter(self._known))
            if self._is_idle(name, live):
                self._drop(name)
            else:
                self._use(name)

    def _is_idle(self, session: str, live: Container[str]) -> bool:
        known = self._known[session]
        return not known.listeners and not known.tabs and session not in live

    def _use(self, session: str) -> None:
        self._known[session].used = time.monotonic()
        self._known.move_to_end(session)

    def _drop(self, session: str) -> None:
        address = self._known.pop(session).owner.address
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]
        self._forget(session)

    def check(self, session: str, visitor: Visitor) -> None:
        """Refuse unknown sessions and those of other visitors, with the same message."""
        known = self._known.get(session)
        if known is None or known.owner.name != visitor.name:
            raise Refusal(404, "there is no such session; send a request first")

    @contextmanager
    def shown(self, session: str) -> Iterator[None]:
        """Keep a session while a tab shows it."""
        known = self._known[session]
        known.tabs += 1
        try:
            yield
        finally:
            known.tabs -= 1
            self._use(session)

    def listen(self, session: str) -> None:
        """Record that a response stream has started."""
        if known := self._known.get(session):
            known.listeners += 1

    def leave(self, session: str) -> None:
        """Record that a response stream has ended."""
        if (known := self._known.get(session)) and known.listeners:
            known.listeners -= 1
            known.left = time.monotonic()
            self._use(session)

    def is_wanted(self, session: str, since: float) -> bool:
        """Return whether a client is listening, or may still connect.

        Args:
            session: Session of the request.
            since: When the request was made [monotonic seconds].
        """
        known = self._known.get(session)
        if known is not None and known.listeners:
            return True
        left = 0.0 if known is None else known.left
        return time.monotonic() < (left + RETURN_SECONDS if left > since else since + LISTEN_SECONDS)


class Guard:
    """An ASGI middleware in front of Gradio's application.

    Args:
        app: Gradio's application.
        page: The page it serves.
        sessions: Records of the sessions.
    """

    def __init__(self, app: Any, page: gr.Blocks, sessions: Sessions):
        self.app, self.page, self.sessions = app, page, sessions
        self.shelf = Shelf()
        self._connections: Counter[str] = Counter()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or forward it to Gradio."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        visitor = visitor_of((scope.get("client") or ("unknown",))[0], scope["headers"])
        scope[VISITOR] = visitor
        outgoing = _Outgoing(send, _cookie(scope) if scope["path"] == "/" and not visitor.has_cookie else None)
        self._connections[visitor.address] += 1
        try:
            self._check_size(scope, visitor)
            await self._route(scope, receive, outgoing, visitor)
        except Refusal as refusal:
            if not outgoing.has_begun:
                await _say(outgoing, refusal.status, str(refusal))
        except Exception:
            logger.exception("%s %s", scope["method"], scope["path"][:100])
            if not outgoing.has_begun:
                await _say(outgoing, 500, "the request could not be processed; the details are in the page's log")
        finally:
            self._connections[visitor.address] -= 1
            if self._connections[visitor.address] <= 0:
                del self._connections[visitor.address]

    def _check_size(self, scope: Message, visitor: Visitor) -> None:
        if self._connections[visitor.address] > MAX_CONNECTIONS or self._connections.total() > MAX_ALL_CONNECTIONS:
            raise Refusal(503, "too many connections; close some, or try again later")
        if len(scope["path"]) > MAX_QUERY or len(scope["query_string"]) > MAX_QUERY:
            raise Refusal(414, f"the address is too long; at most {MAX_QUERY:,} characters are allowed")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            raise Refusal(431, f"the headers are too long; at most {MAX_HEADER_BYTES:,} bytes are allowed")
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            raise Refusal(400, "the body has a Content-Length and a Transfer-Encoding; send one of them")

    async def _route(self, scope: Message, receive: Receive, send: Send, visitor: Visitor) -> None:
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            if path.startswith(f"{_API}/file="):
                self._point_to_file(scope, visitor)
            elif path == f"{_API}/upload_progress":
                await _say_done(send)
                return
            elif stream := _STREAM.fullmatch(path):
                await self._stream(scope, receive, send, visitor, stream)
                return
            elif not _OPEN.fullmatch(path) or ".." in path:
                raise Refusal(404, "no such page or file")
            elif path.startswith(f"{_API}/info"):  # or Gradio would cache this request's Host for everybody
                self.page.app.api_info = None
            # Starlette mishandles several ranges in one header.
            scope["headers"] = [(n, v) for n, v in scope["headers"] if n != b"range" or b"," not in v]
            await self.app(scope, _without_body(receive), send)
        elif method == "OPTIONS":
            await self.app(scope, _without_body(receive), send)
        elif method == "POST" and path == f"{_API}/upload":
            await self._upload(scope, receive, send, visitor)
        elif method == "POST":
            await self._post(scope, receive, send, visitor)
        else:
            raise Refusal(404, "no such page or file")

    def _point_to_file(self, scope: Message, visitor: Visitor) -> None:
        try:
            real = real_path(scope["path"].removeprefix(f"{_API}/file="))
        except (OSError, ValueError):
            real = None
        if real is None or not may_read(visitor, real):
            raise Refusal(403, "you may not access that file")
        scope["path"] = f"{_API}/file={real}"
        scope["raw_path"] = quote(scope["path"], safe="/=").encode()

    async def _stream(
        self, scope: Message, receive: Receive, send: Send, visitor: Visitor, stream: re.Match[str]
    ) -> None:
        if stream["heartbeat"] is not None:
            session = _session(stream["heartbeat"])
            self.sessions.claim(session, visitor)
            with self.sessions.shown(session):
                await self.app(scope, _without_body(receive), send)
            return
        if stream["event"] is None:
            # Require exactly one and forward only that: of several, Gradio would use another than the one checked here.
            values = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
            session = _session(values[0] if len(values) == 1 else "")
            scope["query_string"] = f"session_hash={session}".encode()
        else:
            session = _session(stream["event"])
        self.sessions.check(session, visitor)
        event = self.page._queue.event_ids_to_events.get(session)
        listened = {session} | ({event.session_hash} if event is not None else set())
        for each in listened:
            self.sessions.listen(each)
        try:
            await self.app(scope, _without_body(receive), send)
        finally:
            for each in listened:
                self.sessions.leave(each)

    async def _post(self, scope: Message, receive: Receive, send: Send, visitor: Visitor) -> None:
        path = scope["path"].rstrip("/")
        call = _CALL.fullmatch(path)
        kind = {f"{_API}/queue/join": Join, f"{_API}/cancel": Cancel, f"{_API}/reset": Reset}.get(path)
        if kind is None and call is None:
            raise Refusal(404, "no such page or file")
        found = _parsed(await _body(receive, scope, MAX_BODY_BYTES, BODY_SECONDS))
        try:
            body = (kind or Call).read(found)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        clean, session = body.model_dump(), getattr(body, "session_hash", None)
        if kind in (None, Join):  # before claiming the session, so that refused requests leave no state
            self._check_lane(clean["fn_index"] if kind else None, call["name"] if call else None, visitor)
            self.sessions.make_room(visitor)
            send = self._claiming(send, visitor)
        if kind is Cancel and session is not None:
            self.sessions.check(session, visitor)
            self.sessions.check(clean["event_id"], visitor)
        elif session is not None:
            self.sessions.claim(session, visitor)
            # Gradio copies the page's whole config for each session (230 kB), which only deep links need.
            self.page.state_holder[session].config_values.clear()
        content = json.dumps(clean).encode()
        scope["headers"] = [(n, v) for n, v in scope["headers"] if n not in (b"content-length", b"content-type")]
        scope["headers"] += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await self.app(scope, _replay(content, receive), send)

    def _check_lane(self, number: int | None, name: str | None, visitor: Visitor) -> None:
        """Refuse calls of unknown functions, and of those whose queue is full."""
        functions = self.page.fns
        if number is None:
            named = [each for each in functions.values() if each.api_name == name and each.api_visibility == "public"]
            function = named[0] if named else None
        else:
            function = functions.get(number)
        if function is None:
            raise Refusal(404, f"there is no function {shown(name if number is None else number)} on this page")
        lane = self.page._queue.event_queue_per_concurrency_id.get(function.concurrency_id)
        waiting = lane.queue if lane is not None else []
        if len(waiting) >= WAITING:
            raise Refusal(503, f"Queue is full: {len(waiting)} requests are waiting; try again later.")
        own = sum(event.request.scope.get(VISITOR, visitor).address == visitor.address for event in waiting)
        is_long = function.concurrency_id in (LONG["concurrency_id"], MODELS["concurrency_id"])
        if own >= (LONG_PER_VISITOR if is_long else WAITING_PER_VISITOR):
            raise Refusal(503, f"Queue is full: {own} of your requests are already waiting; try again later.")

    def _claiming(self, send: Send, visitor: Visitor) -> Send:
        """Record the visitor as the owner of the event whose id is in the response."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and (
                found := re.search(rb'"event_id":\s*"(\w+)"', message["body"])
            ):
                self.sessions.add(found[1].decode(), visitor)
            await send(message)

        return sending

    async def _upload(self, scope: Message, receive: Receive, send: Send, visitor: Visitor) -> None:
        headers = Headers(raw=scope["headers"])
        length = headers.get("content-length", "")
        if not headers.get("content-type", "").startswith("multipart/form-data") or not _LENGTH.fullmatch(length):
            raise Refusal(400, "an upload must be multipart/form-data with a Content-Length; send an image as `files`")
        if int(length) > MAX_UPLOAD_BYTES + _SLACK:
            raise Refusal(413, f"the file is too large; at most {MAX_UPLOAD_BYTES:,} bytes are allowed")
        try:
            with self.shelf.place(visitor, int(length)) as place:
                content = await self._receive_file(receive, headers)
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                await asyncio.to_thread(place.write_bytes, content)
        except TooMuchError as error:
            raise Refusal(429, str(error)) from None
        await _say_json(send, 200, [str(place)])

    async def _receive_file(self, receive: Receive, headers: Headers) -> bytes:
        chunks = _counted(receive, MAX_UPLOAD_BYTES + _SLACK)
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                form = await MultiPartParser(headers, chunks, max_files=1, max_fields=2).parse()
        except MultiPartException:
            raise Refusal(400, "the upload can't be parsed; send one image as `files`") from None
        except TimeoutError:
            raise Refusal(408, f"the upload took longer than {UPLOAD_SECONDS} seconds; try again") from None
        try:
            file = next((each for each in form.values() if isinstance(each, UploadFile)), None)
            if file is None:
                raise Refusal(400, "the upload has no file; send one image as `files`")
            content = await file.read(MAX_UPLOAD_BYTES + 1)
        finally:
            await form.close()
        if len(content) > MAX_UPLOAD_BYTES:
            raise Refusal(413, f"the file is too large; at most {MAX_UPLOAD_BYTES:,} bytes are allowed")
        return content


class _Outgoing:
    """Replaces the path of the file folder in responses by `PUBLIC`, and sets the visitor's cookie."""

    def __init__(self, send: Send, cookie: bytes | None):
        self._send, self._cookie, self._folder = send, cookie, str(storage().resolve()).encode()
        self._start: Message | None = None
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._start is None:
            await self._send(message)
        else:
            await self._continue(message)

    async def _begin(self, message: Message) -> None:
        self.has_begun = True
        headers = Headers(raw=message["headers"])
        message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
        if self._cookie is not None:
            message["headers"] += [(b"set-cookie", self._cookie)]
        kind = headers.get("content-type", "")
        if kind.startswith(("text/html", "application/json", "text/event-stream", "text/plain")):
            self._start = message
            self._has_length = "content-length" in headers
            self._held = bytearray()
            if not self._has_length:
                await self._send(message)
        else:
            await self._send(message)

    async def _continue(self, message: Message) -> None:
        body, public = bytes(message.get("body", b"")), PUBLIC.encode()
        if not self._has_length:  # a stream: each chunk consists of whole lines
            await self._send({**message, "body": body.replace(self._folder, public)})
            return
        self._held += body
        if not message.get("more_body"):
            assert self._start is not None
            content = bytes(self._held).replace(self._folder, public)
            kept = [(n, v) for n, v in self._start["headers"] if n.lower() != b"content-length"]
            self._start["headers"] = [*kept, (b"content-length", b"%d" % len(content))]
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": content})


def _cookie(scope: Message) -> bytes:
    # On Spaces the page is embedded as a cross-site frame, where browsers accept only this kind of cookie.
    is_secure = "https" in (scope["scheme"], Headers(raw=scope["headers"]).get("x-forwarded-proto", ""))
    kind = "SameSite=None; Secure; Partitioned" if is_secure else "SameSite=Lax"
    return f"{COOKIE}={new_cookie()}; Path=/; HttpOnly; {kind}".encode()


def _session(given: str) -> str:
    if not re.fullmatch(r"[\w-]{1,64}", given):
        raise Refusal(400, f"session is {shown(given)}; it must be at most 64 letters and digits")
    return given


def _parsed(content: bytes) -> dict[str, Any]:
    depth = deepest = 0
    for token in _TOKENS.finditer(content):
        if token[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in (b"]", b"}"):
            depth -= 1
    if deepest > MAX_DEPTH:
        raise Refusal(400, f"the JSON is nested {deepest:,} deep; at most {MAX_DEPTH} levels are allowed")
    try:
        found = json.loads(content)
    except ValueError:  # also for invalid UTF-8, and for numbers with too many digits
        raise Refusal(400, 'the body is not JSON; send it like {"data": ["0-15"]}') from None
    try:
        check_characters(found)
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    if not isinstance(found, dict):
        raise Refusal(400, f'the body is {shown(found)}; it must be a JSON object like {{"data": ["0-15"]}}')
    return found


async def _body(receive: Receive, scope: Message, most: int, seconds: float) -> bytes:
    length = Headers(raw=scope["headers"]).get("content-length", "0")
    if not _LENGTH.fullmatch(length) or int(length) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            return b"".join([chunk async for chunk in _counted(receive, most)])
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {seconds} seconds; try again") from None


async def _counted(receive: Receive, most: int):
    seen, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the connection ended early")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        seen += len(chunk)
        if seen > most:
            raise _too_large(most)
        yield chunk


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request is too large; at most {most:,} bytes are allowed")


def _replay(content: bytes, receive: Receive) -> Receive:
    """Replay a body that has been read already, then pass on what follows."""
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": content, "more_body": False}

    return again


def _without_body(receive: Receive) -> Receive:
    """Pretend that the body is empty, then wait for the client to disconnect."""
    is_given = False

    async def empty() -> Message:
        nonlocal is_given
        if not is_given:
            is_given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    return empty


async def _say(send: Send, status: int, words: str) -> None:
    # Both keys: the browser client reads `detail`, the Python client `error`.
    is_cut = status in (400, 408, 413)  # part of the body may be unread, so close the connection
    await _say_json(send, status, {"detail": words, "error": words}, [(b"connection", b"close")] if is_cut else None)


async def _say_json(send: Send, status: int, found: Any, also: list[tuple[bytes, bytes]] | None = None) -> None:
    content = json.dumps(found, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)), *(also or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _say_done(send: Send) -> None:
    """Report that an upload is done; the page asks for its progress while uploading."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'data: {"msg": "done"}\n\n'})
