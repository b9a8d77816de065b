import hashlib
import json
from pathlib import Path

import pytest
import yaml

from fagan_hf.cli import main
from fagan_hf.hub import live_page
from fagan_hf.hub.live_page import built_page, publish_page
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Generator
from tests.small import GENERATOR

MODEL = b"a model"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A built page."""
    page = tmp_path / "dist"
    for name in ("index.html", "assets/index-1.js", "model/web.json", "README.md"):
        (page / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).write_text(f"{name} of the build")
    monkeypatch.setattr(live_page, "_PAGES", (tmp_path / "nowhere", page))
    return page


def write_web(folder, name="faces", sha256=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generator.onnx").write_bytes(MODEL)
    described = {"name": name, "sha256": sha256 or hashlib.sha256(MODEL).hexdigest()}
    (folder / "web.json").write_text(json.dumps(described))
    return folder


def metadata_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_page_with_its_model_and_card(hub, page, tmp_path):
    publish_page("user/page", "user/faces", write_web(tmp_path / "web"))
    space = hub.root / "spaces/user/page"
    there = {"index.html", "assets/index-1.js", "model/web.json", "model/generator.onnx", "README.md"}
    assert files_in(space) == there
    assert (space / "model/generator.onnx").read_bytes() == MODEL
    assert json.loads((space / "model/web.json").read_text())["sha256"] == hashlib.sha256(MODEL).hexdigest()
    card = (space / "README.md").read_text()
    metadata = metadata_of(card)
    assert (metadata["title"], metadata["sdk"], metadata["models"]) == ("faces", "static", ["user/faces"])
    assert metadata["custom_headers"] == {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
    }
    assert "user/faces" in card.split("---\n")[2]


def test_a_shared_link_shows_the_poster_and_the_page_knows_the_models_whole_name(hub, page, tmp_path):
    (page / "index.html").write_text('<meta property="og:image" content="./poster.png" />')
    publish_page("user/page", "user/faces", write_web(tmp_path / "web"))
    space = hub.root / "spaces/user/page"
    poster = "https://huggingface.co/spaces/user/page/resolve/main/poster.png"
    assert (space / "index.html").read_text() == f'<meta property="og:image" content="{poster}" />'
    assert json.loads((space / "model/web.json").read_text())["name"] == "user/faces"
    assert (page / "index.html").read_text().endswith('"./poster.png" />'), "the build itself is as it was"


def test_the_poster_has_the_name_that_is_published():
    index = Path("space/live/index.html").read_text()
    assert f'property="og:image" content="./{live_page._POSTER}"' in index
    assert Path("space/live/public", live_page._POSTER).is_file()


def test_an_update_replaces_the_build_and_keeps_the_card(hub, page, tmp_path):
    web = write_web(tmp_path / "web")
    publish_page("user/page", "user/faces", web)
    card = hub.root / "spaces/user/page/README.md"
    card.write_text(
        card.read_text().replace("title: faces", "title: Mine").replace("sdk: static", "sdk: gradio") + "My words.\n"
    )
    (hub.root / "spaces/user/page/notes.txt").write_text("of a person")
    (page / "assets/index-1.js").rename(page / "assets/index-2.js")
    publish_page("user/page", "user/others", web)
    there = files_in(hub.root / "spaces/user/page")
    assert "assets/index-2.js" in there
    assert "assets/index-1.js" not in there
    assert "notes.txt" in there
    metadata = metadata_of(card.read_text())
    assert (metadata["title"], metadata["sdk"], metadata["models"]) == ("Mine", "static", ["user/others"])
    assert "My words." in card.read_text()


def test_the_card_that_the_hub_writes_for_a_new_space_is_replaced(hub, page, tmp_path):
    card = hub.root / "spaces/user/page/README.md"
    card.parent.mkdir(parents=True)
    card.write_text(
        "---\ntitle: Page\nsdk: static\n---\n\nCheck out the configuration reference at https://hf.co/docs\n"
    )
    publish_page("user/page", "user/faces", write_web(tmp_path / "web"))
    assert metadata_of(card.read_text())["title"] == "faces"
    assert "configuration reference" not in card.read_text()


def test_a_page_that_is_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(live_page, "_PAGES", (tmp_path / "nowhere",))
    with pytest.raises(FileNotFoundError, match=r"has not been built: .*`make live`"):
        built_page()


def test_files_that_do_not_belong_together_are_refused(hub, page, tmp_path):
    web = write_web(tmp_path / "web", sha256="0" * 64)
    with pytest.raises(ValueError, match=r"describes another model than generator\.onnx"):
        publish_page("user/page", "user/faces", web)
    (web / "generator.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"is missing; run `fagan-hf export .* --format web` first"):
        publish_page("user/page", "user/faces", web)
    assert not hub.messages


@pytest.fixture
def run(tmp_path):
    save_repository(tmp_path / "faces", Generator(GENERATOR).eval())
    return tmp_path / "faces"


def test_push_publishes_model_and_page(hub, page, run, capsys):
    write_web(run / "web")
    assert main(["push", str(run), "user/faces", "--space", "user/page"]) == 0
    out = capsys.readouterr().out
    assert "page: folder://user/page" in out
    assert "pushed: folder://user/faces" in out
    assert (hub.root / "user/faces/web/generator.onnx").read_bytes() == MODEL
    assert (hub.root / "spaces/user/page/model/generator.onnx").read_bytes() == MODEL
    assert "web/generator.onnx" in (hub.root / "user/faces/README.md").read_text()


def test_push_exports_when_asked_or_if_the_page_needs_it(hub, page, run, monkeypatch):
    exported = []

    def export(generator, folder, *, name, **details):
        exported.append(name)
        write_web(folder, name)

    monkeypatch.setattr("fagan_hf.export.export_web", export, raising=False)
    assert main(["push", str(run), "user/plain"]) == 0
    assert not exported
    assert main(["push", str(run), "user/named", "--web"]) == 0
    assert main(["push", str(run), "user/shown", "--space", "user/page"]) == 0
    assert exported == ["named", "shown"]
    assert (hub.root / "user/named/web/web.json").is_file()
    assert not (run / "web").exists(), "a run may be in training: its folder is not written to"


def test_push_refuses_before_anything_is_pushed(hub, page, run, monkeypatch, capsys):
    assert main(["push", str(run), "user/faces", "--space", "user/page", "--create-pr"]) == 2
    assert "--create-pr does not publish it" in capsys.readouterr().err
    Generator(GENERATOR).save_pretrained(run.parent / "bare")
    assert main(["push", str(run.parent / "bare"), "user/bare", "--web"]) == 2
    assert "has no generator/" in capsys.readouterr().err
    monkeypatch.setattr(live_page, "_PAGES", ())
    assert main(["push", str(run), "user/faces", "--space", "user/page"]) == 2
    assert "make live" in capsys.readouterr().err
    assert not hub.messages
