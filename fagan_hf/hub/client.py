"""The only module that talks to the Hub: downloads of one commit, uploads as one commit, readable errors."""

import inspect
import json
import logging
import os
import random
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from fagan_hf.utils.redaction import redact

logger = logging.getLogger(__name__)

MOVED = 412  # HTTP: another commit was made in between
RETRYABLE_STATUSES = {408, 425, 429, 500, 502, 503, 504}
MAY_HAVE_LANDED = {500, 502, 504}  # sent by a proxy or gateway: the request may have succeeded anyway
TRIES_AT_ONCE = 3  # immediate retries after a conflicting commit; further ones pause first
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"

Content = Path | bytes | None  # None: the file is deleted
Kind = Literal["model", "space"]
SPACE_SDK = "static"  # of the Spaces that we create: files, without a server of their own


class TemporaryHubError(ConnectionError):
    """The Hub can't be reached or is temporarily unavailable."""


class _MovedError(TemporaryHubError):
    """The branch has moved on from the commit that was read."""


def download(
    repo_id: str,
    *,
    allow_patterns: list[str],
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Download files of a repository, all from one commit.

    Args:
        repo_id: ``user/name``.
        allow_patterns: Names of the files, with ``*`` as a wildcard.
        revision: Branch, tag or commit; by default ``main``.
        token: Access token; by default the one stored by ``hf auth login``.
        cache_dir: Folder of downloads; by default the Hub's own cache.
        force_download: Download even files that are in the cache.
        local_files_only: Use only files that are in the cache.

    Returns:
        The folder of that commit in the cache; it may also contain files of earlier downloads.

    Raises:
        FileNotFoundError: There is no such repository or revision, or it can't be reached; says what to try.
        PermissionError: It is gated, or the token is not valid for it; says what to try.
        OSError: The files can't be written to the local disk.
    """
    token = _checked(token) if isinstance(token, str) else token
    local = find_local(repo_id)
    if local is not None and local.is_file():
        raise FileNotFoundError(
            f"{repo_id!r} is a file; give a run folder or a Hub id like 'user/name'. To convert a checkpoint of "
            "attn-gan-pytorch, use `fagan-hf convert`."
        )
    try:
        return Path(
            snapshot_download(
                repo_id,
                allow_patterns=allow_patterns,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        )
    except (OSError, ValueError, *_CONNECTION_ERRORS) as error:  # the client's own errors are among these
        if _is_local(error):
            raise OSError(
                f"{repo_id!r} could not be written to the cache ({cache_dir or constants.HF_HUB_CACHE}): "
                f"{_reason(error, token)}. Free some space there, or choose another folder with cache_dir or HF_HOME"
            ) from error
        advice = _advice(error, repo_id, revision, token)
        if _is_refused(error):
            raise PermissionError(
                f"{repo_id!r} can't be read from the Hub: {advice}. The Hub client's error: {_reason(error, token)}."
            ) from error
        raise FileNotFoundError(
            f"{repo_id!r} is not a local folder (in {os.getcwd()}){_similar(repo_id)} and was not found on the Hub. "
            f"Give the path of a run folder or a Hub id like 'user/name'; {advice}. "
            f"The Hub client's error: {_reason(error, token)}."
        ) from error


def _is_local(error: Exception) -> bool:
    """Return whether an error comes from the local disk, such as a full one, not from the client or the network."""
    # Errors of the operating system have an errno; the client's, such as a failed length check, have none.
    is_of_system = isinstance(error, OSError) and error.errno is not None
    return is_of_system and not isinstance(error, _CONNECTION_ERRORS)


def find_local(name: str) -> Path | None:
    """Return the local folder or file of that name, if it exists."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError):  # too long for a path, or ~ of an unknown user
        return None


def _similar(name: str) -> str:
    try:
        folders = [str(each) for each in Path(name).expanduser().parent.glob("*") if each.is_dir()]
    except (OSError, RuntimeError):
        return ""
    nearest = get_close_matches(name, folders, n=1, cutoff=0.7)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _checked(token: str) -> str:
    """Refuse a token that is not valid in a header: the HTTP library's error would print it."""
    token = token.strip()  # if read from a file, it ends with a newline
    if not re.fullmatch(r"[!-~]*", token):
        raise ValueError("the token contains an invalid character; copy it again")
    return token


def _is_refused(error: BaseException | None) -> bool:
    """Return whether a repository exists, as far as the Hub says, but may not be read with this token."""
    if isinstance(error, LocalEntryNotFoundError):
        return _is_refused(error.__cause__)
    if isinstance(error, GatedRepoError):
        return True
    is_of_token = isinstance(error, HfHubHTTPError) and _status(error) in (401, 403)
    return is_of_token and not isinstance(error, RepositoryNotFoundError | DisabledRepoError)


def _advice(error: Exception, repo_id: str, revision: str | None, token: str | bool | None) -> str:
    """Return what to try after a failed download."""
    if isinstance(error, LocalEntryNotFoundError):  # the cache was the fallback, unless only the cache was allowed
        if error.__cause__ is None or isinstance(error.__cause__, OfflineModeIsEnabled):
            return (
                "the cache is incomplete: load it once with a connection, without local_files_only and HF_HUB_OFFLINE"
            )
        return _advice(error.__cause__, repo_id, revision, token)  # pyright: ignore[reportArgumentType]
    if isinstance(error, HFValidationError):
        return "a Hub id may contain only letters, digits, '-', '_' and '.', and a revision follows as 'user/name@v1'"
    if isinstance(error, RevisionNotFoundError):
        return f"the repository exists, but has no branch, tag or commit {revision!r}"
    if isinstance(error, DisabledRepoError):
        return "the Hub has disabled this repository: ask its owner, or use another model"
    if isinstance(error, HfHubHTTPError):
        if _status(error) in RETRYABLE_STATUSES:
            return "the Hub has a server error: try again later"
        return _advice_on_access(error, repo_id, is_logged_in=_has_token(token))
    if isinstance(error, ValueError):
        return f"the server at {constants.ENDPOINT} does not respond like the Hub: is there a proxy or a login page?"
    return "there is no connection, or it was interrupted: try again"


def _has_token(token: str | bool | None) -> bool:
    return token is not False and isinstance(token if isinstance(token, str) else get_token(), str)


_WHOSE = "`hf auth whoami` shows whose token it is"


def _advice_on_access(error: HfHubHTTPError, repo_id: str, *, is_logged_in: bool) -> str:
    """Return what to try if the Hub doesn't show a repository: gated, a bad token, or else missing or private."""
    if isinstance(error, GatedRepoError):
        terms = f"it is gated: accept its terms at {constants.ENDPOINT}/{repo_id}"
        if not is_logged_in:
            return f"{terms}, then {LOGIN}"
        return (
            f"{terms} with the account of your token ({_WHOSE}); if you did, its authors may still have to approve, or "
            "the token must be allowed to read gated repositories"
        )
    if not isinstance(error, RepositoryNotFoundError) and _status(error) == 401 and is_logged_in:
        return f"your token is not valid, it may have expired: {LOGIN}; public models need none (token=False)"
    if not isinstance(error, RepositoryNotFoundError) and _status(error) == 403:
        return (
            f"your token may not read it ({_WHOSE}): create one with read access to it at "
            f"{constants.ENDPOINT}/settings/tokens"
        )
    if not is_logged_in:
        return f"check the spelling; if it is private, {LOGIN}"
    return f"check the spelling; if it is private, your token must have read access ({_WHOSE})"


def list_files(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> list[str] | None:
    """List the files of a repository, for error messages; ``None`` if the Hub can't be reached."""
    token = _checked(token) if isinstance(token, str) else token
    try:
        # Not list_repo_files, which retries for 20 seconds without a connection.
        info = HfApi().model_info(repo_id, revision=revision, token=token)
    except (OSError, ValueError, *_CONNECTION_ERRORS):
        return None
    return sorted(file.rfilename for file in info.siblings or ())


def download_size(
    repo_id: str, *, allow_patterns: list[str], revision: str | None = None, token: str | bool | None = None
) -> int:
    """Return the size of what `download` would fetch, without fetching it [bytes].

    Raises:
        FileNotFoundError: There is no such repository, or the Hub can't be reached.
    """
    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, token=token)
    except (OSError, ValueError, *_CONNECTION_ERRORS) as error:
        raise FileNotFoundError(
            f"{repo_id!r} could not be read from the Hub; {_advice(error, repo_id, revision, token)}. "
            f"The Hub client's error: {_reason(error, token)}."
        ) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return sum(sizes[name] for name in filter_repo_objects(sizes, allow_patterns=allow_patterns))


@dataclass(frozen=True)
class Existing:
    """Contents of a repository before a push.

    Attributes:
        repo_id: Full id, ``user/name``.
        commit: Parent commit of the push.
        hashes: SHA-256 of each large file, git hash of each small one, by path.
        texts: Contents of the requested small files that exist, by path.
    """

    repo_id: str
    commit: str
    hashes: Mapping[str, str]
    texts: Mapping[str, str]


def make_repository(
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    for_pull_request: bool = False,
    kind: Kind = "model",
) -> str:
    """Make sure that a repository exists and that the token may write to it.

    Args:
        repo_id: ``user/name``, or a name in the account of the token.
        private: Whether to make a new repository private; an existing one is not changed.
        token: Access token; by default the one stored by ``hf auth login``.
        for_pull_request: Whether read access is enough, as for opening a pull request.
        kind: Repository of a model, or a static Space.

    Returns:
        Full id, ``user/name``.

    Raises:
        PermissionError: There is no token, or it lacks write access; says what to try.
        ValueError: ``repo_id`` is not a valid repository name, or the repository is public but a private one was
            requested.
        TemporaryHubError: The Hub can't be reached or is temporarily unavailable.
    """
    token = _token_to_push(repo_id, token)
    api = HfApi(token=token)
    with _in_words(repo_id, token):
        if for_pull_request:  # impossible in a repository that does not exist
            return _info(api, kind, repo_id).id
        sdk = SPACE_SDK if kind == "space" else None
        made = api.create_repo(repo_id, private=private, exist_ok=True, repo_type=kind, space_sdk=sdk)
        full_id = made.repo_id
        _check_write(api, kind, full_id)
        is_public = bool(private) and _info(api, kind, full_id).private is False
    if is_public:
        page = f"{constants.ENDPOINT}/{'spaces/' if kind == 'space' else ''}{full_id}"
        raise ValueError(
            f"{full_id!r} already exists and is public; --private, --hub_private and private=True apply to new "
            f"repositories only. Make it private at {page}/settings first, or leave the option "
            "out to publish there"
        )
    return full_id


def _token_to_push(repo_id: str, token: str | bool | None) -> str:
    found = get_token() if token is None or token is True else token
    if not isinstance(found, str) or not found:
        raise PermissionError(f"no token to push to {repo_id!r}: {LOGIN}")
    return _checked(found)


# Newer than the oldest supported version of the client.
_CAN_ASK_FOR_WRITE = "write" in inspect.signature(HfApi.auth_check).parameters


def _info(api: HfApi, kind: Kind, repo_id: str, **options: Any) -> Any:
    """Return what the Hub knows about a repository."""
    read = api.space_info if kind == "space" else api.model_info
    return read(repo_id, **options)


def _check_write(api: HfApi, kind: Kind, repo_id: str) -> None:
    """Check that the token has write access: for an existing repository `create_repo` needs read access only."""
    if not _CAN_ASK_FOR_WRITE:
        return
    try:
        api.auth_check(repo_id, write=True, repo_type=kind)
    except HfHubHTTPError as error:  # a mirror may lack this endpoint; then the commit itself fails
        if _status(error) != 404 or isinstance(error, RepositoryNotFoundError):
            raise


def push(
    repo_id: str,
    compose: Callable[[Existing], Mapping[str, Content]],
    *,
    message: str,
    reads: Collection[str] = (),
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    patience_seconds: float = 60.0,
    hurry: threading.Event | None = None,
    kind: Kind = "model",
) -> str:
    """Make one commit on top of the current contents; retry if another commit came first.

    Args:
        repo_id: ``user/name``; the repository is created if missing.
        compose: Called with the contents of the repository; returns the new content of files by path.
        message: Commit message; tokens in it are redacted.
        reads: Small files of the repository that `compose` reads.
        private: Whether to make a new repository private.
        token: Access token; by default the one stored by ``hf auth login``.
        revision: Branch to commit to, created if missing; by default ``main``.
        create_pr: Open a pull request instead of committing.
        patience_seconds: Maximum total wait between retries while the Hub is unreachable; upload time is not counted.
        hurry: When set, ends the current wait.
        kind: Repository of a model, or a static Space.

    Returns:
        URL of the commit, or of the pull request.

    Raises:
        PermissionError: There is no token, or it lacks write access; says what to try.
        ValueError: A name is invalid, the revision is a tag or a commit, the repository is public but a private one was
            requested, or `compose` raised it.
        TemporaryHubError: The Hub was still unreachable after `patience_seconds`.
        ConnectionError: It is unknown whether the pull request was opened.
    """
    token = _token_to_push(repo_id, token)
    api = HfApi(token=token)
    pauses = _Pauses(patience_seconds, hurry or threading.Event())
    while True:
        try:
            full_id = make_repository(repo_id, private=private, token=token, for_pull_request=create_pr, kind=kind)
            with _in_words(repo_id, token):
                _make_branch(api, kind, full_id, revision)
                existing = _look(api, kind, full_id, revision, reads)
            contents = compose(existing)
            with _unrepeatable(full_id) if create_pr else nullcontext(), _in_words(repo_id, token):
                return _commit(api, kind, existing, contents, redact(message, token), revision, create_pr)
        except TemporaryHubError as error:
            pauses.before_next_try(error)


class _Pauses:
    """Exponential backoff between retries, up to a total waiting time."""

    def __init__(self, patience_seconds: float, hurry: threading.Event):
        self._left = patience_seconds
        self._hurry = hurry
        self._next = FIRST_PAUSE_SECONDS
        self._moved = 0

    def before_next_try(self, error: TemporaryHubError) -> None:
        """Wait, or raise the error if the time is used up."""
        if isinstance(error, _MovedError):
            self._moved += 1
            if self._moved < TRIES_AT_ONCE:
                logger.info("%s: retrying on top of the new commit", error)
                return
        if self._next > self._left:
            raise error
        logger.warning("%s; retrying in %.0f seconds", error, self._next)
        # The jitter keeps runs that lost the same server from retrying simultaneously.
        if self._hurry.wait(self._next * random.uniform(0.8, 1.2)):
            raise error
        self._left -= self._next
        self._next = min(2 * self._next, LONGEST_PAUSE_SECONDS)


def _make_branch(api: HfApi, kind: Kind, repo_id: str, revision: str | None) -> None:
    """Create the branch if missing; refuse the name of a tag or commit, which must not get a branch of that name."""
    if revision is None or re.match(r"refs/(?!tags/)", revision):
        return
    refs = api.list_repo_refs(repo_id, repo_type=kind)
    if revision in (branch.name for branch in refs.branches):
        return
    is_tag = revision in (name for tag in refs.tags for name in (tag.name, tag.ref))
    if is_tag or re.fullmatch(r"[0-9a-f]{40}", revision):
        what = "tag" if is_tag else "commit"
        names = ", ".join(branch.name for branch in refs.branches)
        raise ValueError(f"{revision!r} is a {what} of {repo_id!r}; give a branch, either a new one or one of: {names}")
    api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=kind)


