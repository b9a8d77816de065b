"""Everything that needs a GPU, as one command that resumes: checks, then speeds. See docs/gpu.md."""
