"""The one place that talks to the Hub: a snapshot of one commit comes down, one commit goes up, errors in words."""

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

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
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

MOVED = 412  # HTTP: somebody else committed in between
RETRYABLE_STATUSES = {408, 425, 429, 500, 502, 503, 504}
MAY_HAVE_LANDED = {500, 502, 504}  # said by whoever waited for an answer: what was asked for may be done all the same
TRIES_AT_ONCE = 3  # after somebody else's commit; from then on with pauses
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"

Content = Path | bytes | None  # None: it is deleted


class TemporaryHubError(ConnectionError):
    """The Hub can't be reached, or can't answer now; later it may."""


class _MovedError(TemporaryHubError):
    """The branch has another commit than the one that was read."""


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
    """Fetch files of a repository, all of one commit.

    Args:
        repo_id: ``user/name``.
        allow_patterns: Names of the files, with ``*`` for any letters.
        revision: Branch, tag or commit; by default ``main``.
        token: Access token; by default the one that ``hf auth login`` stored.
        cache_dir: Where downloads are kept; by default the Hub's own cache.
        force_download: Download even what is in the cache.
        local_files_only: Use only what is in the cache.

    Returns:
        The folder of that commit in the cache; it may hold other files of an earlier download too.

    Raises:
        FileNotFoundError: There is no such repository or revision, or it can't be reached; says what to try.
        OSError: It can't be written to the disk here.
    """
    token = _checked(token) if isinstance(token, str) else token
    local = find_local(repo_id)
    if local is not None and local.is_file():
        raise FileNotFoundError(
            f"{repo_id!r} is a file; give the folder of a run or a Hub id like 'user/name'. A checkpoint of "
            "attn-gan-pytorch is brought over by `fagan-hf convert`."
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
                f"{repo_id!r} could not be kept in the cache ({cache_dir or constants.HF_HUB_CACHE}): "
                f"{_reason(error, token)}. Make room there or name another folder by cache_dir or HF_HOME"
            ) from error
        raise FileNotFoundError(
            f"{repo_id!r} is not a local folder (in {os.getcwd()}){_similar(repo_id)} and was not found on the Hub. "
            f"Give the path of a run folder or a Hub id like 'user/name'; {_advice(error, revision, token)}. "
            f"The Hub client's error: {_reason(error, token)}."
        ) from error


def _is_local(error: Exception) -> bool:
    """Tell a full disk or a folder that can't be written to from what the client and the network say."""
    # The operating system numbers its errors; the client's own, such as a failed check of a length, have no number.
    is_of_system = isinstance(error, OSError) and error.errno is not None
    return is_of_system and not isinstance(error, _CONNECTION_ERRORS)


def find_local(name: str) -> Path | None:
    """Find the folder or file of that name, if there is one."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError):  # too long for a path, or ~ of nobody
        return None


def _similar(name: str) -> str:
    try:
        folders = [str(each) for each in Path(name).expanduser().parent.glob("*") if each.is_dir()]
    except (OSError, RuntimeError):
        return ""
    nearest = get_close_matches(name, folders, n=1, cutoff=0.7)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _checked(token: str) -> str:
    """Refuse what no header can carry: the HTTP library's error would show it."""
    token = token.strip()  # a file that it was read from ends with a line end
    if not re.fullmatch(r"[!-~]*", token):
        raise ValueError("the token holds a character that no token has; copy it again")
    return token


def _advice(error: Exception, revision: str | None, token: str | bool | None) -> str:
    """Say what to try where a download failed."""
    if isinstance(error, LocalEntryNotFoundError):  # the cache was the second choice, unless it was the only one
        if error.__cause__ is None or isinstance(error.__cause__, OfflineModeIsEnabled):
            return (
                "the cache does not hold all of it: load it once with a connection, without local_files_only and "
                "HF_HUB_OFFLINE"
            )
        return _advice(error.__cause__, revision, token)  # pyright: ignore[reportArgumentType]
    if isinstance(error, HFValidationError):
        return "letters, digits, '-', '_' and '.' are all that a name there may hold; a revision is given by itself"
    if isinstance(error, RevisionNotFoundError):
        return f"the repository is there, but has no branch, tag or commit {revision!r}"
    if isinstance(error, HfHubHTTPError):
        if _status(error) in RETRYABLE_STATUSES:
            return "the Hub has trouble of its own: try again later"
        if not isinstance(token or get_token(), str):
            return f"if it is private, {LOGIN}"
        return "if it is private, the token in use must be allowed to read it (`hf auth whoami` says whose it is)"
    if isinstance(error, ValueError):
        return f"what answers at {constants.ENDPOINT} does not speak like the Hub: is a proxy or a login page between?"
    return "the connection did not last, or there is none: try again"


