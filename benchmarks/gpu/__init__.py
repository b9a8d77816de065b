"""Everything that needs a GPU, as one resumable command: checks, then speed measurements. See docs/gpu.md."""
