"""A malicious client: raw HTTP to a page in a separate process, and invariants that must hold whatever it does."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving import ROOT, Served, serving

API = "/gradio_api"
OURS = "Something went wrong here"  # the message for our own bugs, which no request may cause
LONGEST = 2_000  # length of an error message [characters]
SECONDS = 20  # timeout of any response, on a busy machine


def upload_body(content: bytes, name: str = "picture.png") -> dict[str, Any]:
    """Return the body that httpx sends for an upload."""
    return {"files": {"files": (name, content)}}


class Attacker:
    """One visitor, without a browser."""

    def __init__(self, page: Served, grounds: Path, headers: dict[str, str] | None = None):
        self.page, self.grounds, self.sent = page, grounds, b""
        self.http = httpx.Client(base_url=page.url, timeout=SECONDS, headers=headers, trust_env=False)

    def post(self, path: str, body: Any) -> httpx.Response:
        """Send JSON, or invalid JSON as text; NaN and infinities are written as in JavaScript."""
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        self.sent = content.encode() if isinstance(content, str) else content
        return self.http.post(path, content=content, headers={"Content-Type": "application/json"})

    def call(self, endpoint: str, data: Any) -> str:
        """Call an endpoint; return the whole response."""
        answer = self.post(f"{API}/call/{endpoint}", {"data": data})
        if answer.status_code != 200:
            return answer.text
        return self.http.get(f"{API}/call/{endpoint}/{answer.json()['event_id']}").text

    def join(self, number: Any, data: Any, **more: Any) -> str:
        """Join the queue of a function of the page; return the whole response."""
        session = more.pop("session_hash", secrets.token_hex(6))
        body = {"fn_index": number, "data": data, "session_hash": session, **more}
        answer = self.post(f"{API}/queue/join", body)
        if answer.status_code != 200:
            return answer.text
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": session}) as stream:
            said = []
            for line in stream.iter_lines():
                said.append(line)
                if "close_stream" in line:
                    break
        return "\n".join(said)

    def upload(self, content: bytes, name: str = "picture.png") -> str:
        """Upload a file; return the path in the response."""
        answer = self.http.post(f"{API}/upload", **upload_body(content, name))
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def functions(self) -> list[dict[str, Any]]:
        """Return all functions of the page, including those of its tabs."""
        return self.http.get("/config").json()["dependencies"]

    def endpoints(self) -> dict[str, Any]:
        """Return the endpoints' schema."""
        return self.http.get(f"{API}/info").json()["named_endpoints"]

    def check_refused(self, said: str) -> str:
        """Check that the request was refused with a short message that reveals nothing about this machine."""
        assert '"logit"' not in said
        assert "event: complete" not in said
        assert '"success":true' not in said
        return self.check(said)

    def check(self, said: str) -> str:
        """Check that a response blames no bug of ours and leaks nothing."""
        assert OURS not in said, said
        for leak in ("Traceback", "site-packages", "pydantic", "<class", "Error:", str(self.grounds), str(ROOT)):
            assert leak not in said or leak.encode() in self.sent, said[:3000]
        if "event: complete" not in said and '"success":true' not in said:
            assert len(said) < LONGEST, said[:3000]
        return said

    def check_alive(self) -> None:
        """Check that the page responds quickly, and that nothing outside its storage has changed."""
        started = time.monotonic()
        assert self.http.get(f"{API}/queue/status").status_code == 200
        assert time.monotonic() - started < 2
        check_canaries(self.grounds)


def plant_canaries(grounds: Path) -> None:
    """Put canary files next to the page's own, which must not be touched."""
    for folder in (grounds, grounds / "ow", grounds / "given"):
        folder.mkdir(exist_ok=True)
        for name in ("victim.gif", "victim.mp4", "victim.webp", "secret.png", "state.json"):
            shutil.copyfile(ROOT / "space/examples/avatar-8192.png", folder / name)


def _outside(grounds: Path) -> dict[str, bytes]:
    found = {}
    for parent, folders, names in os.walk(grounds):
        folders[:] = [name for name in folders if not name.startswith("fagan-")]  # the page's own
        for name in names:
            path = Path(parent) / name
            if path.suffix != ".log":
                found[str(path.relative_to(grounds))] = path.read_bytes()
    return found


_planted: dict[Path, dict[str, bytes]] = {}


def check_canaries(grounds: Path) -> None:
    """Check that the canary files are unchanged and that there are no others."""
    assert _outside(grounds) == _planted[grounds]


@contextmanager
def besieged(folder: Path, grounds: Path, **environment: str) -> Iterator[Attacker]:
    """Start the page in a folder with canary files."""
    plant_canaries(grounds)
    _planted[grounds] = _outside(grounds)
    examples = {path: path.read_bytes() for path in (ROOT / "space/examples").iterdir()}
    with serving(folder, grounds / "given", TMPDIR=str(grounds), **environment) as page:
        attacker = Attacker(page, grounds)
        yield attacker
        assert "event: complete" in attacker.call("generate", ["1", 1.0, None, None])
        attacker.http.close()
        check_canaries(grounds)
    assert {path: path.read_bytes() for path in (ROOT / "space/examples").iterdir()} == examples
    assert not any(grounds.rglob("fagan-*"))  # nothing remains after the page has exited