def list_files(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> list[str] | None:
    """List what a repository holds, for error messages; nothing if it can't be asked."""
    token = _checked(token) if isinstance(token, str) else token
    try:
        # Not list_repo_files, which goes on trying for 20 seconds where there is no connection.
        info = HfApi().model_info(repo_id, revision=revision, token=token)
    except (OSError, ValueError, *_CONNECTION_ERRORS):
        return None
    return sorted(file.rfilename for file in info.siblings or ())


def download_size(repo_id: str, *, allow_patterns: list[str], token: str | bool | None = None) -> int:
    """Say how much `download` would fetch, without fetching it [bytes].

    Raises:
        FileNotFoundError: There is no such repository, or the Hub can't be asked.
    """
    try:
        info = HfApi().model_info(repo_id, files_metadata=True, token=token)
    except (OSError, ValueError, *_CONNECTION_ERRORS) as error:
        raise FileNotFoundError(
            f"{repo_id!r} could not be had from the Hub; {_advice(error, None, token)}. "
            f"The Hub client's error: {_reason(error, token)}."
        ) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return sum(sizes[name] for name in filter_repo_objects(sizes, allow_patterns=allow_patterns))


@dataclass(frozen=True)
class Existing:
    """What a repository holds before a push.

    Attributes:
        repo_id: ``user/name``, in full.
        commit: The commit that the push follows.
        hashes: SHA-256 of each large file, git's hash of each small one, by path.
        texts: What each small file that was asked for holds, by path; those that are not there are missing.
    """

    repo_id: str
    commit: str
    hashes: Mapping[str, str]
    texts: Mapping[str, str]


def make_repository(
    repo_id: str, *, private: bool | None = None, token: str | bool | None = None, for_pull_request: bool = False
) -> str:
    """Make sure that a repository exists and that the token may write to it.

    Args:
        repo_id: ``user/name``, or a name in the token's own account.
        private: Of a new repository; an existing one stays as it is.
        token: Access token; by default the one that ``hf auth login`` stored.
        for_pull_request: Is it enough that the token may read? Anybody may open a pull request.

    Returns:
        ``user/name``, in full.

    Raises:
        PermissionError: There is no token, or it has no right to; says what to try.
        ValueError: ``repo_id`` is no name for a repository, or it shall be private and is public.
        TemporaryHubError: The Hub can't be reached, or can't answer now.
    """
    token = _token_to_push(repo_id, token)
    api = HfApi(token=token)
    with _in_words(repo_id, token):
        if for_pull_request:  # of which a repository that is not there has none
            return api.model_info(repo_id).id
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        _check_write(api, full_id)
        is_public = bool(private) and api.model_info(full_id).private is False
    if is_public:
        raise ValueError(
            f"{full_id!r} exists and is public; --private, --hub_private and private=True are for new repositories. "
            f"Make it private at {constants.ENDPOINT}/{full_id}/settings first, or leave that out to publish there"
        )
    return full_id


def _token_to_push(repo_id: str, token: str | bool | None) -> str:
    found = get_token() if token is None or token is True else token
    if not isinstance(found, str) or not found:
        raise PermissionError(f"there is no token to push to {repo_id!r} with: {LOGIN}")
    return _checked(found)


# Later than the oldest version that is supported.
_CAN_ASK_FOR_WRITE = "write" in inspect.signature(HfApi.auth_check).parameters


def _check_write(api: HfApi, repo_id: str) -> None:
    """Ask whether the token may write: `create_repo` is content if a repository that exists can be read."""
    if not _CAN_ASK_FOR_WRITE:
        return
    try:
        api.auth_check(repo_id, write=True)
    except HfHubHTTPError as error:  # a mirror may not know the question; the commit itself then gets the answer
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
) -> str:
    """Make one commit, on top of what is there, and again if somebody else's came first.

    Args:
        repo_id: ``user/name``; the repository is made if need be.
        compose: Given what the repository holds, says which files become what.
        message: The commit's; tokens in it are hidden.
        reads: Which small files `compose` wants to read there.
        private: Make a new repository private?
        token: Access token; by default the one that ``hf auth login`` stored.
        revision: Branch to commit to, made if need be; by default ``main``.
        create_pr: Open a pull request instead of committing.
        patience_seconds: How long to pause, all in all, for a Hub that can't be reached; what uploads take is not
            counted.
        hurry: Ends a wait for the next try when it is set.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        PermissionError: There is no token, or it has no right to; says what to try.
        ValueError: A name is none, the revision is a tag or a commit, a repository that shall be private is public,
            or what `compose` raised.
        TemporaryHubError: The Hub could not be reached for so long.
        ConnectionError: Whether the pull request was opened is not known.
    """
    token = _token_to_push(repo_id, token)
    api = HfApi(token=token)
    pauses = _Pauses(patience_seconds, hurry or threading.Event())
    while True:
        try:
            full_id = make_repository(repo_id, private=private, token=token, for_pull_request=create_pr)
            with _in_words(repo_id, token):
                _make_branch(api, full_id, revision)
                existing = _look(api, full_id, revision, reads)
            contents = compose(existing)
            with _unrepeatable(full_id) if create_pr else nullcontext(), _in_words(repo_id, token):
                return _commit(api, existing, contents, redact(message, token), revision, create_pr)
        except TemporaryHubError as error:
            pauses.before_next_try(error)


