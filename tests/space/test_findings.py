"""Regression tests of what a first attack on the page found."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from benchmarks.serving import ROOT, free_port
from tests.space.hostile import API, Attacker

EXAMPLE = (ROOT / "space/examples/avatar-8192.png").read_bytes()


def png(size=(20, 20)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def file_data(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def number_of(attacker, inputs, outputs=None):
    """Find a tab's functions by the types of their inputs."""
    kinds = {each["id"]: each["type"] for each in attacker.http.get("/config").json()["components"]}
    return [
        each["id"]
        for each in attacker.functions()
        if [kinds[number] for number in each["inputs"]] == inputs
        and (outputs is None or [kinds[number] for number in each["outputs"]] == outputs)
    ]


@pytest.mark.parametrize("target", ["ow/victim", "ow/new", "new/victim"])
@pytest.mark.parametrize("form", ["/../../../../{}", "/../../{}", "{}", "%2F..%2F..%2F{}", "file://{}"])
def test_finding_1_no_file_is_written_where_a_visitor_says(attacker, form, target):
    for suffix in (".gif", ".mp4", ".webp"):
        for path in (form.format(f"{target}{suffix}"), form.format(f"{attacker.grounds}/{target}{suffix}")):
            said = attacker.check_refused(attacker.call("walk", ["0-1", 2, 1.0, path, True]))
            assert "it must be" in said
            [number] = number_of(attacker, ["textbox", "slider", "slider", "radio", "checkbox"])[:1]
            attacker.check_refused(attacker.join(number, ["0-1", 4, 1.0, path, True]))


def test_finding_2_no_function_deletes_what_a_visitor_names(attacker):
    config = attacker.http.get("/config").text
    example = re.findall(r'"(/files/[^"]*avatar-8192.png)"', config)[0]
    drawn = attacker.call("generate", ["3", 1.0, None, None])
    generated = json.loads(drawn.split("data: ")[1].splitlines()[0])[0][0]["path"]
    neighbor = Attacker(attacker.page, attacker.grounds, {"Cookie": cookie(attacker)})
    theirs = neighbor.upload(png())
    for each in attacker.functions():
        for path in (example, theirs):
            attacker.check(attacker.join(each["id"], [file_data(path)] * len(each["inputs"])))
    for path in (example, generated, theirs, str(attacker.grounds / "secret.png"), "/etc/hostname"):
        attacker.check_refused(attacker.call("judge", [file_data(path), 0, 0, None]))
    assert attacker.http.get(f"{API}/file={example}").content == EXAMPLE
    assert attacker.http.get(f"{API}/file={generated}").status_code == 200
    assert attacker.http.get(f"{API}/file={theirs}").status_code == 403
    assert "logit" in neighbor.call("judge", [file_data(theirs), 0, 0, None])
    assert "logit" not in neighbor.call("judge", [file_data(theirs), 0, 0, None])  # deleted as soon as it was read
    neighbor.http.close()


def cookie(attacker):
    """Become another visitor by getting a cookie, as a browser does."""
    return httpx.get(attacker.page.url).headers["set-cookie"].partition(";")[0]


def test_finding_3_large_bodies_are_refused_and_not_repeated(attacker):
    before = psutil.Process(attacker.page.pid).memory_info().rss
    started = time.monotonic()
    for number in range(3):
        said = attacker.post(f"{API}/call/dial", {"data": ["0", "x" * 50_000_000, False, None]})
        assert said.status_code == 413, number
        assert len(said.text) < 200
    said = attacker.check_refused(attacker.call("dial", ["0", "x" * 90_000, False, None]))
    assert 'layer is \\"xxx' in said
    assert len(said) < 300
    assert time.monotonic() - started < 10
    assert psutil.Process(attacker.page.pid).memory_info().rss - before < 200e6


def test_finding_4_work_ends_with_its_client_and_pictures_do_not_wait_for_projections(attacker):
    def projection():
        path = attacker.upload(png())
        answer = attacker.post(f"{API}/call/project", {"data": [file_data(path), 300, None, None]}).json()
        return f"{API}/call/project/{answer['event_id']}"

    addresses = [projection() for _ in range(6)]
    started = time.monotonic()
    assert "event: complete" in attacker.call("generate", ["5", 1.0, None, None])
    assert time.monotonic() - started < 2

    streams = [attacker.http.stream("GET", address) for address in addresses]
    entered = [stream.__enter__() for stream in streams]
    assert all(answer.status_code == 200 for answer in entered)
    for stream in streams:
        stream.__exit__(None, None, None)
    started = time.monotonic()
    path = attacker.upload(png())
    assert "event: complete" in attacker.call("project", [file_data(path), 1, None, None])
    assert time.monotonic() - started < 4
    assert attacker.http.get(f"{API}/queue/status").json()["queue_size"] == 0


