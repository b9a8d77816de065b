"""Attacks on the page over HTTP, generated from its schema: new endpoints are covered automatically."""

import asyncio
import io
import secrets
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.serving import ROOT
from tests.space.hostile import API, Attacker

MANY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def paths_of(attacker):
    secret, storage = attacker.grounds / "secret.png", next((attacker.grounds / "given").glob("fagan-*"))
    return [
        *(
            "/etc/passwd",
            "../secret.png",
            "/files/../secret.png",
            "/files/../../secret.png",
            f"file://{secret}",
            "/files",
        ),
        *(str(secret), quote(str(secret), safe=""), f"/files/{secret}", f"/files//{secret}", str(storage / "page")),
        *(
            "/files/page/avatar-8192.png",
            "http://127.0.0.1:1/x.png",
            "//127.0.0.1/x",
            "/files/\0",
            "C:\\x",
            "",
            "/files",
        ),
    ]


def file_data(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def bad_values(attacker):
    """Return values that are invalid for nearly every input of every endpoint and function."""
    paths = st.sampled_from(paths_of(attacker))
    deep: list = []
    for _ in range(12):
        deep = [deep]
    return st.one_of(
        paths,
        paths.map(file_data),
        st.sampled_from([None, True, 5, -1, 0, 2.5, 1e308, 10**40, float("nan"), float("inf"), float("-inf"), 2**63]),
        st.sampled_from(["", "x", "0-1", "1" * 500, "x" * 5_000, "\0", "\u202e", "${jndi:x}", "%s%n", "0-99999999"]),
        st.just(deep),
        st.sampled_from([{}, [], {"beard": 1}, {"__class__": 1}, {"path": 5}, {"path": ["/etc/passwd"]}, [None] * 50]),
        st.text(max_size=80),
        st.recursive(st.floats() | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3)),
    )


@MANY
@given(data=st.data())
def test_every_endpoint(attacker, data):
    endpoints = attacker.endpoints()
    name = data.draw(st.sampled_from(sorted(endpoints)))
    parameters = endpoints[name]["parameters"]
    values = [
        data.draw(bad_values(attacker) if data.draw(st.integers(0, 2)) else st.just(each.get("parameter_default")))
        for each in parameters
    ]
    attacker.check(attacker.call(name.strip("/"), values))


@MANY
@given(data=st.data())
def test_every_function_of_the_queue(attacker, data):
    functions = {each["id"]: each for each in attacker.functions()}
    function = functions[data.draw(st.sampled_from(sorted(functions)))]
    count = len(function["inputs"]) + data.draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
    values = [data.draw(bad_values(attacker)) for _ in range(max(0, count))]
    clicked = data.draw(st.none() | st.builds(lambda index: {"index": index, "value": "x"}, bad_values(attacker)))
    attacker.check(attacker.join(function["id"], values, event_data=clicked))


def test_every_function_must_declare_what_it_takes(attacker):
    from fagan_space.blocks import check_declared

    new = SimpleNamespace(name="new", fn=lambda: None, queue=True)
    with pytest.raises(TypeError, match="new is an event of the page without declared inputs"):
        check_declared(SimpleNamespace(fns={0: new}))  # called when the page starts
    assert all(each["queue"] is not False for each in attacker.functions())


@pytest.mark.parametrize(
    "content",
    [
        *("", "null", "[]", '"x"', "{", "\x00", '{"data": 5}', '{"data": ["0"], "session_hash": 5}', "NaN"),
        '{"data": ' + "[" * 40_000 + "]" * 40_000 + "}",
        '{"data": ' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}",
        '{"data": [' + "9" * 90_000 + "]}",
        '{"data": ["' + "x" * 99_000 + '"]}',
        '{"data": [' + "1," * 40_000 + "1]}",
        '{"data": ["\\ud800"]}',
        b'{"data": ["\xff\xfe"]}',
    ],
)
@pytest.mark.parametrize("path", ["call/generate", "queue/join", "cancel", "reset"])
def test_bodies_that_are_none(attacker, path, content):
    answer = attacker.post(f"{API}/{path}", content)
    attacker.check(answer.text)
    if answer.status_code == 200:
        attacker.check_refused(attacker.http.get(f"{API}/call/generate/{answer.json()['event_id']}").text)
    else:
        assert answer.status_code in (400, 404, 413, 422)


