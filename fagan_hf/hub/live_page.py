"""Publish the live page for a model, as a static Space: the built page, the model's export for the web, and a card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fagan_hf.hub import client
from fagan_hf.hub.card_merge import split_card
from fagan_hf.hub.repository import CARD, WEB_DESCRIPTION, WEB_MODEL, read_json
from fagan_hf.utils.files import sha256

INDEX = "index.html"
_POSTER = "poster.png"  # the picture of a shared link
# In a wheel the built page is next to this file, in a clone where `make live` builds it.
_PAGES = (Path(__file__).with_name("live"), Path(__file__).parents[2] / "space/live/dist")
_MODEL, _ASSETS = "model/", "assets/"  # of the page: the folder of its model, and files with hashes in their names
# Without these headers a browser gives the page a single thread.
_HEADERS = {"cross-origin-embedder-policy": "require-corp", "cross-origin-opener-policy": "same-origin"}
_STYLE = {"emoji": "🎭", "colorFrom": "purple", "colorTo": "yellow", "pinned": False}
_HUBS_OWN_TEXT = "Check out the configuration reference"  # on the card of a new Space


def built_page() -> Path:
    """Find the built page: of a clone, or of this package.

    Raises:
        FileNotFoundError: It has not been built; says how.
    """
    for folder in _PAGES:
        if (folder / INDEX).is_file():
            return folder
    raise FileNotFoundError(
        "the live page has not been built: in a clone of fagan_hf run `make live`, which needs Node.js and writes "
        f"space/live/dist/{INDEX}, then repeat this command from there"
    )


def publish_page(
    space_id: str,
    model_id: str,
    web: Path,
    *,
    page: Path | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
) -> str:
    """Publish the live page for a model as a static Space, in one commit.

    An existing Space is updated: files of an older build are deleted, the title and other metadata of its card and the
    card's text are kept.

    Args:
        space_id: ``user/page``; created if missing.
        model_id: ``user/name``, the model's repository, which the card names.
        web: The folder that `fagan_hf.export.export_web` wrote.
        page: The built page; by default that of `built_page`.
        private: Whether to make a new Space private.
        token: Access token; by default the one stored by ``hf auth login``.

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: The page has not been built, or the model not been exported.
        ValueError: The two files of the export don't belong together, a name is invalid, or the card of the Space
            can't be parsed.
        PermissionError, ConnectionError: See `fagan_hf.hub.client.push`.
    """
    page = page or built_page()
    description = _check_export(web)
    files: dict[str, client.Content] = {
        name: path
        for path in sorted(page.rglob("*"))
        if path.is_file() and not (name := path.relative_to(page).as_posix()).startswith(_MODEL) and name != CARD
    }
    title = str(description.get("name") or model_id).rpartition("/")[2]
    files[_MODEL + WEB_MODEL] = web / WEB_MODEL
    # The Python that the page shows loads the model by this name.
    files[_MODEL + WEB_DESCRIPTION] = json.dumps(description | {"name": model_id}).encode()
    # Programs that show a shared link take no relative address.
    relative, absolute = f"./{_POSTER}", f"https://huggingface.co/spaces/{space_id}/resolve/main/{_POSTER}"
    index = (page / INDEX).read_bytes()
    files[INDEX] = index.replace(f'content="{relative}"'.encode(), f'content="{absolute}"'.encode())

    def compose(existing: client.Existing) -> Mapping[str, client.Content]:
        stale = [name for name in existing.hashes if name.startswith((_MODEL, _ASSETS)) and name not in files]
        card = _card(title, model_id, existing.texts.get(CARD, ""))
        return {**files, **dict.fromkeys(stale), CARD: card.encode("utf-8", errors="surrogateescape")}

    return client.push(
        space_id,
        compose,
        message=f"Live page of {model_id}",
        reads=(CARD,),
        private=private,
        token=token,
        kind="space",
    )


def _check_export(web: Path) -> dict[str, Any]:
    """Return the description of an export whose model is the one that it describes."""
    model, description = web / WEB_MODEL, web / WEB_DESCRIPTION
    for path in (model, description):
        if not path.is_file():
            raise FileNotFoundError(f"{str(path)!r} is missing; run `fagan-hf export {web.parent} --format web` first")
    described = read_json(description)
    if not isinstance(described, dict) or described.get("sha256") != sha256(model):
        raise ValueError(f"{str(description)!r} describes another model than {WEB_MODEL} beside it; export both again")
    return described


def _card(title: str, model_id: str, existing: str) -> str:
    """Write the card of the Space; metadata and text that are there stay, apart from what the page needs."""
    front, text = split_card(existing)
    there = yaml.safe_load(front) or {}
    is_new = not text.strip() or text.strip().startswith(_HUBS_OWN_TEXT)
    ours = {"title": title, **_STYLE}
    needed = {"sdk": client.SPACE_SDK, "app_file": INDEX, "models": [model_id], "custom_headers": _HEADERS}
    metadata = (there | ours if is_new else ours | there) | needed
    if is_new:
        text = (
            f"\n# {title}\n\nThe generator of [{model_id}](https://huggingface.co/{model_id}) runs in your browser: "
            "move between faces, and see where each layer attends. Made with fagan_hf.\n"
        )
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{text}"
