"""Traced graphs, kept for tests that export the same weights again: tracing takes most of an export's time."""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

from fagan_hf.export import web
from fagan_hf.models import Generator

_KEPT = {}
_trace = web._trace
_from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))


def _key(generator: Generator):
    state = generator.state_dict()
    state.pop("label_frequencies", None)  # not in the graph, whose labels are an input
    weights = tuple((name, tuple(tensor.flatten().tolist())) for name, tensor in state.items())
    # By name: a layer with a parametrized weight has a class of its own.
    classes = tuple(each.__qualname__ for module in generator.modules() for each in type(module).__mro__)
    return hash((generator.config, weights, classes))


def _trace_once(generator: Generator):
    key = _key(generator)
    if key not in _KEPT:
        _KEPT[key] = _trace(generator)
    return _KEPT[key]


def keep_traces(monkeypatch) -> None:
    """Have `export_web` trace each generator once."""
    monkeypatch.setattr(web, "_trace", _trace_once)


def keep_registry(monkeypatch) -> None:
    """Have torch's ONNX exporter build its table of operators once, which takes a tenth of an export's time."""
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", _from_torchlib)
