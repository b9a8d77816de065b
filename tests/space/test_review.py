"""Regression tests of what a second attack on the page found."""

import secrets
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from fagan_space.guard import Refusal, Sessions
from fagan_space.limits import MAX_ADDRESS_SESSIONS
from fagan_space.visitors import Visitor

from tests.space.hostile import API


@pytest.mark.parametrize("unit", [b'\\"', b'"', b'"\\', b"\\", b"[", b'["'])
def test_no_body_takes_long_to_look_at(attacker, unit):
    body = unit * (99_000 // len(unit))
    started = time.monotonic()
    answer = attacker.post(f"{API}/queue/join", body)
    assert answer.status_code == 400
    assert time.monotonic() - started < 2  # 100 kB took two minutes


def test_of_two_sessions_in_an_address_none_is_read(attacker):
    mine, other = secrets.token_hex(6), secrets.token_hex(6)
    for sessions in ((mine, other), (other, mine)):
        address = f"{API}/queue/data?" + "&".join(f"session_hash={each}" for each in sessions)
        assert attacker.http.get(address).status_code == 400


def test_a_refused_request_claims_no_session(attacker):
    session = secrets.token_hex(6)
    attacker.post(f"{API}/queue/join", {"data": [], "fn_index": 9999, "session_hash": session})
    assert attacker.http.get(f"{API}/queue/data", params={"session_hash": session}).status_code == 404


def test_nobody_pushes_another_visitors_session_out():
    sessions = Sessions()
    victim, flooder = Visitor("cookie a", "10.0.0.1", True), Visitor("cookie b", "10.0.0.2", True)
    sessions.claim("victim", victim)
    for number in range(3 * MAX_ADDRESS_SESSIONS):
        sessions.claim(f"flood{number}", flooder)
    sessions.check("victim", victim)
    with pytest.raises(Refusal, match="another visitor's"):
        sessions.claim("victim", flooder)
    with pytest.raises(Refusal, match="no such session"):
        sessions.check("flood0", flooder)  # the oldest of the flood was evicted instead


def test_a_session_that_is_listened_to_stays():
    sessions, visitor = Sessions(), Visitor("cookie a", "10.0.0.1", True)
    sessions.claim("first", visitor)
    sessions.listen("first")
    for number in range(2 * MAX_ADDRESS_SESSIONS):
        sessions.claim(f"more{number}", visitor)
    sessions.check("first", visitor)


def test_an_endless_header_is_cut_off(attacker):
    place = urlsplit(attacker.page.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")

        def go_on() -> None:
            for _ in range(100):
                connection.sendall(b"a" * 100_000)
                time.sleep(0.01)

        with pytest.raises((ConnectionError, TimeoutError)):  # reset or closed, depending on the system
            go_on()
    assert attacker.http.get("/config").status_code == 200


@pytest.mark.parametrize(
    "body",
    ['"\\ud800"', '{"data":[],"session_hash":"\\ud800"}', '{"data":["\\ud800"]}', '{"data":[{"\\udfff":1}]}'],
)
def test_half_a_character_is_refused_in_words(attacker, body):
    for path in ("queue/join", "call/generate", "cancel"):
        answer = attacker.post(f"{API}/{path}", body)
        assert answer.status_code == 400
        assert "codec" not in answer.text
        assert "surrogate" in answer.text


def test_a_length_of_thousands_of_digits_is_refused(attacker):
    place = urlsplit(attacker.page.url)
    for path, kind in (("upload", "multipart/form-data; boundary=b"), ("queue/join", "application/json")):
        with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
            length = "0" * 5000 + "5"
            head = f"POST {API}/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}"
            connection.sendall(head.encode() + b"\r\n\r\nabcde")
            said = connection.recv(1000)
        assert b" 400 " in said[:20] or b" 413 " in said[:20]


def test_a_header_of_a_visitor_makes_no_other_visitor(folder, tmp_path):
    """Without a configured proxy, forwarded addresses are ignored."""
    from benchmarks.serving import serving

    with serving(folder, tmp_path / "uploads") as page, httpx.Client(base_url=page.url, trust_env=False) as client:
        codes = [
            client.post(
                f"{API}/upload", files={"files": ("a.png", b"x" * 100)}, headers={"X-Forwarded-For": f"10.0.0.{number}"}
            ).status_code
            for number in range(20)
        ]
    assert codes.count(200) == 16
    assert codes[-1] == 429
