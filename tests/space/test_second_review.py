"""Regression tests of what a third attack found: resources shared by all visitors."""

import asyncio
import io
import os
import socket
import struct
import sys
import tempfile
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import psutil
import pytest
from fagan_space import connections, decoding, guard, storage
from fagan_space.blocks import Page
from fagan_space.guard import Refusal, Sessions
from fagan_space.visitors import Shelf, Visitor, new_cookie, visitor_of
from gradio.server_messages import EstimationMessage
from gradio.state_holder import StateHolder
from PIL import Image
from uvicorn.config import Config
from uvicorn.server import ServerState

from fagan_hf import serving
from fagan_hf.data.decode import readable_formats
from tests.space.hostile import API


def visitor(address, name=None):
    return Visitor(name or f"address {address}", address, name is not None)


def new_page():
    """Make an empty page; outside of an event loop, Gradio would create loops and leave them open."""

    async def make():
        return Page()

    return asyncio.run(make())


def test_nobody_who_waits_is_pushed_out_of_the_queue():
    queue = new_page()._queue
    messages = queue.pending_messages_per_session
    for number in range(3_000):
        messages[f"session{number}"] = asyncio.Queue()
    assert "session0" in messages
    del messages["session0"], messages["session0"]
    event = SimpleNamespace(alive=True, _id="event", session_hash="session0")
    queue.send_message(event, EstimationMessage(queue_size=1))  # the end of the queue, once
    assert "session0" not in messages


def test_what_is_forgotten_of_a_session_is_all_that_gradio_has_of_it():
    page = new_page()
    StateHolder().set_blocks(page)
    for name in ("mine", "other"):
        page.sessions.claim(name, visitor(name))
        page._queue.pending_messages_per_session[name] = asyncio.Queue()
        page._queue.pending_event_ids_session[name] = set()
        assert page.state_holder[name]
    page.sessions._drop("other")
    kept = page._queue.pending_messages_per_session, page._queue.pending_event_ids_session
    for each in (*kept, page.state_holder.session_data, page.state_holder.time_last_used):
        assert [*each] == ["mine"]


def test_many_addresses_lock_no_newcomer_out(monkeypatch):
    monkeypatch.setattr(guard, "MAX_SESSIONS", 50)
    monkeypatch.setattr(guard, "MAX_ADDRESS_SESSIONS", 5)
    forgotten = []
    sessions = Sessions(forget=forgotten.append)
    sessions.claim("first", visitor("10.1.0.0"))
    for number in range(50):
        sessions.claim(f"flood{number}", visitor(f"10.0.0.{number // 5}"))
    for number in range(9):
        sessions.claim(f"new{number}", visitor(f"10.2.0.{number}"))
    sessions.check("first", visitor("10.1.0.0"))  # the oldest, but the only one of its address
    assert len(forgotten) == 10
    assert all(name.startswith("flood") for name in forgotten)


def test_old_sessions_are_forgotten_but_none_that_is_used(monkeypatch):
    monkeypatch.setattr(guard, "CACHE_SECONDS", 0.05)
    forgotten = []
    sessions = Sessions(lambda: {"waiting"}, forgotten.append)
    for name in ("waiting", "old", "heard", "shown"):
        sessions.claim(name, visitor("10.0.0.1"))
    sessions.listen("heard")
    with sessions.shown("shown"):
        time.sleep(0.06)
        sessions.claim("new", visitor("10.0.0.2"))
        assert forgotten == ["old"]
        sessions.leave("heard")
        time.sleep(0.06)
        sessions.make_room(visitor("10.0.0.2"))
    assert forgotten == ["old", "new", "heard"]


def test_room_is_found_before_a_request_is_handed_on(monkeypatch):
    monkeypatch.setattr(guard, "MAX_ADDRESS_SESSIONS", 2)
    sessions = Sessions(lambda: {"one", "two"})
    for name in ("one", "two"):
        sessions.make_room(visitor("10.0.0.1"))
        sessions.add(name, visitor("10.0.0.1"))
    with pytest.raises(Refusal, match="too many sessions"):
        sessions.make_room(visitor("10.0.0.1"))
    sessions.add("three", visitor("10.0.0.1"))  # of a request that was let in at the same time


def decoded(content, size=8):
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return decoding.decoded(file, size)


def segment(kind, content):
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def jpeg_of_scans(count):
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    return content[:-2] + (segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + b"\x7f") * count + content[-2:]


