from fagan_hf import Generator  # noqa: F401
