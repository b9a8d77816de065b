"""Gradio's `Blocks` with input validation: every value is checked before Gradio or a function sees it."""

from asyncio import Queue
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gradio as gr

from fagan_space.border import check
from fagan_space.errors import visible_error
from fagan_space.guard import VISITOR, Sessions
from fagan_space.visitors import Visitor
from fagan_space.work import CURRENT, GoneError, Work, check_wanted

_MISSING = object()
_visitor: ContextVar[Visitor | None] = ContextVar("_visitor", default=None)


class _Messages(dict[str, Queue[Any]]):
    """Pending messages of each session, until the page forgets the session.

    Gradio's own cache could evict sessions that are still waiting, and a missing one stops its queue for everybody.
    """

    def __missing__(self, session: str) -> Queue[Any]:
        return Queue()  # discarded: nobody is listening

    def __delitem__(self, session: str) -> None:
        self.pop(session, None)


def take_turns(waiting: list[Any], running: Sequence[Any]) -> None:
    """Sort the waiting events of a lane such that visitors take turns: whoever has fewer before is served first.

    Args:
        waiting: Changed in place; events of one visitor keep their order.
        running: Events that are being processed, in this lane or another.
    """
    before = Counter(_address(event) for event in running)
    turns = {}
    for event in waiting:
        turns[event._id] = before[_address(event)]
        before[_address(event)] += 1
    waiting.sort(key=lambda event: turns[event._id])


def _address(event: Any) -> str:
    visitor = event.request.scope.get(VISITOR)
    return "" if visitor is None else visitor.address


class Page(gr.Blocks):
    """A page whose events and endpoints accept only the inputs they declare.

    Args:
        description: A sentence about it, for links on other sites.
        picture: A picture for them, among the files that visitors may fetch.
        **options: Those of Gradio's `Blocks`.
    """

    def __init__(self, *, description: str = "", picture: Path | None = None, **options: Any):
        super().__init__(**options)
        self.description, self.picture = description, picture
        self.sessions = Sessions(self._live, self._forget)

    def queue(self, *args: Any, **options: Any) -> "Page":
        """Set up the queue, such that no waiting session is evicted."""
        super().queue(*args, **options)
        setattr(self._queue, "pending_messages_per_session", _Messages())  # noqa: B010  # not Gradio's type
        take = self._queue.get_events

        def take_in_turns() -> Any:
            for lane in self._queue.event_queue_per_concurrency_id.values():
                take_turns(lane.queue, [event for job in self._queue.active_jobs for event in job or ()])
            return take()

        setattr(self._queue, "get_events", take_in_turns)  # noqa: B010  # a method
        return self

    def _live(self) -> set[str]:
        """Return the sessions with queued or running requests, and the ids of those requests."""
        return {name for event in self._queue.event_ids_to_events.values() for name in (event._id, event.session_hash)}

    def _forget(self, session: str) -> None:
        self._queue.pending_messages_per_session.pop(session, None)
        self._queue.pending_event_ids_session.pop(session, None)
        with self.state_holder.lock:
            self.state_holder.session_data.pop(session, None)
            self.state_holder.time_last_used.pop(session, None)

    async def process_api(self, block_fn: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Process one event, checking its click data and tracking whether its client is still waiting."""
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        event = self._queue.event_ids_to_events.get(options.get("event_id") or "")
        if event is None:
            # All known ways around the queue are closed; this catches any that is added later.
            raise visible_error("there is no such event; requests must go through the queue")
        since = event.enqueue_time
        CURRENT.set(Work(lambda: event.alive and self.sessions.is_wanted(event.session_hash, since)))
        _visitor.set(event.request.scope.get(VISITOR))
        try:
            check_wanted()
            options["event_data"] = _clicked(function, options.get("event_data"))
        except (ValueError, GoneError) as error:
            raise visible_error(str(error)) from None
        try:
            return await super().process_api(block_fn, *args, **options)
        finally:
            self.state_holder[event.session_hash].config_values.clear()  # see `Guard`

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Check the inputs instead of letting Gradio do it, because its components' errors echo the input."""
        del explicit_call
        blocks, remembered = block_fn.inputs, {} if state is None else state
        sent = [value for block, value in zip(blocks, inputs, strict=False) if not block.stateful]
        try:
            checked = iter(check(block_fn.fn.takes, [*sent, *inputs[len(blocks) :]], _visitor.get()))
        except ValueError as error:
            raise visible_error(str(error)) from None
        found = [remembered[block._id] if block.stateful else next(checked, _MISSING) for block in blocks]
        return [value for value in found if value is not _MISSING] + [*checked]


def check_declared(page: gr.Blocks) -> None:
    """Check that every function of the page declares its inputs.

    Raises:
        TypeError: A function does not.
    """
    for function in page.fns.values():
        if not hasattr(function.fn, "takes") or not function.queue:
            raise TypeError(
                f"{function.name} is an event of the page without declared inputs; see fagan_space.border.takes"
            )


def _clicked(function: Any, event: Any) -> gr.EventData | None:
    """Check the click data and drop everything else in the event."""
    expected = function.fn.takes_click
    if event is None or expected is None:
        return gr.EventData(None, None)
    data = getattr(event, "_data", None)
    given = {"index": data.get("index")} if isinstance(data, dict) else {}
    return gr.EventData(None, {"index": expected.read(given).index, "value": None})
