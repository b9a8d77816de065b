"""Distributed training: what processes share, and how they are launched and stopped."""
