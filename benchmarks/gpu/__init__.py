"""Everything that needs a GPU, as one resumable command: checks, speeds, then training. See docs/gpu.md."""
