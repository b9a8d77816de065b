"""Keep access tokens out of everything that is written or printed."""

import re

from huggingface_hub import get_token

_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:hf_oauth_[A-Za-z0-9._-]{16,}|(?:hf|api_org)_[A-Za-z0-9]{16,})")
# A long word with a digit after `token=`, of any form; excludes `token=os.environ[...]` and `token=my_token`.
_GIVEN = re.compile(r"(token=[\"']?)(?=[A-Za-z_.-]*\d)[A-Za-z0-9._-]{20,}", re.IGNORECASE)
_HIDDEN = "REMOVED-TOKEN"  # plain letters: brackets are special in YAML and Markdown


def redact(text: str, token: str | bool | None = None) -> str:
    """Replace access tokens in a text: the given one, the stored one, and anything that looks like one.

    Args:
        text: An error message, a command line, a card.
        token: A token that may not have the usual form.
    """
    for known in (token, get_token()):
        if isinstance(known, str) and known:
            text = text.replace(known, _HIDDEN)
    return _GIVEN.sub(rf"\1{_HIDDEN}", _TOKEN.sub(_HIDDEN, text))
