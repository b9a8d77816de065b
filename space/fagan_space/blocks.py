"""Gradio's page with the border: every value that comes is checked before Gradio or a function sees it."""

from asyncio import Queue
from contextvars import ContextVar
from typing import Any

import gradio as gr

from fagan_space.border import check
from fagan_space.errors import told
from fagan_space.guard import VISITOR, Sessions
from fagan_space.visitors import Visitor
from fagan_space.work import CURRENT, GoneError, Work, check_wanted

_MISSING = object()
_visitor: ContextVar[Visitor | None] = ContextVar("_visitor", default=None)


class _Messages(dict[str, Queue[Any]]):
    """What is to be told to each session, until the page forgets it.

    Gradio's own would push out the sessions of those who wait, and its queue ends for everybody at a missing one.
    """

    def __missing__(self, session: str) -> Queue[Any]:
        return Queue()  # nobody hears it

    def __delitem__(self, session: str) -> None:
        self.pop(session, None)


class Page(gr.Blocks):
    """A page whose events and endpoints take only what they declare."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.sessions = Sessions(self._live, self._forget)

    def queue(self, *args: Any, **options: Any) -> "Page":
        """Give the page a queue that loses nobody who waits."""
        super().queue(*args, **options)
        setattr(self._queue, "pending_messages_per_session", _Messages())  # noqa: B010  # another type than Gradio's
        return self

    def _live(self) -> set[str]:
        """Give the sessions of which requests wait or are worked on, and the names of those requests."""
        return {name for event in self._queue.event_ids_to_events.values() for name in (event._id, event.session_hash)}

    def _forget(self, session: str) -> None:
        self._queue.pending_messages_per_session.pop(session, None)
        self._queue.pending_event_ids_session.pop(session, None)
        with self.state_holder.lock:
            self.state_holder.session_data.pop(session, None)
            self.state_holder.time_last_used.pop(session, None)

    async def process_api(self, block_fn: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Work on one event; what was clicked is checked here, and who waits for the answer is known."""
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        event = self._queue.event_ids_to_events.get(options.get("event_id") or "")
        if event is None:
            # Every way around the queue is closed; whatever opens another one has to come by here.
            raise told("there is no such event; requests must go through the queue")
        since = event.enqueue_time
        CURRENT.set(Work(lambda: event.alive and self.sessions.is_wanted(event.session_hash, since)))
        _visitor.set(event.request.scope.get(VISITOR))
        try:
            check_wanted()
            options["event_data"] = _clicked(function, options.get("event_data"))
        except (ValueError, GoneError) as error:
            raise told(str(error)) from None
        try:
            return await super().process_api(block_fn, *args, **options)
        finally:
            self.state_holder[event.session_hash].config_values.clear()  # see `Guard`

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Check the inputs in Gradio's place, whose components raise errors that repeat what came."""
        del explicit_call
        blocks, remembered = block_fn.inputs, {} if state is None else state
        sent = [value for block, value in zip(blocks, inputs, strict=False) if not block.stateful]
        try:
            checked = iter(check(block_fn.fn.takes, [*sent, *inputs[len(blocks) :]], _visitor.get()))
        except ValueError as error:
            raise told(str(error)) from None
        found = [remembered[block._id] if block.stateful else next(checked, _MISSING) for block in blocks]
        return [value for value in found if value is not _MISSING] + [*checked]


def check_declared(page: gr.Blocks) -> None:
    """Refuse a page with a function that does not declare what it takes.

    Raises:
        TypeError: There is one.
    """
    for function in page.fns.values():
        if not hasattr(function.fn, "takes") or not function.queue:
            raise TypeError(
                f"{function.name} is an event of the page that declares nothing; see fagan_space.border.takes"
            )


def _clicked(function: Any, event: Any) -> gr.EventData | None:
    """Check what was clicked, and drop what else came with it."""
    expected = function.fn.takes_click
    if event is None or expected is None:
        return gr.EventData(None, None)
    data = getattr(event, "_data", None)
    given = {"index": data.get("index")} if isinstance(data, dict) else {}
    return gr.EventData(None, {"index": expected.read(given).index, "value": None})
