"""The page as visitors see it: Chromium, driven by Playwright, on a page served by a separate process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.chromium import chromium
from benchmarks.serving import ROOT, serving
from tests.browser.visit import WIDTHS, Visit

MODEL = ROOT / "model_cards/fagan-avatars-64"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**chromium())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def uploads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("browser") / "uploads"


@pytest.fixture(scope="session")
def url(uploads) -> Iterator[str]:
    with serving(MODEL, uploads) as page:
        yield page.url


@pytest.fixture(params=WIDTHS)
def width(request) -> str:
    return request.param


@pytest.fixture
def visit(browser, url, width) -> Iterator[Visit]:
    """A visitor on a freshly loaded page; errors of the page fail the test."""
    context = browser.new_context(viewport=WIDTHS[width], accept_downloads=True, permissions=["clipboard-read"])
    page: Page = context.new_page()
    visit = Visit(page, url)
    yield visit
    context.close()
    visit.check()
