"""A stand-in for `fagan_hf.hub.client.push` that commits into a folder; tests/hub has a server and real clients."""

import hashlib
from pathlib import Path

from fagan_hf.hub.client import Existing


class FolderHub:
    """Keeps a model in ``<root>/user/name``, a Space in ``<root>/spaces/user/name``; `messages` has their commits."""

    def __init__(self, root):
        self.root = Path(root)
        self.messages = []

    def push(self, repo_id, compose, *, message, reads=(), kind="model", **_):
        folder = self.root / ("spaces" if kind == "space" else "") / repo_id
        paths = [path for path in folder.rglob("*") if path.is_file()]
        hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        texts = {name: (folder / name).read_text() for name in reads if name in hashes}
        existing = Existing(repo_id, "0" * 40, hashes, texts)
        for name, content in compose(existing).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        self.messages.append(message)
        return f"folder://{repo_id}/{len(self.messages)}"
