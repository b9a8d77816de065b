"""Traced graphs, kept for tests that export the same weights again: tracing takes most of an export's time."""

from fagan_hf.export import web
from fagan_hf.models import Generator

_KEPT = {}
_trace = web._trace


def _key(generator: Generator):
    state = generator.state_dict()
    state.pop("label_frequencies", None)  # not in the graph, whose labels are an input
    weights = tuple((name, tuple(tensor.flatten().tolist())) for name, tensor in state.items())
    return hash((generator.config, weights, tuple(map(type, generator.modules()))))


def _trace_once(generator: Generator):
    key = _key(generator)
    if key not in _KEPT:
        _KEPT[key] = _trace(generator)
    return _KEPT[key]


def keep_traces(monkeypatch) -> None:
    """Have `export_web` trace each generator once."""
    monkeypatch.setattr(web, "_trace", _trace_once)
