"""Whatever goes wrong, the visitor reads words; what is our own fault goes to the log, with all that is known."""

import functools
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
    """Turn exceptions into messages for people."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(redact(str(error)), duration=_SHOWN_SECONDS, print_exception=False) from error
        except Exception as error:
            logger.error("in %s", function.__qualname__, exc_info=error)
            raise gr.Error(_OURS, duration=_SHOWN_SECONDS, print_exception=False) from error

    return guarded  # pyright: ignore[reportReturnType]: the same signature
