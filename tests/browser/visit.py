"""What a visitor does and sees, in the words of the page."""

import io
import re
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

WIDTHS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
SECONDS = 60_000  # [ms] for what computes, on a machine that is busy otherwise


class Visit:
    """One browser window at the page, which remembers what went wrong in it."""

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
        """Nothing was asked of other machines, and the console has no error."""
        assert not self.strangers, self.strangers
        # What the browser says when a page closes in the middle of its event stream.
        errors = [error for error in self.errors if "ERR_ABORTED" not in error]
        assert not errors, errors

    def tab(self, name: str) -> None:
        """Open a tab by mouse; on a narrow page it may be behind the button with dots."""
        found = self.page.get_by_role("tab", name=name, exact=True)
        if not found.is_visible():
            self.page.locator(".overflow-menu button").locator("visible=true").first.click()
            found = self.page.locator(".overflow-dropdown button", has_text=name).locator("visible=true")
        found.click()

    def seen(self, locator: Locator) -> Locator:
        """Of several alike on different tabs, the one that is shown."""
        return locator.locator("visible=true")

    def press(self, name: str) -> None:
        """Click a button."""
        self.seen(self.page.get_by_role("button", name=name, exact=True)).click()

    def box(self, label: str) -> Locator:
        """Find the text or number box of a label."""
        return self.seen(self.page.get_by_label(re.compile(rf"^\s*{re.escape(label)}\b"))).first

    def slider(self, label: str) -> Locator:
        """Find the handle of a slider."""
        return self.seen(self.page.get_by_label(f"range slider for {label}", exact=True)).first

    def number(self, label: str) -> Locator:
        """Find the number box of a slider."""
        return self.seen(self.page.get_by_label(f"number input for {label}", exact=True)).first

    def gallery(self, label: str) -> Locator:
        """Find a gallery's pictures."""
        return self.seen(self._block(label)).locator(".grid-container")

    def picture(self, label: str) -> Locator:
        """Find the picture of a component."""
        return self.seen(self._block(label)).locator("img").first

    def _block(self, label: str) -> Locator:
        heading = self.page.locator(f'label[data-testid="block-label"]:has-text("{label}")')
        return self.page.locator(".block", has=heading)

    def pixels(self, picture: Locator) -> np.ndarray:
        """Fetch what a picture shows, as the browser has it."""
        return np.asarray(Image.open(io.BytesIO(self.bytes(picture))).convert("RGB"))

    def bytes(self, picture: Locator) -> bytes:
        """Fetch a picture's file."""
        source = picture.get_attribute("src")
        assert source
        answer = self.page.request.get(source)
        assert answer.ok
        return answer.body()

    def wait_for_another(self, picture: Locator, old: str | None) -> str:
        """Wait until another file is shown; give its address."""
        expect(picture).not_to_have_attribute("src", old or "", timeout=SECONDS)
        return picture.get_attribute("src") or ""

    def toast(self) -> Locator:
        """Find what a message says."""
        return self.page.get_by_test_id("toast-body").first
