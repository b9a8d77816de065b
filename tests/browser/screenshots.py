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
from tests.browser.test_tabs import EXAMPLE
from tests.browser.visit import SECONDS, WIDTHS, Visit

_COLORS = 256  # of a stored image


def look_inside(visit: Visit) -> None:
    """Click a pixel at an eye."""
    heat, picture = visit.picture("Attends to"), visit.picture("Click a pixel")
    expect(heat).to_be_visible(timeout=SECONDS)
    old, box = heat.get_attribute("src"), picture.bounding_box()
    assert box
    picture.click(position={"x": box["width"] * 0.36, "y": box["height"] * 0.5})
    visit.wait_for_another(heat, old)


def discriminator(visit: Visit) -> None:
    """Compute the logit of an example."""
    visit.tab("Discriminator")
    visit.gallery("Or click an example").locator("button").nth(1).click()
    expect(visit.picture("Attends to")).to_be_visible(timeout=SECONDS)


def walk(visit: Visit) -> None:
    """Make an interpolation."""
    visit.press("Walk")
    expect(visit.picture("The walk")).to_be_visible(timeout=SECONDS)


def project(visit: Visit) -> None:
    """Project an example, and move it along a direction."""
    visit.page.locator('.block:visible input[type="file"]').first.set_input_files(EXAMPLE)
    edited = visit.picture("Edited")
    expect(edited).to_be_visible(timeout=SECONDS)
    old = edited.get_attribute("src")
    slider = visit.page.get_by_label("range slider for hair_color", exact=False).first
    slider.focus()
    for _ in range(12):
        visit.page.keyboard.press("ArrowRight")
    visit.wait_for_another(edited, old)


def compare(visit: Visit) -> None:
    """Generate with the page's own model on both sides."""
    visit.press("Compare")
    expect(visit.page.locator(".grid-container img").locator("visible=true")).to_have_count(32, timeout=SECONDS)


SHOWN = {
    "generate": ("Generate", None),
    "walk": ("Walk", walk),
    "look-inside": ("Look inside", look_inside),
    "look-inside-discriminator": ("Look inside", discriminator),
    "dial": ("Dial", None),
    "project": ("Project", project),
    "compare": ("Compare", compare),
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
