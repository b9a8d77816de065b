"""The page: heading, tabs, endpoints, and styling."""

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS

from fagan_hf.layers import gates
from fagan_space.api import add_api
from fagan_space.blocks import Page, check_declared
from fagan_space.border import SeedTab, takes
from fagan_space.controls import AT_HAND, Built
from fagan_space.files import keep, start_sweeping
from fagan_space.guard import Guard
from fagan_space.limits import AT_ONCE, MAX_STATES, MAX_UPLOAD_BYTES, THREADS
from fagan_space.models import Model
from fagan_space.shared_link import show_in_links
from fagan_space.tabs import about, compare, dial, generate, look_inside, project, walk

TABS = (generate, look_inside, project, walk, dial, compare, about)

LIVE_PAGE = "FAGAN_LIVE_PAGE"
"""Environment variable with the address of the same model's live page (docs/live-page.md), which the page links to."""
_ADDRESS = re.compile(r"https?://[\w.:-]+(?:/[\w./~%?=&#-]*)?")

_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # local fonts: nothing is fetched from other sites
_FIXED = ["ui-monospace", "monospace"]
_HERE = Path(__file__).resolve().parent

_ATTENDS = """
# FAGAN: layers that convolve and attend at once

To draw a pixel, each such layer of this network looks at its neighbors and, at the same time, at every other place of
the picture. Generate pictures, change them, and point at a pixel to see where it looks.{live}
"""
_CONVOLVES = """
# A generator without attention

This network only convolves: to draw a pixel, each layer looks at its neighbors. Generate pictures, and change
them.{live}
"""
_TITLE = "FAGAN"
_DESCRIPTION = "Generate pictures, change them, and point at a pixel to see where each layer of the network looks."
_MODEL = "<sub>Model: `{name}`, {size}x{size} pixels</sub>"


def build(model: Model) -> gr.Blocks:
    """Build the page for a model."""
    samples = None if model.samples is None else keep(model.samples)
    with Page(title=_TITLE, description=_DESCRIPTION, picture=samples, analytics_enabled=False) as page:
        add_api(model)  # first, or the tabs' functions would take the endpoint names
        gr.Markdown(_heading(model))
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            with gr.Tab(generate.TITLE, id=slug(generate.TITLE)):
                generated, to_inside = generate.build(model)
            built = [generated]
            looked = Built()
            for tab in TABS[1:]:
                with gr.Tab(tab.TITLE, id=slug(tab.TITLE)):
                    built.append(tab.build(model))
                    looked = built[-1] if tab is look_inside else looked
        _wire(to_inside, generated, looked, tabs)
        for first in (each for tab in built for each in tab.firsts):
            page.load(**first)
    check_declared(page)
    return page.queue(max_size=None, default_concurrency_limit=AT_ONCE)  # `Guard` limits each lane separately


def _heading(model: Model) -> str:
    """Say in a sentence what the network does."""
    words = (_ATTENDS if gates(model.generator) else _CONVOLVES).format(live=_link_to_live_page())
    return f"{words}\n{_MODEL.format(name=model.shown, size=model.size)}"


def slug(title: str) -> str:
    """Return a tab's name in links."""
    return title.lower().replace(" ", "-")


def _wire(button: gr.Button, generated: Built, looked: Built, tabs: gr.Tabs) -> None:
    """Open the chosen picture in the tab that looks inside, if the generator has something to look at."""
    if looked.seed is None or looked.drawn is None:
        button.visible = False
        return

    @takes(SeedTab)
    def open_inside(seed: int) -> tuple[Any, int]:
        return gr.Tabs(selected=slug(look_inside.TITLE)), seed

    button.click(open_inside, generated.seed, [tabs, looked.seed], **AT_HAND).then(**looked.drawn)


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
    assert isinstance(page, Page)
    start_sweeping()
    show_in_links(_TITLE, page.description, page.picture)
    with suppress(ValueError):  # raised outside the main thread, where signals are left to the caller
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that its files are deleted
    # Only `visitors` decides who the client is; uvicorn would trust an X-Forwarded-For from this machine.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    # Uvicorn's faster protocol reads headers of any size into memory before they can be checked.
    HTTP_PROTOCOLS["auto"] = "fagan_space.connections:Connection"
    return page.launch(
        app_kwargs={"middleware": [Middleware(Guard, page=page, sessions=page.sessions)]},
        state_session_capacity=MAX_STATES,
        theme=gr.themes.Soft(font=_FONTS, font_mono=_FIXED),
        css_paths=_HERE / "page.css",
        js=(_HERE / "page.js").read_text(encoding="utf-8"),
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=THREADS,
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        **options,
    )
