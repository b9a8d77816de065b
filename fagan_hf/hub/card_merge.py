"""Update the generated parts of a card and keep what users wrote.

In the Markdown, everything between ``<!-- fagan_hf:begin NAME -->`` and ``<!-- fagan_hf:end NAME -->`` is generated. In
the metadata nothing marks who wrote a value, so the first of these marks records what we wrote there: values that are
still unchanged are ours to update, anything else is the user's. It also records where the card was published.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from fagan_hf.hub.repository import CARD
from fagan_hf.utils.json_text import parse_json

_REGION = re.compile(r"<!-- fagan_hf:begin (\w+)[^>]*-->.*?<!-- fagan_hf:end \1 -->", re.DOTALL)
_MARK = re.compile(r"<!-- fagan_hf:(begin|end) (\w+)")
_FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MEMORY = re.compile(r"<!-- fagan_hf:begin \w+ wrote (\{[^>]*\}) -->")
_WAY_OUT = "Fix it there, or push with --replace-card, which discards user edits of the card"

_LICENSE = ("license", "license_name", "license_link")  # updated together
_LISTS = ("tags", "datasets")
_REMEMBERED = (*_LICENSE, *_LISTS, "base_model")
_INDEX = "model-index"
_PUBLISHED = "published"  # key of the record: the repository of the card


def merge_card(existing: str, metadata: Mapping[str, Any], body: str, repo_id: str | None = None) -> str:
    """Write metadata and regions into a card.

    Args:
        existing: The existing card; empty if there is none.
        metadata: Generated metadata.
        body: Generated regions, in order, with the text around them on a new card.
        repo_id: Repository of the card; `published_as` reads it back.

    Returns:
        The whole card. Text outside the generated regions, other keys, comments, and values that users changed are
        kept.

    Raises:
        ValueError: The card's metadata is not YAML, or its marks are broken; says what to do.
    """
    front, old_body = split_card(existing)
    merged = _merge_metadata(front, metadata, _memory(old_body))
    return f"---\n{merged}---\n{_merge_body(old_body, _with_memory(body, metadata, repo_id))}"


def published_as(existing: str) -> str | None:
    """Return the repository that a card was written for; ``None`` if it was never published, or its mark was edited.

    Raises:
        ValueError: See `merge_card`.
    """
    repo_id = _memory(split_card(existing)[1]).get(_PUBLISHED)
    try:
        validate_repo_id(repo_id)
    except HFValidationError:  # not a string, or not a valid id
        return None
    return repo_id


def license_of_a_person(existing: str) -> str | None:
    """Return the license that a user set in a card's metadata; ``None`` if it is unset or the one that we wrote.

    Raises:
        ValueError: See `merge_card`.
    """
    front, body = split_card(existing)
    there = yaml.safe_load(front) or {}
    is_ours = _license(there) == _license(_memory(body))
    return None if is_ours or "license" not in there else str(there["license"])


def _license(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in _LICENSE if key in metadata}


def _with_memory(body: str, metadata: Mapping[str, Any], repo_id: str | None) -> str:
    """Record the generated metadata in the first mark; no character of it may look like the end of a mark."""
    memory = {key: metadata[key] for key in _REMEMBERED if key in metadata}
    memory |= {} if repo_id is None else {_PUBLISHED: repo_id}
    wrote = json.dumps(memory).replace(">", "\\u003e")
    return re.sub(r"<!-- fagan_hf:begin (\w+) -->", lambda mark: f"{mark[0][:-4]} wrote {wrote} -->", body, count=1)


def _memory(body: str) -> dict[str, Any]:
    """Read the record of what we wrote; empty if the mark was edited, because then everything is the user's."""
    match = _MEMORY.search(body)
    try:
        wrote = parse_json(match[1]) if match else {}
    except ValueError:
        wrote = {}
    return wrote if isinstance(wrote, dict) else {}


