"""Each tab, used by mouse and keyboard, at desktop and phone width."""

import io
import zipfile
from base64 import b64decode
from contextlib import chdir

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from benchmarks.serving import ROOT
from fagan_hf import FAGANPipeline
from fagan_hf.attention_maps import capture_attention
from fagan_hf.attention_maps.pictures import attention_tile
from fagan_hf.latent_space import Directions
from fagan_hf.sampling import latents_from_seeds, to_uint8
from tests.browser.conftest import MODEL
from tests.browser.visit import SECONDS

EXAMPLE = ROOT / "space/examples/avatar-8192.png"
OTHER = ROOT / "docs/images/space/generate-phone.png"  # a picture that the page doesn't know


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
    expect(pictures).to_have_count(3, timeout=SECONDS)
    for place, seed in enumerate((3, 5, 6)):
        check_shows(visit.pixels(pictures.nth(place)), drawn(pipe, seed))
    code = visit.page.locator(".cm-content").first
    expect(code).to_contain_text("(seeds=[3, 5, 6]).images")

    # By keyboard only: to the truncation, four steps of its slider down. The pictures follow without a button.
    slider = visit.slider("Truncation")
    visit.page.get_by_role("button", name="Surprise me").focus()
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        if slider.evaluate("element => element === document.activeElement"):
            break
    expect(slider).to_be_focused()
    for _ in range(4):
        visit.page.keyboard.press("ArrowLeft")
    expect(code).to_contain_text("truncation=0.8)", timeout=SECONDS)
    check_shows(visit.pixels(pictures.first), drawn(pipe, 3, truncation=0.8))

    visit.seen(visit.page.get_by_text("Details", exact=True)).first.click()
    visit.page.get_by_label("Gates as trained").uncheck()
    expect(code).to_contain_text("alpha=0.0", timeout=SECONDS)
    check_shows(visit.pixels(pictures.first), drawn(pipe, 3, truncation=0.8, alpha=0.0))


def test_pictures_follow_a_direction_and_what_it_drags_along_is_said(visit, pipe):
    pictures = visit.gallery("Images").locator("img")
    visit.number("Beard").fill("3")
    visit.number("Beard").press("Enter")
    code = visit.page.locator(".cm-content").first
    expect(code).to_contain_text("directions.move(latents, {'beard': 3.0})", timeout=SECONDS)
    directions = Directions.load(MODEL / "directions.safetensors")
    latents = latents_from_seeds(range(16), pipe.generator.config.latent_dim)
    wanted = pipe(latents=directions.move(latents, {"beard": 3.0})).images
    for place in (0, 15):
        check_shows(visit.pixels(pictures.nth(place)), np.asarray(wanted[place]))
    expect(visit.page.get_by_text("“Beard” drags along: less “Clothes: dress”").first).to_be_visible()


def test_the_python_code_makes_the_pictures_that_are_shown(visit):
    visit.number("Mouth: laugh").fill("-2")
    visit.number("Mouth: laugh").press("Enter")
    expect(visit.page.locator(".cm-content").first).to_contain_text("mouth=laugh", timeout=SECONDS)
    lines = visit.page.locator(".cm-content").first.locator(".cm-line").all_inner_texts()
    found = {}
    with chdir(ROOT):
        exec("\n".join(lines), found)
    shown = visit.pixels(visit.gallery("Images").locator("img").nth(4))
    check_shows(shown, np.asarray(found["images"][4]))


def test_others_are_other_seeds(visit):
    old = visit.box("Seeds").input_value()
    visit.press("Surprise me")
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
    picture = visit.picture("The walk")
    expect(picture).to_be_visible(timeout=SECONDS)
    first = picture.get_attribute("src")
    visit.number("Frames between seeds").fill("5")
    visit.box("Seeds").fill("0, 7, 3")
    visit.box("Seeds").press("Enter")
    visit.wait_for_another(picture, first)
    with Image.open(io.BytesIO(visit.bytes(picture))) as film:
        assert film.format == "GIF"
        assert film.n_frames == 15
    visit.page.get_by_label(".mp4").check()
    visit.press("Walk")
    video = visit.page.locator("video").locator("visible=true")
    expect(video).to_be_visible(timeout=SECONDS)
    visit.page.wait_for_function("document.querySelector('video').duration > 5", timeout=SECONDS)