def test_finding_5_uploads_are_limited_together(attacker):
    files = [png((700, 700)) for _ in range(40)]  # 1.5 MB each
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda file: attacker.http.post(f"{API}/upload", files={"files": ("a.png", file)}), files)]
    taken = [each.json()[0] for each in answers if each.status_code == 200]
    assert len(taken) <= 16
    assert all("at most 16" in each.text for each in answers if each.status_code != 200)
    for path in taken:
        assert "logit" in attacker.call("judge", [file_data(path), 0, 0, None])
    together = attacker.http.post(f"{API}/upload", files=[("files", ("a.png", file)) for file in files[:3]])
    assert together.status_code == 400
    last = attacker.upload(png())
    assert "logit" in attacker.call("judge", [file_data(last), 0, 0, None])


@pytest.fixture(scope="module")
def unread(attacker):
    """An upload for requests that are refused before reading it."""
    return attacker.upload(png())


INFINITE = [float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize(
    ("endpoint", "data"),
    [
        *(("project", [None, 5, {"beard": value}, None]) for value in [*INFINITE, "x", None, 1e308, [1], True]),
        ("project", [None, 5, ["beard"], None]),
        ("generate", [5, 1.0, None, None]),
        ("generate", [True, 1.0, None, None]),
        *(("generate", ["5", value, None, None]) for value in [None, "1", True, 0, 1e308, *INFINITE]),
        *(("generate", ["5", 1.0, None, value]) for value in ["x", True, 1e308, [0.5], {"layers.0": "x"}, *INFINITE]),
        *(("generate", ["5", 1.0, value, None]) for value in ["beard", ["beard"], {"beard": [1]}, {"beard": 1}]),
        *(("walk", ["0-1", 2, value, ".gif", True]) for value in [0, -1, None, "6", 1e308, *INFINITE]),
        *(("walk", ["0-1", value, 1.0, ".gif", True]) for value in [0, -1, None, "6", 2.5, 10**30]),
        ("walk", ["0-1", 2, 1.0, ".gif", "yes"]),
        ("look_inside", ["x", 0, 0, None]),
        ("look_inside", [0, -1, 0, None]),
        ("look_inside", [10**30, 0, 0, None]),
        ("dial", ["0", 5, False, None]),
        ("compare", [None, "", "0", 1.0]),
        ("judge", ["/etc/passwd", 0, 0, None]),
        ("generate", ["5"] * 9),
    ],
)
def test_finding_6_wrong_values_are_told_as_such(attacker, unread, endpoint, data):
    if endpoint == "project":
        data[0] = file_data(unread)
    said = attacker.check_refused(attacker.call(endpoint, data))
    words = ("it must be", "values were sent", "that you uploaded", "unconditional", "write them")
    assert any(each in said for each in words), said


def test_finding_6_nothing_names_folders_of_the_machine(attacker, folder):
    for path in ("/", "/config", f"{API}/info"):
        assert str(folder.parent) not in attacker.http.get(path).text
        attacker.check(attacker.http.get(path).text + "event: complete")
    said = attacker.check(attacker.call("about", []))
    assert '"model": "model"' in said
    assert str(folder) not in said
    attacker.check(attacker.call("compare", ["nobody/nothing", "", "0", 1.0]))


def test_the_storage_is_nobody_elses_to_read(attacker):
    [storage] = (attacker.grounds / "given").glob("fagan-*")
    assert storage.stat().st_mode & 0o077 == 0


def test_finding_5_nothing_remains_after_ctrl_c(folder, tmp_path):
    environment = os.environ | {"FAGAN_MODEL": str(folder), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment |= {"GRADIO_SERVER_PORT": str(free_port()), "GRADIO_ANALYTICS_ENABLED": "False"}
    environment.pop("GRADIO_TEMP_DIR", None)
    # A background job of a shell ignores SIGINT, and so would the page.
    allow = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{allow}runpy.run_path('app.py', run_name='__main__')"]
    with subprocess.Popen(
        command, cwd=ROOT / "space", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        while b"Running on" not in process.stdout.readline():
            assert process.poll() is None
        assert [*tmp_path.glob("fagan-*")]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert not [*tmp_path.iterdir()]  # after SIGTERM neither, which `besieged` sends
