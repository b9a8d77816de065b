"""The live page as visitors use it: in Chromium, wide and as a phone, on a plain file server."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.live_site import LIVE, build, serving_files, web_export
from fagan_hf import FAGANPipeline
from fagan_hf.attention_maps.capture import capture_attention
from fagan_hf.attention_maps.pictures import weights_of
from fagan_hf.latent_space import Directions
from fagan_hf.sampling.images import latents_from_seeds
from tests.browser.conftest import MODEL
from tests.browser.visit import WIDTHS

SECONDS = 60_000  # of a busy machine [ms]
expect.set_options(timeout=SECONDS)
SEEDS = [7, 12, 36, 45]  # with which the page opens, at this point of the map
START = (0.2, 0.2)
FOREIGN = "someone/portraits"
on_a_wide_screen = pytest.mark.parametrize("width", ["wide"])  # what does not depend on the screen


class Live:
    """A visitor's window on the live page, which records errors and hosts."""

    def __init__(self, page: Page, url: str, hosts: tuple[str, ...]) -> None:
        self.page, self.url, self.hosts = page, url, hosts
        self.errors: list[str] = []
        self.strangers: list[str] = []
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.on("request", self._note)

    def _note(self, request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and f"{address.scheme}://{address.netloc}" not in self.hosts:
            self.strangers.append(request.url)

    def open(self, path: str = "/") -> "Live":
        self.page.goto(self.url + path)
        self.page.wait_for_selector("html[data-ready]")
        self.settle()
        return self

    def get(self, expression: str) -> Any:
        return self.page.evaluate(f"fagan.{expression}")

    def pixels(self) -> np.ndarray:
        size = int(self.page.locator("#face").get_attribute("width") or 0)
        return np.array(self.get("pixels"), np.uint8).reshape(size, size, 4)[..., :3]

    def settle(self) -> None:
        """Wait until nothing has been drawn for a while."""
        drawn, since = -1, time.monotonic()
        while time.monotonic() < since + 0.6:
            if (now := self.get("numDrawn")) != drawn:
                drawn, since = now, time.monotonic()
            self.page.wait_for_timeout(50)

    def end_tour(self) -> None:
        if self.page.locator("#tour-end").is_visible():
            self.page.locator("#tour-end").click()


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(web_export("fagan-avatars-64-labels"), folder / FOREIGN / "resolve/main/web")
    return folder


@pytest.fixture(scope="module")
def hub(hub_folder) -> Iterator[str]:
    with serving_files(hub_folder) as url:
        yield url


@pytest.fixture(scope="module")
def site(tmp_path_factory, hub):
    return build(tmp_path_factory.mktemp("live") / "page", web_export(MODEL.name), hub)


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    with serving_files(site) as url:
        yield url


@pytest.fixture
def context(browser, width):
    permissions = ["clipboard-read", "clipboard-write"]
    context = browser.new_context(viewport=WIDTHS[width], has_touch=width == "phone", permissions=permissions)
    yield context
    context.close()


@pytest.fixture
def live(context, address) -> Iterator[Live]:
    live = Live(context.new_page(), address, (address,)).open()
    live.end_tour()
    yield live
    assert live.errors == []
    assert live.strangers == []


@pytest.fixture(scope="module")
def pipe():
    return FAGANPipeline.from_pretrained(MODEL)


def between(x, y):
    """The point of the map, by the formula that the export's documentation gives."""
    weights = torch.tensor([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dtype=torch.float64)
    return (weights @ latents_from_seeds(SEEDS, 64).double() / weights.norm()).float()[None]


def generated(pipe, **options):
    return np.asarray(pipe(**options).images[0]).astype(int)


def drag_to(live, x, y):
    plane = live.page.locator("#plane")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    live.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    live.page.mouse.down()
    live.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
    live.page.mouse.up()
    live.settle()


def test_dragging_gives_the_pipelines_faces(live, pipe):
    before = live.pixels()
    assert np.abs(before - generated(pipe, latents=between(*START))).max() <= 1
    drag_to(live, 0.2, 0.7)
    point = live.get("state.point")
    assert point == pytest.approx({"x": 0.2, "y": 0.7}, abs=0.02)
    after = live.pixels()
    assert np.abs(after - generated(pipe, latents=between(point["x"], point["y"]))).max() <= 1
    assert np.abs(after.astype(int) - before).max() > 50
    live.page.locator("#undo").click()
    live.settle()
    assert (live.pixels() == before).all()


@on_a_wide_screen
@pytest.mark.parametrize("seed", [0, 5, 123_456, 2**32 - 1])
def test_a_seed_is_the_same_face_as_in_python(live, pipe, seed):
    field = live.page.get_by_label("Top left seed")
    field.fill(str(seed))
    field.press("Enter")
    drag_to(live, -0.5, -0.5)
    assert live.get("state.point") == {"x": 0, "y": 0}
    latent = latents_from_seeds([seed], 64)[0].numpy()
    np.testing.assert_allclose(live.get("latent"), latent, atol=2e-6)
    assert np.abs(live.pixels() - generated(pipe, seeds=[seed])).max() <= 1
    expect(live.page.locator("#code")).to_contain_text(f"seeds=[{seed}]")


def test_hovering_shows_the_librarys_maps(live, pipe):
    face = live.page.locator("#face")
    face.scroll_into_view_if_needed()
    box = face.bounding_box()
    seen = []
    for row, column in ((10, 50), (40, 20)):
        live.page.mouse.move(box["x"] + (column + 0.5) / 64 * box["width"], box["y"] + (row + 0.5) / 64 * box["height"])
        live.settle()
        maps = live.get("attention")
        with torch.inference_mode(), capture_attention(pipe.generator, [(row, column)]) as captured:
            pipe.generator(between(*START))
        assert len(maps) == len(captured) == 6
        for shown, layer in zip(maps, captured.values(), strict=True):
            np.testing.assert_allclose(shown, weights_of(layer, (row, column), 64).ravel(), atol=1e-3)
        seen.append(maps)
    for one, other in zip(*seen, strict=True):
        assert np.abs(np.subtract(one, other)).max() > 1e-3


def test_pins_are_few_and_by_keyboard_too(live):
    face = live.page.locator("#face")
    face.focus()
    for _ in range(12):
        live.page.keyboard.press("ArrowRight")
        live.page.keyboard.press("Enter")
    live.settle()
    assert live.get("state.pins") == [[32, 33 + each] for each in range(8)]
    expect(live.page.locator("#notice")).to_contain_text("8 pixels are pinned")
    live.page.keyboard.press("Escape")
    assert live.get("state.pins") == []


@on_a_wide_screen
def test_without_attention_is_the_pipelines_alpha_zero(live, pipe):
    live.page.get_by_role("button", name="Without attention").click()
    live.settle()
    wanted = generated(pipe, latents=between(*START), alpha=0.0)
    assert np.abs(live.pixels() - wanted).max() <= 1
    expect(live.page.locator("#code")).to_contain_text("alpha=0.0")


@on_a_wide_screen
def test_a_step_by_each_of_its_parts_gives_other_faces(live):
    faces = [live.pixels()]
    for name in ("Neighborhood only", "Attention only"):
        live.page.get_by_role("button", name="Step 3 of 6").click()
        live.page.get_by_role("button", name=name).click()
        live.settle()
        faces.append(live.pixels())
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(faces[one].astype(int) - faces[other]).max() > 5


@on_a_wide_screen
def test_directions_and_truncation_are_the_librarys(live, pipe):
    live.get("set({strengths: {beard: 2.5}, truncation: 0.7})")
    live.settle()
    directions = Directions.load(MODEL / "directions.safetensors")
    latents = 0.7 * directions.move(between(*START), {"beard": 2.5})
    assert np.abs(live.pixels() - generated(pipe, latents=latents)).max() <= 1


@on_a_wide_screen
@pytest.mark.parametrize(
    "change",
    [
        "{point: {x: 0, y: 1}, truncation: 0.8, factors: [1, 1, 0.5, 1, 1, 1]}",
        "{point: {x: 0.3, y: 0.6}, truncation: 0.9}",
        "{point: {x: 0.3, y: 0.6}, strengths: {beard: -1.5, 'hair=bald': 2}, isWithoutAttention: true}",
    ],
    ids=["seed", "between", "moved"],
)
def test_its_python_makes_the_same_picture(live, monkeypatch, tmp_path, change):
    live.get(f"set({change})")
    live.settle()
    code = live.page.locator("#code").inner_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / MODEL.name).symlink_to(MODEL)
    exec(code, {})  # of the page under test, with the released model
    with Image.open("face.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - live.pixels()).max() <= 1


@on_a_wide_screen
def test_locked_corners_stay(live):
    live.page.get_by_role("button", name="Lock the top left face").click()
    live.page.get_by_role("button", name="Surprise me").click()
    corners = live.get("state.corners")
    assert corners[0] == SEEDS[0]
    assert corners[1:] != SEEDS[1:]


def test_a_shared_link_restores(live, context):
    live.get("set({strengths: {beard: 2}, pins: [[3, 4], [60, 61]], factors: [1, 1, 0.5, 1, 1, 1], layer: 2})")
    drag_to(live, 0.25, 0.75)
    live.page.locator("#link").click()
    expect(live.page.locator("#taken")).to_contain_text("Copied")
    link = live.page.evaluate("navigator.clipboard.readText()")
    other = Live(context.new_page(), live.url, live.hosts).open(link.removeprefix(live.url))
    one, two = live.get("state"), other.get("state")
    assert two.pop("point") == pytest.approx(one.pop("point"), abs=1e-4)
    assert two == one
    assert np.abs(other.pixels().astype(int) - live.pixels()).max() <= 8  # the link rounds the point to 1e-4
    assert other.errors == []


@on_a_wide_screen
@pytest.mark.parametrize(
    ("fragment", "word"),
    [
        ("seeds=1,2,3", "seeds"),
        ("seeds=1,2,3,99999999999", "seeds"),
        ("at=NaN,0", "at"),
        ("move=__proto__:1", "move"),
        ("gates=1e9", "gates"),
        ("pins=" + ",".join(f"{i % 64}-{i // 64}" for i in range(1000)), "pins"),
        ("constructor=1", "constructor"),
        ("%00%ff<script>", "?"),
        ("x" * 9000, "too long"),
    ],
    ids=["few-seeds", "large-seed", "nan", "proto", "gates", "thousand-pins", "constructor", "nonsense", "long"],
)
def test_nonsense_in_a_link_is_left_out_and_said(context, address, fragment, word):
    live = Live(context.new_page(), address, (address,)).open("/#" + fragment)
    expect(live.page.locator("#notice")).to_contain_text("can't be read")
    if word != "?":
        expect(live.page.locator("#notice")).to_contain_text(word)
    assert len(live.get("state.pins")) <= 8
    assert live.get("state.corners") == SEEDS
    assert live.errors == []


@on_a_wide_screen
def test_another_model_comes_from_the_hub(context, address, hub):
    live = Live(context.new_page(), address, (address, hub)).open(f"/?model={FOREIGN}")
    live.end_tour()
    expect(live.page.get_by_text("Skin", exact=True)).to_be_visible()
    expect(live.page.locator("#code")).to_contain_text(f'from_pretrained("{FOREIGN}")')
    pipe = FAGANPipeline.from_pretrained(MODEL.with_name("fagan-avatars-64-labels"))
    live.page.get_by_label("Hair color").select_option(label="red")
    live.page.get_by_label("Beard").check()
    live.settle()
    labels = live.get("state.labels")
    assert (labels["hair_color=red"], labels["beard"]) == (1, 1)
    wanted = generated(pipe, latents=between(*START), labels=labels)
    assert np.abs(live.pixels() - wanted).max() <= 1
    assert live.errors == []
    assert live.strangers == []


def alter_json(**changes):
    def alter(folder):
        path = folder / "web.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return alter


def alter_model(content, *, is_announced):
    def alter(folder):
        (folder / "generator.onnx").write_bytes(content(folder))
        if is_announced:
            data = (folder / "generator.onnx").read_bytes()
            alter_json(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())(folder)

    return alter


def whole(folder):
    return (folder / "generator.onnx").read_bytes()


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "has no export for the browser"),
        (alter_json(version=2), "version 2"),
        (alter_json(format="other"), "not one of fagan_hf's"),
        (lambda folder: (folder / "web.json").write_text('{"format": "fa'), "not JSON"),
        (alter_json(num_bytes=10**10), "loads at most 256 MB"),
        (alter_json(latent_dim=-1), "latent_dim"),
        (alter_json(model="../../x.onnx"), "no name of an .onnx file"),
        (alter_model(lambda folder: whole(folder)[:-9], is_announced=False), "incomplete"),
        (alter_model(lambda folder: whole(folder)[:-9] + b"123456789", is_announced=False), "damaged"),
        (alter_model(lambda folder: whole(folder) + b"more", is_announced=False), "larger than"),
        (alter_model(lambda _: b"not an ONNX file", is_announced=True), "can't be run"),
    ],
    ids=[
        *("no-export", "version", "not-ours", "cut-json", "huge", "negative", "path"),
        *("truncated", "damaged", "longer", "no-onnx"),
    ],
)
def test_models_that_can_not_be_loaded_are_told_in_words(browser, address, hub, hub_folder, alter, words):
    name = f"someone/{hashlib.sha256(words.encode()).hexdigest()[:8]}"
    folder = hub_folder / name / "resolve/main/web"
    shutil.copytree(hub_folder / FOREIGN / "resolve/main/web", folder)
    alter(folder)
    page = browser.new_page()
    page.goto(f"{address}/?model={name}")
    expect(page.locator("#notice")).to_contain_text(words, timeout=SECONDS)
    page.close()


