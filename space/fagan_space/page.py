"""The page: a heading, the tabs, the endpoints, and how it looks."""

import os
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

_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # the visitor's own: nothing is fetched from elsewhere
_FIXED = ["ui-monospace", "monospace"]

# Small pictures are shown with their own pixels: smoothing would hide what the network has drawn.
_CSS = """
.pixels img { image-rendering: pixelated; }
.clickable img { cursor: crosshair; }
.pixels label[data-testid="block-label"], .small label[data-testid="block-label"] {
  position: static; width: fit-content;
}
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

`{name}` generates {size}x{size} images. Generate some, walk between them, and click a pixel to see where each layer
attends.
"""


def build(model: Model) -> gr.Blocks:
    """Lay out the page of a model."""
    with Page(title="FAGAN", analytics_enabled=False) as page:
        add_api(model)  # first, or the tabs' own functions would have the names
        gr.Markdown(_HEADING.format(name=model.shown, size=model.size))
        firsts = []
        with gr.Tabs():
            for tab in TABS:
                with gr.Tab(tab.TITLE):
                    firsts.append(tab.build(model))
        for first in firsts:
            if first is not None:
                page.load(**first)
    check_declared(page)
    return page.queue(max_size=None, default_concurrency_limit=AT_ONCE)  # `Guard` limits each lane by itself


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serve a page; ``options`` are those of Gradio's `launch`."""
    start_sweeping()
    with suppress(ValueError):  # in another thread than the main one, which is left to whoever started it
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that its files are cleared
    assert isinstance(page, Page)
    # Who asks is decided by `visitors` alone; uvicorn would believe an X-Forwarded-For that comes from this machine.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    # Uvicorn's faster one takes headers of any size into memory before anybody can look at them.
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