class _Pauses:
    """Waits between two tries, longer and longer, until they have taken all patience."""

    def __init__(self, patience_seconds: float, hurry: threading.Event):
        self._left = patience_seconds
        self._hurry = hurry
        self._next = FIRST_PAUSE_SECONDS
        self._moved = 0

    def before_next_try(self, error: TemporaryHubError) -> None:
        """Wait, or raise the error again if it was enough."""
        if isinstance(error, _MovedError):
            self._moved += 1
            if self._moved < TRIES_AT_ONCE:
                logger.info("%s: trying again on its new commit", error)
                return
        if self._next > self._left:
            raise error
        logger.warning("%s; trying again in %.0f seconds", error, self._next)
        # The jitter keeps runs that lost the same server from coming back at the same moment.
        if self._hurry.wait(self._next * random.uniform(0.8, 1.2)):
            raise error
        self._left -= self._next
        self._next = min(2 * self._next, LONGEST_PAUSE_SECONDS)


def _make_branch(api: HfApi, repo_id: str, revision: str | None) -> None:
    """Make the branch if need be; what looks like one and is none must not get a branch of its name beside it."""
    if revision is None or re.match(r"refs/(?!tags/)", revision):
        return
    refs = api.list_repo_refs(repo_id)
    if revision in (branch.name for branch in refs.branches):
        return
    is_tag = revision in (name for tag in refs.tags for name in (tag.name, tag.ref))
    if is_tag or re.fullmatch(r"[0-9a-f]{40}", revision):
        kind = "tag" if is_tag else "commit"
        names = ", ".join(branch.name for branch in refs.branches)
        raise ValueError(f"{revision!r} is a {kind} of {repo_id!r}; name a branch, a new one or one of: {names}")
    api.create_branch(repo_id, branch=revision, exist_ok=True)


def _look(api: HfApi, repo_id: str, revision: str | None, reads: Collection[str]) -> Existing:
    info = api.model_info(repo_id, revision=revision, files_metadata=True)
    hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id or "" for file in info.siblings or ()}
    commit = info.sha or ""
    texts: dict[str, str] = {}
    # Not into the cache: one file of a commit there would pass for a snapshot of it.
    with TemporaryDirectory() as folder:
        for name in filter(hashes.__contains__, reads):
            path = api.hf_hub_download(repo_id, name, revision=commit, local_dir=folder)
            texts[name] = Path(path).read_bytes().decode("utf-8", errors="surrogateescape")
    return Existing(repo_id, commit, hashes, texts)


