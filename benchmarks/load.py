"""Load test of the demo's page: 50 clients for three minutes, each sending one request after the other.

    python benchmarks/load.py --clients 50 --seconds 180 --out benchmarks/results/space-load.json

The clients use `gradio_client` over HTTP on the same machine, so they take some CPU time themselves. Each has its own
address, as forwarded by a proxy. Memory is that of the page's process, compared between the first and the last third of
the run. Before the load test, one client requests images while ten others wait for projections.
"""

import argparse
import json
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from gradio_client import Client, handle_file

from benchmarks.serving import ROOT, serving
from fagan_hf.training.run.facts import command, hardware, versions

_PICTURE = ROOT / "space/examples/avatar-8192.png"
_SAMPLED_EVERY = 0.5  # [seconds]
_ROUNDS_ALONE = 10


def requests_of(dice: random.Random, size: int) -> list[dict[str, Any]]:
    """Return the mix of requests that visitors send."""
    place = {"row": dice.randrange(size), "column": dice.randrange(size)}
    seed = dice.randrange(10_000)
    return [
        {"api_name": "/generate", "seeds": f"{seed}-{seed + 3}"},
        {"api_name": "/generate", "seeds": str(seed)},
        {"api_name": "/look_inside", "seed": seed, **place},
        {"api_name": "/judge", "picture": handle_file(_PICTURE), **place},
        {"api_name": "/dial", "seeds": str(seed)},
        {"api_name": "/walk", "seeds": f"{seed}, {seed + 1}", "frames_per_step": 8, "seconds": 2.0},
        {"api_name": "/project", "picture": handle_file(_PICTURE), "steps": 10},
        {"api_name": "/compare", "left": "", "right": "", "seeds": str(seed)},
    ]


def visitor(url: str, number: int, downloads: str) -> Client:
    """Make a client with its own address."""
    address = f"10.0.{number // 250}.{number % 250 + 1}"
    return Client(url, verbose=False, download_files=downloads, headers={"X-Forwarded-For": address})


Answered = tuple[str, float, str | None]  # endpoint, latency [seconds], and the error if there was one


def ask(client: Client, request: dict[str, Any]) -> Answered:
    """Send a request, and wait for the response and its files."""
    started, error = time.monotonic(), None
    try:
        client.predict(**request)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    return request["api_name"], time.monotonic() - started, error


def visit(url: str, number: int, end: float, size: int) -> list[Answered]:
    """Send one request after the other until the time is up."""
    dice, done = random.Random(number), []
    with TemporaryDirectory() as downloads:
        client = visitor(url, number, downloads)
        try:
            while time.monotonic() < end:
                done.append(ask(client, dice.choice(requests_of(dice, size))))
        finally:
            client.close()
    return done


def memory_of(pid: int, over: threading.Event) -> list[float]:
    """Sample a process's resident memory until the run is over [MB]."""
    process, seen = psutil.Process(pid), []
    while not over.wait(_SAMPLED_EVERY):
        seen.append(process.memory_info().rss / 2**20)
    return seen


def latencies(done: list[Answered]) -> dict[str, dict[str, float]]:
    """Summarize latencies, overall and for each endpoint [seconds]."""
    found = {}
    for name in ["all", *sorted({endpoint for endpoint, *_ in done})]:
        ordered = sorted(seconds for endpoint, seconds, _ in done if name in (endpoint, "all"))
        found[name] = {
            "requests": len(ordered),
            "median": round(statistics.median(ordered), 2),
            "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
            "longest": round(ordered[-1], 2),
        }
    return found


def beside_projections(url: str, count: int, downloads: str) -> list[Answered]:
    """Request images one after the other, while other clients each wait for a projection."""
    clients = [visitor(url, 1_000 + number, downloads) for number in range(count)]
    picture = handle_file(_PICTURE)
    jobs = [client.submit(picture=picture, steps=300, api_name="/project") for client in clients]
    alone = visitor(url, 2_000, downloads)
    time.sleep(1)
    done = [ask(alone, {"api_name": "/generate", "seeds": str(seed)}) for seed in range(_ROUNDS_ALONE)]
    if all(job.done() for job in jobs):
        raise RuntimeError("the projections finished before the images were generated; raise --projections")
    for job in jobs:
        job.cancel()
    for client in (*clients, alone):
        client.close()
    return done


def main() -> None:
    """Start the page, run the load test, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "model_cards/fagan-avatars-64"))
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--projections", type=int, default=10, help="projections queued meanwhile (default: 10)")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, serving(options.model, Path(folder) / "uploads", FAGAN_PROXIES="1") as page:
        warm = visitor(page.url, 3_000, folder)
        size = warm.predict(api_name="/about")["image_size"]
        for request in requests_of(random.Random(-1), size):
            warm.predict(**request)
        dice = random.Random(-2)
        alone = [ask(warm, request) for _ in range(_ROUNDS_ALONE) for request in requests_of(dice, size)]
        beside = beside_projections(page.url, options.projections, folder)
        over = threading.Event()
        with ThreadPoolExecutor(options.clients + 1) as pool:
            memory = pool.submit(memory_of, page.pid, over)
            end = time.monotonic() + options.seconds
            jobs = [pool.submit(visit, page.url, number, end, size) for number in range(options.clients)]
            done = [each for job in jobs for each in job.result()]
            over.set()
            seen = memory.result()
        warm.close()
    third = len(seen) // 3
    found = {
        "date": date.today().isoformat(),
        "hardware": hardware("cpu", 1),
        "versions": versions(),
        "command": command(),
        "clients": options.clients,
        "seconds": options.seconds,
        "failures": [f"{endpoint} {error}" for endpoint, _, error in [*alone, *beside, *done] if error],
        "memory_mb": {
            "first third": round(statistics.mean(seen[:third])),
            "last third": round(statistics.mean(seen[-third:])),
            "highest": round(max(seen)),
        },
        "latency_seconds": latencies(done),
        "latency_seconds_of_one_client_alone": latencies(alone),
        f"latency_seconds_beside_{options.projections}_projections": latencies(beside),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