def _look(api: HfApi, kind: Kind, repo_id: str, revision: str | None, reads: Collection[str]) -> Existing:
    info = _info(api, kind, repo_id, revision=revision, files_metadata=True)
    hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id or "" for file in info.siblings or ()}
    commit = info.sha or ""
    texts: dict[str, str] = {}
    # Not through the cache: a single file there would be mistaken for a snapshot of the commit.
    with TemporaryDirectory() as folder:
        for name in filter(hashes.__contains__, reads):
            path = api.hf_hub_download(repo_id, name, revision=commit, local_dir=folder, repo_type=kind)
            texts[name] = Path(path).read_bytes().decode("utf-8", errors="surrogateescape")
    return Existing(repo_id, commit, hashes, texts)


def _commit(
    api: HfApi,
    kind: Kind,
    existing: Existing,
    contents: Mapping[str, Content],
    message: str,
    revision: str | None,
    create_pr: bool,
) -> str:
    operations = [
        CommitOperationDelete(path) if content is None else CommitOperationAdd(path, _as_source(content))
        for path, content in contents.items()
        if content is not None or path in existing.hashes
    ]
    info = api.create_commit(
        existing.repo_id,
        operations,
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
        parent_commit=existing.commit,
        repo_type=kind,
    )
    return info.pr_url or info.commit_url