def test_names_that_are_no_models_ask_no_server(browser, address):
    live = Live(browser.new_page(), address, (address,))
    live.page.goto(f"{address}/?model=../../etc/passwd")
    expect(live.page.locator("#notice")).to_contain_text("not the name of a model")
    assert live.strangers == []
    live.page.close()


@on_a_wide_screen
def test_files_from_disk(live):
    files = live.page.locator("#files")
    export = web_export("fagan-avatars-64-labels")
    live.page.get_by_text("Another model").click()
    files.set_input_files([export / "generator.onnx"])
    expect(live.page.locator("#notice")).to_contain_text("drop the whole web/ folder")
    files.set_input_files([export / "generator.onnx", export / "web.json"])
    expect(live.page.get_by_text("Choose", exact=True)).to_be_visible()
    live.settle()
    assert live.get("state.labels")


@on_a_wide_screen
def test_pictures_can_be_taken_home(live, tmp_path):
    live.page.locator("#scale").fill("4")
    with live.page.expect_download() as download:
        live.page.locator("#png").click()
    with Image.open(download.value.path()) as picture:
        assert picture.size == (256, 256)
        assert (np.asarray(picture.convert("RGB"))[::4, ::4] == live.pixels()).all()
    with live.page.expect_download() as download:
        live.page.locator("#gif").click()
    with Image.open(download.value.path()) as film:
        assert film.format == "GIF"
        assert (film.n_frames, film.size) == (48, (256, 256))
    with live.page.expect_download() as download:
        live.page.locator("#webm").click()
    assert download.value.path().read_bytes()[:4] == b"\x1a\x45\xdf\xa3"  # EBML


