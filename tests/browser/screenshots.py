"""Take the screenshots of the page for the docs.

python -m tests.browser.screenshots docs/images/space
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from benchmarks.chromium import chromium
from benchmarks.serving import serving
from tests.browser.conftest import MODEL
from tests.browser.visit import SECONDS, WIDTHS, Visit

_COLORS = 256  # of a stored image


def directions(visit: Visit) -> None:
    """Give all pictures a beard."""
    code = visit.page.locator(".cm-content").first
    visit.number("Beard").fill("3")
    visit.number("Beard").press("Enter")
    expect(code).to_contain_text("beard", timeout=SECONDS)


def look_inside(visit: Visit) -> None:
    """Point at an eye."""
    picture = visit.seen(visit.page.locator("canvas.picture")).first
    expect(picture).to_be_visible(timeout=SECONDS)
    box = picture.bounding_box()
    assert box
    picture.click(position={"x": box["width"] * 0.36, "y": box["height"] * 0.53})


def discriminator(visit: Visit) -> None:
    """Compute the score of an example."""
    visit.tab("Discriminator")
    visit.gallery("Or click an example").locator("button").nth(1).click()
    expect(visit.page.get_by_text("Score").locator("visible=true")).to_be_visible(timeout=SECONDS)


def project(visit: Visit) -> None:
    """Move the first example along a direction."""
    edited = visit.picture("Edited")
    expect(edited).to_be_visible(timeout=SECONDS)
    old = edited.get_attribute("src")
    visit.number("Mouth: laugh").fill("3")
    visit.number("Mouth: laugh").press("Enter")
    visit.wait_for_another(edited, old)


SHOWN = {
    "generate": ("Generate", None),
    "directions": ("Generate", directions),
    "walk": ("Walk", None),
    "look-inside": ("Look inside", look_inside),
    "look-inside-discriminator": ("Look inside", discriminator),
    "dial": ("More or less attention", None),
    "project": ("Your picture", project),
    "compare": ("Compare models", None),
    "about": ("About", None),
}


def main(folder: Path) -> None:
    """Take a screenshot of every tab at desktop width, and of some at phone width."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory() as uploads,
        serving(MODEL, Path(uploads) / "uploads") as served,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(**chromium())
        wanted = [(name, "wide", "light") for name in SHOWN]
        wanted += [(name, "phone", "dark") for name in ("generate", "look-inside")]
        for name, width, theme in wanted:
            context = browser.new_context(viewport=WIDTHS[width], color_scheme=theme)
            visit = Visit(context.new_page(), served.url)
            tab, act = SHOWN[name]
            visit.tab(tab)
            if act is not None:
                act(visit)
            visit.page.mouse.move(0, 0)
            visit.page.wait_for_timeout(1500)
            path = folder / f"{name}{'' if width == 'wide' else f'-{width}'}.png"
            visit.page.screenshot(path=path, full_page=True)
            with Image.open(path) as picture:
                picture.convert("RGB").quantize(_COLORS).save(path, optimize=True)
            print(path)
            context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
