"""A run: its training loop, its progress and checkpoints, and the contents of its folder."""
