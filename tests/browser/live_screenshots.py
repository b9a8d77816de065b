"""Take the pictures of the live page for the docs, and the poster of its shared links.

python -m tests.browser.live_screenshots docs/images/live
"""

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.chromium import chromium
from benchmarks.live_site import LIVE, build, serving_files, web_export
from tests.browser.conftest import MODEL
from tests.browser.visit import WIDTHS

_COLORS = 256
_POSTER = {"width": 1200, "height": 630}  # as Open Graph recommends
_FILM_WIDTH = 640
_PATH = [(x / 10, 0.2) for x in range(2, 9)] + [(0.8, y / 10) for y in range(2, 9)]
_GAZE = [(24 + 2 * step, 40) for step in range(8)] + [(38, 40 - 3 * step) for step in range(8)]


def opened(page: Page, url: str) -> None:
    """Open the page, and end the tour."""
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    page.locator("#tour-end").click()
    page.wait_for_timeout(6000)  # for the small faces


def look_at(page: Page, row: int, column: int) -> None:
    """Hover over a pixel of the face."""
    box = page.locator("#face").bounding_box()
    assert box
    page.mouse.move(box["x"] + (column + 0.5) / 64 * box["width"], box["y"] + (row + 0.5) / 64 * box["height"])
    page.wait_for_timeout(400)


def shot(page: Page) -> Image.Image:
    """Take what is in view."""
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def film(page: Page, path: Path) -> None:
    """Drag over the map, then look around on the face."""
    plane = page.locator("#plane").bounding_box()
    assert plane
    frames = []

    def keep() -> None:
        frame = shot(page)
        size = (_FILM_WIDTH, round(frame.height * _FILM_WIDTH / frame.width))
        frames.append(frame.resize(size, Image.Resampling.LANCZOS).quantize(64, dither=Image.Dither.NONE))

    page.mouse.move(plane["x"] + 0.2 * plane["width"], plane["y"] + 0.2 * plane["height"])
    page.mouse.down()
    for x, y in _PATH:
        page.mouse.move(plane["x"] + x * plane["width"], plane["y"] + y * plane["height"])
        page.wait_for_timeout(400)
        keep()
    page.mouse.up()
    for row, column in _GAZE:
        look_at(page, row, column)
        keep()
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=180, loop=0, optimize=True)


def main(folder: Path) -> None:
    """Write all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as aside, sync_playwright() as playwright:
        site = build(Path(aside) / "page", web_export(MODEL.name))
        browser = playwright.chromium.launch(**chromium())
        with serving_files(site) as url:
            for name, viewport, theme in (("wide", WIDTHS["wide"], "light"), ("phone", WIDTHS["phone"], "dark")):
                page = browser.new_page(viewport=viewport, color_scheme=theme)
                opened(page, url)
                look_at(page, 28, 42)
                shot(page).quantize(_COLORS).save(folder / f"{name}.png", optimize=True)
                page.context.close()
            page = browser.new_page(viewport=_POSTER, color_scheme="light")
            opened(page, url)
            shot(page).quantize(_COLORS).save(LIVE / "public/poster.png", optimize=True)
            page.set_viewport_size(WIDTHS["wide"])
            film(page, folder / "in-use.gif")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