def _as_source(content: Path | bytes) -> str | bytes:
    return str(content) if isinstance(content, Path) else content


@contextmanager
def _unrepeatable(repo_id: str) -> Iterator[None]:
    """Turn a lost response to a new pull request into an error, because a retry might open a second one."""
    try:
        yield
    except TemporaryHubError as error:
        cause = error.__cause__
        address = _address(cause)
        is_refused = isinstance(cause, HfHubHTTPError) and _status(cause) not in MAY_HAVE_LANDED
        if is_refused or (address and "/commit/" not in address):  # or it failed earlier, during the upload
            raise
        raise ConnectionError(
            f"{error}. The pull request may have been opened anyway: check "
            f"{constants.ENDPOINT}/{repo_id}/discussions, and push again only if it is not there"
        ) from error


def _address(error: BaseException | None) -> str:
    """Return the URL of the failed request, if known."""
    try:
        return str(error.request.url)  # pyright: ignore
    except (AttributeError, RuntimeError):  # the HTTP library raises the latter if it is unknown
        return ""


@contextmanager
def _in_words(repo_id: str, token: str) -> Iterator[None]:
    """Turn the client's errors into ours: temporary ones, and ones that the user has to fix."""
    try:
        try:
            yield
        # The client raises this when the upload of a large file fails, or when a response is missing.
        except (RuntimeError, LocalEntryNotFoundError) as error:
            raise error.__cause__ or error from error
    except OfflineModeIsEnabled as error:
        raise PermissionError(f"can't push to {repo_id!r} while HF_HUB_OFFLINE is set; unset it") from error
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is not a valid repository name: {_reason(error, token)}") from error
    except HfHubHTTPError as error:
        raise _refusal(error, repo_id, token) from error
    except _CONNECTION_ERRORS as error:
        reason = f"{type(error).__name__}: {_reason(error, token)}"
        raise TemporaryHubError(f"no connection to the Hub for {repo_id!r} ({reason})") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        if _is_local(error):
            raise
        reason = f"{type(error).__name__}: {_reason(error, token)}"
        raise TemporaryHubError(f"the Hub's response for {repo_id!r} is incomplete ({reason})") from error