def test_files_are_only_those_of_the_page(attacker):
    link = attacker.grounds / "given" / "link"
    link.symlink_to("/etc/passwd")
    inside = next((attacker.grounds / "given").glob("fagan-*")) / "link.png"
    inside.symlink_to(attacker.grounds / "secret.png")
    try:
        for path in [*paths_of(attacker), str(link), "/files/link.png", str(inside)]:
            if path == "/files/page/avatar-8192.png" or "\0" in path:
                continue
            for form in (path, quote(path, safe=""), quote(quote(path, safe=""), safe="")):
                for address in (f"{API}/file={form}", f"{API}/file/{form}"):
                    answer = attacker.http.get(address)
                    assert answer.status_code in (403, 404), (address, answer.status_code)
                    attacker.sent = address.encode()
                    attacker.check_refused(answer.text)
    finally:
        link.unlink()
        inside.unlink()
    assert attacker.http.get(f"{API}/file=/files/page/avatar-8192.png").status_code == 200


CLOSED = (
    *(
        "proxy=http://127.0.0.1/",
        "component_server",
        "process_recording",
        "run/predict",
        "run/generate",
        "api/generate",
    ),
    *(
        "vibe-edit",
        "vibe-code",
        "undo-vibe-edit",
        "dev/reload",
        "stream/x",
        "stream/x/close",
        "openapi.json",
        "mcp/sse",
    ),
    *("custom_component/x/client/x/x", "profiling/traces", "runs", "token", "deep_link", "call/v2/generate"),
)


@pytest.mark.parametrize("path", [*(f"{API}/{path}" for path in CLOSED), "/monitoring", "/login"])
def test_what_the_page_does_not_need_is_closed(attacker, path):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = attacker.http.request(method, path, json=None if method == "GET" else {"data": ["1"]})
        assert answer.status_code == 404, (method, answer.text[:200])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bombs():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    zeros = zlib.compress(bytes(200_000_000), 9)
    png = b"\x89PNG\r\n\x1a\n"
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0))
    pixels = chunk(b"IHDR", struct.pack(">IIBBBBB", 9_000, 9_000, 8, 6, 0, 0, 0))
    yield "zTXt", png + header + chunk(b"zTXt", b"x\0\0" + zeros) + chunk(b"IDAT", zlib.compress(bytes(64 * 193)))
    yield "iCCP", png + header + chunk(b"iCCP", b"x\0\0" + zeros) + chunk(b"IDAT", zlib.compress(bytes(64 * 193)))
    yield "IDAT", png + large + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
    yield "pixels", png + pixels + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
    yield (
        "GIF",
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0),
    )
    file = io.BytesIO()
    frames = [Image.new("P", (2000, 2000), number) for number in range(30)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    yield "frames", file.getvalue()
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "PDF", b"%PDF-1.7\n1 0 obj<<>>endobj\n"
    yield "HTML", b"<script>alert(1)</script>"
    yield "empty", b""


@pytest.fixture(scope="module")
def made():
    return dict(bombs())


BOMBS = ("zTXt", "iCCP", "IDAT", "pixels", "GIF", "frames", "EPS", "SVG", "PDF", "HTML", "empty")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(attacker, made, name):
    assert {*made} == {*BOMBS}
    content, started = made[name], time.monotonic()
    path = attacker.upload(content, "../../../ow/picture.svg\0.png")
    said = attacker.check(attacker.call("judge", [file_data(path), 0, 0, None]))
    if name not in ("frames", "zTXt", "iCCP"):  # which are valid images besides their bomb
        assert '"logit"' not in said
    assert time.monotonic() - started < 10
    assert attacker.http.get(f"{API}/file={path}").status_code == 403  # gone


FORM = {"Content-Type": "multipart/form-data; boundary=y"}


def test_uploads_that_are_none(attacker):
    url = f"{API}/upload"
    answers = [
        attacker.http.post(url, content=b"x" * 100),
        attacker.http.post(url, content=b"x", headers={"Content-Type": "multipart/form-data"}),
        attacker.http.post(url, content=b"x", headers=FORM),
        attacker.http.post(url, files={"files": ("a.png", b"x" * 11_000_000)}),
        attacker.http.post(url, data={"files": "text"}),
        attacker.http.post(url, content=(b"x" for _ in range(9)), headers=FORM),
        attacker.http.post(url, files=[("files", (f"{number}.png", b"x")) for number in range(50)]),
    ]
    for answer in answers:
        assert answer.status_code in (400, 413), answer.text
        attacker.check_refused(answer.text)


def test_sessions_of_others_are_not_heard(attacker):
    session = secrets.token_hex(6)
    generate = next(each["id"] for each in attacker.functions() if each["api_name"] == "generate")
    taken = attacker.post(
        f"{API}/queue/join", {"fn_index": generate, "data": ["1", 1.0, None, None], "session_hash": session}
    ).json()["event_id"]
    cookie = httpx.get(attacker.page.url).headers["set-cookie"].partition(";")[0]
    other = Attacker(attacker.page, attacker.grounds, {"Cookie": cookie})
    assert other.http.get(f"{API}/queue/data", params={"session_hash": session}).status_code == 404
    assert other.http.get(f"{API}/call/generate/{taken}").status_code == 404
    assert other.http.get(f"{API}/heartbeat/{session}").status_code == 403
    stolen = {"session_hash": session, "fn_index": generate, "event_id": taken}
    assert other.post(f"{API}/cancel", stolen).status_code == 404
    assert "another visitor" in other.join(generate, ["1", 1.0, None, None], session_hash=session)
    forged = Attacker(attacker.page, attacker.grounds, {"Cookie": cookie[:-1] + ("0" if cookie[-1] != "0" else "1")})
    path = other.upload(b"x")
    assert "that you uploaded" in forged.call("judge", [file_data(path), 0, 0, None])
    with attacker.http.stream("GET", f"{API}/queue/data", params={"session_hash": session}) as stream:
        assert any("process_completed" in line for line in stream.iter_lines())
    other.http.close()
    forged.http.close()
    for bad in ("x" * 10_000, "../x", "a b", ""):
        assert attacker.http.get(f"{API}/queue/data", params={"session_hash": bad}).status_code in (400, 404, 414)


def test_long_addresses_and_headers(attacker):
    assert attacker.http.get("/?" + "x" * 10_000).status_code == 414
    assert attacker.http.get("/assets/" + "x" * 5_000).status_code == 414
    assert attacker.http.get("/", headers={"X-Long": "x" * 20_000}).status_code in (400, 431)


def test_five_hundred_at_once(attacker):
    async def ask(client, seed):
        for wait in (0, 1):  # retry a connection that the system refuses
            try:
                answer = await client.post(f"{API}/call/generate", json={"data": [str(seed), 1.0, None, None]})
                break
            except httpx.TransportError:
                await asyncio.sleep(wait)
        else:
            return 0, ""
        if answer.status_code != 200:
            return answer.status_code, answer.text
        said = await client.get(f"{API}/call/generate/{answer.json()['event_id']}")
        return said.status_code, said.text

    async def storm():
        limits = httpx.Limits(max_connections=500)
        async with httpx.AsyncClient(base_url=attacker.page.url, timeout=60, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(500)))

    said = asyncio.run(storm())
    assert sum("event: complete" in text for _, text in said) >= 64
    for status, text in said:
        if "event: complete" not in text:
            assert status in (0, 200, 503), (status, text)
            assert "try again later" in text or "disconnected" in text or status == 0  # who came late for the answer


