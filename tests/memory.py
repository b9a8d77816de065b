"""How much memory a piece of code takes, see `benchmarks.memory`."""

from benchmarks.memory import peak_megabytes

__all__ = ["peak_megabytes"]
