"""The live page, built by npm and served by a plain file server, and a server that plays the Hub.

Needs Node.js 20 or newer with npm.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from benchmarks.serving import ROOT

LIVE = ROOT / "space/live"
HUB = "https://huggingface.co"


class _Handler(SimpleHTTPRequestHandler):
    """Serves files with the headers that the page's static Space has, to pages of any origin, as the Hub does."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """Serve a folder; yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def web_export(name: str) -> Path:
    """Return the folder of a released model's export for browsers."""
    folder = ROOT / "model_cards" / name / "web"
    assert (folder / "web.json").is_file(), f"{folder} has no web.json: fagan-hf export model_cards/{name} --format web"
    return folder


def build(folder: Path, model: Path, hub: str = HUB) -> Path:
    """Build the page into a folder, with a model, and with another address for the Hub."""
    npm = shutil.which("npm")
    assert npm, "the live page is built by npm; install Node.js 20 or newer"
    if not (LIVE / "node_modules").is_dir():
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=LIVE, check=True)
    options = ["--outDir", str(folder), "--emptyOutDir"]
    subprocess.run([npm, "run", "build", "--", *options], cwd=LIVE, check=True)
    shutil.copytree(model, folder / "model", dirs_exist_ok=True)
    page = folder / "index.html"
    page.write_text(page.read_text().replace(HUB, hub))
    return folder
