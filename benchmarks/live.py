"""Measure the live page in Chromium: time to the first face, and pictures a second while dragging.

python -m benchmarks.live --out benchmarks/results/live.json
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.chromium import chromium
from benchmarks.live_site import LIVE, build, serving_files, web_export
from benchmarks.serving import ROOT

MODEL = ROOT / "model_cards/fagan-avatars-64"
_ROUNDS = 5
_DRAG_SECONDS = 5
# Moves the handle with every frame of the screen, as a pointer does, and looks from another pixel each time.
_DRAG = """
async (seconds) => {
    const start = performance.now(), drawn = fagan.numDrawn;
    for (let i = 0; performance.now() - start < 1000 * seconds; i++) {
        fagan.set({point: {x: (i % 97) / 96, y: (i % 61) / 60}});
        await new Promise(requestAnimationFrame);
    }
    return (fagan.numDrawn - drawn) / seconds;
}
"""


def measure(browser: Browser, url: str) -> dict[str, Any]:
    """Open the page in a fresh profile, and drag."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    first_ms, runtime, is_isolated = page.evaluate(
        "[+document.documentElement.dataset.ready, document.documentElement.dataset.runtime, crossOriginIsolated]"
    )
    page.wait_for_timeout(4000)  # the small faces are drawn, the runtime has optimized itself
    rate = page.evaluate(_DRAG, _DRAG_SECONDS)
    text = page.locator("#runtime").text_content()
    page.context.close()
    return {
        "first_face_seconds": round(first_ms / 1000, 2),
        "pictures_per_second": round(rate, 1),
        "runtime": runtime,
        "is_cross_origin_isolated": is_isolated,
        "threads": 1 if text and "threads" not in text else text,
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = build(Path(folder) / "page", web_export(MODEL.name))
        browser = playwright.chromium.launch(**chromium())
        with serving_files(site) as url:
            rounds = [measure(browser, url) for _ in range(_ROUNDS)]
        result = {
            "hardware": f"{os.cpu_count()} virtual cores, {platform.machine()}",
            "load_average_at_start": round(load, 1),
            "browser": f"Chromium {browser.version}, headless",
            "onnxruntime_web": _version("onnxruntime-web"),
            "model": MODEL.name,
            "first_face_seconds": median(each["first_face_seconds"] for each in rounds),
            "pictures_per_second": median(each["pictures_per_second"] for each in rounds),
            "rounds": rounds,
        }
        browser.close()
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _version(package: str) -> str:
    return json.loads((LIVE / "node_modules" / package / "package.json").read_text())["version"]


if __name__ == "__main__":
    main()
