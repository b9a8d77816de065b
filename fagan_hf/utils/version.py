"""The version of this package, which checkpoints, cards and caches are signed with."""

__version__ = "0.1.0"
