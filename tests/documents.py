"""Code in documents: fenced blocks and commands."""

import re
import shlex
from pathlib import Path


def blocks(document: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[list[str]]:
    """Return the commands of all bash blocks, split into words; a backslash joins lines, a # starts a comment."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