def canvas(locator):
    """Return the pixels of a canvas, without the frame's two lines around a pixel."""
    url = locator.evaluate("each => each.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(b64decode(url.partition(",")[2]))).convert("RGB"))


def opened_view(visit):
    """Open the tab, and wait for the generator's picture."""
    visit.tab("Look inside")
    picture = visit.seen(visit.page.locator("canvas.picture")).first
    expect(picture).to_be_visible(timeout=SECONDS)
    return picture


def place(visit):
    """Return the (row, column) that the page names."""
    return visit.seen(visit.page.locator("p.place")).first


def test_look_inside_the_generator(visit, pipe):
    picture = opened_view(visit)
    heat = visit.seen(visit.page.locator("canvas.heat")).first
    size = pipe.generator.config.image_size
    drawn_pixels = canvas(picture)[4::8, 4::8]
    assert (np.abs(drawn_pixels.astype(int) - drawn(pipe, 0)).max(axis=2) > 1).sum() <= 9  # those of the frame

    requests = []
    visit.page.on("request", lambda request: requests.append(request.url))
    before = canvas(heat)
    box = picture.bounding_box()
    for share, expected in (((0.9, 0.1), (57, 6)), ((0.999, 0.999), (size - 1,) * 2), ((0.001, 0.001), (0, 0))):
        picture.click(position={"x": box["width"] * share[1], "y": box["height"] * share[0]})
        expect(place(visit)).to_contain_text("Row {}, column {}".format(*expected))
        assert changed(before, canvas(heat))
    visit.page.keyboard.press("ArrowDown")
    expect(place(visit)).to_contain_text("Row 1, column 0 (kept)")
    assert not [each for each in requests if "queue" in each], "the maps are here already"

    # The map is that of `capture_attention`, and of the same colors as in the library's pictures.
    with torch.no_grad(), capture_attention(pipe.generator, [(1, 0)]) as captured:
        [image] = to_uint8(pipe.generator(latents_from_seeds([0], pipe.generator.config.latent_dim)))
    *_, layer = captured.values()
    wanted = np.asarray(attention_tile(image, layer, (1, 0), tile_size=256)).astype(int)
    far = np.abs(canvas(heat).astype(int) - wanted).max(axis=2)[2::4, 2::4]
    assert (far > 3).mean() < 0.01, "more than the frame differs"

    seed = visit.box("Seed")
    seed.fill("5")
    seed.press("Enter")
    visit.page.wait_for_function("location.hash.includes('seed=5')", timeout=SECONDS)
    assert (np.abs(canvas(picture)[4::8, 4::8].astype(int) - drawn(pipe, 5)).max(axis=2) > 1).sum() <= 9
    whole = visit.seen(visit.page.locator("img.whole"))
    data = whole.nth(1).get_attribute("src").partition(",")[2]
    check_shows(np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("RGB")), drawn(pipe, 5))


def test_the_map_follows_the_pointer_and_stays_where_it_was_clicked(visit):
    picture = opened_view(visit)
    picture.click(position={"x": 20, "y": 20})
    kept = place(visit).inner_text()
    box = picture.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.6)
    expect(place(visit)).not_to_have_text(kept)
    visit.page.mouse.move(2, 2)
    expect(place(visit)).to_have_text(kept)


def test_a_layer_of_the_strip_is_shown_when_clicked(visit):
    opened_view(visit)
    visit.page.get_by_role("button", name="Layer 2 of 6").locator("visible=true").click()
    expect(visit.page.get_by_text("Layer 2 of 6: 8x8 places").locator("visible=true")).to_be_visible()
    visit.page.locator("summary", has_text="Details").locator("visible=true").click()
    expect(visit.page.get_by_text("gate alpha").locator("visible=true")).to_be_visible()


def test_from_a_picture_to_its_inside(visit):
    visit.gallery("Images").locator("button").nth(3).click()
    expect(visit.box("Picked seed")).to_have_value("3")
    visit.page.keyboard.press("Escape")
    visit.press("Look inside it")
    expect(visit.box("Seed")).to_have_value("3", timeout=SECONDS)
    visit.page.wait_for_function("location.hash.includes('seed=3')", timeout=SECONDS)


