"""Keep access tokens out of everything that is written or printed."""

import re

from huggingface_hub import get_token

_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{16,}")
_HIDDEN = "REMOVED-TOKEN"  # plain letters: brackets mean something to YAML and Markdown


def redact(text: str, token: str | bool | None = None) -> str:
    """Replace access tokens in a text: the given one, the stored one, and whatever has a token's form.

    Args:
        text: An error message, a command line, a card.
        token: One that may not have a token's form.
    """
    for known in (token, get_token()):
        if isinstance(known, str) and known:
            text = text.replace(known, _HIDDEN)
    return _TOKEN.sub(_HIDDEN, text)