def split_card(card: str) -> tuple[str, str]:
    """Split a card into the text of its metadata and its Markdown, and refuse one that can't be parsed."""
    match = _FRONT.match(card)
    front, body = ((match[1] or ""), card[match.end() :]) if match else ("", card)
    try:
        data = yaml.safe_load(front)
    except Exception as error:  # a date in month 13 is a ValueError, "!!bool maybe" a KeyError
        raise ValueError(f"{CARD} has invalid YAML between its --- lines: {_one_line(error)}. {_WAY_OUT}") from error
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"{CARD} has {type(data).__name__} between its --- lines, not keys and values. {_WAY_OUT}")
    opened = None
    for mark in _MARK.finditer(body):
        kind, name = mark.groups()
        if (kind == "begin") == (opened is not None) or (kind == "end" and name != opened):
            lonely = f"begin {opened}" if opened is not None else f"{kind} {name}"
            raise ValueError(f"{CARD} has an unpaired mark, fagan_hf:{lonely}. {_WAY_OUT}")
        opened = name if kind == "begin" else None
    if opened is not None:
        raise ValueError(f"{CARD} has an unpaired mark, fagan_hf:begin {opened}. {_WAY_OUT}")
    if 2 * len(_REGION.findall(body)) != len(_MARK.findall(body)):
        raise ValueError(f"{CARD} has a fagan_hf mark that does not end in -->. {_WAY_OUT}")
    return front, body


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _merge_metadata(front: str, wanted: Mapping[str, Any], wrote: Mapping[str, Any]) -> str:
    """Update the generated keys in the text of the metadata; comments and other keys are kept."""
    existing = yaml.safe_load(front) or {}
    merged = dict(existing)
    for key in _LISTS:
        merged[key] = _merge_lists(_as_list(existing.get(key)), _as_list(wanted.get(key)), _as_list(wrote.get(key)))
    if not _license(existing) or _license(existing) == _license(wrote):
        merged |= {**dict.fromkeys(_LICENSE), **_license(wanted)}
    if existing.get("base_model") == wrote.get("base_model"):
        merged["base_model"] = wanted.get("base_model")
    merged[_INDEX] = _merge_index(existing.get(_INDEX), wanted.get(_INDEX))
    merged |= {key: value for key, value in wanted.items() if key not in (*_REMEMBERED, _INDEX)}
    ours = {*_REMEMBERED, _INDEX}
    names = dict.fromkeys((*existing, *wanted, *merged))  # generated keys in the wanted order
    merged = {key: merged[key] for key in names if key not in ours or merged.get(key) not in (None, [])}
    changed = {key: value for key, value in merged.items() if key not in existing or existing[key] != value}
    text = _replace_keys(front, changed, existing.keys() - merged.keys())
    try:
        is_merged = yaml.safe_load(text) == merged
    except yaml.YAMLError:
        is_merged = False
    return text if is_merged else _dump(merged)  # the YAML is formatted such that keys can't be replaced line by line


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _merge_lists(there: list[Any], wanted: list[Any], wrote: list[Any]) -> list[Any]:
    kept = [each for each in there if each in wanted or each not in wrote]
    return [*kept, *(each for each in wanted if each not in kept)]


def _merge_index(there: Any, wanted: Any) -> Any:
    """Replace the generated results in a model index, recognized by their arguments."""
    models = there if isinstance(there, list) else []
    theirs = []
    for model in models:
        kept = [result for result in _results(model) if not _is_ours(result)]
        if kept or not _results(model):
            theirs.append({**model, "results": kept} if kept else model)
    return [*theirs, *(wanted or ())]


def _results(model: Any) -> list[Any]:
    results = model.get("results") if isinstance(model, dict) else None
    return results if isinstance(results, list) else []


def _is_ours(result: Any) -> bool:
    metrics = result.get("metrics") if isinstance(result, dict) else None
    found = [each.get("args") for each in metrics or () if isinstance(each, dict)]
    return bool(found) and all(isinstance(each, dict) and {"features", "reference"} <= set(each) for each in found)


def _replace_keys(front: str, changed: Mapping[str, Any], gone: Any) -> str:
    """Replace the lines of top-level keys; new keys are appended."""
    blocks: list[list[str]] = []
    for line in re.findall(r".*\n", front.replace("\r\n", "\n")):
        if not blocks or re.match(r"[^\s\-]", line):  # a key or a comment, not a continuation of the previous one
            blocks.append([])
        blocks[-1].append(line)
    waiting = dict(changed)
    text = ""
    for block in blocks:
        key = block[0].partition(":")[0].strip().strip("'\"")
        if key in waiting:
            text += _dump({key: waiting.pop(key)})
        elif key not in gone:
            text += "".join(block)
    return text + (_dump(waiting) if waiting else "")


def _dump(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=1_000)


def _merge_body(old: str, new: str) -> str:
    """Put the generated regions in their places among what users wrote."""
    if not old.strip():
        return new
    text = old
    regions = {match[1]: match[0] for match in _REGION.finditer(new)}
    names = list(regions)
    for index, (name, region) in enumerate(regions.items()):
        there = {match[1]: match.span() for match in reversed(list(_REGION.finditer(text)))}
        following = next((there[each] for each in names[index:] if each in there), None)
        if name in there:
            start, end = there[name]
            text = text[:start] + region + text[end:]
        elif index:  # a region that is new, or was removed, goes after the previous one
            at = there[names[index - 1]][1]
            text = f"{text[:at]}\n\n{region}{_break(text[at:])}{text[at:]}"
        elif following:
            at = following[0]
            text = f"{text[:at]}{region}\n\n{text[at:]}"
        else:
            text = f"{text}{_break(text[::-1])}\n{region}\n"
    return text


def _break(neighbor: str) -> str:
    return "" if neighbor.startswith(("\n", "\r\n")) else "\n"
