"""Everything that needs a GPU, as one command that resumes: checks, speeds, trainings. See docs/gpu.md."""