def connected(attacker):
    address = urlsplit(attacker.page.url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


def test_fifty_slow_connections(attacker):
    slow = [connected(attacker) for _ in range(50)]
    for number, each in enumerate(slow):
        kind = b"call/generate" if number % 2 else b"upload"
        each.sendall(
            b"POST /gradio_api/" + kind + b" HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=y\r\n"
            b"Content-Length: 5000\r\n\r\n{"
            if number % 3
            else b"GET / HT"
        )
    started = time.monotonic()
    assert "event: complete" in attacker.call("generate", ["1", 1.0, None, None])
    assert time.monotonic() - started < 2
    [waiting] = slow[1:2]
    assert b"408" in waiting.recv(4000)  # after `BODY_SECONDS`
    for each in slow:
        each.close()


def test_hang_ups_in_the_middle(attacker):
    for number in range(30):
        connection = connected(attacker)
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=y\r\n"
        )
        if number % 2:
            connection.sendall(b'Content-Length: 500000\r\n\r\n--y\r\nContent-Disposition: form-data; name="files"; ')
            connection.sendall(b'filename="a.png"\r\n\r\n' + b"x" * 5_000)
        connection.close()
    assert attacker.call("judge", [file_data(attacker.upload(EXAMPLE)), 0, 0, None]).count('"logit"') == 1


EXAMPLE = (ROOT / "space/examples/avatar-8192.png").read_bytes()


def test_many_pictures_that_are_asked_for_and_not_fetched(attacker):
    with ThreadPoolExecutor(16) as pool:
        posted = [
            *pool.map(
                lambda seed: attacker.post(f"{API}/call/generate", {"data": [str(seed), 1.0, None, None]}).status_code,
                range(60),
            )
        ]
    assert set(posted) <= {200, 503}
    end = time.monotonic() + 30  # work without a listener is canceled
    while "Queue is full" in (said := attacker.call("generate", ["1", 1.0, None, None])) and time.monotonic() < end:
        time.sleep(0.2)
    assert "event: complete" in said