def picture(size, mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jpeg_of_scans(1_000), "more than 100 scans"),
        (picture((1, 20_000), "RGBA"), "10,000 per side"),
        (picture((5_000, 5_001), "1"), "the limit is 25,000,000"),
    ],
)
def test_pictures_that_would_take_long_or_much_memory(content, words):
    with pytest.raises(ValueError, match=words):
        decoded(content)


def test_a_picture_as_cameras_and_editors_write_it_is_read():
    for content in (jpeg_of_scans(0), picture((300, 200), "CMYK", "JPEG"), picture((200, 300), "LA")):
        assert decoded(content).shape == (3, 8, 8)


def test_what_was_checked_is_what_is_decoded():
    """A TIFF of 16x16 pixels that another reader, one that visitors may not use, takes for a Photo CD of 768x512."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 40)).save(file, "TIFF")
    content = bytearray(file.getvalue().ljust(1_400_000, b"\0"))
    assert len(file.getvalue()) < 2048
    content[2048:2052] = b"PCD_"
    with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
        assert image.format == "PCD"
    assert decoded(bytes(content))[:, 4, 4].tolist() == [200, 30, 40]


@pytest.mark.parametrize("program", ["while True: pass", "import os; os.abort()", "bytes(10**10)", "print('short')"])
def test_whatever_happens_in_a_decoder_the_page_goes_on(tmp_path, monkeypatch, program):
    path = tmp_path / "decoder.py"
    path.write_text(program)
    monkeypatch.setattr(decoding, "_PROGRAM", path)
    monkeypatch.setattr(decoding, "DECODE_SECONDS", 1)
    with pytest.raises(ValueError, match="too much time or memory"):
        decoded(b"")
    assert not [each for each in psutil.Process().children() if str(path) in each.cmdline()]


def test_the_system_limits_a_decoder(monkeypatch):
    monkeypatch.setattr(decoding, "DECODE_BYTES", 2**26)
    with pytest.raises(ValueError, match=r"too much time or memory|damaged"):
        decoded(picture((3_000, 3_000), "RGBA"))


def said_to(attacker, request):
    place = urlsplit(attacker.page.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4_000), b""))


@pytest.mark.parametrize("path", ["upload", "queue/join", "call/generate"])
def test_a_body_has_one_length(attacker, path):
    said = said_to(
        attacker,
        f"POST {API}/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n".encode(),
    )
    assert said.startswith(b"HTTP/1.1 400")
    assert b"send one of them" in said


def test_what_has_arrived_is_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shelf = Shelf()
    with shelf.place(visitor("10.0.0.1"), 1) as path:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 1_000)
    assert [size for _, size, _ in shelf._held.values()] == [1_000]


class Line(asyncio.Transport):
    """The other end of a connection, which records what happens to it."""

    def __init__(self):
        super().__init__({"peername": ("10.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self.said, self.is_over = b"", False

    def write(self, data):
        self.said += data

    def close(self):
        self.is_over = True

    abort = close

    def is_closing(self):
        return self.is_over

    def pause_reading(self):
        pass

    resume_reading = pause_reading


@pytest.mark.parametrize(("proxies", "most"), [("0", 3), ("1", 4)])
def test_connections_are_counted_and_closed_before_they_ask(monkeypatch, proxies, most):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "REFUSED_SECONDS", 0.1)
    monkeypatch.setattr(connections, "MAX_OPEN_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "MAX_ALL_CONNECTIONS", 4)
    monkeypatch.setenv("FAGAN_PROXIES", proxies)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def attack():
        config = Config(app, log_config=None)
        ends = [connections.Connection(config, ServerState(), {}) for _ in range(6)]
        lines = [Line() for _ in ends]
        for end, line in zip(ends, lines, strict=True):
            end.connection_made(line)
        for end in ends[most:-1]:
            end.data_received(b"GET")
        assert [each.said[:12] for each in lines] == [b""] * most + [b"HTTP/1.1 503"] * (5 - most) + [b""]
        request = b"GET / HTTP/1.1\r\nHost: x\r\n"
        for number in range(6):  # one asks again and again, another has a header without an end
            await asyncio.sleep(0.1)
            ends[0].data_received(request + b"\r\n")
            ends[1].data_received(b"X: y\r\n" if number else request)
        assert [each.is_over for each in lines] == [False] + [True] * 5
        await asyncio.sleep(0.1)
        assert lines[0].said.count(b"HTTP/1.1 200") == 6
        ends[0].data_received(request)  # a second one that never comes
        await asyncio.sleep(0.4)
        assert lines[0].is_over
        for end in ends:
            end.connection_lost(None)

    asyncio.run(attack())
    assert not connections._open


def test_nobody_chooses_which_address_others_are_told(attacker):
    for path in (f"{API}/info", f"{API}/info/"):
        assert "evil.example" in attacker.http.get(path, headers={"Host": "evil.example"}).text
        assert "evil.example" not in attacker.http.get(path).text


def test_gradio_keeps_no_statistics(tmp_path, monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_MAX_EVENTS", "GRADIO_ANALYTICS_CACHE_FREQUENCY"):
        monkeypatch.setenv(name, str(tmp_path))  # restored at the end of the test
    storage.open_storage()
    queue = new_page()._queue
    assert queue.ANALYTICS_MAX_EVENTS == 1
    assert sys.maxsize == queue.ANAYLTICS_CACHE_FREQUENCY
    assert os.environ["GRADIO_TEMP_DIR"] != str(tmp_path)


@pytest.mark.parametrize("ranges", ["bytes=0-1,4-5", "bytes=0-,0-,0-", "bytes=" + "0-1," * 900 + "3-4"])
def test_several_ranges_are_answered_with_the_whole(attacker, ranges):
    path = f"{API}/file=/files/page/avatar-8192.png"
    whole = attacker.http.get(path)
    assert attacker.http.get(path, headers={"Range": "bytes=0-3"}).content == whole.content[:4]
    answer = attacker.http.get(path, headers={"Range": ranges})
    assert (answer.status_code, answer.content) == (200, whole.content)


def test_websockets_are_no_way_in(attacker):
    said = said_to(
        attacker,
        f"GET {API}/queue/join HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode(),
    )
    assert said.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("cookie", ["a=b;;;=;{}", "fagan-visitor=x.y; {}", "{}; fagan-visitor=x", '"; {};a', "{}"])
def test_a_good_cookie_counts_whatever_stands_around_it(cookie):
    pair = f"fagan-visitor={new_cookie()}"
    found = visitor_of("10.0.0.1", [(b"cookie", b"a=b"), (b"Cookie", cookie.format(pair).encode())])
    assert found == Visitor(f"cookie {pair[14:].partition('.')[0]}", "10.0.0.1", True)
    assert not visitor_of("10.0.0.1", [(b"cookie", cookie.format(pair[:-1]).encode())]).has_cookie


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "\ud800"},
        {"inputs": {"labels": {"\ud800": True}}},
        {"inputs": "1", "parameters": {"\udfff": 1}},
        {"inputs": "1", "\ud800": 1},
    ],
)
def test_endpoints_refuse_half_a_character_in_words(body):
    with pytest.raises(ValueError, match="lone surrogate") as error:
        serving._read_request(body, None)
    str(error.value).encode()


def test_nothing_is_taken_for_what_it_does_not_say_it_is(attacker):
    for path in ("/", f"{API}/info", "/nothing", f"{API}/file=/files/page/avatar-8192.png", "/theme.css"):
        assert attacker.http.get(path).headers["x-content-type-options"] == "nosniff"


def parts(head, content, count=1):
    return (
        f"--y\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
    ) * count + b"--y--\r\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (parts('name="files"; filename="a.png"', b"x", 5_000), 400),
        (parts('name="files"', b"x", 5_000), 400),
        (parts('name="files"; filename="' + "a" * 5_000_000 + '"', b"x"), 400),
        (parts("name=files; " + "a=b; " * 1_000_000, b"x"), 400),
        (parts('name="files"; filename="a"\r\n' + "X: y\r\n" * 500_000 + "Z: z", b"x"), 400),
        (parts("name=files; filename*=UTF-8''..%2F..%2Fow%2Fvictim.gif", b"x"), 400),
        (parts('name="files"; filename="../../ow/victim.gif\0"', b"x"), 200),
        (parts('name="files"; filename=""', b"x"), 200),
        (b"--y\r\n" * 1_000_000, 400),
        (b"-" * 9_000_000, 400),
        (b"\r\n" * 4_000_000 + b"--y", 400),
    ],
)
def test_odd_forms_are_looked_at_quickly(attacker, body, status):
    started = time.monotonic()
    answer = attacker.http.post(
        f"{API}/upload", content=body, headers={"Content-Type": "multipart/form-data; boundary=y"}
    )
    assert answer.status_code == status, answer.text
    assert time.monotonic() - started < 4
    if status == 200:
        [path] = answer.json()
        assert path.startswith("/files/uploads/")
        said = attacker.call("judge", [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0, 0, None])
        assert "be read as an image" in attacker.check_refused(said)
