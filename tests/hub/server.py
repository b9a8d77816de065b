"""A Hugging Face Hub for tests: one process, loopback only, everything in memory.

    with Hub(tokens={"hf_...": "alice"}) as hub:
        subprocess.run([...], env=hub.environment(token="hf_...", cache=tmp_path))

It speaks the part of the Hub's HTTP API that huggingface_hub and datasets use to create repositories, commit, list
and download, and it can be told to fail (``hub.fault``). The Xet protocol is not spoken: clients use plain HTTP.
"""

import base64
import contextlib
import fnmatch
import hashlib
import json
import os
import re
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_NAMES = ["safetensors", "png", "gif", "onnx", "pt2", "parquet", "arrow", "zip", "jpg", "mp4"]
LFS_BYTES = 10_000_000  # larger files go to LFS whatever their name
GITATTRIBUTES = "".join(f"*.{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LFS_NAMES).encode()
SLOW_PIECES, SLOW_SECONDS = 20, 1.0


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


# ---------------------------------------------------------------------------------------------------- repositories


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """Return what git itself stores in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        return _git_oid(self.pointer if self.lfs else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def lfs_info(self, name: str) -> dict:
        info = {name: self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return {"lfs": info} if self.lfs else {}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    files: dict[str, File]
    title: str
    message: str
    author: str
    date: str


@dataclass(frozen=True)
class PullRequest:
    number: int
    title: str
    author: str
    date: str = field(default_factory=_now)


class Repository:
    """Commits and the names that point at them. A new repository has one commit: its .gitattributes."""

    def __init__(self, kind: str, repo_id: str, author: str, private: bool = False, sdk: str | None = None):
        self.kind, self.id, self.private, self.sdk = kind, repo_id, private, sdk
        self.gated = False  # nobody but the owner has accepted its terms
        self.created = _now()
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}  # full git names: refs/heads/main, refs/tags/v1, refs/pr/1
        self.pulls: list[PullRequest] = []
        self.lfs: dict[str, File] = {}  # all uploads, referenced by a commit or not
        self.add_commit("refs/heads/main", {".gitattributes": File(GITATTRIBUTES)}, "initial commit", "", author)

    @property
    def web_path(self) -> str:
        return f"/{'' if self.kind == 'model' else self.kind + 's/'}{self.id}"

    def ref(self, revision: str) -> str | None:
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def find(self, revision: str) -> Commit:
        oid = self.refs.get(self.ref(revision) or "", revision)
        matches = [commit for commit in self.commits.values() if len(oid) >= 7 and commit.oid.startswith(oid)]
        if not matches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return matches[0]

    def history(self, revision: str) -> list[Commit]:
        commits = [self.find(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def add_commit(self, ref: str, files: dict[str, File], title: str, message: str, author: str) -> Commit:
        parent = self.refs.get(ref)
        names = [parent, sorted((path, file.oid) for path, file in files.items()), title, message, len(self.commits)]
        oid = hashlib.sha1(json.dumps(names).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, files, title, message, author, _now())
        self.refs[ref] = oid
        return self.commits[oid]

    def add_pull(self, base: Commit, title: str, author: str) -> PullRequest:
        self.pulls.append(PullRequest(len(self.pulls) + 1, title, author))
        self.refs[f"refs/pr/{len(self.pulls)}"] = base.oid
        return self.pulls[-1]

    def uses_lfs(self, commit: Commit, path: str, size: int) -> bool:
        attributes = commit.files.get(".gitattributes", File(b"")).data.decode().splitlines()
        patterns = [line.split()[0] for line in attributes if "filter=lfs" in line.split()]
        return size >= LFS_BYTES or any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns)


# -------------------------------------------------------------------------------------------------- model cards


def card_metadata(text: str):
    """Return the front matter of a README, between ``---`` lines; None if there is none."""
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    return yaml.safe_load(block[1]) if block else None


def card_errors(text: str) -> list[str]:
    try:
        card = card_metadata(text)
    except yaml.YAMLError as error:
        return [f"metadata is not YAML: {error}"]
    if card is None:
        return []
    if not isinstance(card, dict):
        return ["metadata must be a mapping"]
    errors = [
        f'"{key}" must be a string' for key in ("license", "pipeline_tag") if not isinstance(card.get(key, ""), str)
    ]
    errors += [f'"{key}" must be a list of strings' for key in ("tags", "datasets") if not _strings(card.get(key, []))]
    if card.get("license") == "other" and not _has(card, "license_name"):
        errors.append('"license: other" needs a "license_name"')
    if not _is_list(card.get("model-index", []), _is_model):
        errors.append('"model-index" must be a list of {name, results: [{task, dataset, metrics}]}')
    return errors


def _is_list(value, check: Callable) -> bool:
    return isinstance(value, list) and all(check(item) for item in value)


def _strings(value) -> bool:
    return _is_list(value, lambda item: isinstance(item, str))


def _has(value, *names: str) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in names)


def _is_model(model) -> bool:
    return _has(model, "name") and _is_list(model.get("results"), _is_result)


def _is_result(result) -> bool:
    return (
        isinstance(result, dict)
        and _has(result.get("task"), "type")
        and _has(result.get("dataset"), "type", "name")
        and _is_list(result.get("metrics"), lambda metric: _has(metric, "type") and metric.get("value") is not None)
    )


# ------------------------------------------------------------------------------------------- requests and answers


class Refusal(Exception):  # noqa: N818 -- also used for a 404
    """An error response. The client chooses the exception that its user sees by ``code``."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer.json({"error": message}, status, named | headers)


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content, status: int = 200, headers: dict | None = None) -> "Answer":
        return cls(
            status, json.dumps(content, default=str).encode(), {"Content-Type": "application/json"} | (headers or {})
        )

    @classmethod
    def ranged(cls, data: bytes, wanted: str | None, headers: dict) -> "Answer":
        """Return all of ``data``, or the part requested by a Range header."""
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
        if not span or span.groups() == ("", ""):
            return cls(200, data, headers)
        first, last = span.groups()
        start = int(first) if first else max(len(data) - int(last), 0)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= stop:
            return cls(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        return cls(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


@dataclass
class Call:
    """One request, and the rights of its sender."""

    hub: "Hub"
    method: str
    path: str  # as sent: percent-encoded, with the query
    headers: dict
    body: bytes

    @cached_property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    @cached_property
    def json(self):
        return json.loads(self.body or b"{}")

    @cached_property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    @cached_property
    def user(self) -> str | None:
        users = self.hub.readers | self.hub.tokens
        if self.token and self.token not in users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return users.get(self.token)

    def writer(self, code: str | None = None) -> str:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.", code)
        if self.token not in self.hub.tokens:
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository")
        return self.user

    def repository(self, kind: str, repo_id: str) -> Repository:
        user = self.user  # first: a wrong token is refused even if none is needed
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None or (repository.private and user != repo_id.split("/")[0]):
            # The real Hub sends 401 bare, and the client translates it, but for https addresses only: hence the code.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return repository

    def writable(self, kind: str, repo_id: str, pull_request: bool = False) -> Repository:
        """Return a repository that the sender may write to; anybody may open a pull request."""
        repository = self.repository(kind, repo_id)
        if self.writer("RepoNotFound") != repo_id.split("/")[0] and not pull_request:
            raise Refusal(403, f"You don't have the rights to write to {repo_id}")
        return repository

    def answer(self) -> Answer:
        path = urlsplit(self.path).path.strip("/")
        for method, pattern, endpoint in ENDPOINTS:
            match = re.fullmatch(pattern, path)
            if match and method == ("GET" if self.method == "HEAD" else self.method):
                # Slashes inside a revision arrive as %2F: names are decoded after the path was split.
                names = {name: unquote(value or "") for name, value in match.groupdict().items()}
                if "kind" in names:
                    names["kind"] = names["kind"].removesuffix("/").removesuffix("s") or "model"
                result = endpoint(self, **names)
                return result if isinstance(result, Answer) else Answer.json(result)
        raise Refusal(404, f"this Hub does not know {self.method} {self.path}")


ENDPOINTS: list[tuple[str, str, Callable]] = []
_API = r"api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_WEB = r"(?P<kind>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"


def _endpoint(method: str, pattern: str):
    def add(function: Callable) -> Callable:
        ENDPOINTS.append((method, pattern, function))
        return function

    return add


# ---------------------------------------------------------------------------------- endpoints: users, repositories


@_endpoint("GET", "api/whoami-v2")
def _whoami(call: Call):
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    role = "write" if call.token in call.hub.tokens else "read"
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return {"type": "user", "id": call.user, "name": call.user, "fullname": call.user, "orgs": [], "auth": token}


@_endpoint("POST", "api/validate-yaml")
def _validate_yaml(call: Call):
    errors = card_errors(call.json["content"])
    empty = not errors and not card_metadata(call.json["content"])
    warnings = ["empty or missing yaml metadata in repo card"] if empty else []
    content = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Answer.json(content, 400 if errors else 200)


@_endpoint("POST", "api/repos/create")
def _create(call: Call):
    user, wanted = call.writer(), call.json
    kind, owner = wanted.get("type") or "model", wanted.get("organization") or user
    if owner != user:
        raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    key = (kind, f"{owner}/{wanted['name']}")
    exists = key in call.hub.repositories
    if not exists:
        private = wanted.get("private") or wanted.get("visibility") == "private"
        call.hub.repositories[key] = Repository(*key, user, bool(private), wanted.get("sdk"))
    # The client reads the URL even from a conflict, if called with `exist_ok`.
    content = {"url": call.hub.url + call.hub.repositories[key].web_path, "name": key[1]}
    conflict = {"error": f"You already created this {kind} repo"} if exists else {}
    return Answer.json(content | conflict, 409 if exists else 200)


@_endpoint("DELETE", "api/repos/delete")
def _delete(call: Call):
    key = (call.json.get("type") or "model", f"{call.json.get('organization') or call.writer()}/{call.json['name']}")
    call.writable(*key)
    return {"deleted": call.hub.repositories.pop(key).id}


@_endpoint("PUT", f"{_API}/settings")
def _settings(call: Call, kind: str, repo_id: str):
    repository = call.writable(kind, repo_id)
    visibility = "private" if call.json.get("private", repository.private) else "public"
    repository.private = call.json.get("visibility", visibility) == "private"
    return {"private": repository.private}


# -------------------------------------------------------------------------------------------- endpoints: reading


@_endpoint("GET", f"{_API}(?:/revision/{_REVISION})?")
def _info(call: Call, kind: str, repo_id: str, revision: str):
    repository = call.repository(kind, repo_id)
    commit = repository.find(revision or "main")
    readme = commit.files.get("README.md", File(b"")).data.decode(errors="replace")
    card = (not card_errors(readme) and card_metadata(readme)) or {}
    details = call.query.get("blobs", "").lower() in ("1", "true")
    siblings = []
    for path, file in sorted(commit.files.items()):
        more = {"size": len(file.data), "blobId": file.oid, **file.lfs_info("sha256")} if details else {}
        siblings.append({"rfilename": path, **more})
    info = {"id": repo_id, "author": repo_id.split("/")[0], "sha": commit.oid, "private": repository.private}
    info |= {
        "createdAt": repository.created,
        "lastModified": commit.date,
        "gated": repository.gated and "auto",
        "disabled": False,
    }
    info |= {"downloads": 0, "likes": 0, "tags": card.get("tags", []), "cardData": card, "siblings": siblings}
    if kind == "model":
        info |= {"library_name": card.get("library_name"), "pipeline_tag": card.get("pipeline_tag")}
    return info | ({"sdk": repository.sdk} if kind == "space" else {})


@_endpoint("GET", f"{_API}/auth-check(?P<write>/write)?")
def _auth_check(call: Call, kind: str, repo_id: str, write: str):
    (call.writable if write else call.repository)(kind, repo_id)
    return {}


@_endpoint("GET", f"{_API}/refs")
def _refs(call: Call, kind: str, repo_id: str):
    refs = call.repository(kind, repo_id).refs

    def below(prefix: str, shown: str = "") -> list[dict]:
        found = [(ref, oid) for ref, oid in refs.items() if ref.startswith(prefix)]
        return [{"name": shown + ref.removeprefix(prefix), "ref": ref, "targetCommit": oid} for ref, oid in found]

    pulls = {"pullRequests": below("refs/pr/", "refs/pr/")} if "include_prs" in call.query else {}
    return {"branches": below("refs/heads/"), "tags": below("refs/tags/"), "converts": [], **pulls}


@_endpoint("GET", f"{_API}/commits/{_REVISION}")
def _commits(call: Call, kind: str, repo_id: str, revision: str):
    commits = call.repository(kind, repo_id).history(revision)
    names = [{"id": c.oid, "title": c.title, "message": c.message, "date": c.date} for c in commits]
    return [name | {"authors": [{"user": c.author}]} for name, c in zip(names, commits, strict=True)]


def _nodes(commit: Commit) -> dict[str, dict]:
    """Return everything in a commit by path: its files, and the folders that git only implies."""
    nodes = {}
    for path, file in sorted(commit.files.items()):
        for folder in list(Path(path).parents)[-2::-1]:
            oid = hashlib.sha1(str(folder).encode()).hexdigest()
            nodes[str(folder)] = {"type": "directory", "oid": oid, "size": 0, "path": str(folder)}
        nodes[path] = {"type": "file", "oid": file.oid, "size": len(file.data), "path": path, **file.lfs_info("oid")}
    return nodes


@_endpoint("GET", f"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?")
def _tree(call: Call, kind: str, repo_id: str, revision: str, folder: str):
    nodes = _nodes(call.repository(kind, repo_id).find(revision))
    if folder and nodes.get(folder, {}).get("type") != "directory":
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    everything = call.query.get("recursive", "").lower() in ("1", "true")
    inside = {path.removeprefix(f"{folder}/" if folder else ""): path for path in nodes if _inside(path, folder)}
    return [nodes[path] for name, path in inside.items() if everything or "/" not in name]


def _inside(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


@_endpoint("POST", f"{_API}/paths-info/{_REVISION}")
def _paths_info(call: Call, kind: str, repo_id: str, revision: str):
    nodes = _nodes(call.repository(kind, repo_id).find(revision))
    as_json = "json" in call.headers.get("Content-Type", "")
    paths = call.json["paths"] if as_json else parse_qs(call.body.decode()).get("paths", [])
    return [nodes[path] for path in paths if path in nodes]


@_endpoint("GET", f"{_WEB}/resolve/{_REVISION}/(?P<path>.+)")
def _resolve(call: Call, kind: str, repo_id: str, revision: str, path: str):
    repository = call.repository(kind, repo_id)
    if repository.gated and call.user != repo_id.split("/")[0]:
        raise Refusal(403 if call.user else 401, f"Access to {kind} {repo_id} is restricted", "GatedRepo")
    commit = repository.find(revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
    file = commit.files[path]
    headers["ETag"] = f'"{file.etag}"'
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
    return Answer.ranged(file.data, call.headers.get("Range"), headers)


# -------------------------------------------------------------------------------------------- endpoints: writing


@_endpoint("POST", f"{_API}/preupload/{_REVISION}")
def _preupload(call: Call, kind: str, repo_id: str, revision: str):
    repository = call.writable(kind, repo_id, pull_request="create_pr" in call.query)
    commit = repository.find(revision)
    ignored = [line.strip() for line in call.json.get("gitIgnore", "").splitlines() if line.strip()]
    files = []
    for file in call.json["files"]:
        path, there = file["path"], commit.files.get(file["path"])
        mode = "lfs" if repository.uses_lfs(commit, path, file["size"]) else "regular"
        ignore = any(fnmatch.fnmatch(path, pattern) for pattern in ignored)
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": ignore, "oid": there and there.etag})
    return {"files": files}


@_endpoint("POST", rf"{_WEB}\.git/info/lfs/objects/batch")
def _lfs_batch(call: Call, kind: str, repo_id: str):
    repository = call.writable(kind, repo_id, pull_request=True)  # uploads that are never committed do no harm
    objects = []
    for wanted in call.json["objects"]:
        url = f"{call.hub.url}/lfs/{kind}s/{repo_id}/{wanted['oid']}"
        actions = {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}
        # An object without actions exists already: the client uploads nothing.
        objects.append(wanted if wanted["oid"] in repository.lfs else wanted | {"actions": actions})
    return {"transfer": "basic", "objects": objects}


@_endpoint("PUT", _API.replace("api", "lfs", 1) + r"/(?P<oid>[0-9a-f]{64})")
def _lfs_put(call: Call, kind: str, repo_id: str, oid: str):
    # No rights are checked, as behind the real Hub's signed address: the client sends no token here.
    file = File(call.body, lfs=True)
    if file.sha256 != oid:
        raise Refusal(400, "the bytes do not have this sha256")
    call.hub.repositories[kind, repo_id].lfs[oid] = file
    return Answer()


@_endpoint("POST", _API.replace("api", "lfs", 1) + r"/(?P<oid>[0-9a-f]{64})/verify")
def _lfs_verify(call: Call, kind: str, repo_id: str, oid: str):
    file = call.writable(kind, repo_id, pull_request=True).lfs.get(oid)
    if file is None or len(file.data) != call.json["size"]:
        raise Refusal(404, "no such object, or one of another size")
    return {}


@_endpoint("POST", f"{_API}/commit/{_REVISION}")
def _commit(call: Call, kind: str, repo_id: str, revision: str):
    as_pull = "create_pr" in call.query
    repository = call.writable(kind, repo_id, as_pull)
    base, ref = repository.find(revision), repository.ref(revision)
    operations = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = operations.pop(0)["value"]
    if header.get("parentCommit") not in (None, base.oid):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = _apply(operations, repository, base)
    pull = {}
    if as_pull:
        number = repository.add_pull(base, header["summary"], call.user).number
        ref, pull = f"refs/pr/{number}", {"pullRequestUrl": f"{call.hub.url}{repository.web_path}/discussions/{number}"}
    elif ref is None or ref.startswith("refs/tags/"):
        raise Refusal(400, f"{revision} is not a branch")
    commit = repository.add_commit(ref, files, header["summary"], header.get("description", ""), call.user)
    url = f"{call.hub.url}{repository.web_path}/commit/{commit.oid}"
    return {"success": True, "commitOid": commit.oid, "commitUrl": url, **pull}


def _apply(operations: list[dict], repository: Repository, base: Commit) -> dict[str, File]:
    """Return the files of ``base`` after the operations of a commit: all of them, or a refusal."""
    files = dict(base.files)
    for operation in operations:
        key, value = operation["key"], operation["value"]
        path = value["path"].strip("/")
        if key == "file":
            files[path] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in repository.lfs:
                raise Refusal(400, f"{path}: its LFS object was never uploaded")
            files[path] = repository.lfs[value["oid"]]
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or (key == "deletedFolder" and _inside(name, path))]
            if not gone:
                raise Refusal(404, f"{path} does not exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refusal(400, f"unknown operation {key}")
    return files


@_endpoint("POST", f"{_API}/branch/(?P<name>[^/]+)")
def _create_branch(call: Call, kind: str, repo_id: str, name: str):
    return _create_ref(call, kind, repo_id, f"refs/heads/{name}", call.json.get("startingPoint") or "main")


@_endpoint("POST", f"{_API}/tag/{_REVISION}")
def _create_tag(call: Call, kind: str, repo_id: str, revision: str):
    return _create_ref(call, kind, repo_id, f"refs/tags/{call.json['tag']}", revision)


def _create_ref(call: Call, kind: str, repo_id: str, ref: str, revision: str):
    repository = call.writable(kind, repo_id)
    if ref in repository.refs:
        raise Refusal(409, f"Reference already exists: {ref}")
    repository.refs[ref] = repository.find(revision).oid
    return {}


@_endpoint("DELETE", f"{_API}/(?P<what>branch|tag)/(?P<name>[^/]+)")
def _delete_ref(call: Call, kind: str, repo_id: str, what: str, name: str):
    ref = f"refs/{'heads' if what == 'branch' else 'tags'}/{name}"
    if call.writable(kind, repo_id).refs.pop(ref, None) is None:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return {}


@_endpoint("GET", rf"{_API}/discussions/(?P<number>\d+)")
def _discussion(call: Call, kind: str, repo_id: str, number: str):
    pulls = call.repository(kind, repo_id).pulls
    if not 1 <= int(number) <= len(pulls):
        raise Refusal(404, f"no discussion {number}", "EntryNotFound")
    pull = pulls[int(number) - 1]
    details = {"title": pull.title, "num": pull.number, "author": {"name": pull.author}, "createdAt": pull.date}
    details |= {"status": "open", "isPullRequest": True, "events": [], "filesWithConflicts": [], "diff": ""}
    return details | {"repo": {"name": repo_id, "type": kind}, "changes": {"base": "refs/heads/main"}}


# --------------------------------------------------------------------------------------------------- the server


@dataclass
class Fault:
    method: str
    pattern: str
    action: str | int | Callable[[], object]
    left: int | None  # None: unlimited

    def applies(self, method: str, path: str) -> bool:
        return self.left != 0 and method == self.method and re.search(self.pattern, path) is not None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body leave in two writes: 40 ms a request otherwise
    server: "_Server"

    def log_message(self, *args) -> None:
        pass

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline() or b"bad", 16):
            pieces.append(self._read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the client went away, or this server was stopped")
        return data

    def _serve(self) -> None:
        hub = self.server.hub
        call = Call(hub, self.command, self.path, self.headers, self._read_body())
        action = hub.take_fault(call.method, call.path)
        if callable(action):
            action()
        answer = None
        if action != "drop" and not self.server.stopped.is_set():
            answer = Refusal(action, "a fault").answer if isinstance(action, int) else hub.answer(call)
        if answer is None or action == "drop_after":
            self.close_connection = True
            hub.requests.append((call.method, call.path, 0))
            return
        hub.requests.append((call.method, call.path, answer.status))  # first: its receiver may look here
        self._send(answer, action)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _send(self, answer: Answer, action) -> None:
        body = answer.body
        half = body[: len(body) // 2]
        if action == "corrupt":
            body = half + bytes(byte ^ 0xFF for byte in body[len(half) : len(half) + 8]) + body[len(half) + 8 :]
        elif action == "truncate_silently":
            body = half
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if action == "truncate":
            body, self.close_connection = half, True
        pieces = SLOW_PIECES if action == "slow" else 1
        step = max(1, -(-len(body) // pieces))
        for start in range(0, len(body), step):
            if action == "slow" and self.server.stopped.wait(SLOW_SECONDS / SLOW_PIECES):
                raise ConnectionError("this server was stopped")
            self.wfile.write(body[start : start + step])


class _Server(ThreadingHTTPServer):
    block_on_close = False  # a request's own thread may stop the server: it cannot wait for itself

    def __init__(self, hub: "Hub", port: int):
        self.hub, self.stopped = hub, threading.Event()
        self.open: dict[socket.socket, threading.Thread | None] = {}
        super().__init__(("127.0.0.1", port), _Handler)
        self.loop = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.loop.start()

    def process_request_thread(self, request, client_address) -> None:
        self.open[request] = threading.current_thread()
        super().process_request_thread(request, client_address)

    def process_request(self, request, client_address) -> None:
        self.open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        super().shutdown_request(request)
        self.open.pop(request, None)

    def handle_error(self, request, client_address) -> None:
        """Ignore errors: these tests disconnect clients on purpose."""

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.loop.join()
        self.server_close()
        for connection, thread in list(self.open.items()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            if thread not in (None, threading.current_thread()):
                thread.join(5)


class Hub:
    """The server and its data, which outlive ``stop()``: ``start()`` serves them again at the same address.

    Args:
        tokens: Token -> user name, for tokens that may write.
        readers: Token -> user name, for tokens that may only read.
        port: Port on the loopback interface, 0 for a free one.
    """

    def __init__(self, tokens: dict[str, str] | None = None, readers: dict[str, str] | None = None, port: int = 0):
        self.tokens, self.readers, self.port = tokens or {}, readers or {}, port
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[tuple[str, str, int]] = []  # method, path, status; 0 without a response
        self.errors: list[str] = []  # tracebacks of this server's own bugs
        self.faults: list[Fault] = []
        self.faults_used = 0
        self._lock = threading.RLock()
        self._server: _Server | None = None

    def start(self) -> "Hub":
        self._server = _Server(self, self.port)
        self.port = self._server.server_port
        return self

    def stop(self) -> None:
        """Stop listening and break every open connection."""
        if self._server:
            self._server.stop()
            self._server = None

    __enter__ = start

    def __exit__(self, *error) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, token: str | None = None, *, cache: Path) -> dict[str, str]:
        """Return the environment of a client's process: this one's, with the Hub's variables replaced."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        hub = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_TOKEN": token or "", "HF_HUB_OFFLINE": "0"}
        quiet = dict.fromkeys(("TELEMETRY", "PROGRESS_BARS", "XET", "UPDATE_CHECK"), "1")
        return kept | hub | {f"HF_HUB_DISABLE_{name}": on for name, on in quiet.items()} | {"NO_PROXY": "127.0.0.1"}

    def answer(self, call: Call) -> Answer:
        with self._lock:
            try:
                return call.answer()
            except Refusal as refusal:
                return refusal.answer
            except Exception:
                self.errors.append(traceback.format_exc())
                return Refusal(500, "this server made a mistake: see hub.errors").answer

    def fault(self, method: str, pattern: str, action: str | int | Callable[[], object], times: int | None = 1) -> None:
        """Make the next matching requests fail.

        Args:
            method: HTTP method; HEAD and GET are two.
            pattern: Regular expression, searched in the path with its query.
            action: A status to answer; a function to call first; or a name. ``drop`` closes without an answer and
                ``drop_after`` does the work first; ``truncate`` sends half of the body it announced,
                ``truncate_silently`` announces that half; ``corrupt`` flips bytes; ``slow`` trickles.
            times: How many requests, None for all.
        """
        names = ("drop", "drop_after", "truncate", "truncate_silently", "corrupt", "slow")
        if isinstance(action, str) and action not in names:
            raise ValueError(f"action {action!r} is none of {', '.join(names)}")
        with self._lock:
            self.faults.append(Fault(method, pattern, action, times))

    def take_fault(self, method: str, path: str) -> str | int | Callable[[], object] | None:
        with self._lock:
            fault = next((fault for fault in self.faults if fault.applies(method, path)), None)
            if fault is None:
                return None
            self.faults_used += 1
            fault.left = fault.left and fault.left - 1
            return fault.action

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        with self._lock:
            files = self.repositories[kind, repo_id].find(revision).files
            return {path: file.data for path, file in files.items()}

    def head(self, repo_id: str, revision: str = "main", kind: str = "model") -> str:
        with self._lock:
            return self.repositories[kind, repo_id].find(revision).oid

    def commit(
        self,
        repo_id: str,
        files: dict[str, bytes | None],
        message: str = "Commit of somebody else",
        kind: str = "model",
        revision: str = "main",
    ) -> str:
        """Commit as another user; None deletes a file. Creates repository and branch; returns the commit's oid."""
        author = repo_id.split("/")[0]
        with self._lock:
            repository = self.repositories.setdefault((kind, repo_id), Repository(kind, repo_id, author))
            ref = repository.ref(revision) or f"refs/heads/{revision}"
            repository.refs.setdefault(ref, repository.refs["refs/heads/main"])
            base = repository.find(ref)
            after = dict(base.files)
            for path, data in files.items():
                if data is None:
                    del after[path]
                else:
                    after[path] = File(data, repository.uses_lfs(base, path, len(data)))
                    repository.lfs |= {after[path].sha256: after[path]} if after[path].lfs else {}
            return repository.add_commit(ref, after, message, "", author).oid
