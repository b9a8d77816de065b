"""The page as a whole: it fits, is labeled, has a dark mode, and leaves no files."""

import io
import time
from contextlib import suppress

import numpy as np
import pytest
from fagan_space.files import KEPT
from PIL import Image
from playwright.sync_api import expect

from tests.browser.test_tabs import EXAMPLE
from tests.browser.visit import Visit

TABS = ("Generate", "Walk", "Look inside", "Dial", "Project", "Compare", "About")

_UNNAMED = """
() => [...document.querySelectorAll('input, textarea, select, [role=slider]')]
    .filter(each => each.offsetParent !== null)
    .filter(each => !each.getAttribute('aria-label') && ![...(each.labels || [])].some(label => label.innerText.trim()))
    .map(each => each.outerHTML.slice(0, 200))
"""


@pytest.mark.parametrize("name", TABS)
def test_tabs_fit_and_their_controls_have_names(visit, name):
    visit.tab(name)
    visit.page.wait_for_timeout(500)
    wide, shown = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= shown
    assert visit.page.evaluate(_UNNAMED) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_light_and_dark_as_the_visitor_has_set_it(browser, url, theme):
    context = browser.new_context(color_scheme=theme)
    visit = Visit(context.new_page(), url)
    screen = np.asarray(Image.open(io.BytesIO(visit.page.screenshot())).convert("L"))
    edge = screen[5:50, 5:50].mean()
    assert edge < 60 if theme == "dark" else edge > 200
    heading = visit.page.get_by_role("heading", level=1).bounding_box()
    top, left = int(heading["y"]), int(heading["x"])
    words = screen[top : top + int(heading["height"]), left : left + 400]
    assert np.ptp(words) > 150  # readable contrast
    context.close()
    visit.check()


def test_no_upload_stays_on_the_disk(visit, uploads):
    visit.tab("Look inside")
    visit.tab("Discriminator")
    chosen = visit.page.locator('.block:visible input[type="file"]').first
    content = EXAMPLE.read_bytes()

    def kept():
        files = [path for path in uploads.rglob("*") if path.is_file() and path.parent.name != KEPT]  # the page's own
        return [path for path in files if is_example(path)]

    def is_example(path):
        with suppress(FileNotFoundError):  # deleted in the meantime
            return path.read_bytes() == content
        return False

    with visit.page.expect_request("**/upload?*"):
        chosen.set_input_files(EXAMPLE)
    expect(visit.page.get_by_text("Logit").locator("visible=true")).to_be_visible(timeout=30_000)
    expect(visit.page.get_by_text("Drop Image Here").locator("visible=true")).to_be_visible(timeout=30_000)
    end = time.monotonic() + 10  # kept for a few seconds, because the box displays it
    while kept() and time.monotonic() < end:
        time.sleep(0.2)
    assert kept() == []


def test_visitors_do_not_see_each_others_pictures(browser, url):
    visits = [Visit(browser.new_context().new_page(), url) for _ in range(2)]
    said = []
    for visit, example in zip(visits, (0, 3), strict=True):
        visit.tab("Look inside")
        visit.tab("Discriminator")
        visit.gallery("Or click an example").locator("button").nth(example).click()
        expect(visit.page.get_by_text("Logit").locator("visible=true")).to_be_visible(timeout=30_000)
        said.append(visit.page.get_by_text("Logit").locator("visible=true").inner_text())
    assert said[0] != said[1]
    first = visits[0]
    picture, heat = first.picture("Click a pixel"), first.picture("Attends to")
    before, source = first.pixels(picture), heat.get_attribute("src")
    picture.click(position={"x": 20, "y": 20})
    first.wait_for_another(heat, source)
    assert first.page.get_by_text("Logit").locator("visible=true").inner_text() == said[0]
    assert (before == first.pixels(picture)).mean() > 0.98  # the same image, marked at another position
    for visit in visits:
        visit.page.context.close()
        visit.check()
