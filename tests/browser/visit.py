"""Actions and views of a visitor, in terms of the page."""

import io
import re
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

WIDTHS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
SECONDS = 60_000  # timeout of computations on a busy machine [ms]


class Visit:
    """One browser window on the page, which records its errors."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.strangers: list[str] = []
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.on("request", self._note)
        page.on("response", self._note_status)
        page.on("requestfailed", lambda request: self.errors.append(f"{request.url} {request.failure}"))
        page.goto(url)
        expect(self.gallery("Images").locator("img")).to_have_count(16, timeout=SECONDS)

    def _note(self, request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.strangers.append(request.url)

    def _note_status(self, answer) -> None:
        if answer.status >= 400:
            self.errors.append(f"{answer.status} {answer.url}")

    def check(self) -> None:
        """Check that no other hosts were contacted, and that the console has no errors."""
        assert not self.strangers, self.strangers
        # The browser's message when a page closes in the middle of its event stream.
        errors = [error for error in self.errors if "ERR_ABORTED" not in error]
        assert not errors, errors

    def tab(self, name: str) -> None:
        """Open a tab by mouse; on a narrow page it may be in the overflow menu."""
        found = self.page.get_by_role("tab", name=name, exact=True)
        if not found.is_visible():
            self.page.locator(".overflow-menu button").locator("visible=true").first.click()
            found = self.page.locator(".overflow-dropdown button", has_text=name).locator("visible=true")
        found.click()

    def seen(self, locator: Locator) -> Locator:
        """Return the visible one of several matches on different tabs."""
        return locator.locator("visible=true")

    def press(self, name: str) -> None:
        """Click a button."""
        self.seen(self.page.get_by_role("button", name=name, exact=True)).click()

    def box(self, label: str) -> Locator:
        """Find the text or number box with a label."""
        return self.seen(self.page.get_by_label(re.compile(rf"^\s*{re.escape(label)}\b"))).first

    def slider(self, label: str) -> Locator:
        """Find the handle of a slider."""
        return self.seen(self.page.get_by_label(f"range slider for {label}", exact=True)).first

    def number(self, label: str) -> Locator:
        """Find the number box of a slider."""
        return self.seen(self.page.get_by_label(f"number input for {label}", exact=True)).first

    def gallery(self, label: str) -> Locator:
        """Find a gallery's images."""
        return self.seen(self._block(label)).locator(".grid-container")

    def picture(self, label: str) -> Locator:
        """Find the image of a component."""
        return self.seen(self._block(label)).locator("img").first

    def _block(self, label: str) -> Locator:
        heading = self.page.locator(f'label[data-testid="block-label"]:has-text("{label}")')
        return self.page.locator(".block", has=heading)

    def pixels(self, picture: Locator) -> np.ndarray:
        """Return an image's pixels as loaded by the browser."""
        return np.asarray(Image.open(io.BytesIO(self.bytes(picture))).convert("RGB"))

    def bytes(self, picture: Locator) -> bytes:
        """Return an image's file."""
        source = picture.get_attribute("src")
        assert source
        answer = self.page.request.get(source)
        assert answer.ok
        return answer.body()

    def wait_for_another(self, picture: Locator, old: str | None) -> str:
        """Wait until another file is shown; return its URL."""
        expect(picture).not_to_have_attribute("src", old or "", timeout=SECONDS)
        return picture.get_attribute("src") or ""

    def toast(self) -> Locator:
        """Find the text of a message."""
        return self.page.get_by_test_id("toast-body").first