def _commit(
    api: HfApi,
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
    )
    return info.pr_url or info.commit_url


def _as_source(content: Path | bytes) -> str | bytes:
    return str(content) if isinstance(content, Path) else content


@contextmanager
def _unrepeatable(repo_id: str) -> Iterator[None]:
    """Let no lost answer to a pull request be followed by a second one: it may be there."""
    try:
        yield
    except TemporaryHubError as error:
        cause = error.__cause__
        address = _address(cause)
        is_refused = isinstance(cause, HfHubHTTPError) and _status(cause) not in MAY_HAVE_LANDED
        if is_refused or (address and "/commit/" not in address):  # or it failed before, while files were sent
            raise
        raise ConnectionError(
            f"{error}. The pull request may have been opened all the same: look at "
            f"{constants.ENDPOINT}/{repo_id}/discussions, and push again only if it is not there"
        ) from error


def _address(error: BaseException | None) -> str:
    """Give the address that was asked when the error came, as far as it is known."""
    try:
        return str(error.request.url)  # pyright: ignore
    except (AttributeError, RuntimeError):  # the HTTP library raises the latter where it does not know
        return ""


@contextmanager
def _in_words(repo_id: str, token: str) -> Iterator[None]:
    """Turn the client's errors into ours: what may pass by itself, what a person has to do something about."""
    try:
        try:
            yield
        # What the client makes of whatever stops the upload of a large file, or of an answer that did not come.
        except (RuntimeError, LocalEntryNotFoundError) as error:
            raise error.__cause__ or error from error
    except OfflineModeIsEnabled as error:
        raise PermissionError(f"{repo_id!r} can't be pushed to while HF_HUB_OFFLINE is set; unset it") from error
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name for a repository: {_reason(error, token)}") from error
    except HfHubHTTPError as error:
        raise _refusal(error, repo_id, token) from error
    except _CONNECTION_ERRORS as error:
        reason = f"{type(error).__name__}: {_reason(error, token)}"
        raise TemporaryHubError(f"no connection to the Hub for {repo_id!r} ({reason})") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        if _is_local(error):
            raise
        reason = f"{type(error).__name__}: {_reason(error, token)}"
        raise TemporaryHubError(f"the Hub's answer for {repo_id!r} is not whole ({reason})") from error


def _refusal(error: HfHubHTTPError, repo_id: str, token: str) -> Exception:
    """Say in words what the Hub answered in place of what was asked for."""
    status, reason = _status(error), _reason(error, token)
    if status == MOVED:
        return _MovedError(f"{repo_id!r} was committed to by somebody else since it was read")
    if status in RETRYABLE_STATUSES:
        return TemporaryHubError(f"the Hub answered {status} for {repo_id!r}: {reason}")
    if status == 401:
        return PermissionError(f"the token is not valid for {repo_id!r}: {LOGIN}. The Hub says: {reason}")
    if status == 403:
        return PermissionError(
            f"the token may not write to {repo_id!r} (`hf auth whoami` says whose it is): make one with write "
            f"access at {constants.ENDPOINT}/settings/tokens, or push to a name of your own. The Hub says: {reason}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return PermissionError(f"{repo_id!r} does not exist, or this token can't see it: {reason}")
    return ValueError(f"the Hub refused what was sent to {repo_id!r}: {reason}")


def _connection_errors() -> tuple[type[Exception], ...]:
    """Find what the client's HTTP library raises where there is no answer: it has changed its library before."""
    library = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return library, ConnectionError, TimeoutError


_CONNECTION_ERRORS = _connection_errors()


def _status(error: HfHubHTTPError) -> int | None:
    return getattr(error.response, "status_code", None)


def _reason(error: Exception, token: str | bool | None) -> str:
    """Give a client's message in one line, without any token, nor the number of a request that nobody can look up."""
    text = re.sub(r"\(Request ID: [^)]*\)", "", str(error))
    return redact(" ".join(text.split()).rstrip("."), token) or type(error).__name__
