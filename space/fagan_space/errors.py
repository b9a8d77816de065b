"""Error handling: visitors get readable messages; bugs on our side go to the log with their traceback."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import isgeneratorfunction
from typing import Any, TypeVar

import gradio as gr

from fagan_hf.requests import MAX_SHOWN
from fagan_hf.utils.redaction import redact
from fagan_space.work import GoneError

logger = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])

_SHOWN_SECONDS = 10
_MAX_WORDS = 600  # length of a message [characters]
_OURS = "Something went wrong here; it is not your fault. Please try again. The details are in the page's log."


def visible_error(words: str) -> gr.Error:
    """Make an error that is shown to the visitor, redacted and shortened."""
    words = redact(words)
    cut = words if len(words) <= _MAX_WORDS else words[: _MAX_WORDS - 1] + "…"
    return gr.Error(cut, duration=_SHOWN_SECONDS, print_exception=False)


def _shortened(words: str, sent: Any) -> str:
    """Shorten every long text of a request that a message repeats."""
    if isinstance(sent, str) and len(sent) > MAX_SHOWN:
        for form in (sent, repr(sent)[1:-1]):
            words = words.replace(form, form[: MAX_SHOWN - 1] + "…")
    elif isinstance(sent, Mapping):
        return _shortened(words, [*sent.keys(), *sent.values()])
    elif isinstance(sent, list | tuple):
        for each in sent:
            words = _shortened(words, each)
    return words


def in_words(function: Function) -> Function:
    """Turn a function's exceptions into readable messages."""

    @contextmanager
    def readable(sent: Any) -> Iterator[None]:
        try:
            yield
        except gr.Error:
            raise
        except GoneError as error:
            raise visible_error(str(error)) from error
        except Exception as error:
            # Errors of the operating system contain paths on this machine; those of the library are written for users.
            if isinstance(error, ValueError | OSError | ImportError) and getattr(error, "errno", None) is None:
                raise visible_error(_shortened(str(error), sent)) from error
            logger.error("in %s", function.__qualname__, exc_info=error)
            raise visible_error(_OURS) from error

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with readable([args, kwargs]):
            return function(*args, **kwargs)

    @functools.wraps(function)
    def guarded_steps(*args: Any, **kwargs: Any) -> Any:
        with readable([args, kwargs]):
            yield from function(*args, **kwargs)

    # Gradio shows what a generator yields, and looks for one by its kind.
    return guarded_steps if isgeneratorfunction(function) else guarded  # pyright: ignore[reportReturnType]