def test_a_link_holds_tab_seed_and_pixel(browser, url):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/#tab=look-inside&seed=7&pixel=40,21")
    expect(page.locator("p.place").locator("visible=true")).to_have_text("Row 40, column 21 (kept)", timeout=SECONDS)
    expect(page.get_by_label("Seed", exact=True).locator("visible=true")).to_have_value("7")
    page.goto(f"{url}/#tab=walk")
    page.reload()
    expect(page.get_by_role("tab", name="Walk", exact=True)).to_have_attribute("aria-selected", "true", timeout=SECONDS)
    for nonsense in ("#tab=%00&seed=-1&pixel=9999,1e9", "#tab=look-inside&seed=" + "9" * 40 + "&pixel=1"):
        page.goto("about:blank")
        page.goto(f"{url}/{nonsense}")
        page.get_by_role("tab", name="Look inside", exact=True).click()
        expect(page.locator("p.place").locator("visible=true")).to_have_text(
            "Row 32, column 32 (kept)", timeout=SECONDS
        )
    context.close()


def test_look_inside_the_discriminator(visit):
    visit.tab("Look inside")
    visit.tab("Discriminator")
    verdict = visit.page.get_by_text("Score").locator("visible=true")
    expect(verdict).to_be_visible(timeout=SECONDS)  # of the first example: no tab starts empty
    first = verdict.inner_text()
    visit.gallery("Or click an example").locator("button").nth(1).click()
    expect(verdict).not_to_have_text(first, timeout=SECONDS)
    said = verdict.inner_text()
    visit.page.locator('input[type="file"]').locator("visible=true").or_(
        visit.page.locator('.block:visible input[type="file"]')
    ).first.set_input_files(EXAMPLE)
    expect(verdict).not_to_have_text(said, timeout=SECONDS)
    heat, picture = (visit.seen(visit.page.locator(f"canvas.{name}")).first for name in ("heat", "picture"))
    before = canvas(heat)
    picture.click(position={"x": 20, "y": 20})
    expect(place(visit)).to_contain_text("(kept)")
    assert changed(before, canvas(heat))


def test_dial(visit, pipe):
    visit.tab("More or less attention")
    picture = visit.picture("From convolution only (0)")
    expect(picture).to_be_visible(timeout=SECONDS)
    source, before = picture.get_attribute("src"), visit.pixels(picture)
    visit.page.get_by_label("Layers to change").click()
    visit.page.get_by_role("option").last.click()
    source = visit.wait_for_another(picture, source)
    one = visit.pixels(picture)
    assert changed(before, one)
    visit.page.get_by_label("Multiply what was trained").check()
    visit.wait_for_another(picture, source)
    assert changed(one, visit.pixels(picture))


def test_project(visit):
    visit.tab("Your picture")
    edited, both = visit.picture("Edited"), visit.picture("Your image, and its")
    expect(edited).to_be_visible(timeout=SECONDS)  # of the first example, found beforehand
    expect(visit.page.get_by_text("Mean squared error")).to_be_visible()
    source = edited.get_attribute("src")
    visit.gallery("Or click an example").locator("button").nth(2).click()
    source = visit.wait_for_another(edited, source)
    seen = both.get_attribute("src")
    visit.page.locator('.block:visible input[type="file"]').first.set_input_files(OTHER)
    expect(visit.page.get_by_text("Getting closer").locator("visible=true")).to_be_visible(timeout=SECONDS)
    visit.wait_for_another(both, seen)
    source = visit.wait_for_another(edited, source)  # the end: what was found can be edited
    expect(visit.page.get_by_text("Mean squared error")).to_be_visible()
    before = visit.pixels(edited)
    slider = visit.slider("Beard")
    slider.focus()
    for _ in range(8):
        visit.page.keyboard.press("ArrowRight")
    visit.wait_for_another(edited, source)
    assert changed(before, visit.pixels(edited))


def test_compare(visit, pipe):
    visit.tab("Compare models")
    expect(visit.page.get_by_text("Both sides are the same model")).to_be_visible(timeout=SECONDS)
    visit.box("Seeds").fill("1, 2")
    visit.press("Compare")
    expect(visit.seen(visit.page.locator(".grid-container img"))).to_have_count(4, timeout=SECONDS)
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
