"""How other sites show a link to this page: by the page's own tags, in place of Gradio's, which name Gradio."""

import os
import re
from collections.abc import Callable
from html import escape
from pathlib import Path

import gradio.routes
from jinja2 import BaseLoader, Environment

_HOST = re.compile(r"[\w.-]+")
_TAGS = re.compile(r"<meta\s[^>]*(?:og|twitter):[^>]*>")


class _WithTags(BaseLoader):
    """Gradio's templates with other tags."""

    def __init__(self, own: BaseLoader, tags: str):
        self.own, self.tags = own, tags

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        source, name, is_current = self.own.get_source(environment, template)
        return _TAGS.sub("", source).replace("<head>", f"<head>{self.tags}", 1), name, is_current


def show_in_links(title: str, description: str, picture: Path | None) -> None:
    """Tell other sites what to show.

    Args:
        title: Name of the page.
        description: A sentence about it.
        picture: Among the files that visitors may fetch. Only shown on a Space, which knows its own address.
    """
    tags = {"og:type": "website", "og:title": title, "og:description": description}
    host = os.environ.get("SPACE_HOST", "")
    if picture is not None and _HOST.fullmatch(host):
        tags["og:image"] = f"https://{host}/gradio_api/file={picture}"
        tags["twitter:card"] = "summary_large_image"
    lines = [
        f'<meta property="{name}" content="{{% raw %}}{escape(text)}{{% endraw %}}">' for name, text in tags.items()
    ]
    environment = gradio.routes.templates.env
    own = environment.loader.own if isinstance(environment.loader, _WithTags) else environment.loader
    assert own is not None
    environment.loader = _WithTags(own, "\n".join(lines))
