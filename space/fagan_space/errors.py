"""Whatever goes wrong, the visitor reads words; what is our own fault goes to the log, with all that is known."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from fagan_hf.utils.redaction import redact
from fagan_space.work import GoneError

logger = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])

_SHOWN_SECONDS = 10
_MAX_WORDS = 600  # characters of a message
_OURS = "Something went wrong here; it is not your fault. Please try again. The details are in the page's log."


def told(words: str) -> gr.Error:
    """Make the error that a visitor reads."""
    words = redact(words)
    cut = words if len(words) <= _MAX_WORDS else words[: _MAX_WORDS - 1] + "…"
    return gr.Error(cut, duration=_SHOWN_SECONDS, print_exception=False)


def in_words(function: Function) -> Function:
    """Turn exceptions into messages for people."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except GoneError as error:
            raise told(str(error)) from error
        except Exception as error:
            # The system's own errors name files of this machine; the library's are written for people.
            if isinstance(error, ValueError | OSError | ImportError) and getattr(error, "errno", None) is None:
                raise told(str(error)) from error
            logger.error("in %s", function.__qualname__, exc_info=error)
            raise told(_OURS) from error

    return guarded  # pyright: ignore[reportReturnType]: the same signature
