"""The page: heading, tabs, endpoints, and styling."""

import os
import re
import signal
import sys
from contextlib import suppress
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS

from fagan_space.api import add_api
from fagan_space.blocks import Page, check_declared
from fagan_space.files import start_sweeping
from fagan_space.guard import Guard
from fagan_space.limits import AT_ONCE, MAX_STATES, MAX_UPLOAD_BYTES, THREADS
from fagan_space.models import Model
from fagan_space.tabs import about, compare, dial, generate, look_inside, project, walk

TABS = (generate, walk, look_inside, dial, project, compare, about)

LIVE_PAGE = "FAGAN_LIVE_PAGE"
"""Environment variable with the address of the same model's live page (docs/live-page.md), which the page links to."""
_ADDRESS = re.compile(r"https?://[\w.:-]+(?:/[\w./~%?=&#-]*)?")

_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # local fonts: nothing is fetched from other sites
_FIXED = ["ui-monospace", "monospace"]

# Small images are scaled without smoothing, which would hide what the network generated. A label stands above its
# picture, not over it, and a picture of a fixed height gets what the label leaves: its lowest rows would be cut off.
_CSS = """
.pixels img { image-rendering: pixelated; }
.clickable img { cursor: crosshair; }
.pixels label[data-testid="block-label"], .small label[data-testid="block-label"] {
  position: static; width: fit-content;
}
.pixels:has(> .image-container) { display: flex; flex-direction: column; }
.pixels > .image-container { flex: 1; min-height: 0; }
.pixels .caption-label { font-size: 10px; padding: 0 4px; margin: 2px; max-width: calc(100% - 4px); opacity: 0.75; }
.pixels .grid-wrap, .small .grid-wrap { min-height: 0; max-height: none; }
.pixels .grid-container { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); }
.small .grid-container { grid-template-columns: repeat(auto-fill, minmax(48px, 1fr)); }
.small .thumbnail-lg { aspect-ratio: 1; height: auto; }
.prose table { display: block; overflow-x: auto; }
.prose td, .prose th { overflow-wrap: normal; word-break: normal; }
.gradio-container { max-width: 1200px !important; width: 100% !important; margin: 0 auto !important; }
@media (min-width: 601px) {
  .pixels .grid-container { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
  .large .grid-container { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
}
@media (max-width: 600px) {
  .prose h1 { font-size: 1.4rem; }
  .pixels label[data-testid="block-label"] { font-size: 0.75rem; }
  .pixels label[data-testid="block-label"] > span { display: none; }
}
"""

_HEADING = """
# FAGAN: every layer convolves and attends at once

To draw a pixel, each layer of this network looks at its neighbors and, at the same time, at every other place of the
picture. Generate pictures, walk between them, and click a pixel to see where it looks.{live}

<sub>Model: `{name}`, {size}x{size} pixels</sub>
"""


def build(model: Model) -> gr.Blocks:
    """Build the page for a model."""
    with Page(title="FAGAN", analytics_enabled=False) as page:
        add_api(model)  # first, or the tabs' functions would take the endpoint names
        gr.Markdown(_HEADING.format(name=model.shown, size=model.size, live=_link_to_live_page()))
        firsts = []
        with gr.Tabs():
            for tab in TABS:
                with gr.Tab(tab.TITLE):
                    firsts.append(tab.build(model))
        for first in firsts:
            if first is not None:
                page.load(**first)
    check_declared(page)
    return page.queue(max_size=None, default_concurrency_limit=AT_ONCE)  # `Guard` limits each lane separately


def _link_to_live_page() -> str:
    """Return a sentence with the address in `LIVE_PAGE`; nothing if there is none.

    Raises:
        ValueError: It is not the address of a page.
    """
    address = os.environ.get(LIVE_PAGE, "")
    if not address:
        return ""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(
            f"{LIVE_PAGE} is {address!r}; it must be the address of a page, like 'https://you-page.static.hf.space'"
        )
    return f" [The live page]({address}) answers as you move the pointer: there the model runs in your browser."


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serve a page; ``options`` are those of Gradio's `launch`."""
    start_sweeping()
    with suppress(ValueError):  # raised outside the main thread, where signals are left to the caller
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that its files are deleted
    assert isinstance(page, Page)
    # Only `visitors` decides who the client is; uvicorn would trust an X-Forwarded-For from this machine.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    # Uvicorn's faster protocol reads headers of any size into memory before they can be checked.
    HTTP_PROTOCOLS["auto"] = "fagan_space.connections:Connection"
    return page.launch(
        app_kwargs={"middleware": [Middleware(Guard, page=page, sessions=page.sessions)]},
        state_session_capacity=MAX_STATES,
        theme=gr.themes.Soft(font=_FONTS, font_mono=_FIXED),
        css=_CSS,
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=THREADS,
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        **options,
    )