def _refusal(error: HfHubHTTPError, repo_id: str, token: str) -> Exception:
    """Turn an error response of the Hub into an exception with a readable message."""
    status, reason = _status(error), _reason(error, token)
    if status == MOVED:
        return _MovedError(f"{repo_id!r} has received another commit since it was read")
    if status in RETRYABLE_STATUSES:
        return TemporaryHubError(f"the Hub answered {status} for {repo_id!r}: {reason}")
    if status == 401:
        return PermissionError(f"the token is not valid for {repo_id!r}: {LOGIN}. The Hub says: {reason}")
    if status == 403:
        return PermissionError(
            f"the token may not write to {repo_id!r} (`hf auth whoami` shows whose token it is): create one with write "
            f"access at {constants.ENDPOINT}/settings/tokens, or push to your own account. The Hub says: {reason}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return PermissionError(f"{repo_id!r} does not exist, or this token can't see it: {reason}")
    return ValueError(f"the Hub rejected the push to {repo_id!r}: {reason}")


def _connection_errors() -> tuple[type[Exception], ...]:
    """Find the connection errors of the client's HTTP library, which has changed between versions."""
    library = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return library, ConnectionError, TimeoutError


_CONNECTION_ERRORS = _connection_errors()


def _status(error: HfHubHTTPError) -> int | None:
    return getattr(error.response, "status_code", None)


def _reason(error: Exception, token: str | bool | None) -> str:
    """Return a client's message in one line, without tokens and without the request id."""
    text = re.sub(r"\(Request ID: [^)]*\)", "", str(error))
    return redact(" ".join(text.split()).rstrip("."), token) or type(error).__name__
