"""Take the picture of a model card for the docs, roughly as the Hub shows it.

python -m tests.browser.card_screenshot model_cards/fagan-avatars-64 docs/images/model-card.png
"""

import re
import sys
from html import escape
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.chromium import chromium

_SHOWN = ("library_name", "license", "pipeline_tag", "tags")  # of the metadata
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 24px; color: #1f2937; columns: 2; column-gap: 40px; }
.chip { display: inline-block; background: #eef2ff; border-radius: 12px; padding: 0 10px; margin: 2px; }
.chip, pre, code { font-size: 12px; }
h1 { font-size: 26px; margin: 12px 0; } h2 { font-size: 20px; border-bottom: 1px solid #e5e7eb; }
pre { background: #f3f4f6; padding: 12px; white-space: pre-wrap; }
table { border-collapse: collapse; font-size: 13px; }
td, th { border: 1px solid #e5e7eb; padding: 3px 8px; text-align: left; }
img { max-width: 100%; } pre, table, img, h2 { break-inside: avoid; } h2 { break-after: avoid; }
"""


def main(folder: Path, out: Path) -> None:
    """Render a folder's README.md, and store the picture with few colors."""
    _, metadata, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(metadata)
    chips = [f"{name}: {', '.join(value) if isinstance(value := facts[name], list) else value}" for name in _SHOWN]
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(re.sub(r"<!--.*?-->", "", text, flags=re.S))
    tags = "".join(f'<span class="chip">{escape(chip)}</span>' for chip in chips)
    page_file = folder / "card.html"  # beside the pictures that it shows
    page_file.write_text(f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>{tags}{body}", encoding="utf-8")
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(**chromium()).new_page(viewport={"width": 1340, "height": 900})
            page.goto(page_file.resolve().as_uri())
            page.screenshot(path=out, full_page=True)
    finally:
        page_file.unlink()
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