@on_a_wide_screen
def test_offline_after_the_first_visit(context, site):
    with serving_files(site) as url:
        live = Live(context.new_page(), url, (url,)).open()
        live.page.evaluate("navigator.serviceWorker.ready.then(() => 0)")
        before = live.pixels()
    live.page.reload()  # the server is gone
    live.page.wait_for_selector("html[data-ready]")
    live.settle()
    assert (live.pixels() == before).all()


def test_the_tour_starts_once(context, address):
    live = Live(context.new_page(), address, (address,)).open()
    for step in range(1, 6):
        expect(live.page.locator("#tour-count")).to_have_text(f"{step} of 5")
        live.page.locator("#tour-next").click()
    expect(live.page.locator("#tour-card")).to_be_hidden()
    live.open()
    expect(live.page.locator("#tour-card")).to_be_hidden()
    assert live.errors == []


def test_webgpu_that_fails_falls_back(browser, address):
    page = browser.new_page()
    page.add_init_script("Object.defineProperty(navigator, 'gpu', {value: {requestAdapter: () => Promise.reject(1)}})")
    live = Live(page, address, (address,)).open()
    assert page.evaluate("document.documentElement.dataset.runtime") == "wasm"
    assert live.errors == []
    page.close()


def test_no_simd_is_told_in_words(browser, address):
    page = browser.new_page()
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(address)
    expect(page.locator("#notice")).to_contain_text("no WebAssembly SIMD", timeout=SECONDS)
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_the_page_fits(context, address, theme):
    page = context.new_page()
    page.emulate_media(color_scheme=theme)
    live = Live(page, address, (address,)).open()
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    page.evaluate((LIVE / "node_modules/axe-core/axe.min.js").read_text())
    found = page.evaluate("axe.run().then(({violations}) => violations)")
    serious = [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= shown
    assert live.errors == []


def test_the_page_is_small(site):
    runtime = ("ort", "worker")
    files = [path for path in site.rglob("*") if path.is_file() and path.parent.name != "model"]
    own = [path for path in files if not path.name.startswith(runtime) and path.name != "poster.png"]
    assert sum(path.stat().st_size for path in own) < 200_000
    assert sum(path.stat().st_size for path in files if path.suffix != ".wasm") < 500_000
