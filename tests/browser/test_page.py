"""The page as a whole: it fits, is labeled, has a dark mode, and leaves no files."""

import io
import re
import time
from contextlib import suppress
from urllib.request import urlopen

import numpy as np
import pytest
from fagan_space.files import KEPT
from PIL import Image
from playwright.sync_api import expect

from benchmarks.serving import serving
from tests.browser.conftest import MODEL
from tests.browser.test_tabs import EXAMPLE, canvas
from tests.browser.visit import Visit

TABS = ("Generate", "Look inside", "Your picture", "Walk", "More or less attention", "Compare models", "About")

_UNNAMED = """
() => [...document.querySelectorAll('input, textarea, select, [role=slider]')]
    .filter(each => each.offsetParent !== null)
    .filter(each => !each.getAttribute('aria-label') && ![...(each.labels || [])].some(label => label.innerText.trim()))
    .map(each => each.outerHTML.slice(0, 200))
"""


_NAMELESS = """
() => [...document.querySelectorAll('button, img')]
    .filter(each => each.offsetParent !== null)
    .filter(each => !each.innerText.trim() && !each.getAttribute('aria-label') && !each.alt)
    .map(each => each.outerHTML.slice(0, 200))
"""


@pytest.mark.parametrize("name", TABS)
def test_tabs_fit_and_their_controls_have_names(visit, name):
    visit.tab(name)
    visit.page.wait_for_timeout(500)
    wide, shown = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= shown
    assert visit.page.evaluate(_UNNAMED) == []


def test_every_button_and_picture_has_a_name(visit):
    visit.page.wait_for_timeout(3000)
    for name in TABS:
        visit.tab(name)
        visit.page.wait_for_timeout(1000)
        assert visit.page.evaluate(_NAMELESS) == []


def test_on_a_phone_pictures_stay_in_view_above_their_controls(visit, width):
    slider = visit.slider("Truncation")
    slider.scroll_into_view_if_needed()
    visit.page.mouse.move(195, 600)
    visit.page.mouse.wheel(0, 400)
    visit.page.wait_for_timeout(500)
    box, shown = visit.page.locator(".results").first.bounding_box(), visit.page.viewport_size["height"]
    assert box["y"] < shown
    assert box["y"] + box["height"] > 0
    if width == "phone":
        assert box["height"] < 0.5 * shown, "controls have room below"


def test_arrow_keys_move_between_tabs(visit):
    visit.page.get_by_role("tab", name="Generate", exact=True).focus()
    visit.page.keyboard.press("ArrowRight")
    chosen = visit.page.locator('[role="tab"][aria-selected="true"]').first
    expect(chosen).to_have_text("Look inside")
    visit.page.keyboard.press("ArrowLeft")
    visit.page.keyboard.press("ArrowLeft")
    expect(chosen).to_have_text("About")
    assert visit.page.evaluate("location.hash") == "#tab=about"


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
    expect(visit.page.get_by_text("Score").locator("visible=true")).to_be_visible(timeout=30_000)
    expect(visit.page.get_by_text("Drop Image Here").locator("visible=true")).to_be_visible(timeout=30_000)
    end = time.monotonic() + 10  # kept for a few seconds, because the box displays it
    while kept() and time.monotonic() < end:
        time.sleep(0.2)
    assert kept() == []


def test_visitors_do_not_see_each_others_pictures(browser, url):
    visits = [Visit(browser.new_context().new_page(), url) for _ in range(2)]
    said = []
    for visit, example in zip(visits, (1, 3), strict=True):
        visit.tab("Look inside")
        visit.tab("Discriminator")
        verdict = visit.page.get_by_text("Score").locator("visible=true")
        expect(verdict).to_be_visible(timeout=30_000)
        first = verdict.inner_text()
        visit.gallery("Or click an example").locator("button").nth(example).click()
        expect(verdict).not_to_have_text(first, timeout=30_000)
        said.append(visit.page.get_by_text("Score").locator("visible=true").inner_text())
    assert said[0] != said[1]
    shown = [canvas(visit.seen(visit.page.locator("canvas.picture")).first) for visit in visits]
    assert (shown[0] != shown[1]).mean() > 0.1
    assert [visit.page.get_by_text("Score").locator("visible=true").inner_text() for visit in visits] == said
    for visit in visits:
        visit.page.context.close()
        visit.check()


def test_after_a_refused_upload_no_broken_picture_stays(visit, tmp_path):
    visit.tab("Your picture")
    expect(visit.picture("Edited")).to_be_visible(timeout=30_000)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    visit.page.locator('.block:visible input[type="file"]').first.set_input_files(broken)
    expect(visit.toast()).to_be_visible(timeout=30_000)
    expect(visit.page.get_by_text("Drop Image Here").locator("visible=true")).to_be_visible(timeout=30_000)
    assert visit.page.evaluate("[...document.images].filter(each => each.complete && !each.naturalWidth).length") == 0
    assert visit.picture("Edited").is_visible()  # what was there before stays


def test_a_shared_link_shows_a_sentence_and_on_a_space_pictures(url, tmp_path):
    def tags(address):
        html = urlopen(address).read().decode()
        return dict(re.findall(r'<meta property="(og:\w+)" content="([^"]*)">', html))

    here = tags(url)
    assert "see where each layer" in here["og:description"]
    assert "og:image" not in here  # the page doesn't know its own address
    with serving(MODEL, tmp_path / "uploads", SPACE_HOST="you-fagan.hf.space") as page:
        found = tags(page.url)["og:image"]
        assert found.startswith("https://you-fagan.hf.space/gradio_api/file=")
        with Image.open(io.BytesIO(urlopen(found.replace("https://you-fagan.hf.space", page.url)).read())) as picture:
            assert picture.width >= 256
