"""Each tab, used by mouse and keyboard, at desktop and phone width."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from benchmarks.serving import ROOT
from fagan_hf import FAGANPipeline
from tests.browser.conftest import MODEL
from tests.browser.visit import SECONDS

EXAMPLE = ROOT / "space/examples/avatar-8192.png"


@pytest.fixture(scope="module")
def pipe():
    return FAGANPipeline.from_pretrained(MODEL)


def drawn(pipe, seed, **options):
    return np.asarray(pipe(seeds=[seed], **options).images[0])


def check_shows(pixels, wanted):
    """Check that both are the same image; the batch size may change single values by one level of 256."""
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).max() <= 1


def changed(one, other):
    return one.shape != other.shape or bool((one != other).any())


def test_generate(visit, pipe):
    pictures = visit.gallery("Images").locator("img")
    check_shows(visit.pixels(pictures.nth(3)), drawn(pipe, 3))

    seeds = visit.box("Seeds")
    seeds.fill("3, 5-6")
    seeds.press("Enter")
    expect(pictures).to_have_count(3)
    for place, seed in enumerate((3, 5, 6)):
        check_shows(visit.pixels(pictures.nth(place)), drawn(pipe, seed))
    code = visit.page.locator(".cm-content").first
    expect(code).to_contain_text("(seeds=[3, 5, 6]).images")

    # By keyboard only: from the seeds to the truncation, three steps of its slider down, and on to the button.
    slider = visit.slider("Truncation")
    seeds.focus()
    for _ in range(20):
        visit.page.keyboard.press("Tab")
        if slider.evaluate("element => element === document.activeElement"):
            break
    expect(slider).to_be_focused()
    for _ in range(4):
        visit.page.keyboard.press("ArrowLeft")
    old = pictures.first.get_attribute("src")
    button = visit.page.get_by_role("button", name="Generate", exact=True).locator("visible=true")
    for _ in range(10):
        visit.page.keyboard.press("Tab")
        if button.evaluate("element => element === document.activeElement"):
            break
    visit.page.keyboard.press("Enter")
    visit.wait_for_another(pictures.first, old)
    check_shows(visit.pixels(pictures.first), drawn(pipe, 3, truncation=0.8))
    expect(code).to_contain_text("truncation=0.8")

    visit.page.get_by_label("Gates as trained").uncheck()
    old = pictures.first.get_attribute("src")
    visit.press("Generate")
    visit.wait_for_another(pictures.first, old)
    check_shows(visit.pixels(pictures.first), drawn(pipe, 3, truncation=0.8, alpha=0.0))


def test_others_are_other_seeds(visit):
    old = visit.box("Seeds").input_value()
    visit.press("New seeds")
    expect(visit.box("Seeds")).not_to_have_value(old)
    first = int(visit.box("Seeds").input_value().split("-")[0])
    expect(visit.gallery("Images").get_by_text(f"seed {first}", exact=True)).to_be_visible(timeout=SECONDS)


def test_pictures_can_be_taken_home(visit):
    with visit.page.expect_download() as download:
        visit.press("All as ZIP")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == [f"seed-{seed:08d}.png" for seed in range(16)]
        Image.open(io.BytesIO(archive.read("seed-00000007.png"))).verify()
    with visit.page.expect_download() as download:
        visit.press("All as one PNG")
    with Image.open(download.value.path()) as grid:
        assert grid.size == (256, 256)


@pytest.mark.parametrize("seeds", ["abc", "1-", "5-1", "0-999999"])
def test_what_can_not_be_drawn_is_told_in_words(visit, seeds):
    visit.box("Seeds").fill(seeds)
    visit.box("Seeds").press("Enter")
    expect(visit.toast()).to_contain_text("at most 64" if seeds == "0-999999" else "write them like '0-15, 42'")


def test_walk(visit):
    visit.tab("Walk")
    visit.number("Frames between seeds").fill("5")
    visit.box("Seeds").fill("0, 7, 3")
    visit.box("Seeds").press("Enter")
    picture = visit.picture("The walk")
    expect(picture).to_be_visible(timeout=SECONDS)
    with Image.open(io.BytesIO(visit.bytes(picture))) as film:
        assert film.format == "GIF"
        assert film.n_frames == 15
    visit.page.get_by_label(".mp4").check()
    visit.press("Walk")
    video = visit.page.locator("video").locator("visible=true")
    expect(video).to_be_visible(timeout=SECONDS)
    visit.page.wait_for_function("document.querySelector('video').duration > 5", timeout=SECONDS)


def test_look_inside_the_generator(visit, pipe):
    visit.tab("Look inside")
    heat, clicked = visit.picture("Attends to"), visit.picture("Click a pixel")
    expect(heat).to_be_visible(timeout=SECONDS)
    before, source = visit.pixels(heat), heat.get_attribute("src")
    box = clicked.bounding_box()
    clicked.click(position={"x": box["width"] * 0.1, "y": box["height"] * 0.9})
    source = visit.wait_for_another(heat, source)
    size = pipe.generator.config.image_size
    row, column = (int(visit.slider(name).input_value()) for name in ("Row", "Column"))
    assert abs(row - 0.9 * size) < 0.06 * size
    assert abs(column - 0.1 * size) < 0.06 * size
    after = visit.pixels(heat)
    assert changed(before, after)
    # The marked image is the generated one, enlarged.
    check_shows(visit.pixels(clicked)[4::8, 4::8][:4], drawn(pipe, 0)[:4])

    layer = visit.slider("Layer")
    layer.focus()
    visit.page.keyboard.press("ArrowLeft")
    source = visit.wait_for_another(heat, source)
    assert changed(visit.pixels(heat), after)
    number = int(layer.input_value())
    expect(visit.page.get_by_text(f"Layer {number} of {number + 1}")).to_be_visible()

    seed = visit.box("Seed")
    seed.fill("5")
    seed.press("Enter")
    visit.wait_for_another(heat, source)
    check_shows(visit.pixels(clicked)[4::8, 4::8][:4], drawn(pipe, 5)[:4])
    whole = visit.gallery("The whole image").locator("img")
    check_shows(visit.pixels(whole.nth(1)), drawn(pipe, 5))


def test_the_whole_picture_is_seen_and_can_be_clicked(visit, pipe):
    visit.tab("Look inside")
    heat, clicked = visit.picture("Attends to"), visit.picture("Click a pixel")
    expect(heat).to_be_visible(timeout=SECONDS)
    cut = visit.page.evaluate(
        """() => [...document.querySelectorAll('.pixels')].filter(box => {
            const image = box.querySelector(':scope > .image-container img')
            return image && image.getBoundingClientRect().bottom > box.getBoundingClientRect().bottom + 1
        }).map(box => box.innerText)"""
    )
    assert not cut, "their lowest rows are outside of their boxes"
    last = pipe.generator.config.image_size - 1
    for share, expected in ((1, last), (0, 0)):
        source, box = heat.get_attribute("src"), clicked.bounding_box()
        side = min(box["width"], box["height"])  # the picture is square, in the middle of its place
        x, y = ((box[each] - side) / 2 + min(max(share * side, 1), side - 1) for each in ("width", "height"))
        clicked.click(position={"x": x, "y": y})
        visit.wait_for_another(heat, source)
        assert [int(visit.slider(name).input_value()) for name in ("Row", "Column")] == [expected, expected]


def test_a_layer_of_the_strip_is_shown_when_clicked(visit):
    visit.tab("Look inside")
    heat = visit.picture("Attends to")
    expect(heat).to_be_visible(timeout=SECONDS)
    strip = visit.gallery("Where all layers look").locator("button")
    expect(strip.nth(1)).to_be_visible(timeout=SECONDS)
    source = heat.get_attribute("src")
    strip.nth(1).click()
    visit.wait_for_another(heat, source)
    assert visit.slider("Layer").input_value() == "2"
    expect(visit.page.get_by_text("Layer 2 of").locator("visible=true")).to_be_visible()


def test_look_inside_the_discriminator(visit):
    visit.tab("Look inside")
    visit.tab("Discriminator")
    visit.gallery("Or click an example").locator("button").nth(1).click()
    verdict = visit.page.get_by_text("Logit").locator("visible=true")
    expect(verdict).to_be_visible(timeout=SECONDS)
    said = verdict.inner_text()
    visit.page.locator('input[type="file"]').locator("visible=true").or_(
        visit.page.locator('.block:visible input[type="file"]')
    ).first.set_input_files(EXAMPLE)
    expect(verdict).not_to_have_text(said, timeout=SECONDS)
    heat, clicked = visit.picture("Attends to"), visit.picture("Click a pixel")
    source, before = heat.get_attribute("src"), visit.pixels(heat)
    clicked.click(position={"x": 20, "y": 20})
    visit.wait_for_another(heat, source)
    assert changed(before, visit.pixels(heat))


def test_dial(visit, pipe):
    visit.tab("Dial")
    picture = visit.picture("From convolution only (0)")
    expect(picture).to_be_visible(timeout=SECONDS)
    source, before = picture.get_attribute("src"), visit.pixels(picture)
    visit.page.get_by_label("Gates to change").click()
    visit.page.get_by_role("option").last.click()
    source = visit.wait_for_another(picture, source)
    one = visit.pixels(picture)
    assert changed(before, one)
    visit.page.get_by_label("Multiply the trained gates").check()
    visit.wait_for_another(picture, source)
    assert changed(one, visit.pixels(picture))


def test_project(visit):
    visit.tab("Project")
    visit.number("Maximum steps").fill("20")
    visit.number("Maximum steps").press("Tab")
    visit.page.locator('.block:visible input[type="file"]').first.set_input_files(EXAMPLE)
    edited = visit.picture("Edited")
    expect(edited).to_be_visible(timeout=SECONDS)
    expect(visit.page.get_by_text("Mean squared error")).to_be_visible()
    source, before = edited.get_attribute("src"), visit.pixels(edited)
    slider = visit.page.get_by_role("slider").locator("visible=true").nth(1)
    slider.focus()
    for _ in range(8):
        visit.page.keyboard.press("ArrowRight")
    visit.wait_for_another(edited, source)
    assert changed(before, visit.pixels(edited))


def test_compare(visit, pipe):
    visit.tab("Compare")
    visit.box("Seeds").fill("1, 2")
    visit.press("Compare")
    sides = visit.page.locator(".grid-container").locator("visible=true")
    expect(sides).to_have_count(2, timeout=SECONDS)
    for side in range(2):
        check_shows(visit.pixels(sides.nth(side).locator("img").nth(1)), drawn(pipe, 2))
    visit.box("Right: model").fill("/etc/passwd")
    visit.box("Right: model").press("Enter")
    expect(visit.toast()).to_contain_text("is not a model on the Hub")


def test_about(visit):
    visit.tab("About")
    expect(visit.page.get_by_role("heading", name="Train your own")).to_be_visible()
    expect(visit.page.get_by_text("fd_effnetlite0_2048").first).to_be_visible()
