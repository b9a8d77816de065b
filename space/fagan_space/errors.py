"""Whatever goes wrong, the visitor reads words; what is our own fault goes to the log, with all that is known."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from fagan_hf.redaction import redact

logger = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])

_SHOWN_SECONDS = 10
_OURS = (
    "Something went wrong here, and not by your doing. Try it again; what is needed to mend it is in the page's log."
)


def in_words(function: Function) -> Function:
    """Turn exceptions into messages for people; a generator's as well."""

    def told(error: Exception) -> gr.Error:
        if isinstance(error, gr.Error):
            return error
        if isinstance(error, ValueError | OSError | ImportError):
            return gr.Error(redact(str(error)), duration=_SHOWN_SECONDS, print_exception=False)
        logger.error("in %s", function.__qualname__, exc_info=error)
        return gr.Error(_OURS, duration=_SHOWN_SECONDS, print_exception=False)

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise told(error) from error
    else:

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                raise told(error) from error

    return guarded  # pyright: ignore[reportReturnType]: the same signature
